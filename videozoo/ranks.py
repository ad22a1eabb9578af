"""The processes of one run: one, or as many as torchrun started on one machine or several."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from videozoo.errors import VideoZooError, printable

T = TypeVar("T")

_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_PATIENCE = timedelta(days=30)
"""How long a process waits for the slowest; torchrun ends all of them when one dies."""


class RanksError(VideoZooError):
    """Processes of one run that do not find each other, or one of which has ended."""


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
        except RuntimeError:  # gloo's errors have no type of their own
            raise RanksError("another process of this run has ended: its own line says why") from None
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


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, connected by gloo; a process group that exists already is used as it is.

    Raises:
        RanksError: they do not find each other.
    """
    launched = os.environ.keys() >= _VARIABLES and os.environ["WORLD_SIZE"] != "1"
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
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = printable(str(error).partition("\n")[0])
        raise RanksError(f"the processes of this run cannot be connected: {reason}") from None
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
