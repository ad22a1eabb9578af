"""Several processes that end together: none waits for one that has failed, and each says in one line why it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from accelerate.utils import gather_object

from videozoo.errors import TrainingError, VideoZooError


@contextmanager
def together() -> Iterator[None]:
    """What one process cannot do ends all, with its error. Every process comes by here, whatever it does inside.

    Raises:
        VideoZooError: this process's own, or else that of another.
    """
    own: VideoZooError | None = None
    try:
        yield
    except VideoZooError as error:
        own = error
    errors = [error for error in gather_object([own]) if error is not None]
    if errors:
        raise own or errors[0]


@contextmanager
def told_of_lost_processes() -> Iterator[None]:
    """Say in words what a process finds when another has ended, which has said why.

    Raises:
        TrainingError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # whose errors have no type of their own
            raise TrainingError("another process of this run has ended: its own line says why") from None
        raise
