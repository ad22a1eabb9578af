"""Where the time goes: seconds of wall time by part, which sum to the whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Books time on parts. Of nested parts only the innermost runs, so that no time is counted twice.

    Several threads may hand one on, but not use it at once.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By part."""
        self._part: str | None = None
        self._since = 0.0

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Book what happens inside on ``part``."""
        outer = self._part
        self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def each(self, part: str, items: Iterable[Item]) -> Iterator[Item]:
        """``items``; the time that they take to come is booked on ``part``."""
        iterator = iter(items)
        while True:
            with self.on(part):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _turn_to(self, part: str | None) -> None:
        now = time.perf_counter()
        if self._part is not None:
            self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now
