"""Batches of training samples: which videos are in which step, and the processes that load them.

    order = EpochOrder(len(videos), batch_size=64, seed=0, rank=rank, num_ranks=size)
    loader = TrainingLoader(videos, order, num_workers=2)
    for epoch in range(first_epoch, num_epochs):
        for batch in loader.epoch(epoch, first_step=done_of_this_epoch):
            clips = normalise_clips(batch.clips.to(device), mean, std)

Reports travel with the batch: ``batch.problems`` holds what could not be decoded, and a VideoError of a worker process
is raised, whole, where the batches are taken.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from videozoo.errors import InvalidArgument, VideoError
from videozoo.video.dataset import Problem
from videozoo.video.training import TrainingVideos


class Batch(NamedTuple):
    """The samples of one step, of one process."""

    clips: Tensor
    """uint8 (N, 3, T, H, W)."""
    labels: Tensor
    """int64 (N,), or with several labels a video float32 (N, num_classes)."""
    problems: tuple[Problem, ...]
    """The videos that could not be decoded; others stand in their places."""


class EpochOrder(Sampler[list[int]]):
    """The videos of every step of an epoch, shuffled: numbers of this process's share of each step.

    The order depends on the seed and the epoch. All processes together take in each step the ``batch_size`` videos that
    one process alone would take, in its order. The last videos of an epoch, too few for a step, wait for the next.

    Args:
        num_videos: how many there are.
        batch_size: videos of a step, of all processes together.
        seed: 0 or more.
        rank: number of this process.
        num_ranks: how many processes there are.

    Raises:
        InvalidArgument: fewer videos than one batch, a batch that the processes cannot share evenly, or numbers
            outside their range.
    """

    def __init__(self, num_videos: int, *, batch_size: int, seed: int = 0, rank: int = 0, num_ranks: int = 1) -> None:
        if seed < 0 or not 0 <= rank < num_ranks:
            raise InvalidArgument(f"seed {seed}, rank {rank} of {num_ranks}: none may be negative, nor rank too large")
        if not 1 <= batch_size <= num_videos:
            raise InvalidArgument(
                f"a batch of {batch_size} videos cannot be drawn from {num_videos}: ask for 1 to {num_videos}"
            )
        if batch_size % num_ranks:
            raise InvalidArgument(
                f"{num_ranks} processes cannot share a batch of {batch_size} evenly: ask for a multiple of {num_ranks}"
            )
        self.num_videos = num_videos
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self._epoch = 0
        self._first_step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return self.num_videos // self.batch_size

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Go to an epoch; with ``first_step``, behind the steps of it that are done.

        Raises:
            InvalidArgument: a negative epoch, or a step that the epoch does not have.
        """
        if epoch < 0 or not 0 <= first_step <= self.steps_per_epoch:
            raise InvalidArgument(f"epoch {epoch}, step {first_step}: an epoch has {self.steps_per_epoch} steps")
        self._epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        """Steps from the first to the end of the epoch."""
        return self.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self._epoch,)))
        order = random.permutation(self.num_videos)
        share = self.batch_size // self.num_ranks
        for step in range(self._first_step, self.steps_per_epoch):
            first = step * self.batch_size + self.rank * share
            yield order[first : first + share].tolist()


class _Steps(Dataset["Batch | VideoError"]):
    """A step's samples as one item, so that an error comes out of a worker as it is and not as a printed traceback."""

    def __init__(self, videos: TrainingVideos) -> None:
        self.videos = videos

    def __getitem__(self, indices: list[int]) -> Batch | VideoError:
        try:
            samples = [self.videos[index] for index in indices]
        except VideoError as error:
            return error
        return Batch(
            clips=torch.stack([sample.clip for sample in samples]),
            labels=torch.stack([sample.label for sample in samples]),
            problems=tuple(problem for sample in samples for problem in sample.problems),
        )


class TrainingLoader:
    """The batches of an order, loaded by worker processes that stay from epoch to epoch.

    Args:
        videos: the samples.
        order: which of them are in which step.
        num_workers: processes that load; 0 loads in this one.
        pin_memory: whether batches lie where an accelerator can copy them from by itself.

    Raises:
        InvalidArgument: a negative ``num_workers``, or an order of another number of videos.
    """

    def __init__(
        self, videos: TrainingVideos, order: EpochOrder, *, num_workers: int = 2, pin_memory: bool = False
    ) -> None:
        if num_workers < 0:
            raise InvalidArgument(f"num_workers must be 0 or more, got {num_workers}")
        if order.num_videos != len(videos):
            raise InvalidArgument(f"the order is of {order.num_videos} videos, there are {len(videos)}")
        self._videos = videos
        self._order = order
        self._loader: DataLoader[Batch | VideoError] = DataLoader(
            _Steps(videos),
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_unchanged,
            worker_init_fn=leave_interrupts_to_the_parent,
            # Its own: what dropout draws must not depend on how often loading began.
            generator=torch.Generator(),
        )

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_step`` on.

        Raises:
            InvalidArgument: a negative epoch, or a step that the epoch does not have.
            VideoError: a video cannot be decoded and ``strict`` asks for all, or none can be, or a worker died.
        """
        self._order.set_epoch(epoch, first_step=first_step)
        self._videos.set_epoch(epoch)
        try:
            for batch in self._loader:
                if isinstance(batch, VideoError):
                    # Anew: raising what a variable of this frame holds makes a cycle, and when the garbage collector
                    # takes the loader it may take the workers' queues first; they would be waited for in vain.
                    raise VideoError(str(batch))
                yield batch
        except RuntimeError as error:
            refuse_dead_worker(error)
            raise


def _unchanged(batch: Any) -> Any:
    return batch


def refuse_dead_worker(error: RuntimeError) -> None:
    """Say in words what a loader of torch raises when a worker process died; of any other error nothing is said.

    Raises:
        VideoError: a worker died.
    """
    if str(error).startswith("DataLoader worker"):
        raise VideoError(
            "a process that loads videos ended, perhaps for want of memory or of room in /dev/shm: ask for fewer "
            "workers, or for none to see why"
        ) from error


def leave_interrupts_to_the_parent(worker: int) -> None:
    """For a worker process of a loader: an interrupt of the terminal reaches all, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
