"""Weights and inputs for the goldens of VMZ and PaddleVideo; as in `filling`, they follow from names and shapes alone.

Draws are a float64 stream of Philox, whose key is the CRC-32 of the tensor's name, in C order of the stored shape.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DAMPED = (
    (r".*\.conv2\._batch_norm\.weight", 0.12),
    (r"layer\d\.\d+\.conv[23]\.1\.weight", 0.3),
    (r"comp_\d+_spatbn_[234]_s", 0.3),
)
"""Batch norms late in a block, and what their scale is multiplied by, so that long sums of residuals stay small."""
KINDS = {
    ".running_var": "variance",
    "._variance": "variance",
    "_riv": "variance",
    ".running_mean": "shift",
    "._mean": "shift",
    "_rm": "shift",
    ".bias": "shift",
    "_b": "shift",
    ".weight": "weight",
    "_w": "weight",
    "_s": "weight",
    ".num_batches_tracked": "counter",
}
"""End of a name in any of the three dialects -> what the tensor is."""


def fill_legacy(name: str, shape: Sequence[int]) -> NDArray[np.generic]:
    """The values of the tensor that a published file calls ``name`` and stores with ``shape``."""
    kind = next(kind for end, kind in KINDS.items() if name.endswith(end))
    if kind == "counter":
        return np.zeros(shape, "int64")
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    if kind == "variance":
        return stream.uniform(0.5, 1.5, size=shape).astype("float32")
    values = stream.standard_normal(size=shape)
    if kind == "shift":
        values = 0.2 * values
    elif len(shape) > 1:
        # PaddlePaddle stores the classifier as (features, classes)
        inputs = shape[0] if name == "head.fc.weight" else int(np.prod(shape[1:]))
        values = values * np.sqrt(2 / inputs)
    else:
        values = next((factor for pattern, factor in DAMPED if re.fullmatch(pattern, name)), 1.0) * (1 + 0.25 * values)
    return values.astype("float32")
