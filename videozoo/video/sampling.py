"""Which frames of a video a network looks at: pure integer functions, one per rule of the original projects.

Every function returns 0-based frame indices, clip after clip in one flat int64 array. Indices are those of frames that
exist, whatever the length of the video. The rules, and the order of their floating-point operations, are those of
MMAction2 (``sample_clips``, ``sample_segments``, ``sample_dense``) and of PaddleVideo (``sample_paddlevideo``), so that
the indices are equal to theirs for every length.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from videozoo.errors import InvalidArgument

OutOfBound = Literal["loop", "repeat_last"]
Indices = NDArray[np.int64]

DENSE_RANGE = 64
"""Frames that a pass of dense sampling stays within."""

_DENSE_POSITIONS = 10


def sample_clips(
    num_frames_total: int,
    *,
    num_frames: int,
    frame_stride: int,
    num_clips: int,
    twice_sample: bool = False,
    out_of_bound: OutOfBound = "loop",
    start_index: int = 0,
) -> Indices:
    """Clips spread evenly over the video, each of ``num_frames`` frames that lie ``frame_stride`` apart.

    Args:
        num_frames_total: frames of the video, at least 1.
        num_frames: frames of a clip.
        frame_stride: distance of two frames of a clip, in frames of the video.
        num_clips: clips of one pass.
        twice_sample: adds a second pass of ``num_clips`` clips that begin at the start of each part, not in its middle.
            A video shorter than a clip gets the first pass only.
        out_of_bound: what stands for frames past the end: ``loop`` begins again at the first frame, ``repeat_last``
            repeats the clip's last frame that exists.
        start_index: number of the first frame, added at the very end (1 for files named ``img_00001.jpg``).

    Returns:
        int64 array (clips * num_frames,): ``num_clips`` clips, or twice as many with ``twice_sample``.

    Raises:
        InvalidArgument: a count or stride below 1, a negative ``start_index``, an unknown ``out_of_bound``.

    >>> sample_clips(90, num_frames=8, frame_stride=8, num_clips=1).tolist()
    [13, 21, 29, 37, 45, 53, 61, 69]
    >>> sample_clips(5, num_frames=8, frame_stride=8, num_clips=1).tolist()
    [0, 3, 1, 4, 2, 0, 3, 1]
    """
    _check_positive("num_frames_total", num_frames_total)
    _check_positive("num_frames", num_frames)
    _check_positive("frame_stride", frame_stride)
    _check_positive("num_clips", num_clips)
    if start_index < 0:
        raise InvalidArgument(f"start_index must be 0 or more, got {start_index}")

    # The first frames that a clip may begin at are cut into num_clips equal parts; a clip begins in the middle of each.
    #
    #   num_frames_total                                |---------------------------------------|
    #   a clip of num_frames * frame_stride                                         |-----------|
    #   first frames, in num_clips = 3 parts            |---------|---------|---------|
    #   starts of the first pass                             x         x         x
    #   starts of the second pass (twice_sample)        x         x         x
    span = num_frames * frame_stride
    if num_frames_total >= span:
        part = (num_frames_total - span + 1) / num_clips
        begins = np.arange(num_clips) * part
        # Each product is rounded on its own: (i + 0.5) * part gives another frame for one length in twenty.
        starts = (begins + part / 2).astype(np.int64).astype(np.float64)
        if twice_sample:
            starts = np.concatenate([starts, begins])
    else:
        starts = np.zeros(num_clips)

    steps = starts[:, None] + np.arange(num_frames) * frame_stride
    # Starts of the second pass are fractions until here: the originals truncate after the steps have been added.
    return _within(steps, num_frames_total, out_of_bound).astype(np.int64).reshape(-1) + start_index


def _within(steps: NDArray[np.float64], num_frames_total: int, out_of_bound: OutOfBound) -> NDArray[np.float64]:
    """``steps`` (clips, num_frames) with everything past the end of the video replaced."""
    # a clip of 4 frames, 3 apart, in a video of 8       0  3  6  9
    #   loop                                             0  3  6  1
    #   repeat_last                                      0  3  6  6
    if out_of_bound == "loop":
        return np.mod(steps, num_frames_total)
    if out_of_bound == "repeat_last":
        exists = steps < num_frames_total
        last = np.max(steps * exists, axis=1, keepdims=True)
        return np.where(exists, steps, last)
    raise InvalidArgument(f'out_of_bound must be "loop" or "repeat_last", got {out_of_bound!r}')


def sample_segments(num_frames_total: int, *, num_segments: int, twice_sample: bool = False) -> Indices:
    """One frame from the middle of each of ``num_segments`` equal parts of the video.

    Args:
        num_frames_total: frames of the video, at least 1.
        num_segments: parts; more parts than frames repeat frames.
        twice_sample: adds, after them, the first frame of each part.

    Returns:
        int64 array (num_segments,), or (2 * num_segments,) with ``twice_sample``.

    Raises:
        InvalidArgument: a count below 1.

    >>> sample_segments(70, num_segments=8).tolist()
    [4, 13, 21, 30, 39, 48, 56, 65]
    """
    _check_positive("num_frames_total", num_frames_total)
    _check_positive("num_segments", num_segments)
    return sample_clips(
        num_frames_total, num_frames=1, frame_stride=1, num_clips=num_segments, twice_sample=twice_sample
    )


def sample_dense(num_frames_total: int, *, num_segments: int, start_index: int = 0) -> Indices:
    """Ten passes of ``num_segments`` frames each, every pass inside a window of 64 frames.

    Args:
        num_frames_total: frames of the video, at least 1; past its end the video begins again.
        num_segments: frames of a pass, 1..64; they lie ``64 // num_segments`` apart.
        start_index: number of the first frame, added at the very end.

    Returns:
        int64 array (10 * num_segments,), pass after pass.

    Raises:
        InvalidArgument: a count outside its range.

    >>> sample_dense(90, num_segments=8)[8:16].tolist()
    [2, 10, 18, 26, 34, 42, 50, 58]
    """
    _check_positive("num_frames_total", num_frames_total)
    _check_positive("num_segments", num_segments)
    if num_segments > DENSE_RANGE:
        raise InvalidArgument(f"num_segments must be at most {DENSE_RANGE} for dense sampling, got {num_segments}")
    if start_index < 0:
        raise InvalidArgument(f"start_index must be 0 or more, got {start_index}")

    #   num_frames_total       |------------------------------------|
    #   window of 64, first    x   x   x   x
    #   window of 64, last                           x   x   x   x
    last_start = max(0, num_frames_total - DENSE_RANGE)
    starts = np.linspace(0, last_start, num=_DENSE_POSITIONS).astype(np.int64)
    steps = np.arange(num_segments, dtype=np.int64) * (DENSE_RANGE // num_segments)
    return (starts[:, None] + steps).reshape(-1) % num_frames_total + start_index


def sample_paddlevideo(num_frames_total: int, *, num_segments: int, select_left: bool = True) -> Indices:
    """One frame from the middle of each of ``num_segments`` parts, as PaddleVideo's ``Sampler`` chooses it.

    Args:
        num_frames_total: frames of the video, at least 1.
        num_segments: parts of the video.
        select_left: the rule of PaddleVideo 2.2 and later, where parts have fractional lengths and a video of at most
            ``num_segments`` frames gives frame 0 throughout. False: the rule of release 2.0, where parts have whole
            lengths and a video shorter than ``num_segments`` begins again.

    Returns:
        int64 array (num_segments,).

    Raises:
        InvalidArgument: a count below 1.

    >>> sample_paddlevideo(10, num_segments=3).tolist(), sample_paddlevideo(3, num_segments=3).tolist()
    ([1, 5, 8], [0, 0, 0])
    """
    _check_positive("num_frames_total", num_frames_total)
    _check_positive("num_segments", num_segments)
    parts = np.arange(num_segments, dtype=np.int64)
    if select_left:
        if num_frames_total <= num_segments:
            return np.zeros(num_segments, dtype=np.int64)
        length = num_frames_total / num_segments
        return (length / 2 + length * parts).astype(np.int64)
    whole = num_frames_total // num_segments
    if whole == 0:
        return parts % num_frames_total
    return (whole - 1) // 2 + parts * whole


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InvalidArgument(f"{name} must be at least 1, got {value}")
