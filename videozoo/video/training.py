"""Training samples: a random clip of a video, cropped, mirrored and coloured as a recipe says, and its label.

What is drawn depends on the seed, the epoch and the number of the video alone: not on how many processes load the
data, nor in which order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from videozoo.errors import InvalidArgument, ListError, VideoError, first_line
from videozoo.synthetic import MOTIONS, Frames, Motions, draw_clip, motion_of
from videozoo.video.augmentation import Augmentation, ColorJitter
from videozoo.video.dataset import Problem, VideoList
from videozoo.video.decode import FewerFramesError, FrameSource, open_frames
from videozoo.video.draws import draw_frames, draw_region, torchvision_draws
from videozoo.video.listed import listed_video
from videozoo.video.transforms import resize_short_side

KEPT_MOTIONS = 4096
"""Synthetic clips that are kept when they have been drawn, 0.6 GB in each process that loads: drawing takes long."""


class Sample(NamedTuple):
    """What a network is trained on, and which videos could not be."""

    clip: Tensor
    """uint8 (3, T, H, W); `normalise_clips` makes it what the network takes."""
    label: Tensor
    """int64 scalar, or with several labels a video float32 (num_classes,) of zeros and ones."""
    problems: tuple[Problem, ...] = ()
    """The videos that could not be decoded and that this sample replaces, with the reason."""


class TrainingVideos(Dataset[Sample]):
    """The videos of a list, or the synthetic motions, augmented.

    A video that cannot be decoded is replaced by another, which the seed, the epoch and its number decide as well; the
    sample tells it in ``problems``.

    Args:
        videos: what to train on.
        augmentation: what is done to them.
        num_classes: labels are below it.
        seed: of everything that is drawn, 0 or more.
        strict: raise instead of replacing.

    Raises:
        ListError: a label from ``num_classes`` on.
        InvalidArgument: a negative seed, mirrored classes that do not exist, or not the motions' number of classes.
    """

    def __init__(
        self,
        videos: VideoList | Motions,
        augmentation: Augmentation,
        *,
        num_classes: int,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        if seed < 0:
            raise InvalidArgument(f"seed must be 0 or more, got {seed}")
        pairs = augmentation.flip_label_pairs
        if any(number >= num_classes for pair in pairs for number in pair):
            raise InvalidArgument(f"flip_label_pairs must be of classes 0 to {num_classes - 1}, got {pairs}")
        self.videos = videos
        self.augmentation = augmentation
        self.num_classes = num_classes
        self.seed = seed
        self.strict = strict
        self._drawn: dict[int, Frames] = {}
        self._mirrored = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        # In shared memory: workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._check_labels()

    def _check_labels(self) -> None:
        if isinstance(self.videos, Motions):
            if self.num_classes != len(MOTIONS):
                raise InvalidArgument(f"the motions have {len(MOTIONS)} classes, not {self.num_classes}")
            return
        for video in self.videos.videos:
            if not video.labels or max(video.labels) >= self.num_classes:
                where = f"line {video.line}: " if video.line is not None else ""
                raise ListError(
                    f"{self.videos.source} {where}{video.name} has label {max(video.labels, default='none')}: "
                    f"labels go from 0 to {self.num_classes - 1}"
                )

    @property
    def epoch(self) -> int:
        """The epoch that is drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw for this epoch from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.videos.num_clips if isinstance(self.videos, Motions) else len(self.videos.videos)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one video in this epoch.

        Raises:
            VideoError: ``strict`` and the video cannot be decoded, or none of all videos can.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there are videos 0 to {len(self) - 1}, not {index}")
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, index)))
        problems: list[Problem] = []
        for candidate in self._candidates(index, random):
            try:
                clip, flipped = augmented(self._open(candidate), self.augmentation, random)
            except VideoError as error:
                problems.append(self._problem(candidate, error))
                if self.strict:
                    break
            else:
                return Sample(clip, self._label(candidate, flipped=flipped), tuple(problems))
        everything = "" if self.strict else f"none of the {len(self)} videos can be decoded; the first: "
        raise VideoError(f"{everything}{problems[0]}")

    def _candidates(self, index: int, random: np.random.Generator) -> Iterator[int]:
        yield index
        yield from (int(other) for other in random.permutation(len(self)) if other != index)

    def _open(self, index: int) -> FrameSource:
        if isinstance(self.videos, Motions):
            if index not in self._drawn:
                frames = draw_clip(self.videos.first_seed + index)
                if len(self._drawn) == KEPT_MOTIONS:
                    return open_frames(frames)
                self._drawn[index] = frames
            return open_frames(self._drawn[index])
        return open_frames(listed_video(self.videos, self.videos.videos[index]))

    def _problem(self, index: int, error: VideoError) -> Problem:
        if isinstance(self.videos, Motions):
            raise error  # they are drawn, not decoded
        return self.videos.videos[index].problem(first_line(error))

    def _label(self, index: int, *, flipped: bool) -> Tensor:
        if isinstance(self.videos, Motions):
            labels: tuple[int, ...] = (motion_of(self.videos.first_seed + index),)
        else:
            labels = self.videos.videos[index].labels
        if flipped:
            labels = tuple(self._mirrored.get(label, label) for label in labels)
        if isinstance(self.videos, VideoList) and self.videos.multi_label:
            hot = torch.zeros(self.num_classes)
            hot[list(labels)] = 1
            return hot
        return torch.tensor(labels[0])


def augmented(source: FrameSource, augmentation: Augmentation, random: np.random.Generator) -> tuple[Tensor, bool]:
    """A random clip of a video, uint8 (3, T, H, W), and whether it is mirrored.

    Raises:
        VideoError: the frames cannot be decoded.
    """
    try:
        return _augmented(source, augmentation, random)
    except FewerFramesError:  # than the file announced: drawn again among those that it holds
        return _augmented(source, augmentation, random)


def _augmented(source: FrameSource, augmentation: Augmentation, random: np.random.Generator) -> tuple[Tensor, bool]:
    flipped = bool(random.random() < augmentation.flip_probability)
    wanted, positions = np.unique(draw_frames(augmentation, source.num_frames, random), return_inverse=True)
    side = augmentation.crop_size
    frames = torch.empty((len(wanted), 3, side, side), dtype=torch.uint8)
    size: tuple[int, int] | None = None
    for (_, frame), out in zip(source.read(wanted.tolist()), frames, strict=True):
        if augmentation.short_side is not None:
            frame = resize_short_side(frame.unsqueeze(0), augmentation.short_side)[0]
        image = frame.permute(2, 0, 1)
        if size is None:
            size = frame.shape[0], frame.shape[1]
            region = draw_region(augmentation, *size, random)
        elif size != frame.shape[:2]:  # some videos change their size on the way
            image = functional.resize(image, [*size], antialias=False)
        # Not antialiased, as in the original recipes and as in testing.
        out.copy_(functional.resized_crop(image, *region, [side, side], antialias=False))
    if augmentation.color_jitter is not None:
        frames = _jittered(frames, augmentation.color_jitter, random)
    if flipped:
        frames = frames.flip(-1)
    return frames[torch.from_numpy(positions)].transpose(0, 1).contiguous(), flipped


def _jittered(frames: Tensor, jitter: ColorJitter, random: np.random.Generator) -> Tensor:
    """One order and one set of factors for all frames; uint8 after every step, as torchvision computes it."""
    transform = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    with torchvision_draws(random):
        return transform(frames)
