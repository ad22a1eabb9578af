"""A video to a timeline: what a network says of each window, and of all of them together."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import torch
from av.video.stream import VideoStream
from torch import Tensor

from videozoo.errors import VideoError
from videozoo.page.limits import Limits, Refused
from videozoo.predict import Recognizer
from videozoo.video.decode import FrameSource, VideoFile
from videozoo.video.transforms import resized_size
from videozoo.video.windows import default_size, sample_windows

TOP = 5
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,ivf,mxf,rm,wtv"
"""Containers that hold their video themselves. A playlist would have FFmpeg open other files of this machine."""


class Facts(NamedTuple):
    """What a file says of its video."""

    num_frames: int
    frame_rate: float
    """Frames a second; 25 where the file says nothing."""
    width: int
    height: int


class Scored(NamedTuple):
    """What a network says of a part of a video."""

    start: float
    """Seconds."""
    end: float
    probabilities: Tensor
    """(num_classes,) float32."""


class _Limited:
    """Frames of a file, none of a shape that resizing makes too large: shapes may change on the way."""

    def __init__(self, source: FrameSource, limits: Limits, short_side: int) -> None:
        self._source = source
        self._limits = limits
        self._short_side = short_side

    @property
    def num_frames(self) -> int:
        return self._source.num_frames

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for index, frame in self._source.read(wanted):
            _check_shape(frame.shape[1], frame.shape[0], self._limits, self._short_side)
            yield index, frame


def inspect(path: Path, limits: Limits) -> Facts:
    """Open a file and decode nothing.

    Raises:
        Refused: 422 for what is no video, 413 for a video that is too long or too large.
    """
    try:
        with av.open(f"file:{path}", options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"}) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise Refused(422, "the file holds no video that can be decoded")
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            _check_size(stream.codec_context.width, stream.codec_context.height, limits)
            most = int(limits.max_seconds * min(rate, limits.max_frame_rate)) + 1
            if stream.frames > most:
                raise _too_long(stream.frames / rate, limits)
            count = stream.frames
            if not count:
                for packet in container.demux(stream):
                    count += packet.size > 0
                    if count > most:
                        raise _too_long(count / rate, limits)
            return Facts(count, rate, stream.codec_context.width, stream.codec_context.height)
    except (av.error.FFmpegError, ValueError):
        raise Refused(422, "the file is not a video that can be read") from None


def timeline(
    recognizer: Recognizer, path: Path, limits: Limits, abandoned: threading.Event
) -> tuple[Facts, list[Scored]]:
    """The probabilities of every window of a video, in order.

    Args:
        recognizer: with the views of one window; windows are as long as what a clip spans, or longer in long videos,
            and each begins in the middle of the one before.
        path: the file.
        limits: of the file and of the time.
        abandoned: once it is set, the work ends with the window at hand.

    Raises:
        Refused: as `inspect`; 422 for a video that cannot be decoded, 503 where it takes too long or is abandoned.
    """
    facts = inspect(path, limits)
    deadline = time.monotonic() + limits.job_seconds
    _check_shape(facts.width, facts.height, limits, recognizer.transform.views.short_side)
    size = max(default_size(recognizer.transform.views), -(-2 * facts.num_frames // limits.max_windows), 2)
    found = []
    try:
        source = _Limited(VideoFile(path, max_pixels=limits.max_pixels), limits, recognizer.transform.views.short_side)
        for window, sampled in sample_windows(recognizer.transform, source, size, size // 2):
            with torch.inference_mode():
                probabilities = recognizer.recognise_sampled(sampled).probabilities.clone()
            found.append(Scored(window.first / facts.frame_rate, window.end / facts.frame_rate, probabilities))
            if abandoned.is_set() or time.monotonic() > deadline:
                raise Refused(503, f"the answer took longer than {limits.job_seconds:g} s; send a shorter video")
    except VideoError as error:
        raise Refused(422, str(error).replace(str(path), "the file")) from None
    return facts._replace(num_frames=source.num_frames), found


def _check_size(width: int, height: int, limits: Limits) -> None:
    most = limits.max_pixels
    if width * height > most:
        raise Refused(
            413, f"frames of {width} x {height} pixels are too large: at most {most / 1e6:.1f} million pixels"
        )


def _check_shape(width: int, height: int, limits: Limits, short_side: int) -> None:
    if width and height and math.prod(resized_size(height, width, short_side)) > limits.max_resized_pixels:
        raise Refused(413, f"frames of {width} x {height} pixels are too long and thin; send a video of another shape")


def _too_long(seconds: float, limits: Limits) -> Refused:
    return Refused(413, f"the video lasts {seconds:.0f} s or has too many frames: at most {limits.max_seconds:g} s")
