"""What a recipe does to a training video, as plain data: which frames, which crop, mirrored or not, which colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from videozoo import settings
from videozoo.errors import InvalidArgument
from videozoo.video.lookup import plain
from videozoo.video.sampling import DENSE_RANGE


@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """A region of random area and aspect ratio (arXiv:1409.4842), as torchvision v2 draws it."""

    area: tuple[float, float] = (0.08, 1.0)
    """Least and greatest area, as parts of the frame's."""
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width divided by height."""
    kind: Literal["random_resized"] = "random_resized"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for ranges that are none."""
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise InvalidArgument(f"area must be two numbers above 0 and up to 1 that do not fall, got {self.area}")
        low, high = self.aspect_ratio
        if not 0 < low <= high < float("inf"):
            raise InvalidArgument(f"aspect_ratio must be two numbers above 0 that do not fall, got {(low, high)}")


@dataclass(frozen=True, slots=True)
class MultiScaleCrop:
    """A region of one of a few sizes at one of a few places (arXiv:1507.02159).

    Height and width are drawn together, each the frame's shorter side times a scale.
    """

    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    max_gap: int = 1
    """How far apart in ``scales`` those of height and width may be."""
    num_positions: Literal[1, 5, 13] = 5
    """1: the middle; 5: the corners, too; 13: the middles of the sides and four places halfway to the corners, too."""
    kind: Literal["multi_scale"] = "multi_scale"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for scales outside 0..1, a negative gap or another number of positions."""
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise InvalidArgument(f"scales must be numbers above 0 and up to 1, got {self.scales}")
        if self.max_gap < 0:
            raise InvalidArgument(f"max_gap must be 0 or more, got {self.max_gap}")
        if self.num_positions not in (1, 5, 13):
            raise InvalidArgument(f"num_positions must be 1, 5 or 13, got {self.num_positions}")


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """A region of the clip's own size at any place; it needs a ``short_side`` that it fits into."""

    kind: Literal["random"] = "random"


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Ranges of torchvision's ``v2.ColorJitter``: factors go from 1 - x to 1 + x, the shift of the hue from -x to x."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a negative or endless range, or a hue beyond half the circle."""
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidArgument(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise InvalidArgument(f"hue must be from 0 to 0.5, got {self.hue}")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to a training video: the table ``[augmentation]`` of a recipe.

    Raises:
        InvalidArgument: a value outside its range; the message begins with the field's name.
    """

    num_frames: int
    """Frames of a clip; of ``segments``, the number of segments."""
    crop_size: int
    """Pixels of the clip's side; the region that ``crop`` draws is resized to it."""
    sampling: Literal["clips", "segments", "dense"] = "clips"
    """``clips``: one clip at a random place. ``segments``: a random frame of each of as many equal parts. ``dense``: as
    ``segments``, inside a window of 64 frames at a random place, and with equal steps."""
    frame_stride: int = 1
    """Distance of the frames of a clip."""
    short_side: int | None = None
    """Pixels of the frame's shorter side before it is cropped; None crops the frame as it is."""
    crop: RandomResizedCrop | MultiScaleCrop | RandomCrop = RandomResizedCrop()
    flip_probability: float = 0.5
    """Of mirroring the clip left to right."""
    flip_label_pairs: tuple[tuple[int, int], ...] = ()
    """Classes that change places when a clip is mirrored. The original recipes have none, not even for
    Something-Something, whose classes tell left from right; `left_right_pairs` finds them."""
    color_jitter: ColorJitter | None = None

    def __post_init__(self) -> None:
        """Raise InvalidArgument for settings that no video can satisfy."""
        for name in ("num_frames", "crop_size", "frame_stride"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.short_side is not None and self.short_side < 1:
            raise InvalidArgument(f"short_side must be at least 1 pixel, got {self.short_side}")
        if isinstance(self.crop, RandomCrop) and (self.short_side is None or self.short_side < self.crop_size):
            raise InvalidArgument(
                f"short_side must be at least crop_size {self.crop_size} for random crops, got {self.short_side}"
            )
        if self.sampling != "clips" and self.frame_stride != 1:
            raise InvalidArgument(f"frame_stride must be 1 for {self.sampling} sampling, got {self.frame_stride}")
        if self.sampling == "dense" and self.num_frames > DENSE_RANGE:
            raise InvalidArgument(f"num_frames must be at most {DENSE_RANGE} for dense sampling, got {self.num_frames}")
        if not 0 <= self.flip_probability <= 1:
            raise InvalidArgument(f"flip_probability must be from 0 to 1, got {self.flip_probability}")
        classes = [number for pair in self.flip_label_pairs for number in pair]
        if len(set(classes)) < len(classes) or min(classes, default=0) < 0:
            raise InvalidArgument(
                f"flip_label_pairs must be pairs of classes, each class from 0 on and once, got {self.flip_label_pairs}"
            )

    @classmethod
    def from_table(cls, table: Mapping[str, object]) -> Augmentation:
        """An augmentation as TOML gives it.

        Raises:
            InvalidArgument: a key that does not exist, with the nearest that does; a value of another type or outside
                its range.

        >>> Augmentation.from_table({"num_frames": 8, "crop_size": 224, "crop": {"kind": "multi_scale"}}).crop.max_gap
        1
        """
        return settings.from_table(cls, table, "augmentation")

    def to_table(self) -> settings.Table:
        """The table that `from_table` takes."""
        return settings.to_table(self)


def left_right_pairs(class_names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of classes whose names become each other's when left and right change places: `flip_label_pairs`.

    Names count as `plain` has them.

    >>> left_right_pairs(["push left", "lift", "Push_Right", "turn it right out"])
    ((0, 2),)
    """
    names = [plain(name) for name in class_names]
    numbers = {name: number for number, name in enumerate(names)}
    other = {"left": "right", "right": "left"}
    mirrored = [re.sub(r"\b(left|right)\b", lambda word: other[word[0]], name) for name in names]
    pairs = ((number, numbers.get(name, number)) for number, name in enumerate(mirrored))
    return tuple((number, partner) for number, partner in pairs if number < partner)
