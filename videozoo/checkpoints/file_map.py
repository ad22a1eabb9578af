"""A file in memory without reading it: a private map, of which tensors are windows."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import torch
from torch import UntypedStorage

from videozoo.errors import UnreadableCheckpoint


class FileMap:
    """The bytes of a regular file. Tensors made from it keep it alive; writing to them does not change the file.

    The file may be renamed or deleted meanwhile, but must not shrink: reading what is gone kills the process.
    """

    def __init__(self, path: Path) -> None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                what = "a folder" if path.is_dir() else "not a regular file"
                raise UnreadableCheckpoint(f"not a checkpoint: {what}")
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size == 0:
                    raise UnreadableCheckpoint("not a checkpoint: 0 bytes; fetch the file again")
                # A copy-on-write map is writable, which torch asks of a buffer before it shares it.
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
                self.data = memoryview(self._map)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "the path is not one"
            raise UnreadableCheckpoint(f"cannot be read: {reason}") from None

    def storage(self, start: int, end: int, alignment: int) -> UntypedStorage:
        """The bytes from ``start`` to ``end``: a window on the file, or a copy where numbers would lie askew."""
        if start == end:
            return UntypedStorage(0)
        window = torch.frombuffer(self.data, dtype=torch.uint8, count=end - start, offset=start)
        if window.data_ptr() % alignment == 0:
            return window.untyped_storage()
        copy = window.clone()
        if hasattr(mmap, "MADV_DONTNEED"):
            # Nothing was written to these pages: they can be read again, and need not lie in memory twice.
            page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, page, end - page)
        return copy.untyped_storage()
