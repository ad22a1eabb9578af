"""What a long run has done so far: one line a result, only ever appended, so that a killed run can go on.

The first line says which run it is. A line that was cut off, or what a power cut left of it, is as if never written.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from videozoo.errors import OutputError

Line = dict[str, Any]

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What locking says on a file system that has no locks."""
_SYNC_SECONDS = 5.0
"""At most so much work is lost in a power cut. What a killed process has written is never lost: the system has it."""


class Journal:
    """One process's journal, open for appending; a context manager."""

    def __init__(self, path: Path, run: Mapping[str, Any], *, anew: bool = False) -> None:
        """Continue the journal at ``path``, or begin it.

        Args:
            path: the file; its folder must exist.
            run: what makes results of one run fit another, as JSON; see `read`.
            anew: give up what the journal holds, of whichever run.

        Raises:
            OutputError: the file cannot be written, another process is at it, or it is that of another run.
        """
        self._path = path
        self._synced = time.monotonic()
        try:
            self._stream: IO[bytes] = _opened(path)
            try:
                whole = 0 if anew else _whole_bytes(path, run)
                self._stream.truncate(whole)
                if not whole:
                    self._write({"run": dict(run)})
            except BaseException:
                self._stream.close()
                raise
        except OSError as error:
            raise self._cannot_write(error) from None

    def append(self, line: Line) -> None:
        """Keep one result.

        Raises:
            OutputError: the disk is full or gone.
        """
        try:
            self._write(line)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._cannot_write(error) from None

    def remove(self) -> None:
        """Give up the file, while nobody else can be at it."""
        if sys.platform == "win32":  # an open file cannot be removed there
            self._stream.close()
        self._path.unlink(missing_ok=True)
        self._stream.close()

    def _write(self, line: Line) -> None:
        # A file's name may hold what UTF-8 cannot: the escape is JSON's own, and is read back as the same character.
        self._stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._stream.flush()

    def _cannot_write(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._path}: {error.strerror}; the same command goes on where it stopped")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stream.close()
        except OSError as error:
            raise self._cannot_write(error) from None


def beside(out: Path) -> Path:
    """Where the journal of the run that writes ``out`` is."""
    return out.with_name(f"{out.name}.journal")


def discard(path: Path) -> None:
    """Give up what an earlier run left at ``path``, if anything.

    Several processes of one run may do this at once.

    Raises:
        OutputError: a process is writing the journal, or it cannot be removed.
    """
    try:
        with suppress(FileNotFoundError), open(path, "rb") as stream:
            _lock(stream, path, shared=True)
            if not os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                raise OutputError(f"another process is writing {path}: wait for it")  # it has begun this very moment
            if sys.platform == "win32":  # an open file cannot be removed there
                stream.close()
            path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}") from None


def read(path: Path, run: Mapping[str, Any]) -> list[Line]:
    """The results that a journal holds.

    Args:
        path: the file.
        run: as the journal's first line must say.

    Raises:
        OutputError: the journal is that of another run, or cannot be read.
    """
    return [line for line, _ in scan(path, run)]


def scan(path: Path, run: Mapping[str, Any]) -> Iterator[tuple[Line, int]]:
    """The results that a journal holds, one in memory, each with the place of its first byte in the file.

    Args:
        path: the file.
        run: as the journal's first line must say.

    Raises:
        OutputError: as `read`.
    """
    begin = 0
    for line, end in _lines(path):
        if begin == 0:
            _refuse_another(path, line.get("run"), run)
        else:
            yield line, begin
        begin = end


def _refuse_another(path: Path, found: object, run: Mapping[str, Any]) -> None:
    if found != run:
        known = found if isinstance(found, dict) else {}
        other = [name for name in run if known.get(name) != run[name]]
        raise OutputError(
            f"{path} belongs to a run with another {' and '.join(other)}: finish that one, or pass --force "
            "(overwrite=True) to give it up"
        )


def _opened(path: Path) -> IO[bytes]:
    """The file that has this name, open for appending and locked."""
    while True:
        stream = open(path, "ab")  # noqa: SIM115 - closed by whoever has the journal
        try:
            _lock(stream, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                    return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # its last owner removed it before it let it go


def _lock(stream: IO[bytes], path: Path, *, shared: bool = False) -> None:
    """Keep other processes out until ``stream`` is closed, or its process gone, however it ended.

    ``shared`` lets those in that ask for the same. A file system that knows no locks lets everybody in.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"another process is writing {path}: wait for it, or give another --out (out=)") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _lines(path: Path) -> Iterator[tuple[Line, int]]:
    """Each line, up to the first damaged one, with the number of bytes up to its end."""
    end = 0
    try:
        with open(path, "rb") as stream:
            for text in stream:
                end += len(text)
                try:
                    line = json.loads(text) if text.endswith(b"\n") else None
                except ValueError:
                    line = None
                if not isinstance(line, dict):
                    return
                yield line, end
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from None


def _whole_bytes(path: Path, run: Mapping[str, Any]) -> int:
    whole = 0
    for line, end in _lines(path):
        if not whole:
            _refuse_another(path, line.get("run"), run)
        whole = end
    return whole
