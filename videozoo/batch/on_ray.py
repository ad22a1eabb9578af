"""The stages on Ray Data: decoding as tasks, the network in a pool of actors that grows, Parquet written by Ray itself.

The folder is its own checkpoint: a run that goes on asks only for what no whole file in it holds. Rows are those of the
local engine, in no order; vectors and probabilities agree to 1e-5 of the largest.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from videozoo.batch import decoders
from videozoo.batch.answers import Network, Question
from videozoo.batch.decoders import Decoders, Failure
from videozoo.batch.job import Job, Summary
from videozoo.batch.pieces import Plan
from videozoo.batch.ray_folder import Ends, Folder, Todo
from videozoo.batch.rows import Row
from videozoo.batch.tables import as_record, columns, parquet_schema
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.errors import CheckpointMismatch, InvalidArgument, OutputError
from videozoo.inference import reuse_heap
from videozoo.model_config import LOCAL

_CONNECT_SECONDS = 10.0
_STDERR = 2
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
    folder = Folder(job.out.absolute(), about)
    with folder.begin(overwrite=job.overwrite) as journal:
        todo = folder.read().left(job.items)
        if todo:
            with _interrupts_kept():
                # Ray gives a task one processor; FFmpeg, left alone, would take all of the node's.
                _compute(job, replace(job.plan(recognizer), num_threads=1), todo, folder, address)
        found = folder.read()
        missing = found.left(job.items)
        if missing:
            raise OutputError(
                f"{folder.path} lacks {len(missing)} videos, such as {missing[0].name}; repeat the command"
            )
        journal.append({"finished": True})
    return Summary(str(job.out), len(job.items), *found.summed(job.items))


def _anywhere(network: Network) -> Network:
    """The network with absolute paths: an actor has another working directory."""
    name, checkpoint, lock = network.name, network.checkpoint, network.lock
    return replace(
        network,
        name=LOCAL + str(Path(name.removeprefix(LOCAL)).absolute()) if name.startswith(LOCAL) else name,
        checkpoint=None if checkpoint is None else checkpoint.absolute(),
        lock=None if lock is None else lock.absolute(),
    )


def _compute(job: Job, plan: Plan, todo: list[Todo], folder: Folder, address: str | None) -> None:
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # it is read at the import
    import ray
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    ours = not ray.is_initialized()
    if ours:
        _connect(address)
    try:
        resources: dict[str, float] = ray.cluster_resources()
        gpus, processors = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        device = "cuda" if gpus else "cpu"
        answering = _Answering(_anywhere(job.network), job.question, device, folder.about["weights"], folder.path)
        schema = parquet_schema(job.question.kind, folder.about)
        with _settings(progress=job.progress and sys.stderr.isatty()):
            videos = ray.data.from_items(
                [{"video": pickle.dumps(video)} for video in todo],
                override_num_blocks=-(-len(todo) // _VIDEOS_PER_TASK),
            )
            videos.flat_map(partial(_decode, pickle.dumps(plan))).map_batches(
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

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its C++ writes advice to our terminal
    try:
        with _signals_kept(), _stderr_to_nowhere():  # where it would say that this variable is set
            # Without "local" it joins whichever cluster RAY_ADDRESS or its files of the last one name.
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None


@contextmanager
def _settings(*, progress: bool) -> Iterator[None]:
    """Those of Ray Data, which a caller that has datasets of their own gets back."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars, context.print_on_execution_start = progress, False
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """One that comes while Ray is in a destructor, where its executors end, would be printed and forgotten."""
    lost: list[BaseException] = []
    hook = sys.unraisablehook

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            lost.append(unraisable.exc_value)
        else:
            hook(unraisable)

    sys.unraisablehook = note
    try:
        yield
    finally:
        sys.unraisablehook = hook
    if lost:
        raise lost[0]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray makes SIGTERM print addresses and abort."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """For what is written past Python's own stream."""
    try:
        ours = os.dup(_STDERR)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(ours, _STDERR)
        os.close(ours)


_decoders: dict[bytes, Decoders] = {}
"""Of this process, which Ray uses for many tasks: at most one, by what it was made for."""


@contextmanager
def _decoder(plan: bytes) -> Iterator[Decoders]:
    """A process that decodes, and may die of a file: Ray would give the file to one worker after the other."""
    if plan not in _decoders:
        _give_up_decoders()
        _decoders[plan] = Decoders(pickle.loads(plan), 1).__enter__()
    try:
        yield _decoders[plan]
    except BaseException:
        _give_up_decoders()  # it may be amid a video
        raise


def _give_up_decoders() -> None:
    while _decoders:
        _decoders.popitem()[1].__exit__()


def _decode(plan: bytes, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The decoding stage, as a task: rows with a piece, or else an error, or with neither, which is the video's end.

    A video that fails has no end but its error's row. The failure may pass: an end that outlives the row, or that is
    said of a window which has its answer already, would lose the windows after it.
    """
    video: Todo = pickle.loads(row["video"])
    end = video.first
    with _decoder(plan) as decoder:
        for _, outcome in decoder.run([decoders.Job(0, video.item, video.first)]):
            if outcome is None:
                continue
            known = outcome.window in video.known
            if isinstance(outcome, Failure):
                if not known:
                    yield _message(video, outcome.window, error=video.own(outcome.reason))
                return
            end = outcome.window + 1
            if not known:
                yield _message(video, outcome.window, piece=pickle.dumps(outcome))
    yield _message(video, end)


def _message(video: Todo, window: int, *, piece: bytes = b"", error: str = "") -> dict[str, Any]:
    """All of one type: Ray makes a column with None in it into another one."""
    return {"path": video.name, "window": window, "piece": piece, "error": error}


@dataclass(frozen=True)
class _Answering:
    """What an actor needs to build its network."""

    network: Network
    question: Question
    device: str
    weights_sha256: str
    folder: Path


class _Actor:
    """The model stage: one network in a process of its own."""

    def __init__(self, answering: _Answering) -> None:
        torch.set_num_threads(1)
        reuse_heap()  # this process is ours alone
        recognizer = answering.network.load(answering.device)
        if sha256_tensors(recognizer.model.state_dict()) != answering.weights_sha256:
            raise CheckpointMismatch(f"{answering.network.name}: this node has other weights than the first one")
        self._kind = answering.question.kind
        self._answer = answering.question.to(recognizer)
        self._ends = Ends(answering.folder)

    def __call__(self, batch: dict[str, Any]) -> Any:
        import pyarrow as pa

        records = []
        for path, window, piece, error in zip(
            batch["path"], batch["window"], batch["piece"], batch["error"], strict=True
        ):
            if piece:
                row = self._answer(path, pickle.loads(piece))
            elif error:
                row = Row(path, int(window), None, None, error=error)
            else:
                self._ends.add(path, int(window))
                continue
            record = as_record(row)
            records.append({name: record[name] for name in columns(self._kind)})
        return pa.Table.from_pylist(records, schema=parquet_schema(self._kind, {}))
