"""What has arrived of a file: ``<file>.part``, a record beside it of where it came from, and the writing of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from videozoo.download import limits

PART = ".part"
"""How the name of what has arrived of a file ends; its record adds ``.json``."""


class Part:
    """An unfinished file; the record exists as long as a later call can resume it."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + PART)
        self._record = target.with_name(target.name + PART + ".json")

    def etag(self, url: str) -> str | None:
        """The ETag of what lies here, if it came from ``url`` and can be resumed."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        etag = record.get("etag") if isinstance(record, dict) and record.get("url") == url else None
        usable = isinstance(etag, str) and is_strong(etag) and self.path.is_file() and not self.path.is_symlink()
        return etag if usable else None

    def begin(self, url: str, etag: str | None) -> None:
        """Empty, for a body that starts at its first byte; it can be resumed later if there is an ETag."""
        self.remove()
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        if etag is not None:
            self._record.write_text(json.dumps({"url": url, "etag": etag}) + "\n", encoding="utf-8")

    def move(self, target: Path) -> None:
        """Let the file have its final name."""
        os.replace(self.path, target)
        self.remove()

    def remove(self) -> None:
        """Leave nothing of what has arrived."""
        for path in (self._record, self.path):  # in this order: a part without a record is never resumed
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Let no later call resume it; `tidy` then removes it, when nobody has it open any more."""
        self._record.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what no later call can resume, or has nothing to resume from."""
        try:
            if not self._record.exists() or not self.path.stat().st_size:
                self.remove()
        except OSError:
            return  # the failure that led here is the one to report


def is_strong(etag: str) -> bool:
    """Whether equal ETags mean equal bytes; weak ones, ``W/"..."``, mean it not."""
    return len(etag) > 2 and etag[0] == etag[-1] == '"' and etag.isascii() and etag.isprintable()


class Appending:
    """Writes at the end of a part; hashing and the disk's own work go on beside it, in threads (Python lets them).

    Raises:
        OSError: the disk is full, or fails; also from ``with``, for what was written last.
    """

    def __init__(self, path: Path, sha256: hashlib._Hash) -> None:
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115 - __exit__ closes it
        self._sha256 = sha256
        self._hashing, self._flushing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashes: deque[Future[None]] = deque()
        self._flush: Future[None] | None = None
        self._unflushed = 0
        # Freed at once, and never touched: glibc takes its size as a sign to keep freed chunks for those that follow,
        # instead of giving their pages back and having them zeroed again (a tenth of the processor time).
        bytes(2 * limits.MAX_CHUNKS_BEHIND * limits.CHUNK_BYTES)

    def __enter__(self) -> Appending:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._hashing.shutdown()  # waits for all that is pending
        self._flushing.shutdown()
        self._stream.close()
        if kind is None and self._flush is not None:
            self._flush.result()

    def write(self, chunk: bytes) -> None:
        """Write ``chunk`` and have it hashed soon; waits where hashing falls behind, so that memory stays bounded."""
        if len(self._hashes) >= limits.MAX_CHUNKS_BEHIND:
            self._hashes.popleft().result()
        self._hashes.append(self._hashing.submit(self._sha256.update, chunk))
        rest = memoryview(chunk)
        while rest:  # an almost full disk may take some of it
            rest = rest[self._stream.write(rest[: limits.WRITE_BYTES]) :]
        self._unflushed += len(chunk)
        if self._unflushed >= limits.FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._begin_flush()

    def _begin_flush(self) -> None:
        """So that little is left to wait for when the last byte has come."""
        if self._flush is not None:
            self._flush.result()
        self._flush = self._flushing.submit(os.fsync, self._stream.fileno())
        self._unflushed = 0
