"""Resize, crop positions and normalisation, bit for bit as OpenCV and MMAction2 compute them, without either.

Frames are uint8 tensors (H, W, 3) in the order R, G, B until :func:`normalise` turns them into float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videozoo.errors import InvalidArgument, VideoError
from videozoo.manifest import Crop

_STRIP = 32
"""Rows of the result that are resized at once."""


_LONGEST = 64
_MOST_PIXELS = 1 << 26
"""A resize by the short side makes of a small file of long and thin frames one that no memory holds."""


class Box(NamedTuple):
    """A square crop: pixels left of it, pixels above it, and whether it is mirrored left to right."""

    left: int
    top: int
    flip: bool


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio and makes the shorter side ``short_side`` pixels.

    >>> resized_size(240, 320, 256)
    (256, 341)
    """
    scale = short_side / min(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize_short_side(frames: Tensor, short_side: int, *, exact: bool = True) -> Tensor:
    """Bilinear resize, without antialiasing, that keeps the aspect ratio.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: pixels of the shorter side of the result.
        exact: True gives OpenCV's fixed-point arithmetic to the bit. False computes in floating point and rounds: off
            by one level in an eighth of the samples.

    Returns:
        uint8 (T, h, w, 3); ``frames`` itself where the size does not change.

    Raises:
        InvalidArgument: ``frames`` is not such a tensor, or ``short_side`` is below 1.
        VideoError: frames so long and thin that the result would have more than 64 times as many pixels on one side as
            on the other, or more than 2**26 in all, where it is larger than the frames are.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InvalidArgument(
            f"frames must be a uint8 tensor (T, H, W, 3), none of them 0, got {frames.dtype} {tuple(frames.shape)}"
        )
    if short_side < 1:
        raise InvalidArgument(f"short_side must be at least 1 pixel, got {short_side}")
    old_size = frames.shape[1], frames.shape[2]
    new_size = resized_size(*old_size, short_side)
    if new_size == old_size:
        return frames
    grows = new_size > old_size
    if grows and (max(new_size) > _LONGEST * min(new_size) or new_size[0] * new_size[1] > _MOST_PIXELS):
        raise VideoError(
            f"frames of {old_size[1]} x {old_size[0]} pixels are too long and thin: their short side scaled to "
            f"{short_side}, they would have {new_size[1]} x {new_size[0]}; crop the video"
        )
    resized = torch.empty((len(frames), *new_size, 3), dtype=torch.uint8, device=frames.device)
    # One frame at a time: the temporaries of a single frame stay in the processor's cache.
    for frame, out in zip(frames, resized, strict=True):
        if exact:
            _resize_exact(frame, out)
        else:
            _resize_float(frame, out)
    return resized


def _resize_float(frame: Tensor, out: Tensor) -> None:
    image = frame.permute(2, 0, 1).unsqueeze(0).float()
    scaled = functional.interpolate(image, size=out.shape[:2], mode="bilinear", align_corners=False, antialias=False)
    # Halves go up, as in OpenCV; torch.round would send them to the even neighbour.
    out.copy_(scaled.add_(0.5).floor_()[0].permute(1, 2, 0))


def _resize_exact(frame: Tensor, out: Tensor) -> None:
    # In NumPy: so little work is done per operation that torch's threads would spend their time waiting for each other,
    # and on a busy machine very much of it.
    height, width = out.shape[:2]
    tables = _tables(frame.shape[0], frame.shape[1], height, width)
    image = frame.cpu().numpy()
    # Downscaling by more than two never looks at some rows: they are dropped first.
    rows = image if len(tables.rows) == len(image) else image.take(tables.rows, axis=0)
    resized = np.empty((height, width * 3), dtype=np.uint8)
    # Strips, so that the temporaries stay in the cache and in memory that the process has already.
    for start in range(0, height, _STRIP):
        strip = slice(start, start + _STRIP)
        first, last = tables.upper[strip][0], tables.lower[strip][-1]
        across = _resized_across(rows[first : last + 1], tables)
        upper = across.take(tables.upper[strip] - first, axis=0)
        upper *= tables.upper_weight[strip]
        upper >>= 16
        lower = across.take(tables.lower[strip] - first, axis=0)
        lower *= tables.lower_weight[strip]
        lower >>= 16
        upper += lower
        upper += 2
        upper >>= 2  # at most (1020 + 2) >> 2 = 255: no clamp
        resized[strip] = upper
    out.copy_(torch.from_numpy(resized.reshape(height, width, 3)))


def _resized_across(rows: NDArray[np.uint8], tables: _Tables) -> NDArray[np.int32]:
    """The horizontal pass: (rows, W, 3) to (rows, w * 3) in units of 1/128 level."""
    # OpenCV drops bits three times: 4 after the horizontal pass, 16 from each product of the vertical pass, 2 at the
    # end. A single rounding of the full sum is the better arithmetic, and another image.
    left = rows.take(tables.left, axis=1).reshape(len(rows), -1)
    right = rows.take(tables.right, axis=1).reshape(len(rows), -1)
    across: NDArray[np.int32] = np.multiply(left, tables.left_weight, dtype=np.int32)
    across += np.multiply(right, tables.right_weight, dtype=np.int32)
    across >>= 4
    return across


class _Tables(NamedTuple):
    """Where the fixed-point resize of one pair of sizes reads, and its weights in units of 1/2048."""

    rows: NDArray[np.int64]  # (R,) source rows that are read at all
    left: NDArray[np.int64]  # (w,) source columns
    right: NDArray[np.int64]  # (w,)
    left_weight: NDArray[np.int32]  # (w * 3,) each weight once per channel
    right_weight: NDArray[np.int32]  # (w * 3,)
    upper: NDArray[np.int64]  # (h,) positions in rows
    lower: NDArray[np.int64]  # (h,)
    upper_weight: NDArray[np.int32]  # (h, 1)
    lower_weight: NDArray[np.int32]  # (h, 1)


@lru_cache(maxsize=32)
def _tables(height: int, width: int, new_height: int, new_width: int) -> _Tables:
    left, across = _source_positions(width, new_width)
    # Beyond the first and last column only the nearest one counts; rows keep their fraction and clamp both indices.
    across[(left < 0) | (left >= width - 1)] = 0
    left = left.clip(0, width - 1)
    upper, down = _source_positions(height, new_height)
    pair = np.stack([upper, upper + 1]).clip(0, height - 1)
    rows, positions = np.unique(pair, return_inverse=True)
    positions = positions.reshape(pair.shape)
    left_weight, right_weight = _weights(across)
    upper_weight, lower_weight = _weights(down)
    return _Tables(
        rows=rows,
        left=left,
        right=np.minimum(left + 1, width - 1),
        left_weight=left_weight.repeat(3),
        right_weight=right_weight.repeat(3),
        upper=positions[0],
        lower=positions[1],
        upper_weight=upper_weight[:, None],
        lower_weight=lower_weight[:, None],
    )


def _source_positions(size: int, new_size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index below, and fraction above it, of the source position of every new pixel's centre."""
    step = 1 / (new_size / size)  # not size / new_size: the two roundings are part of the rule
    position = ((np.arange(new_size) + 0.5) * step - 0.5).astype(np.float32)
    below = np.floor(position)
    return below.astype(np.int64), position - below


def _weights(fraction: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    scale = np.float32(2048)
    near = np.rint((np.float32(1) - fraction) * scale).astype(np.int32)
    return near, np.rint(fraction * scale).astype(np.int32)


def crop_boxes(height: int, width: int, crop: Crop, crop_size: int) -> list[Box]:
    """Positions of the square crops of an image, in the order of the original projects.

    Args:
        height: pixels of the image.
        width: pixels of the image.
        crop: ``center``: one; ``three``: along the longer side, at its first end, last end and middle; ``ten``: the
            corners top left, top right, bottom left, bottom right and the middle, each followed by its mirror image.
        crop_size: pixels of a crop's side.

    Raises:
        InvalidArgument: the crop does not fit; three crops whose size is neither the height nor the width; an unknown
            ``crop``.

    >>> [box.left for box in crop_boxes(256, 341, "three", 256)]
    [0, 84, 42]
    """
    if not 1 <= crop_size <= min(height, width):
        raise InvalidArgument(
            f"a crop of {crop_size} x {crop_size} pixels does not fit into {width} x {height}; "
            f"ask for a crop_size of 1..{min(height, width)}"
        )
    spare_x, spare_y = width - crop_size, height - crop_size
    if crop == "center":
        return [Box(spare_x // 2, spare_y // 2, False)]
    if crop == "three":
        if spare_x and spare_y:
            raise InvalidArgument(
                f"three crops need a crop_size equal to the image's height or width, "
                f"got {crop_size} for {width} x {height}"
            )
        # The last end is twice the floored middle: an odd surplus leaves one column at the far end unseen.
        x, y = spare_x // 2, spare_y // 2
        return [Box(0, 0, False), Box(2 * x, 2 * y, False), Box(x, y, False)]
    if crop == "ten":
        x, y = spare_x // 4, spare_y // 4
        corners = [(0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)]
        return [Box(left, top, flip) for left, top in corners for flip in (False, True)]
    raise InvalidArgument(f'crop must be "center", "three" or "ten", got {crop!r}')


def normalise(frame: Tensor, mean: tuple[float, ...], std: tuple[float, ...], out: Tensor) -> None:
    """Write ``(frame - mean) / std``, per channel and in plain float32, to ``out``.

    Args:
        frame: uint8 (H, W, 3), such as a crop of a larger one.
        mean: three values in units of 0..255.
        std: three values in units of 0..255.
        out: float32 (3, H, W), three planes or channels-last; rows without gaps.
    """
    height, width, channels = frame.shape
    if out.stride(0) == 1 < out.stride(2):
        # One long axis of columns and channels: three channels alone would be too few for the processor's vectors.
        offset, scale = _levels(mean, std, width, frame.device)
        rows = out.permute(1, 2, 0).view(height, width * channels)
        torch.sub(frame.reshape(height, width * channels), offset, out=rows)
        rows.div_(scale)  # not a product with the reciprocal: that would differ in the last bit
        return
    offset, scale = (level.view(channels, 1, 1) for level in _levels(mean, std, 1, frame.device))
    torch.sub(frame.permute(2, 0, 1).contiguous(), offset, out=out)
    out.div_(scale)


def normalise_clips(clips: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(clips - mean) / std`` in plain float32, on the device that the clips are on; equal to :func:`normalise`.

    Args:
        clips: uint8 (N, 3, T, H, W).
        mean: three values in units of 0..255.
        std: three values in units of 0..255.

    Returns:
        float32 (N, 3, T, H, W).
    """
    offset, scale = (level.view(3, 1, 1, 1) for level in _levels(mean, std, 1, clips.device))
    return (clips - offset).div_(scale)


@lru_cache(maxsize=32)
def _levels(mean: tuple[float, ...], std: tuple[float, ...], times: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, repeated for so many columns."""
    offset, scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return offset.repeat(times), scale.repeat(times)
