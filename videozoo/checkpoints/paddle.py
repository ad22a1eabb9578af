"""What PaddlePaddle's ``.pdparams`` adds to a dict of arrays: a name table, chunks, pairs, and unmarked bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.inert import Budget, Opaque, counts, elements, quoted
from videozoo.errors import UnreadableCheckpoint

NAME_TABLE = "StructuredToParameterName@@"
CHUNKS = "UnpackBigParamInfor@@"


SixteenBit = Literal["bfloat16", "uint16"]


def plain(
    entries: Mapping[object, object], budget: Budget, *, sixteen_bit: SixteenBit | None = None
) -> dict[object, object]:
    """The entries without the name table, chunks rejoined, ``(internal name, array)`` pairs replaced by their arrays.

    Args:
        entries: a state dict as Paddle pickles it; any other comes back as it is.
        budget: for chunks that are joined.
        sixteen_bit: what unsigned 16-bit integers are: such, or the bits of bfloat16, which Paddle stores so without a
            mark. None takes for bfloat16 what Paddle's name table lists: Paddle itself has no such integers.

    Raises:
        UnreadableCheckpoint: a chunk is missing, or the chunks do not make up the shape, or take too much memory.
    """
    found = {name: _array(value) for name, value in entries.items() if name not in (NAME_TABLE, CHUNKS)}
    chunked = entries.get(CHUNKS, {})
    if not isinstance(chunked, dict):
        raise UnreadableCheckpoint(f"{CHUNKS} is not a table")
    for name, description in chunked.items():
        if not isinstance(description, dict) or not isinstance(description.get("slices"), list):
            raise UnreadableCheckpoint(f"the chunks of {quoted(name)} are not listed")
        parts = [found.pop(part, None) if isinstance(part, str) else None for part in description["slices"]]
        shape = counts(description.get("OriginShape"), f"the shape of {quoted(name)}")
        found[name] = _join(name, parts, shape, budget)
    table = entries.get(NAME_TABLE)
    listed = table if sixteen_bit is None and isinstance(table, dict) else found if sixteen_bit == "bfloat16" else {}
    return {name: _as_bfloat16(value) if name in listed else value for name, value in found.items()}


def _array(value: object) -> object:
    """An array, or the record of one, out of its pair with Paddle's internal name."""
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], Array | Opaque)
    ):
        return value[1]
    return value


def _join(name: object, parts: list[object], shape: tuple[int, ...], budget: Budget) -> Array:
    arrays = [part for part in parts if isinstance(part, Array)]
    if not arrays or len(arrays) != len(parts) or len({part.dtype for part in arrays}) != 1:
        raise UnreadableCheckpoint(f"a chunk of {quoted(name)} is missing or of another dtype")
    for part in arrays:
        budget.spend(2 * part.size_bytes)  # the second time if it is not contiguous
    joined = np.concatenate([part.bits.reshape(-1) for part in arrays])
    if joined.size != elements(shape):
        raise UnreadableCheckpoint(f"the chunks of {quoted(name)} have {joined.size} numbers, not shape {shape}")
    return Array(arrays[0].dtype, joined.reshape(shape))


def _as_bfloat16(value: object) -> object:
    return Array("BF16", value.bits) if isinstance(value, Array) and value.dtype == "U16" else value
