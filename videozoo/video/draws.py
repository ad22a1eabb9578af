"""Random frames and regions of training videos: pure functions of a length or a size, and of a random generator.

The rules for frames are those of MMAction2; frame indices are 0-based and of frames that exist, as in
`videozoo.video.sampling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms import v2

from videozoo.video.augmentation import Augmentation, MultiScaleCrop, RandomCrop
from videozoo.video.sampling import DENSE_RANGE, Indices

#   5 positions    x . . . x     13 positions    x . x . x
#                  . . . . .                     . x . x .
#                  . . x . .                     x . x . x
#                  . . . . .                     . x . x .
#                  x . . . x                     x . x . x
_POSITIONS = {
    5: ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    13: tuple((row, column) for row in range(5) for column in range(5) if (row + column) % 2 == 0),
}
"""Rows and columns of the grid that the corners of a `MultiScaleCrop` lie on."""


class Region(NamedTuple):
    """A part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_frames(augmentation: Augmentation, num_frames_total: int, random: np.random.Generator) -> Indices:
    """Frames of one training sample: int64 (num_frames,)."""
    count = augmentation.num_frames
    if augmentation.sampling == "segments":
        return draw_clips(num_frames_total, num_frames=1, frame_stride=1, num_clips=count, random=random)
    if augmentation.sampling == "dense":
        return draw_dense(num_frames_total, num_segments=count, random=random)
    return draw_clips(
        num_frames_total, num_frames=count, frame_stride=augmentation.frame_stride, num_clips=1, random=random
    )


def draw_clips(
    num_frames_total: int, *, num_frames: int, frame_stride: int, num_clips: int, random: np.random.Generator
) -> Indices:
    """Clips that begin at a random frame of each of ``num_clips`` equal parts of the frames a clip may begin at.

    Frames past the end are taken from the beginning.

    Args:
        num_frames_total: frames of the video, at least 1.
        num_frames: frames of a clip.
        frame_stride: distance of two frames of a clip.
        num_clips: clips; with ``num_frames`` 1, the segments of a segment network.
        random: what is drawn from.

    Returns:
        int64 (num_clips * num_frames,), clip after clip.
    """
    span = num_frames * frame_stride
    begins = num_frames_total - span + 1  # frames that a whole clip may begin at
    parts = np.arange(num_clips)
    if begins >= num_clips:
        length = begins // num_clips
        starts = parts * length + random.integers(length, size=num_clips)
    elif num_frames_total > max(num_clips, span):
        starts = np.sort(random.integers(begins, size=num_clips))
    elif begins >= 0:
        starts = np.around(parts * (begins / num_clips)).astype(np.int64)
    else:
        starts = np.zeros(num_clips, dtype=np.int64)
    steps = starts[:, None] + np.arange(num_frames) * frame_stride
    return np.mod(steps, num_frames_total).reshape(-1).astype(np.int64)


def draw_dense(num_frames_total: int, *, num_segments: int, random: np.random.Generator) -> Indices:
    """Frames ``64 // num_segments`` apart in a window of 64 at a random place; past the end the video begins again.

    Returns:
        int64 (num_segments,).
    """
    start = random.integers(max(1, num_frames_total - DENSE_RANGE + 1))
    steps = np.arange(num_segments, dtype=np.int64) * (DENSE_RANGE // num_segments)
    return (start + steps) % num_frames_total


def draw_region(augmentation: Augmentation, height: int, width: int, random: np.random.Generator) -> Region:
    """What of a frame of this size is kept."""
    crop, side = augmentation.crop, augmentation.crop_size
    if isinstance(crop, RandomCrop):
        top, left = random.integers((height - side + 1, width - side + 1)).tolist()
        return Region(top, left, side, side)
    if isinstance(crop, MultiScaleCrop):
        return _multi_scale(crop, height, width, random)
    transform = v2.RandomResizedCrop(1, scale=crop.area, ratio=crop.aspect_ratio)
    with torchvision_draws(random):
        return Region(**transform.make_params([torch.empty((3, height, width), device="meta")]))


def _multi_scale(crop: MultiScaleCrop, height: int, width: int, random: np.random.Generator) -> Region:
    sides = [max(1, int(min(height, width) * scale)) for scale in crop.scales]
    order = range(len(sides))
    sizes = [(sides[i], sides[j]) for i in order for j in order if abs(i - j) <= crop.max_gap]
    h, w = sizes[random.integers(len(sizes))]
    row, column = _POSITIONS[crop.num_positions][random.integers(crop.num_positions)]
    return Region(row * ((height - h) // 4), column * ((width - w) // 4), h, w)


@contextmanager
def torchvision_draws(random: np.random.Generator) -> Iterator[None]:
    """Inside, torchvision's transforms draw what ``random`` decides; torch's own state is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed every accelerator too.
        torch.default_generator.manual_seed(int(random.integers(2**63)))
        yield
