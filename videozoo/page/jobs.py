"""One job after another, in a thread beside the server's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Worker(Generic[Result]):
    """A thread that does one job at a time, in the order in which they came.

    It ends with the process, whatever it is doing: an interrupt waits for no job.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Result], Future[Result]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="videozoo-page", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Have ``job`` done; cancel the future to have it left out, as long as it has not begun."""
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Do what was submitted, and no more."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, future = given
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # any: it is the asker's, and the next job's turn comes
                future.set_exception(error)
            del job, future, given
