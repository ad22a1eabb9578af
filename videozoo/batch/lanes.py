"""The network on several pieces side by side, each with its share of torch's threads and all with the same weights.

Threads that share one forward wait for each other in every layer; those that have one each do not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self

import torch
from torch.utils.hooks import RemovableHandle

from videozoo.batch.answers import Answer
from videozoo.batch.decoders import STEP_SECONDS, Failure, Outcome
from videozoo.batch.inputs import Item
from videozoo.batch.pieces import Piece
from videozoo.batch.rows import Row
from videozoo.layers.video_model import VideoModel

Answered = tuple[int, Row | Failure | None]
"""A video's number with a row of it, or with how it ends."""


_Coming = Future[Row] | Failure | None


class _Stopped(BaseException):
    """Nobody waits for this answer any more."""


class Lanes:
    """Threads that answer for pieces; a context manager, which gives up what is unanswered when it ends.

    Answers come in the order of the pieces, and do not depend on what runs beside them.
    """

    def __init__(self, model: VideoModel, answer: Answer) -> None:
        """Start no thread yet.

        Args:
            model: the network that ``answer`` asks; it stops within a layer when the lanes end.
            answer: called in the lanes.
        """
        self._answer = answer
        self._num_lanes = _num_lanes(next(model.parameters()).device)
        self._stopped = threading.Event()
        self._num_threads = torch.get_num_threads()
        num_threads = max(1, self._num_threads // self._num_lanes)
        # in the lane itself; threads that are started later begin with the number that was set last
        self._pool = ThreadPoolExecutor(self._num_lanes, "videozoo-lane", torch.set_num_threads, (num_threads,))
        self._modules = list(model.modules())
        self._hooks: list[RemovableHandle] = []

    def run(self, items: Sequence[Item], outcomes: Iterable[tuple[int, Outcome]]) -> Iterator[Answered]:
        """What comes of each outcome, in the same order; one more piece than there are lanes is in memory.

        Raises:
            Exception: what ``answer`` raises.
        """
        waiting: deque[tuple[int, _Coming]] = deque()
        most = 1  # the first piece runs alone: networks pack their weights then
        for number, outcome in outcomes:
            if isinstance(outcome, Piece):
                waiting.append((number, self._pool.submit(self._answer, items[number].path, outcome)))
            else:
                waiting.append((number, outcome))
            while waiting and (_is_there(waiting[0][1]) or _num_pieces(waiting) >= most):
                yield _answered(*waiting.popleft())
            if isinstance(outcome, Piece):
                most = self._num_lanes + 1
        while waiting:
            yield _answered(*waiting.popleft())

    def __enter__(self) -> Self:
        self._hooks = [module.register_forward_pre_hook(self._go_on) for module in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._num_threads)
        for hook in self._hooks:
            hook.remove()

    def _go_on(self, *_: Any) -> None:
        """Called before every layer: a thread cannot be interrupted from outside."""
        if self._stopped.is_set():
            raise _Stopped


def _num_lanes(device: torch.device) -> int:
    """Two where there are threads for them; an accelerator has its own ways of working side by side."""
    return 2 if device.type == "cpu" and torch.get_num_threads() >= 2 else 1


def _is_there(coming: _Coming) -> bool:
    return not isinstance(coming, Future) or coming.done()


def _num_pieces(waiting: Iterable[tuple[int, _Coming]]) -> int:
    return sum(isinstance(coming, Future) for _, coming in waiting)


def _answered(number: int, coming: _Coming) -> Answered:
    if not isinstance(coming, Future):
        return number, coming
    while not coming.done():
        wait([coming], timeout=STEP_SECONDS)
    return number, coming.result()
