"""Several processes that end together: none waits for one that has failed, and each says in one line why it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from videozoo.ranks import Ranks, lost


@contextmanager
def together() -> Iterator[None]:
    """`Ranks.together`, of the processes that accelerate has connected."""
    from accelerate import PartialState

    state = PartialState()
    with Ranks(state.process_index, state.num_processes).together():
        yield


@contextmanager
def told_of_lost_processes() -> Iterator[None]:
    """Say in words what torch finds when another process has ended.

    Raises:
        RanksError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):  # whose errors have no type of their own
            raise lost(error) from None
        raise
