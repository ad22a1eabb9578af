"""The processes of one run: one, or as many as torchrun started on one machine or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from videozoo.errors import RanksError, VideoZooError, reason

T = TypeVar("T")

_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
PATIENCE = timedelta(days=30)
"""How long a process waits for the slowest; torchrun ends all of them when one dies."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int
    size: int

    def gather(self, value: T) -> list[T]:
        """What every process gives here, in the order of their ranks; all of them get it, and wait for it.

        Raises:
            RanksError: another process has ended.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[T] = [value] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:  # gloo's errors have no type of their own
            raise lost(error) from None
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process cannot do, none does: its error is raised in all of them.

        Every process comes by here, whatever it does inside; none leaves before the slowest has come.

        Raises:
            VideoZooError: that of the process with the least rank among those that have one.
            RanksError: another process has ended.
        """
        own: VideoZooError | None = None
        try:
            yield
        except RanksError:
            raise
        except VideoZooError as error:
            own = error
        for found in self.gather(own):
            if found is not None:
                raise found


def announced() -> Ranks:
    """What torchrun says in the environment, without connecting to anyone; one process where it says nothing."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return Ranks(int(rank), int(size)) if rank.isdecimal() and size.isdecimal() else Ranks(0, 1)


def lost(error: Exception) -> RanksError:
    """What a process finds when another one has ended, which has said why."""
    return RanksError(f"another process of this run has ended or cannot be reached: {reason(error)}")


def unconnected(error: Exception) -> RanksError:
    """What a process finds when the others do not come."""
    return RanksError(f"the processes of this run cannot be connected: {reason(error)}")


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, connected by gloo; a process group that exists already is used as it is.

    Raises:
        RanksError: they do not find each other.
    """
    launched = os.environ.keys() >= _VARIABLES and announced().size > 1
    if not launched and "torch.distributed" not in sys.modules:  # one process, which need not import it to know
        yield Ranks(0, 1)
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if not launched:
        yield Ranks(0, 1)
        return
    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise unconnected(error) from None
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
