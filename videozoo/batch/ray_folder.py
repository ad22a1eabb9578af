"""The folder of Parquet that Ray writes, which is the run's own checkpoint: what it holds, and what is left to do.

    *.parquet         rows, as Ray wrote them; one that a killed process left without an end is removed
    _run.journal      which run it is, that an earlier one's files are gone, whether it is finished; a running one has
                      it locked
    _ends-*.jsonl     how many rows a video has in the end, as the actors are told

Readers of Parquet folders leave out names that begin with an underscore.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from videozoo import journal
from videozoo.batch.inputs import Item
from videozoo.batch.tables import recorded
from videozoo.errors import OutputError, printable, reason
from videozoo.journal import Journal

_JOURNAL = "_run.journal"
_MAGIC = b"PAR1"
"""What a Parquet file begins with, and what it ends with once it is whole."""


class _RepeatedRow(OutputError):
    """Two rows of one window."""


@dataclass(frozen=True, slots=True)
class Todo:
    """A video that has to be decoded, as it goes to a task on whichever node."""

    item: Item
    """With an absolute path: a task has another working directory."""
    name: str
    """The path as the input names it, and as its rows have it."""
    known: frozenset[int] = frozenset()
    """Windows that have rows already."""

    @property
    def first(self) -> int:
        """The first window without a row."""
        return next(number for number in range(len(self.known) + 1) if number not in self.known)

    def own(self, text: str) -> str:
        """A reason, in terms of the path that the input names."""
        for whole, given in ((self.item.path, self.name), (str(Path(self.item.path)), str(Path(self.name)))):
            text = text.replace(printable(whole), printable(given))
        return text


@dataclass
class Found:
    """What the files of a folder hold."""

    windows: dict[str, set[int]] = field(default_factory=dict)
    """By path, those that have rows."""
    counts: dict[str, int] = field(default_factory=dict)
    """By path, how many rows there must be; not of a video whose end nobody has seen yet."""
    answered: dict[str, int] = field(default_factory=dict)
    """By path, rows with an answer."""
    failed: set[str] = field(default_factory=set)

    def is_complete(self, name: str) -> bool:
        """Whether the video's every row is there."""
        return name in self.counts and self.windows.get(name, set()).issuperset(range(self.counts[name]))

    def left(self, items: Iterable[Item]) -> list[Todo]:
        """The videos that are not complete."""
        named = ((item, recorded(item.path)) for item in items)
        return [
            Todo(
                replace(item, path=os.path.join(Path().absolute(), item.path)),
                name,
                frozenset(self.windows.get(name, ())),
            )
            for item, name in named
            if not self.is_complete(name)
        ]

    def summed(self, items: Iterable[Item]) -> tuple[int, int]:
        """Of these videos, the rows with an answer, and the videos that have a row without one."""
        names = {recorded(item.path) for item in items}
        return sum(self.answered.get(name, 0) for name in names), len(self.failed & names)

    def add(self, row: dict[str, Any], part: Path) -> None:
        """Note a row of a file.

        Raises:
            OutputError: it is there already.
        """
        name, window = row["path"], row["window"]
        windows = self.windows.setdefault(name, set())
        if window in windows:
            raise _RepeatedRow(f"{part} repeats window {window} of {name}: start with --force (overwrite=True)")
        windows.add(window)
        if row["error"] is None:
            self.answered[name] = self.answered.get(name, 0) + 1
            return
        self.failed.add(name)
        if row["start_seconds"] is None:  # it could not be decoded any further; else one window has no answer
            self.expect(name, window + 1)

    def expect(self, name: str, count: int) -> None:
        """Note how many rows a video has."""
        self.counts[name] = max(count, self.counts.get(name, 0))


@dataclass(frozen=True)
class Folder:
    """Ray's files, and what says which run they are of."""

    path: Path
    about: dict[str, Any]

    def begin(self, *, overwrite: bool) -> Journal:
        """Make the folder, or find in it the run that goes on; until its journal is closed no other process may.

        Raises:
            OutputError: it holds a finished run, another one, or other files, or another process is writing it.
        """
        path = self.path / _JOURNAL
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not path.exists() and any(self.path.iterdir()):
                raise OutputError(f"{self.path} holds other files: name a new folder")
            run = Journal(path, self.about, anew=overwrite)
            try:
                lines = journal.read(path, self.about)
                if any("finished" in line for line in lines):
                    raise OutputError(f"{self.path} exists; pass --force (overwrite=True) to replace it")
                if not any("cleared" in line for line in lines):
                    # One that began anew may have been killed before it could.
                    self._clear()
                    run.append({"cleared": True})
            except BaseException:
                run.__exit__()
                raise
            return run
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from None

    def _clear(self) -> None:
        for part in (*self._parts(), *self._ends()):
            part.unlink()

    def read(self) -> Found:
        """What is there; files that a killed process left without an end are removed, and those that repeat others.

        Raises:
            OutputError: a row is there twice, or a file is another run's, or cannot be read.
        """
        try:
            found = self._found()
        except _RepeatedRow:
            self._remove_copies()
            found = self._found()
        for path in self._ends():
            for name, count in _ends_in(path):
                found.expect(name, count)
        if self.about["window_seconds"] is None:
            found.counts |= dict.fromkeys(found.windows, 1)
        return found

    def _found(self) -> Found:
        found = Found()
        for part in self._parts():
            for row in self._rows(part):
                found.add(row, part)
        return found

    def _remove_copies(self) -> None:
        """Remove each file whose every row others have.

        A cluster notices late that a run was killed: its tasks may write what the next run has been asked for again.
        """
        parts = {part: {tuple(row.values()) for row in self._rows(part)} for part in self._parts()}
        copies = Counter(chain.from_iterable(parts.values()))
        for part, rows in parts.items():
            if rows and all(copies[row] > 1 for row in rows):
                copies.subtract(rows)
                part.unlink()

    def _rows(self, part: Path) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        try:
            if _is_cut_off(part):
                part.unlink()
                return []
            table = pq.read_table(part, columns=["path", "window", "start_seconds", "error"])
            about = json.loads((table.schema.metadata or {}).get(b"videozoo", b"null"))
        except (OSError, ValueError) as error:  # pyarrow's, too
            raise OutputError(
                f"{part} cannot be read ({reason(error)}): repeat the command, or remove the file"
            ) from None
        if about != self.about:
            raise OutputError(f"{part} is of another run: name a new folder, or pass --force (overwrite=True)")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet"))

    def _ends(self) -> list[Path]:
        return sorted(self.path.glob("_ends-*.jsonl"))


class Ends:
    """One process's file of videos' ends, which it makes when it has one to say."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"_ends-{secrets.token_hex(8)}.jsonl"

    def add(self, name: str, count: int) -> None:
        """Note how many rows a video has, written already or not."""
        with open(self._path, "ab", buffering=0) as stream:
            stream.write(json.dumps([name, count]).encode() + b"\n")


def _ends_in(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_bytes().split(b"\n")[:-1]:  # what was cut off has no end
        with suppress(ValueError):  # after a power cut; the video is opened once more
            name, count = json.loads(line)
            yield name, count


def _is_cut_off(part: Path) -> bool:
    """Whether somebody began to write this Parquet file, and never came to its end."""
    with open(part, "rb") as stream:
        head = stream.read(len(_MAGIC))
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_MAGIC)))
        return head == _MAGIC[: len(head)] and (size < 2 * len(_MAGIC) or stream.read() != _MAGIC)
