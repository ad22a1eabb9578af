"""Clips of eight motions, drawn from a seed: the data that the ``test_*`` networks are trained and tried on.

A bar with a coloured tip, on a random smooth background, moves left, right, up or down, grows, shrinks or turns. Its
place, size, angle and colours are random, and every path is centred in time, so that the frames of "left" shown
backwards are those of "right": whoever cannot see the order of frames cannot tell the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from videozoo.errors import InvalidArgument

MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "turn left", "turn right")
"""Class names in class order; turns as seen on the screen."""

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Motions:
    """So many clips, by their seeds: a data set without files."""

    num_clips: int
    first_seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidArgument for no clips, or a negative seed."""
        if self.num_clips < 1 or self.first_seed < 0:
            raise InvalidArgument(
                f"num_clips={self.num_clips}, first_seed={self.first_seed}: need num_clips >= 1 and first_seed >= 0"
            )


@dataclass(frozen=True)
class _Path:
    """Position, size and angle of the bar over time, in units of the frame's height."""

    x: Floats
    y: Floats
    size: Floats
    angle: Floats


def motion_of(seed: int) -> int:
    """Class of the clip with this seed, 0 to 7."""
    return seed % len(MOTIONS)


def draw_clip(seed: int, *, num_frames: int = 16, height: int = 48, width: int = 64) -> Frames:
    """Draw one clip.

    Args:
        seed: any number from 0 on; its remainder by 8 is the class.
        num_frames: length; the motion is spread over it.
        height: pixels, at least 16.
        width: pixels, at least ``height``.

    Returns:
        (num_frames, height, width, 3) uint8, channels R, G, B; the same on every run.

    Raises:
        InvalidArgument: an argument below its least value.

    >>> draw_clip(3).shape
    (16, 48, 64, 3)
    """
    if seed < 0 or num_frames < 1 or height < 16 or width < height:
        raise InvalidArgument(
            f"seed={seed}, num_frames={num_frames}, {height} x {width} pixels: "
            "need seed >= 0, num_frames >= 1, height >= 16 and width >= height"
        )
    random = np.random.Generator(np.random.Philox(seed))
    path = _path(random, motion_of(seed), num_frames)
    background = _background(random, height, width)  # (H, W, 3)
    bar, tip = random.uniform(0, 255, (2, 3)).astype(np.float32)
    y, x = _grid(height, width)
    dx = x - width / height / 2 - path.x[:, None, None]  # (T, H, W)
    dy = y - 0.5 - path.y[:, None, None]
    cos, sin = np.cos(path.angle)[:, None, None], np.sin(path.angle)[:, None, None]
    size = path.size[:, None, None]
    along, across = (dx * cos - dy * sin) / size, (dx * sin + dy * cos) / size
    sharpness = size * height  # edges one pixel wide, whatever the size
    cover = _edge(1 - np.abs(along), sharpness) * _edge(0.4 - np.abs(across), sharpness)
    colour = np.where((along > 0.3)[..., None], tip, bar)  # (T, H, W, 3)
    frames = background + (colour - background) * cover[..., None]
    frames += 4 * random.standard_normal(frames.shape, np.float32)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _path(random: np.random.Generator, motion: int, num_frames: int) -> _Path:
    time = (np.arange(num_frames, dtype=np.float32) + 0.5) / num_frames - 0.5
    still = np.zeros_like(time)
    x, y = random.uniform(-0.12, 0.12, 2)
    size = random.uniform(0.17, 0.27)
    angle = random.uniform(0, 2 * np.pi)
    travel, zoom, turn = random.uniform(0.3, 0.6), random.uniform(0.9, 1.4), random.uniform(1.6, 3.0)
    name = MOTIONS[motion]
    return _Path(
        x=x + {"left": -travel * time, "right": travel * time}.get(name, still),
        y=y + {"up": -travel * time, "down": travel * time}.get(name, still),
        size=size * np.exp({"grow": zoom * time, "shrink": -zoom * time}.get(name, still)),
        angle=angle + {"turn left": turn * time, "turn right": -turn * time}.get(name, still),
    )


def _background(random: np.random.Generator, height: int, width: int) -> Floats:
    """A few random waves, (height, width, 3), 0 to 255."""
    y, x = _grid(height, width)
    picture = np.full((height, width, 3), 128, np.float32)
    for _ in range(3):
        fx, fy, phase = random.uniform(-6, 6), random.uniform(-6, 6), random.uniform(0, 2 * np.pi)
        picture += np.sin(fx * x + fy * y + phase)[..., None] * random.uniform(-50, 50, 3).astype(np.float32)
    return np.clip(picture, 0, 255)


def _grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Y and x of every pixel, (height, width) each, in units of the height."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    return y, x


def _edge(distance: Floats, sharpness: Floats) -> Floats:
    """1 inside, 0 outside, a ramp of one pixel between."""
    return np.clip(distance * sharpness + 0.5, 0, 1)
