"""The videos of a run that could not be decoded: those that others replaced, and those that no validation counted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from videozoo.errors import UnreadableCheckpoint
from videozoo.training.folder import place_text
from videozoo.video.dataset import Problem

Data = Literal["train", "val"]
_HEADER = ["data", "line", "name", "reason"]


class Undecoded(NamedTuple):
    """A video that could not be decoded, and what it was for."""

    data: Data
    problem: Problem


def write_problems(path: Path, found: Iterable[Undecoded]) -> None:
    """Replace the table of a run: in the order of the lists, whatever the order in which they were found.

    Raises:
        OutputError: it cannot be written; the one before is kept.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    table.writerow(_HEADER)
    for data, problem in in_order(found):
        table.writerow([data, "" if problem.line is None else problem.line, problem.name, problem.reason])
    place_text(path, text.getvalue())


def read_problems(path: Path) -> set[Undecoded]:
    """What `write_problems` wrote; nothing where there is no file.

    Raises:
        UnreadableCheckpoint: it is no such table.
    """
    if not path.exists():
        return set()
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            header, *rows = csv.reader(stream)
        if header != _HEADER:
            raise ValueError(header)
        return {_undecoded(*row) for row in rows}
    except (OSError, ValueError, TypeError, csv.Error):
        raise UnreadableCheckpoint(f"{path} is not the table that this run wrote: move it away") from None


def _undecoded(data: str, line: str, name: str, reason: str) -> Undecoded:
    if data not in ("train", "val"):
        raise ValueError(data)
    return Undecoded("val" if data == "val" else "train", Problem(int(line) if line else None, name, reason))


def in_order(found: Iterable[Undecoded]) -> list[Undecoded]:
    """Sorted by list, line and name."""
    return sorted(found, key=lambda one: (one.data, one.problem.line or 0, one.problem.name, one.problem.reason))
