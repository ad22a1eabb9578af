"""The stages on Ray Data: decoding as tasks, the network in a pool of actors that grows, Parquet written by Ray itself.

The folder is its own checkpoint: a run that goes on asks only for what no whole file in it holds. Rows are those of the
local engine, in no order; vectors and probabilities agree to 1e-5 of the largest.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from videozoo.batch import decoders
from videozoo.batch.answers import Network, Question
from videozoo.batch.decoders import Failure, outcomes
from videozoo.batch.inputs import Item
from videozoo.batch.job import Job, Summary
from videozoo.batch.pieces import Plan
from videozoo.batch.rows import Row
from videozoo.batch.tables import as_record, columns, parquet_schema, recorded
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.errors import CheckpointMismatch, InvalidArgument, OutputError
from videozoo.files import place

_RUN_FILE = "_run.json"
"""Readers of Parquet folders leave out names that begin with an underscore."""
_CONNECT_SECONDS = 10.0
_VIDEOS_PER_TASK = 8
_ROWS_PER_FILE = 64
"""At least, but for the last file; also what a node that dies loses at most, for each task that writes."""


def run(job: Job, *, address: str | None = None) -> Summary:
    """Answer for every video of the job on a Ray cluster.

    Videos, weights and the folder have to lie under the same paths on every node. The network runs on GPUs where the
    cluster has some, else on one processor thread an actor.

    Args:
        job: what to do; ``out`` is a folder.
        address: of the cluster, ``"auto"`` for the one that this machine is part of; None starts one here. A cluster
            that this process is connected to already is used as it is.

    Raises:
        OutputError: the folder holds a finished run, or another run's files, or Ray gives up.
        InvalidArgument: no such layer, or no cluster at ``address``.
        UnknownModel, UnknownWeights, FetchError, CheckpointError: as `load_recognizer`.
    """
    _refuse_unreachable(address)
    recognizer = job.network.load()
    job.question.to(recognizer)  # raises for a layer that does not exist
    about = job.about(recognizer)
    folder = _Folder(job.out.absolute(), about)
    folder.begin(overwrite=job.overwrite)
    todo = _todo(job, folder.read())
    if todo:
        _compute(job, job.plan(recognizer), todo, folder, address)
    found = folder.read()
    missing = [path for item in job.items if (path := recorded(item.path)) not in found.windows]
    if missing:
        raise OutputError(f"{folder.path} lacks {len(missing)} videos, as {missing[0]}: the same command goes on")
    folder.finish()
    return Summary(str(job.out), len(job.items), found.num_rows, len(found.failed))


@dataclass
class _Found:
    """What the files of a folder hold."""

    windows: dict[str, set[int]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    """Of the failed, those that cannot be decoded any further; of the others one window has no answer."""
    num_rows: int = 0


@dataclass(frozen=True)
class _Folder:
    """Ray's Parquet files, and a file that says which run they are of."""

    path: Path
    about: dict[str, Any]

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder, or find in it the run that goes on.

        Raises:
            OutputError: it holds a finished run, another one, or other files.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            known = self._known()
            if known is None and any(self.path.iterdir()):
                raise OutputError(f"{self.path} holds other files: name a new folder")
            if known is not None and overwrite:
                for part in self._parts():
                    part.unlink()
            elif known is not None and known.get("about") != self.about:
                raise OutputError(f"{self.path} holds another run: name a new folder, or pass --force (overwrite=True)")
            elif known is not None and known.get("finished"):
                raise OutputError(f"{self.path} exists; pass --force (overwrite=True) to replace it")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from None
        self._say(finished=False)

    def finish(self) -> None:
        """Say that nothing is missing."""
        self._say(finished=True)

    def read(self) -> _Found:
        """What is there; files that a killed process left without an end are removed.

        Raises:
            OutputError: a row is there twice.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = _Found()
        for part in self._parts():
            try:
                table = pq.read_table(part, columns=["path", "window", "start_seconds", "error"])
            except (pa.ArrowInvalid, OSError):
                part.unlink()
                continue
            for row in table.to_pylist():
                windows = found.windows.setdefault(row["path"], set())
                if row["window"] in windows:
                    raise OutputError(f"{part} repeats window {row['window']} of {row['path']}: start with --force")
                windows.add(row["window"])
                if row["error"] is not None:
                    found.failed.add(row["path"])
                    if row["start_seconds"] is None:
                        found.ended.add(row["path"])
                else:
                    found.num_rows += 1
        return found

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet"))

    def _known(self) -> dict[str, Any] | None:
        try:
            known = json.loads((self.path / _RUN_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return known if isinstance(known, dict) else {}

    def _say(self, *, finished: bool) -> None:
        text = json.dumps({"about": self.about, "finished": finished}, indent=2)
        place(self.path / _RUN_FILE, lambda path: _write_text(path, text), overwrite=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _todo(job: Job, found: _Found) -> list[dict[str, Any]]:
    """What Ray is given: videos that no file holds, and of windows those that no file holds.

    How many windows a video has is seen when it is opened; one that has them all costs that alone.
    """
    rows = []
    for item in job.items:
        name = recorded(item.path)
        known = found.windows.get(name, set())
        if name in found.ended or (known and job.window_seconds is None):
            continue
        rows.append({"item": pickle.dumps(item), "known": pickle.dumps(known)})
    return rows


def _compute(job: Job, plan: Plan, todo: list[dict[str, Any]], folder: _Folder, address: str | None) -> None:
    import ray
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    ours = not ray.is_initialized()
    if ours:
        _connect(address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = job.progress and sys.stderr.isatty()
        context.print_on_execution_start = False
        resources: dict[str, float] = ray.cluster_resources()
        gpus, processors = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        answering = _Answering(job.network, job.question, "cuda" if gpus else "cpu", folder.about["weights"])
        schema = parquet_schema(job.question.kind, folder.about)
        rows = ray.data.from_items(todo, override_num_blocks=-(-len(todo) // _VIDEOS_PER_TASK))
        rows.flat_map(partial(_decode, plan)).map_batches(
            _Actor,
            fn_constructor_kwargs={"answering": answering},
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, gpus or processors // 2)),
            # Half a processor: so many actors leave room for decoding though half of the nodes are lost.
            num_cpus=0.5,
            num_gpus=1 if gpus else None,
        ).write_parquet(str(folder.path), min_rows_per_file=_ROWS_PER_FILE, schema=schema)
    except (RayError, SystemException) as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise OutputError(f"Ray gave up: {reason.strip()}; the same command goes on where it stopped") from error
    finally:
        if ours:
            ray.shutdown()


def _refuse_unreachable(address: str | None) -> None:
    """Ray itself would try for minutes."""
    match = re.fullmatch(r"(?P<host>[^/]+):(?P<port>\d+)", address or "")
    if match is None:
        return
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InvalidArgument(f"no Ray cluster at {address}: {error}") from None


def _connect(address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its processes would write to our terminal
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None


def _decode(plan: Plan, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoding stage, as a task: rows that hold a piece, or the reason why there is none."""
    item: Item = pickle.loads(row["item"])
    known: set[int] = pickle.loads(row["known"])
    torch.set_num_threads(1)
    path = recorded(item.path)
    first = next(number for number in range(len(known) + 1) if number not in known)
    for outcome in outcomes(plan, decoders.Job(0, item, first)):
        if isinstance(outcome, Failure):
            yield {"path": path, "window": outcome.window, "piece": None, "error": outcome.reason}
        elif outcome is not None and outcome.window not in known:
            yield {"path": path, "window": outcome.window, "piece": pickle.dumps(outcome), "error": None}


@dataclass(frozen=True)
class _Answering:
    """What an actor needs to build its network."""

    network: Network
    question: Question
    device: str
    weights_sha256: str


class _Actor:
    """The model stage: one network in a process of its own."""

    def __init__(self, answering: _Answering) -> None:
        torch.set_num_threads(1)
        recognizer = answering.network.load(answering.device)
        if sha256_tensors(recognizer.model.state_dict()) != answering.weights_sha256:
            raise CheckpointMismatch(f"{answering.network.name}: this node has other weights than the first one")
        self._kind = answering.question.kind
        self._answer = answering.question.to(recognizer)

    def __call__(self, batch: dict[str, Any]) -> Any:
        import pyarrow as pa

        rows = [
            self._answer(path, pickle.loads(piece))
            if piece is not None
            else Row(path, int(window), None, None, error=error)
            for path, window, piece, error in zip(
                batch["path"], batch["window"], batch["piece"], batch["error"], strict=True
            )
        ]
        records = [{name: as_record(row)[name] for name in columns(self._kind)} for row in rows]
        return pa.Table.from_pylist(records, schema=parquet_schema(self._kind, {}))
