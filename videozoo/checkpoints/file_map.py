"""A file in memory without reading it: a private map, of which arrays are windows."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from videozoo.errors import UnreadableCheckpoint

_CHUNK_BYTES = 1 << 22
_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""By address. A map lives as long as an array is a window on it."""


class FileMap:
    """The bytes of a regular file. Arrays made from ``data`` keep it alive; writing to them does not change the file.

    The file may be renamed or deleted meanwhile, but must not shrink: reading what is gone kills the process.

    Raises:
        UnreadableCheckpoint: it cannot be read, is empty, or is no regular file.
    """

    def __init__(self, path: Path) -> None:
        try:
            if path.is_dir():
                raise UnreadableCheckpoint("not a checkpoint: a folder")
            with open(path, "rb", opener=_open) as stream:
                found = os.fstat(stream.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise UnreadableCheckpoint("not a checkpoint: not a regular file")
                if found.st_size == 0:
                    raise UnreadableCheckpoint("not a checkpoint: 0 bytes; fetch the file again")
                # A copy-on-write map is writable, which torch asks of a buffer before it shares it.
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
                self.data = memoryview(self._map)
                _maps[_address(np.frombuffer(self.data, np.uint8))] = self._map
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "the path is not one"
            raise UnreadableCheckpoint(f"cannot be read: {reason}") from None

    def sha256(self) -> str:
        """The 64 digits of the very bytes that were mapped; nobody may have written to the arrays yet."""
        digest = hashlib.sha256()
        for start in range(0, len(self.data), _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, len(self.data))
            digest.update(self.data[start:end])
            self.release(start, end)
        return digest.hexdigest()

    def release(self, start: int, end: int) -> None:
        """Give back the memory of these bytes, which must not have been written to; they can be read again."""
        _release(self._map, start, end)


def release(values: NDArray[Any]) -> None:
    """Give back the memory of a contiguous array that is a window on a file; of any other, do nothing.

    What was written into the array would be lost: only for arrays that nobody changed.
    """
    begin = _address(values)
    for address, mapped in list(_maps.items()):
        if address <= begin < address + len(mapped):
            _release(mapped, begin - address, begin - address + values.nbytes)


def _open(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _address(values: NDArray[Any]) -> int:
    address: int = values.__array_interface__["data"][0]
    return address


def _release(mapped: mmap.mmap, start: int, end: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED") and start < end:
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page, end - page)
