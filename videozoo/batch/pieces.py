"""The decoding stage: a video to the frames of its views, or of each of its windows, with the seconds they cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from videozoo.batch.inputs import Item
from videozoo.errors import VideoError
from videozoo.video.decode import FrameSource, VideoFile, open_frames
from videozoo.video.listed import ListedFrames
from videozoo.video.sampling import Indices
from videozoo.video.views import SampledVideo, ViewTransform
from videozoo.video.windows import sample_windows


@dataclass(frozen=True, slots=True)
class Plan:
    """How every video of a run is cut and sampled."""

    transform: ViewTransform
    window_seconds: float | None = None
    """None: a video is one piece."""
    stride_seconds: float | None = None
    """From one window to the next; None means ``window_seconds``."""
    frame_rate: float | None = None
    """Frames a second of folders of images; files say it themselves."""
    num_threads: int = 0
    """Threads that decode one video; 0 means as FFmpeg likes. Two cost a fifth more processor time than one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The frames of one piece of a video, in arrays that go from process to process."""

    window: int
    start_seconds: float | None
    end_seconds: float | None
    frame_indices: Indices
    frames: list[NDArray[np.uint8]]
    positions: Indices

    @property
    def sampled(self) -> SampledVideo:
        """As the network's side wants it; the frames' memory is shared."""
        return SampledVideo(self.frame_indices, [torch.from_numpy(frame) for frame in self.frames], self.positions)


def pieces(plan: Plan, item: Item, start: int = 0) -> Iterator[Piece]:
    """The pieces of a video from number ``start`` on, one in memory at a time.

    Raises:
        VideoError: the video cannot be decoded, from here on; or windows of a folder whose frame rate nobody says.
    """
    source = open_frames(source_of(item))
    rate = plan.frame_rate
    if isinstance(source, VideoFile):
        rate, source.num_threads = source.frame_rate, plan.num_threads
    if plan.window_seconds is None:
        if start == 0:
            sampled = plan.transform.sample(source)
            yield _piece(0, None if rate is None else (0.0, source.num_frames / rate), sampled)
        return
    if rate is None:
        raise VideoError(f"{item.path} has no frame rate, which windows of seconds need: --fps says it")
    size = max(1, round(plan.window_seconds * rate))
    stride = size if plan.stride_seconds is None else min(size, max(1, round(plan.stride_seconds * rate)))
    for window, sampled in sample_windows(plan.transform, source, size, stride, start=start):
        yield _piece(window.number, (window.first / rate, window.end / rate), sampled)


def source_of(item: Item) -> str | FrameSource:
    """The video, as it is given to a recognizer: nothing is opened before its frames are asked for."""
    if item.template is None and item.num_frames is None:
        return item.path
    return ListedFrames(Path(item.path), item.template, item.num_frames)


def _piece(window: int, seconds: tuple[float, float] | None, sampled: SampledVideo) -> Piece:
    start, end = (None, None) if seconds is None else seconds
    frames = [frame.numpy() for frame in sampled.frames]
    return Piece(window, start, end, sampled.frame_indices, frames, sampled.positions)
