"""From a video to the normalised views that a network sees, as a row of the manifest describes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videozoo.errors import InvalidArgument
from videozoo.manifest import Input, Views
from videozoo.stopwatch import Stopwatch
from videozoo.video.decode import FewerFramesError, FrameSource, open_frames
from videozoo.video.sampling import Indices, sample_clips, sample_paddlevideo, sample_segments
from videozoo.video.transforms import Box, crop_boxes, normalise, resize_short_side


@dataclass(frozen=True, slots=True)
class SampledVideo:
    """The frames of one video that its views need, each of them resized once."""

    frame_indices: Indices
    """(clips * T,) 0-based numbers of the frames, clip after clip."""
    frames: Sequence[Tensor]
    """The distinct frames, uint8 (h, w, 3); they differ in size only where the video's own frames do."""
    positions: Indices
    """(clips, T) where in ``frames`` each frame of each clip is."""


@dataclass(frozen=True, slots=True)
class ViewTransform:
    """Sampling, resize, crops and normalisation of one row.

    A view is one crop of one clip. Views are ordered by crop first, then by clip; where the video is sampled twice, the
    clips of the first pass come before those of the second. For ``segments`` a clip is one pass over the video.

    Raises:
        InvalidArgument: a count below 1, a crop that cannot fit, several clips of segments, or a mean or std that has
            not one value for each of R, G, B.
    """

    views: Views
    input: Input
    exact: bool = True
    """Whether the resize is OpenCV's to the bit; see :func:`resize_short_side`."""

    def __post_init__(self) -> None:
        """Raise InvalidArgument for settings that no video can satisfy."""
        views = self.views
        if views.short_side < 1:
            raise InvalidArgument(f"short_side must be at least 1 pixel, got {views.short_side}")
        if views.sampling != "clips" and (views.num_clips, views.frame_stride) != (1, 1):
            raise InvalidArgument(
                f"{views.sampling} sampling takes num_clips 1 and frame_stride 1, got {views.num_clips} and "
                f"{views.frame_stride}; the number of segments is num_frames"
            )
        if views.sampling == "paddlevideo_segments" and views.twice_sample:
            raise InvalidArgument(
                "twice_sample does not exist for paddlevideo_segments sampling; use segments sampling"
            )
        if not len(self.input.mean) == len(self.input.std) == 3 or 0 in self.input.std:
            raise InvalidArgument(
                f"mean and std need three values each, std none of them 0, got {self.input.mean} and {self.input.std}"
            )
        # Counts and crops are checked where they are used: this raises now what every video would raise.
        self.num_views(1)

    def frame_indices(self, num_frames_total: int) -> Indices:
        """Numbers of the frames that the clips of a video of this length show: int64 (clips * T,), 0-based.

        Raises:
            InvalidArgument: ``num_frames_total`` is below 1.
        """
        views = self.views
        if views.sampling == "clips":
            return sample_clips(
                num_frames_total,
                num_frames=views.num_frames,
                frame_stride=views.frame_stride,
                num_clips=views.num_clips,
                twice_sample=views.twice_sample,
            )
        if views.sampling == "segments":
            return sample_segments(num_frames_total, num_segments=views.num_frames, twice_sample=views.twice_sample)
        if views.sampling == "paddlevideo_segments":
            return sample_paddlevideo(num_frames_total, num_segments=views.num_frames)
        raise InvalidArgument(f'sampling must be "clips", "segments" or "paddlevideo_segments", got {views.sampling!r}')

    def num_views(self, num_frames_total: int) -> int:
        """Views of a video of this length: crops times clips."""
        return self._num_crops * len(self.frame_indices(num_frames_total)) // self.views.num_frames

    @property
    def _num_crops(self) -> int:
        side = self.views.short_side  # of every video, so that a crop which fails here fails for all of them
        return len(crop_boxes(side, side, self.views.crop, self.views.crop_size))

    def sample(self, source: FrameSource, watch: Stopwatch | None = None) -> SampledVideo:
        """Decode and resize the frames that the views need, in one pass.

        A file that holds fewer frames than it announces is sampled again, on the true count.

        Args:
            source: the video's frames.
            watch: books ``decode`` and ``resize``.

        Raises:
            VideoError: the frames cannot be decoded.
        """
        watch = Stopwatch() if watch is None else watch
        try:
            return self._sample(source, watch)
        except FewerFramesError:
            return self._sample(source, watch)

    def _sample(self, source: FrameSource, watch: Stopwatch) -> SampledVideo:
        indices = self.frame_indices(source.num_frames)
        wanted, positions = np.unique(indices, return_inverse=True)
        frames = []
        for _, frame in watch.each("decode", source.read(wanted.tolist())):
            with watch.on("resize"):
                frames.append(resize_short_side(frame.unsqueeze(0), self.views.short_side, exact=self.exact)[0])
        return SampledVideo(indices, frames, positions.reshape(-1, self.views.num_frames))

    def clips(self, video: SampledVideo, *, chunk_size: int = 1, channels_last: bool = False) -> Iterator[Tensor]:
        """The views, ``chunk_size`` at a time: float32 (at most chunk_size, 3, T, H, W), one chunk in memory.

        Crops are windows on the frames, which stay uint8 until they are written, normalised, into the chunk.

        Args:
            video: what `sample` gave.
            chunk_size: views of a chunk.
            channels_last: have the three channels of a pixel side by side in memory, as networks that were rebuilt for
                inference want them. The shape is the same.

        Raises:
            InvalidArgument: ``chunk_size`` is below 1.
        """
        if chunk_size < 1:
            raise InvalidArgument(f"chunk_size must be at least 1 view, got {chunk_size}")
        boxes = [
            crop_boxes(frame.shape[0], frame.shape[1], self.views.crop, self.views.crop_size) for frame in video.frames
        ]
        order = [(crop, clip) for crop in range(len(boxes[0])) for clip in video.positions]
        size, layout = self.views.crop_size, torch.channels_last_3d if channels_last else torch.contiguous_format
        for start in range(0, len(order), chunk_size):
            chunk = order[start : start + chunk_size]
            views = torch.empty(
                (len(chunk), 3, self.views.num_frames, size, size), memory_format=layout, device=video.frames[0].device
            )
            for view, (crop, clip) in zip(views, chunk, strict=True):
                for place, position in enumerate(clip.tolist()):
                    cropped = _cropped(video.frames[position], boxes[position][crop], size)
                    normalise(cropped, self.input.mean, self.input.std, out=view[:, place])
            yield views

    def __call__(self, video: str | os.PathLike[str] | NDArray[np.uint8] | Tensor) -> Tensor:
        """All views of a video at once.

        Args:
            video: uint8 array (T, H, W, 3), a video file, or a folder of frames.

        Returns:
            float32 (views, 3, T, H, W), normalised.

        Raises:
            InvalidArgument: an array of another shape or type.
            VideoError: a path whose frames cannot be decoded.
        """
        sampled = self.sample(open_frames(video))
        return next(self.clips(sampled, chunk_size=self._num_crops * len(sampled.positions)))


def _cropped(frame: Tensor, box: Box, size: int) -> Tensor:
    cropped = frame[box.top : box.top + size, box.left : box.left + size]
    return cropped.flip(1) if box.flip else cropped
