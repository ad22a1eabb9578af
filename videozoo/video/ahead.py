"""Videos decoded one ahead: a thread decodes the next while the caller works on this one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videozoo.errors import VideoError
from videozoo.stopwatch import Stopwatch
from videozoo.video.decode import FrameSource, open_frames
from videozoo.video.views import SampledVideo, ViewTransform

Video = str | os.PathLike[str] | NDArray[np.uint8] | Tensor | FrameSource
Outcome = tuple[SampledVideo | VideoError, Stopwatch]


def sample_ahead(transform: ViewTransform, videos: Iterable[Video]) -> Iterator[Outcome]:
    """The sampled frames of each video in order, or why it cannot be decoded, with the time that this took.

    In memory are the frames of two videos at most: those that the caller works on, and those of the next, which one
    thread decodes and resizes meanwhile. ``videos`` is read one ahead, too. Whoever leaves early waits until the thread
    has the next frame.

    Raises:
        InvalidArgument: one of ``videos`` is neither a path nor a video; raised in its turn.
    """
    stopped = Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="videozoo-decode") as thread:
        try:
            waiting: Future[Outcome] | None = None
            for video in videos:
                done = None if waiting is None else waiting.result()
                waiting = thread.submit(_sample, transform, video, stopped)
                if done is not None:
                    yield done
            if waiting is not None:
                yield waiting.result()
        finally:
            stopped.set()


def _sample(transform: ViewTransform, video: Video, stopped: Event) -> Outcome:
    watch = Stopwatch()
    try:
        with watch.on("rest"):
            return transform.sample(_Stoppable(open_frames(video), stopped), watch), watch
    except VideoError as error:
        return error, watch


@dataclass(frozen=True)
class _Stoppable:
    """A source that ends early when nobody waits for its frames any more."""

    source: FrameSource
    stopped: Event

    @property
    def num_frames(self) -> int:
        return self.source.num_frames

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for pair in self.source.read(wanted):
            if self.stopped.is_set():
                raise VideoError("decoding was stopped")
            yield pair
