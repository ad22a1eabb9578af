"""Windows that slide over a video: each sampled like a video of its own, in one pass and in bounded memory.

In memory are the frames that the windows at hand show, and no others: an hour takes no more than a minute. Of a file
there are besides the numbers of all frames that will be shown: 4 MB for an hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, dropwhile
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videozoo.errors import InvalidArgument
from videozoo.manifest import Views
from videozoo.video.decode import FewerFramesError, FrameSource
from videozoo.video.sampling import Indices
from videozoo.video.transforms import resize_short_side
from videozoo.video.views import SampledVideo, ViewTransform


class Window(NamedTuple):
    """Consecutive frames of a video: ``first`` to ``end - 1``, 0-based."""

    number: int
    first: int
    end: int


def windows(size: int, stride: int, num_frames_total: int | None = None) -> Iterator[Window]:
    """Windows of ``size`` frames, one every ``stride`` frames, until one reaches the end of the video.

    The last window is as long as what is left; a video shorter than a window is one window. Without
    ``num_frames_total`` they go on for ever.

    Raises:
        InvalidArgument: ``size`` or ``stride`` is below 1, or a stride longer than a window would leave frames unseen.

    >>> [(window.first, window.end) for window in windows(10, 5, 18)]
    [(0, 10), (5, 15), (10, 18)]
    """
    if not isinstance(size, int) or not isinstance(stride, int):
        raise InvalidArgument(f"a window of {size!r} frames every {stride!r} frames: both are whole numbers")
    if not 1 <= stride <= size:
        raise InvalidArgument(f"a window of {size} frames every {stride} frames: need 1 <= stride <= window")
    return _windows(size, stride, num_frames_total)


def _windows(size: int, stride: int, num_frames_total: int | None) -> Iterator[Window]:
    for number in count():
        first = number * stride
        if num_frames_total is None or first + size < num_frames_total:
            yield Window(number, first, first + size)
        else:
            yield Window(number, first, num_frames_total)
            return


def default_size(views: Views) -> int:
    """Frames of a window where nobody says how many: what a clip spans, or 64 for networks that see segments."""
    return views.num_frames * views.frame_stride if views.sampling == "clips" else max(64, views.num_frames)


def sample_windows(
    transform: ViewTransform, source: FrameSource, size: int, stride: int, *, start: int = 0
) -> Iterator[tuple[Window, SampledVideo]]:
    """Decode and resize the frames that the windows of a video show; each wanted frame once.

    A file that holds fewer frames than it announces has the windows of its true length; those that are done stay.

    Args:
        transform: which frames of a window are seen, as if the window were a video, and how they are resized.
        source: the video's frames.
        size: frames of a window.
        stride: frames from one window to the next.
        start: number of the first window that is wanted.

    Raises:
        VideoError: the frames cannot be decoded; windows before the damage have come.
        InvalidArgument: as `windows`.
    """
    done = start
    while True:
        announced = source.num_frames
        wanted = _shown(transform, _from(done, windows(size, stride, announced)), announced)
        if not wanted:
            return
        try:
            left = _from(done, windows(size, stride, announced))
            for window, sampled in _filled(transform, left, source.read(wanted)):
                yield window, sampled
                done = window.number + 1
            return
        except FewerFramesError:
            if source.num_frames >= announced:
                raise


def _from(number: int, upcoming: Iterator[Window]) -> Iterator[Window]:
    return dropwhile(lambda window: window.number < number, upcoming)


def _shown(transform: ViewTransform, upcoming: Iterator[Window], num_frames: int) -> list[int]:
    """The frames that any of the windows shows, ascending."""
    shown = np.zeros(num_frames, dtype=bool)
    for window in upcoming:
        shown[_indices(transform, window)] = True
    found: list[int] = np.flatnonzero(shown).tolist()
    return found


def stream_windows(
    transform: ViewTransform, frames: Iterable[NDArray[np.uint8] | Tensor], size: int, stride: int
) -> Iterator[tuple[Window, SampledVideo]]:
    """The windows of frames as they come, each as soon as the last frame that it shows is there; see `sample_windows`.

    A window that the end cuts off before that does not come.

    Raises:
        InvalidArgument: as `windows`, or a frame that is not uint8 (H, W, 3).
    """
    checked = (_checked(frame, index) for index, frame in enumerate(frames))
    return _filled(transform, windows(size, stride), enumerate(checked))


def _checked(frame: NDArray[np.uint8] | Tensor, index: int) -> Tensor:
    # a copy in either case: a camera may write its next frame to the same place
    pixels = torch.from_numpy(np.array(frame, order="C")) if isinstance(frame, np.ndarray) else frame
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        found = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(frame).__name__
        raise InvalidArgument(f"frame {index}: need a uint8 array (H, W, 3), got {found}")
    return pixels if isinstance(frame, np.ndarray) else pixels.to("cpu", copy=True)


@dataclass(frozen=True, slots=True)
class _Open:
    """A window that waits for frames."""

    window: Window
    indices: Indices
    wanted: frozenset[int]


def _filled(
    transform: ViewTransform, upcoming: Iterator[Window], frames: Iterable[tuple[int, Tensor]]
) -> Iterator[tuple[Window, SampledVideo]]:
    """Each window with its frames; ``frames`` ascend, and what no window wants is neither resized nor kept."""
    waiting: deque[_Open] = deque()
    kept: dict[int, Tensor] = {}
    following = next(upcoming, None)
    for index, frame in frames:
        while following is not None and following.first <= index:
            indices = _indices(transform, following)
            waiting.append(_Open(following, indices, frozenset(indices.tolist())))
            following = next(upcoming, None)
        if not any(index in opened.wanted for opened in waiting):
            continue
        kept[index] = resize_short_side(frame.unsqueeze(0), transform.views.short_side, exact=transform.exact)[0]
        while waiting and max(waiting[0].wanted) <= index:
            opened = waiting.popleft()
            yield opened.window, _sampled(opened.indices, kept, transform.views.num_frames)
            needed = frozenset().union(*(other.wanted for other in waiting))
            kept = {number: image for number, image in kept.items() if number in needed}


def _indices(transform: ViewTransform, window: Window) -> Indices:
    return transform.frame_indices(window.end - window.first) + window.first


def _sampled(indices: Indices, kept: dict[int, Tensor], num_frames: int) -> SampledVideo:
    wanted, positions = np.unique(indices, return_inverse=True)
    return SampledVideo(indices, [kept[number] for number in wanted.tolist()], positions.reshape(-1, num_frames))
