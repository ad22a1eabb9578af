"""The stages on one machine: processes decode, this one answers, and a journal keeps what is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videozoo.batch import decoders
from videozoo.batch.answers import Answer
from videozoo.batch.decoders import Decoders, Failure
from videozoo.batch.job import Job, Summary
from videozoo.batch.pieces import Piece, Plan
from videozoo.batch.rows import Row, packed, unpacked
from videozoo.batch.tables import writer_for
from videozoo.errors import InvalidArgument, OutputError
from videozoo.files import place, refuse_unfit, sha256_file
from videozoo.journal import Journal, beside, scan


def run(job: Job, *, num_processes: int = 1) -> Summary:
    """Answer for every video of the job, and write the table once all are done.

    What is done is kept in ``OUT.journal`` until then: the same call goes on where a killed one stopped, does nothing
    twice, and ends with the same bytes (on the same machine, with as many threads).

    Args:
        job: what to do.
        num_processes: processes that decode beside this one; with 0 it decodes by itself, in turns.

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
    recognizer = job.network.load()
    answer = job.question.to(recognizer)
    about = job.about(recognizer)
    with Journal(path, about, anew=job.overwrite) as journal:
        done = _Done.read(path, about)
        if not done.has_written(job.out):
            _refuse_taken(job, journal, done)
            _compute(job, job.plan(recognizer), answer, num_processes, journal, done)
            table = _Table(path, about, job)

            def fill(unfinished: Path) -> None:
                write(unfinished, table.rows, about)
                journal.append({"table": sha256_file(unfinished)})

            place(job.out, fill, overwrite=job.overwrite)
        journal.remove()
    return Summary(str(job.out), len(job.items), done.num_rows, len(done.failed))


def _refuse_taken(job: Job, journal: Journal, done: _Done) -> None:
    """Another run may have finished while this one waited for its turn at the journal."""
    try:
        refuse_unfit(job.out, overwrite=job.overwrite)
    except OutputError:
        if done.holds_nothing:
            journal.remove()
        raise


def _compute(job: Job, plan: Plan, answer: Answer, num_processes: int, journal: Journal, done: _Done) -> None:
    """Answer for what is not done yet."""
    todo = done.jobs(job)
    with _bar(job, done) as bar, Decoders(plan, min(num_processes, len(todo))) as pool:
        for number, outcome in pool.run(todo):
            if isinstance(outcome, Piece):
                row = answer(job.items[number].path, outcome)
                journal.append({"video": number} | packed(row))
                done.add(number, row.window, failed=row.error is not None)
            else:
                journal.append({"video": number, "done": True} | _last(outcome))
                done.end(number, failed=outcome is not None)
                bar.update()
            bar.set_postfix_str(str(done), refresh=False)


def _bar(job: Job, done: _Done) -> Any:
    bar = tqdm(
        total=len(job.items), initial=len(done.ended), unit="video", disable=None if job.progress else True,
        dynamic_ncols=True,
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

    @classmethod
    def read(cls, path: Path, about: dict[str, Any]) -> _Done:
        done = cls()
        for line, _ in scan(path, about):
            if "table" in line:
                done.table = line["table"]
            elif "done" in line:
                done.end(line["video"], failed="error" in line)
            else:
                done.add(line["video"], line["window"], failed="error" in line)
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


class _Table:
    """The rows of a journal in the order of the videos; only where each one lies is in memory."""

    def __init__(self, path: Path, about: dict[str, Any], job: Job) -> None:
        self._path = path
        self._items = job.items
        self._places = sorted(
            (line["video"], line["window"], begin) for line, begin in scan(path, about) if "window" in line
        )

    def rows(self) -> Iterator[Row]:
        with open(self._path, "rb") as stream:
            for number, _, begin in self._places:
                stream.seek(begin)
                yield unpacked(self._items[number].path, json.loads(stream.readline()))
