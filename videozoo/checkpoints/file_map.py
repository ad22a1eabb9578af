"""A file in memory without reading it: a private map, of which tensors are windows."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, UntypedStorage

from videozoo.errors import UnreadableCheckpoint

_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""By address. A map lives as long as a tensor is a window on it."""


class FileMap:
    """The bytes of a regular file. Tensors made from it keep it alive; writing to them does not change the file.

    The file may be renamed or deleted meanwhile, but must not shrink: reading what is gone kills the process.

    Args:
        path: the file.
        askew: make windows also where numbers do not lie at multiples of their size, as in torch's older files. Such
            tensors save a copy of the file, but are fit for nothing else than to be copied.

    Raises:
        UnreadableCheckpoint: it cannot be read, is empty, or is no regular file.
    """

    def __init__(self, path: Path, *, askew: bool = False) -> None:
        self._askew = askew
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
                _maps[_address(self.data)] = self._map
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "the path is not one"
            raise UnreadableCheckpoint(f"cannot be read: {reason}") from None

    def storage(self, start: int, end: int, alignment: int) -> UntypedStorage:
        """The bytes from ``start`` to ``end``: a window on the file, or a copy where numbers would lie askew."""
        if start == end:
            return UntypedStorage(0)
        window = torch.frombuffer(self.data, dtype=torch.uint8, count=end - start, offset=start)
        if self._askew or window.data_ptr() % alignment == 0:
            return window.untyped_storage()
        copy = window.clone()
        self.release(start, end)  # it need not lie in memory twice
        return copy.untyped_storage()

    def release(self, start: int, end: int) -> None:
        """Give back the memory of these bytes, which must not have been written to; they can be read again."""
        _release(self._map, start, end)


def release(tensor: Tensor) -> None:
    """Give back the memory of a contiguous tensor that is a window on a file; of any other, do nothing.

    What was written into the tensor would be lost: only for tensors that nobody changed.
    """
    begin = tensor.data_ptr()
    for address, mapped in list(_maps.items()):
        if address <= begin < address + len(mapped):
            _release(mapped, begin - address, begin - address + tensor.nbytes)


def _address(data: memoryview) -> int:
    return torch.frombuffer(data, dtype=torch.uint8, count=1).data_ptr()


def _release(mapped: mmap.mmap, start: int, end: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED") and start < end:
        page = start - start % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page, end - page)
