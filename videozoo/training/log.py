"""The two logs of a run: tables of comma-separated values that a resumed run goes on with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from videozoo.errors import OutputError
from videozoo.training.folder import place_text


class CsvLog:
    """A file with a header whose first column is the number of the step; a context manager.

    Args:
        path: the file.
        columns: after ``step``.
        from_step: lines of later steps are removed: they are of a run that was killed after its last state.

    Raises:
        OutputError: the file cannot be written, or has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, from_step: int) -> None:
        self._path = path
        header = ["step", *columns]
        try:
            kept = _lines(path, header, from_step) if path.exists() and from_step else [",".join(header) + "\n"]
            place_text(path, "".join(kept))
            self._stream: IO[str] = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None

    def write(self, step: int, *values: object) -> None:
        """One line.

        Raises:
            OutputError: the disk is full or gone.
        """
        try:
            csv.writer(self._stream, lineterminator="\n").writerow([step, *values])
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(OSError):  # what a full disk did not take was told when it was written
            self._stream.close()


def _lines(path: Path, header: list[str], to_step: int) -> list[str]:
    found = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if not found or found[0].rstrip("\n").split(",") != header:
        raise OutputError(f"{path} is not the log of this run: move it away")
    whole = (line for line in found[1:] if line.endswith("\n") and line.count(",") == len(header) - 1)
    return [found[0], *(line for line in whole if int(line.partition(",")[0]) <= to_step)]
