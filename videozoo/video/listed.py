"""The videos of a list, opened: one of them to be recognised, or all of them to see what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from videozoo.errors import VideoError
from videozoo.video.dataset import ListedVideo, Problem, VideoList
from videozoo.video.decode import FrameFolder, FrameSource, open_frames


def open_listed(videos: VideoList, video: ListedVideo) -> FrameSource:
    """The frames of one video of a list; of a folder, as many as the list says.

    Raises:
        VideoError: nothing lies at its path, or it is neither a video nor a folder of as many frames.
    """
    if video.path.is_dir():
        return FrameFolder(video.path, template=videos.template, num_frames=video.num_frames)
    return open_frames(video.path)


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
    with ThreadPoolExecutor(num_threads or 4 * (os.cpu_count() or 1), thread_name_prefix="videozoo-check") as threads:
        faults = threads.map(lambda video: _fault(videos, video, decode=decode), videos.videos)
        for video, fault in zip(videos.videos, faults, strict=True):
            earlier = first_lines.setdefault(video.path, video)
            if fault is None and earlier is not video:
                where = f"line {earlier.line}"
                same = earlier.labels == video.labels
                fault = f"{video.path} is listed twice: {where} has it with {'the same' if same else 'another'} label"
            yield None if fault is None else Problem(video.line, video.name, fault)


def _fault(videos: VideoList, video: ListedVideo, *, decode: bool) -> str | None:
    try:
        source = open_listed(videos, video)
        if video.path.is_dir() and video.num_frames is not None:
            held = FrameFolder(video.path, template=videos.template).num_frames
            if held != video.num_frames:
                return f"{video.path} holds {held} frames, the list says {video.num_frames}: the rest is never seen"
        if decode:
            for _ in source.read(range(source.num_frames)):
                pass
    except VideoError as error:
        return str(error).splitlines()[0]
    return None
