"""Accuracy of a network that is being trained: one centred view of every video, by the metrics of `videozoo eval`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videozoo.errors import VideoError, first_line
from videozoo.manifest import Input, Views
from videozoo.metrics import mean_class_accuracy, top_k_accuracy
from videozoo.synthetic import Motions, draw_clip, motion_of
from videozoo.video.batches import leave_interrupts_to_the_parent, refuse_dead_worker
from videozoo.video.dataset import Problem, VideoList
from videozoo.video.decode import FrameSource, open_frames
from videozoo.video.listed import listed_video
from videozoo.video.views import ViewTransform


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of a network on the validation videos, as parts of 1."""

    step: int
    """Steps that the network had learned."""
    top1: float
    top5: float
    mean_class: float
    num_videos: int
    """That were decoded."""
    num_failed: int

    def __str__(self) -> str:
        shares = (
            f"top-1 {100 * self.top1:.2f} %, top-5 {100 * self.top5:.2f} %, mean class {100 * self.mean_class:.2f} %"
        )
        return shares + (f", {self.num_failed} not decoded" if self.num_failed else "")


@dataclass(frozen=True, slots=True)
class CenterView:
    """One video of a batch: its pixels, or why there are none."""

    number: int
    clip: Tensor
    """uint8 (3, T, H, W)."""
    problem: Problem | None


class CenterViews(Dataset[CenterView]):
    """The centred view of every video.

    Args:
        videos: a list with one label a video, or the synthetic motions.
        views: what is seen of a video: one clip, one crop.
    """

    def __init__(self, videos: VideoList | Motions, views: Views) -> None:
        self.videos = videos
        self.views = views
        self._pixels = ViewTransform(views, Input((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))

    def __len__(self) -> int:
        return self.videos.num_clips if isinstance(self.videos, Motions) else len(self.videos.videos)

    def label(self, number: int) -> int:
        """The class of a video."""
        if isinstance(self.videos, Motions):
            return motion_of(self.videos.first_seed + number)
        return self.videos.videos[number].labels[0]

    def __getitem__(self, number: int) -> CenterView:
        try:
            sampled = self._pixels.sample(self._open(number))
        except VideoError as error:
            views = self.views
            blank = torch.zeros((3, views.num_frames, views.crop_size, views.crop_size), dtype=torch.uint8)
            return CenterView(number, blank, self._problem(number, error))
        (clip,) = next(self._pixels.clips(sampled))
        return CenterView(number, clip.to(torch.uint8), None)  # whole numbers: nothing was normalised

    def _open(self, number: int) -> FrameSource:
        if isinstance(self.videos, Motions):
            return open_frames(draw_clip(self.videos.first_seed + number))
        return open_frames(listed_video(self.videos, self.videos.videos[number]))

    def _problem(self, number: int, error: VideoError) -> Problem:
        if isinstance(self.videos, Motions):
            raise error  # they are drawn, not decoded
        return self.videos.videos[number].problem(first_line(error))


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Some views; what could not be decoded is black."""

    numbers: Tensor
    """int64 (N,): of the videos; -1 for one that was not decoded, or stands in for another process's."""
    clips: Tensor
    """uint8 (N, 3, T, H, W)."""
    problems: tuple[Problem, ...]


class ValidationLoader:
    """The views of this process's share of the videos; every process gets as many batches.

    Args:
        views: all of them.
        batch_size: views at once.
        rank: number of this process.
        num_ranks: how many processes there are.
        num_workers: processes that load; 0 loads in this one.
        strict: whether a video that cannot be decoded is an error.
    """

    def __init__(
        self,
        views: CenterViews,
        *,
        batch_size: int,
        rank: int,
        num_ranks: int,
        num_workers: int,
        strict: bool = False,
    ) -> None:
        share = list(range(rank, len(views), num_ranks))
        padding = -(-len(views) // num_ranks) - len(share)  # 0 or 1: a video that another process counts
        self.views = views
        self.strict = strict
        self._share_size = len(share)
        self._loader: DataLoader[list[CenterView]] = DataLoader(
            views,  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=[*share, *[0] * padding],
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=leave_interrupts_to_the_parent,
            generator=torch.Generator(),
        )

    def probe(self) -> None:
        """Find a video that can be decoded.

        Raises:
            VideoError: there is none; with ``strict``, the first cannot be.
        """
        for view in map(self.views.__getitem__, range(len(self.views))):
            if view.problem is None:
                return
            self._refuse(view.problem)
        accuracy(0, self.views, (), np.empty((0, 0)))

    def _refuse(self, problem: Problem) -> None:
        if self.strict:
            raise VideoError(str(problem))

    def __iter__(self) -> Iterator[ViewBatch]:
        """The batches.

        Raises:
            VideoError: with ``strict``, a video cannot be decoded; or a worker died.
        """
        try:
            yield from self._batches()
        except RuntimeError as error:
            refuse_dead_worker(error)
            raise

    def _batches(self) -> Iterator[ViewBatch]:
        left = self._share_size
        for batch in self._loader:
            own, left = batch[:left], max(0, left - len(batch))
            numbers = [-1 if view.problem is not None else view.number for view in own] + [-1] * (len(batch) - len(own))
            problems = tuple(view.problem for view in own if view.problem is not None)
            for problem in problems:
                self._refuse(problem)
            yield ViewBatch(torch.tensor(numbers), torch.stack([view.clip for view in batch]), problems)


def accuracy(step: int, views: CenterViews, numbers: Sequence[int], logits: np.ndarray[Any, Any]) -> Accuracy:
    """The accuracy of logits (videos, classes) for the videos of these numbers.

    Raises:
        VideoError: there are none.
    """
    if not len(numbers):
        raise VideoError(f"none of the {len(views)} validation videos can be decoded")
    labels = [views.label(number) for number in numbers]
    top1, top5 = top_k_accuracy(logits, labels)
    return Accuracy(step, top1, top5, mean_class_accuracy(logits, labels), len(numbers), len(views) - len(numbers))
