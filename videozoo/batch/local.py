"""The stages on one machine: processes decode, this one answers, and a journal keeps what is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videozoo.batch import decoders
from videozoo.batch.decoders import Decoders, Failure
from videozoo.batch.inputs import key_of
from videozoo.batch.job import Job, Summary
from videozoo.batch.lanes import Lanes
from videozoo.batch.rows import Row, packed, unpacked
from videozoo.batch.tables import Write, writer_for
from videozoo.errors import InvalidArgument, OutputError
from videozoo.files import place, refuse_unfit, sha256_file
from videozoo.journal import Journal, beside, scan
from videozoo.processors import num_processors


def run(job: Job, *, num_processes: int = 1) -> Summary:
    """Answer for every video of the job, and write the table once all are done.

    What is done is kept in ``OUT.journal`` until then: the same call goes on where a killed one stopped, does nothing
    twice, and ends with the same bytes (on the same machine, with as many threads). One that was to overwrite a table
    goes on when it is called without ``overwrite``.

    Args:
        job: what to do.
        num_processes: processes that decode beside this one; with 0 it decodes by itself, where no damaged file can be
            kept from taking the run with it.

    Raises:
        OutputError: the table exists or cannot be written, or its journal belongs to another run.
        InvalidArgument: no such layer, format or number of processes.
        UnknownModel, UnknownWeights, FetchError, CheckpointError: as `load_recognizer`.
    """
    if num_processes < 0:
        raise InvalidArgument(f"workers {num_processes}: at least 0")
    write = writer_for(job.out)
    path = beside(job.out)
    refuse_unfit(job.out, overwrite=job.overwrite or path.exists())  # the journal may say that the table is ours
    with Decoders(None, min(num_processes, len(job.items))) as pool:  # they start while the network is loaded
        recognizer = job.network.load()
        lanes = Lanes(recognizer.model, job.question.to(recognizer))
        num_threads = max(1, num_processors() // (2 * max(1, num_processes)))
        pool.plan = replace(job.plan(recognizer), num_threads=num_threads)
        about = job.about(recognizer)
        with Journal(path, about, anew=job.overwrite) as journal:
            if job.overwrite:
                journal.append({"overwrite": True})
            done = _Done.read(path, about, job)
            written = done.has_written(job.out)
            if not written or len(done.ended) < len(job.items):
                done.overwrite = done.overwrite or written  # a table of ours, of a folder that has grown since
                _refuse_taken(job, journal, done)
                _compute(job, pool, lanes, journal, done)
                _write(job, _Table(path, about, job), write, journal, overwrite=done.overwrite)
            journal.remove()
    return Summary(str(job.out), len(job.items), done.num_rows, len(done.failed))


def _refuse_taken(job: Job, journal: Journal, done: _Done) -> None:
    """Another run may have finished while this one waited for its turn at the journal."""
    try:
        refuse_unfit(job.out, overwrite=done.overwrite)
    except OutputError:
        if done.holds_nothing:
            journal.remove()
        raise


def _compute(job: Job, pool: Decoders, lanes: Lanes, journal: Journal, done: _Done) -> None:
    """Answer for what is not done yet."""
    with _bar(job, done) as bar, lanes:
        for number, answered in lanes.run(job.items, pool.run(done.jobs(job))):
            key = {"video": key_of(job.items[number])}
            if isinstance(answered, Row):
                journal.append(key | packed(answered))
                done.add(number, answered.window, failed=answered.error is not None)
            else:
                journal.append(key | {"done": True} | _last(answered))
                done.end(number, failed=answered is not None)
            bar.set_postfix_str(str(done), refresh=False)
            bar.update(0 if isinstance(answered, Row) else 1)


def _write(job: Job, table: _Table, write: Write, journal: Journal, *, overwrite: bool) -> None:
    def fill(unfinished: Path) -> None:
        write(unfinished, table.rows, table.about)
        journal.append({"table": sha256_file(unfinished)})

    place(job.out, fill, overwrite=overwrite)


def _bar(job: Job, done: _Done) -> Any:
    bar = tqdm(
        total=len(job.items), initial=len(done.ended), unit="video", disable=None if job.progress else True,
        dynamic_ncols=True, miniters=0,
    )  # fmt: skip
    bar.set_postfix_str(str(done), refresh=False)
    return bar


def _last(failure: Failure | None) -> dict[str, Any]:
    return {} if failure is None else packed(Row("", failure.window, None, None, error=failure.reason))


@dataclass
class _Done:
    """How far the journal goes."""

    ended: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    next_windows: dict[int, int] = field(default_factory=dict)
    """By video, of those that are not at their end."""
    num_rows: int = 0
    """Those with an answer."""
    table: str | None = None
    """Digest of the table that was about to get its name."""
    overwrite: bool = False
    """Whether the run was begun to replace a table."""

    @classmethod
    def read(cls, path: Path, about: dict[str, Any], job: Job) -> _Done:
        done, numbers = cls(), _numbers(job)
        for line, _ in scan(path, about):
            number = numbers.get(line.get("video"))
            if number is None:
                done.table = line.get("table", done.table)
                done.overwrite = line.get("overwrite", done.overwrite)
            elif "done" in line:
                done.end(number, failed="error" in line)
            else:
                done.add(number, line["window"], failed="error" in line)
        return done

    @property
    def holds_nothing(self) -> bool:
        return not self.ended and not self.next_windows

    def has_written(self, out: Path) -> bool:
        """Whether the table has its name already: the run was killed before it gave up its journal."""
        return self.table is not None and out.is_file() and sha256_file(out) == self.table

    def add(self, number: int, window: int, *, failed: bool) -> None:
        """Note a row."""
        self.next_windows[number] = window + 1
        if failed:
            self.failed.add(number)
        else:
            self.num_rows += 1

    def end(self, number: int, *, failed: bool) -> None:
        self.ended.add(number)
        self.next_windows.pop(number, None)
        if failed:
            self.failed.add(number)

    def jobs(self, job: Job) -> list[decoders.Job]:
        """What is left to decode."""
        return [
            decoders.Job(number, item, self.next_windows.get(number, 0))
            for number, item in enumerate(job.items)
            if number not in self.ended
        ]

    def __str__(self) -> str:
        return f"{self.num_rows} rows" + (f", {len(self.failed)} failed" if self.failed else "")


def _numbers(job: Job) -> dict[str | None, int]:
    """Where in the job each video is: a journal may know some that are asked for no more."""
    return {key_of(item): number for number, item in enumerate(job.items)}


class _Table:
    """The rows of a journal in the order of the videos; only where each one lies is in memory."""

    def __init__(self, path: Path, about: dict[str, Any], job: Job) -> None:
        self.about = about
        self._path = path
        self._items = job.items
        numbers = _numbers(job)
        self._places = sorted(
            (number, line["window"], begin)
            for line, begin in scan(path, about)
            if "window" in line and (number := numbers.get(line["video"])) is not None
        )

    def rows(self) -> Iterator[Row]:
        with open(self._path, "rb") as stream:
            for number, _, begin in self._places:
                stream.seek(begin)
                yield unpacked(self._items[number].path, json.loads(stream.readline()))
