"""Clips that every platform draws alike, in integer arithmetic, and positions to compare them at.

The published figures under ``goldens/pipeline_*.json`` were made on these clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_HASH_FACTORS = (73856093, 19349663, 83492791, 2654435761)


def make_frames(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Two moving waves and noise: uint8 (num_frames, height, width, 3), channels R, G, B."""
    t, y, x, c = np.ogrid[:num_frames, :height, :width, :3]
    slow = _wave(7 * x + 3 * y + 97 * t + 211 * c, 90)
    fast = _wave(11 * x * (c + 1) - 5 * y + 53 * t + 40 * c, 60)
    noise = (_hash(x, y, t, c) >> 24).astype(np.int64) - 128  # -128..127
    return (128 + slow + fast + noise * 3 // 8).clip(0, 255).astype(np.uint8)


def write_images(folder: Path, names: Sequence[str], frames: NDArray[np.uint8]) -> Path:
    """Write each frame under its name, .png to the bit or .jpg nearly so, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(names, frames, strict=True):
        codec, pixel_format = ("png", "rgb24") if name.endswith("png") else ("mjpeg", "yuvj444p")
        encoder = av.CodecContext.create(codec, "w")
        encoder.height, encoder.width, encoder.pix_fmt = *pixels.shape[:2], pixel_format
        encoder.time_base = Fraction(1, 10)
        image = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
        (folder / name).write_bytes(b"".join(map(bytes, [*encoder.encode(image), *encoder.encode(None)])))
    return folder


def probes(shape: Sequence[int], count: int, salt: int = 0) -> list[tuple[int, ...]]:
    """``count`` positions inside ``shape``, spread by a hash; the first and the last element come first."""
    size = int(np.prod(shape))
    number = np.arange(count)
    flat = _hash(number, np.full(count, salt), 0 * number, 0 * number).astype(np.int64) % size
    flat[:2] = 0, size - 1
    return [tuple(int(axis) for axis in np.unravel_index(position, tuple(shape))) for position in flat]


def _wave(phase: NDArray[np.int64], amplitude: int) -> NDArray[np.int64]:
    """A parabolic bump of period 1024, about ``amplitude`` high, floored to integers."""
    rise = 512 - np.abs(phase % 1024 - 512)
    return amplitude * rise * (1024 - rise) // 196608 - amplitude * 2 // 3


def _hash(*coordinates: NDArray[np.int64]) -> NDArray[np.uint32]:
    """32 well-mixed bits from four coordinates; all sums and products wrap around."""
    mixed = np.uint32(12345)
    for coordinate, factor in zip(coordinates, _HASH_FACTORS, strict=True):
        mixed = mixed + coordinate.astype(np.uint32) * np.uint32(factor)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return mixed ^ (mixed >> np.uint32(16))
