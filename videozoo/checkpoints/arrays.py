"""Tensors without torch: a dtype, and the bits of the numbers in an array of numpy's.

Numpy has no bfloat16 and no 8-bit floats, so that numbers of every kind are held as unsigned integers of their size:
what is read, renamed and written is moved bit by bit. `videozoo.checkpoints.tensors` makes torch's tensors of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Every dtype there is, under the name that safetensors has for it, and the bytes of one number."""
BITS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
"""Bytes of one number -> what holds it."""


@dataclass(slots=True, eq=False)
class Array:
    """A tensor of a file. It may be a window on it, with any strides, and need not be aligned."""

    dtype: str
    """As in `ITEM_BYTES`; of an array that is not read (`is_read`), what it is."""
    bits: NDArray[Any]
    """The numbers' bits, as one of `BITS`, in the tensor's shape."""

    @property
    def is_read(self) -> bool:
        """Whether ``bits`` are there: not of arrays of objects, text or records, which may lie beside a model."""
        return self.dtype in ITEM_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.bits.shape

    @property
    def size_bytes(self) -> int:
        """Of the values in row-major order."""
        return self.bits.size * self.bits.itemsize

    def contiguous(self) -> Array:
        """In row-major order: itself if it is so, else a copy."""
        return self if self.bits.flags.c_contiguous else Array(self.dtype, np.ascontiguousarray(self.bits))


def empty(dtype: str) -> Array:
    """An array without numbers, to be filled by giving it other ``bits``."""
    return Array(dtype, np.empty(0, BITS[ITEM_BYTES[dtype]]))


def unread(what: str) -> Array:
    """The record of an array that is none of numbers."""
    return Array(what, np.empty(0, np.uint8))


def zeros(dtype: str, shape: Sequence[int]) -> Array:
    """Zero has no bits set in any dtype."""
    return Array(dtype, np.zeros(tuple(shape), BITS[ITEM_BYTES[dtype]]))


def window(data: memoryview | NDArray[np.uint8], dtype: str, shape: Sequence[int], start: int = 0) -> Array:
    """The numbers that lie in row-major order from byte ``start`` on; nothing is copied."""
    if 0 in shape:
        return zeros(dtype, shape)
    return Array(dtype, np.ndarray(tuple(shape), BITS[ITEM_BYTES[dtype]], data, start))


def is_floating(dtype: str) -> bool:
    """Whether numbers of this dtype are floating-point ones."""
    return dtype.startswith(("F", "BF"))
