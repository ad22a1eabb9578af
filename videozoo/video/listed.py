"""The videos of a list, opened: one of them to be recognised, or all of them to see what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from videozoo.errors import VideoError, first_line
from videozoo.processors import num_processors
from videozoo.video.dataset import ListedVideo, Problem, VideoList
from videozoo.video.decode import FrameFolder, FrameSource, open_frames


def listed_video(videos: VideoList, video: ListedVideo) -> Path | FrameSource:
    """One video of a list, as it is given to a recognizer: nothing is opened before its frames are asked for."""
    if (videos.template is None and video.num_frames is None) or not os.path.isdir(video.path):
        return video.path  # also what cannot be looked at: opening it says why
    return ListedFrames(video.path, videos.template, video.num_frames)


@dataclass(frozen=True)
class ListedFrames:
    """The frames of a folder that a list names, by the template and as many as the list says."""

    folder: Path
    template: str | None
    listed: int | None

    @cached_property
    def _frames(self) -> FrameFolder:
        return FrameFolder(self.folder, template=self.template, num_frames=self.listed)

    @property
    def num_frames(self) -> int:
        """Number of images; VideoError where they are not as listed."""
        return self._frames.num_frames

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """See :class:`FrameSource`."""
        return self._frames.read(wanted)


def check_videos(
    videos: VideoList, *, decode: bool = False, num_threads: int | None = None
) -> Iterator[Problem | None]:
    """What is wrong with each video of a list, in its order; None where nothing is.

    A video that opens has a stream that can be decoded; a folder of frames has them all. A path that an earlier line
    has, too, is a problem of the later line.

    Args:
        videos: the list; its own ``problems`` are not repeated.
        decode: decode every frame as well.
        num_threads: videos that are opened at the same time; None means four times the processors, for opening waits
            on the disk.
    """
    first_lines: dict[Path, ListedVideo] = {}
    with ThreadPoolExecutor(num_threads or 4 * num_processors(), thread_name_prefix="videozoo-check") as threads:
        faults = threads.map(lambda video: _fault(videos, video, decode=decode), videos.videos)
        for video, fault in zip(videos.videos, faults, strict=True):
            earlier = first_lines.setdefault(video.path, video)
            if fault is None and earlier is not video:
                where = f"line {earlier.line}"
                same = earlier.labels == video.labels
                fault = f"{video.path} is listed twice: {where} has it with {'the same' if same else 'another'} label"
            yield None if fault is None else video.problem(fault)


def _fault(videos: VideoList, video: ListedVideo, *, decode: bool) -> str | None:
    try:
        source = open_frames(listed_video(videos, video))
        num_frames = source.num_frames  # opens it
        if os.path.isdir(video.path) and video.num_frames is not None:
            held = FrameFolder(video.path, template=videos.template).num_frames
            if held != video.num_frames:
                return f"{video.path} holds {held} frames, the list says {video.num_frames}: the rest is never seen"
        if decode:
            for _ in source.read(range(num_frames)):
                pass
    except VideoError as error:
        return first_line(error)
    return None
