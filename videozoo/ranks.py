"""The processes of one run: one, or as many as torchrun started on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

_VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_PATIENCE = timedelta(days=30)
"""How long a process waits for the slowest; torchrun ends all of them when one dies."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int
    size: int

    def gather(self, value: T) -> list[T]:
        """What every process gives here, in the order of their ranks; all of them get it, and wait for it."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, connected by gloo; a process group that exists already is used as it is."""
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if not os.environ.keys() >= _VARIABLES or os.environ["WORLD_SIZE"] == "1":
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
