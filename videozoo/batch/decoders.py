"""Processes that decode beside the network: each works ahead by one piece, and may die without harm to the run."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Self

import torch

from videozoo.batch.inputs import Item
from videozoo.batch.pieces import Piece, Plan, pieces
from videozoo.errors import VideoError, printable

_JOBS_AHEAD = 2
"""The one that a process works on, and the next, so that it never waits to be told."""
STEP_SECONDS = 0.5
"""An interrupt is noticed this soon."""
_ATTEMPTS = 2
_READY = "ready"


@dataclass(frozen=True, slots=True)
class Job:
    """A video to decode, from one of its windows on."""

    number: int
    item: Item
    start: int = 0
    num_deaths: int = 0
    """Processes that died of it so far."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a video gives no more pieces; ``window`` is the one that could not be had."""

    window: int
    reason: str


Outcome = Piece | Failure | None
"""None: the video is at its end."""


@dataclass(eq=False)
class _Worker:
    """One process, and what it was given to do."""

    process: BaseProcess
    connection: Connection
    jobs: deque[Job] = field(default_factory=deque)
    ready: bool = False


class Decoders:
    """A pool of processes; a context manager. With no processes, whoever asks for a piece decodes it.

    They start, and import what they need, before ``plan`` has to be known: it may be set any time before `run`.

    A video whose process dies is given to another once more, from the window on that was missing, and is a failure if
    that dies, too. Processes are started afresh (spawn): a script that uses this needs ``if __name__ == "__main__":``.
    """

    def __init__(self, plan: Plan | None, num_processes: int) -> None:
        self.plan = plan
        self._num_processes = num_processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._num_processes):
                self._workers.append(self._started())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()  # it holds nothing but frames
        for worker in self._workers:
            worker.process.join()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Outcome]]:
        """What comes of each job, under its number: its pieces in order and its end, those of several jobs mixed.

        Raises:
            VideoError: the processes do not start.
        """
        if self.plan is None:
            raise RuntimeError("Decoders.plan is not set")
        if not self._workers:
            yield from ((job.number, outcome) for job in jobs for outcome in outcomes(self.plan, job))
            return
        todo = deque(jobs)
        while True:
            for worker in self._workers:
                while todo and len(worker.jobs) < _JOBS_AHEAD:
                    self._give(worker, todo.popleft())
            busy = [worker for worker in self._workers if worker.jobs]
            if not busy:
                return
            ready = set(wait([worker.connection for worker in busy], timeout=STEP_SECONDS))
            for worker in busy:
                if worker.connection in ready:
                    yield from self._received(worker, todo)

    def _give(self, worker: _Worker, job: Job) -> None:
        worker.jobs.append(job)
        with suppress(OSError):  # it has died: so says the next look at its connection
            worker.connection.send((self.plan, job))

    def _received(self, worker: _Worker, todo: deque[Job]) -> Iterator[tuple[int, Outcome]]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replaced(worker, todo)
            return
        if message == _READY:
            worker.ready = True
            return
        job, outcome = worker.jobs[0], message
        if isinstance(outcome, Piece):
            worker.jobs[0] = replace(job, start=outcome.window + 1)
        else:
            worker.jobs.popleft()
            if todo:
                self._give(worker, todo.popleft())
        yield job.number, outcome

    def _replaced(self, worker: _Worker, todo: deque[Job]) -> Iterator[tuple[int, Outcome]]:
        """Put another process in place of a dead one, and its jobs at the head of the queue."""
        worker.connection.close()
        worker.process.join()
        status = worker.process.exitcode or 0
        end = f"signal {-status}" if status < 0 else f"exit status {status}"
        if not worker.ready:
            raise VideoError(f"a process that decodes could not start ({end}); what it printed is above")
        self._workers[self._workers.index(worker)] = self._started()
        guilty, *others = worker.jobs
        todo.extendleft(reversed(others))
        if guilty.num_deaths + 1 < _ATTEMPTS:
            todo.appendleft(replace(guilty, num_deaths=guilty.num_deaths + 1))
            return
        yield guilty.number, _failure(guilty.start, f"{guilty.item.path}: its decoder died {_ATTEMPTS} times ({end})")

    def _started(self) -> _Worker:
        context = get_context("spawn")  # a copy of a process that has threads, as fork makes it, may hang
        ours, theirs = context.Pipe()
        process = context.Process(target=_decode, args=(theirs,), name="videozoo-decode", daemon=True)
        with _interrupts_blocked():
            process.start()
        theirs.close()
        return _Worker(process, ours)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started now never sees an interrupt of the terminal: its parent, which does, ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # there is none on Windows

    resource_tracker.ensure_running()  # it starts with the first process, and would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decode(connection: Connection) -> None:
    """The work of a process: until its parent, or the parent's end of the connection, is gone."""
    torch.set_num_threads(1)
    try:
        connection.send(_READY)
        while True:
            for outcome in outcomes(*connection.recv()):
                connection.send(outcome)
    except (EOFError, OSError):
        return


def _failure(window: int, reason: str) -> Failure:
    return Failure(window, printable(next(iter(reason.splitlines()), "")))


def outcomes(plan: Plan, job: Job) -> Iterator[Outcome]:
    """The pieces of one video, and its end."""
    window = job.start
    try:
        for piece in pieces(plan, job.item, job.start):
            window = piece.window + 1
            yield piece
    except VideoError as error:
        yield _failure(window, str(error))
    except Exception as error:  # no video, whatever is in it, ends a run of thousands
        yield _failure(window, f"{job.item.path} cannot be decoded: {type(error).__name__}: {error}")
    else:
        yield None
