"""Weights and inputs that every platform draws alike: a tensor's values follow from its name and shape alone.

The published networks answered the figures under ``goldens/mmaction2_*.json`` when they held these weights. Every draw
is a float64 stream of Philox, whose key is the CRC-32 of the tensor's name (for an input, a number), in C order.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fill(name: str, shape: Sequence[int], dtype: str = "float32") -> NDArray[np.generic]:
    """The values of the tensor that a published file calls ``name``."""
    last = name.split(".")[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, "int64")
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    if last == "running_var":
        return stream.uniform(0.5, 1.5, size=shape).astype(dtype)
    values = stream.standard_normal(size=shape)
    if last in ("running_mean", "bias"):
        values = 0.2 * values
    elif last == "weight" and len(shape) > 1:
        values = values * np.sqrt(_gain(name, shape) / int(np.prod(shape[1:])))
    elif last == "weight":
        # the last batch norm of a bottleneck is damped, so that a long sum of residuals stays small
        values = (1.0 + 0.25 * values) * (0.2 if name.endswith(".conv3.bn.weight") else 1.0)
    else:
        raise KeyError(f"no rule for {name}")
    return values.astype(dtype)


def _gain(name: str, shape: Sequence[int]) -> float:
    """Variance of a layer's output over that of its input."""
    if name.endswith("fc_cls.weight"):
        return 0.3
    return 1.0 if shape[1] == 1 else 1.7


def fill_input(key: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """A normalised input: standard normal, float32."""
    stream = np.random.Generator(np.random.Philox(key=key))
    return stream.standard_normal(size=tuple(shape)).astype("float32")
