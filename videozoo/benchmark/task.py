"""What a contestant is, and what it is given: the same random network and clips for all.

Nothing is imported before it is needed, so that the process of a peer holds the peer and not us.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videozoo.layers.video_model import VideoModel

_SEED = 20


@dataclass(frozen=True)
class Task:
    """What a child is to run; all of it JSON values."""

    model: str
    """An architecture."""
    clip: tuple[int, ...]
    """N, C, T, H, W."""
    threads: int
    device: str
    dtype: str
    """``float32``, ``bfloat16`` or ``float16``; only `Videozoo` and its like, `Autocast` and `Machine` heed it."""
    folder: str
    """Where `prepare` put the files of the peers."""


class Contestant:
    """One way to run a network."""

    modules: tuple[str, ...] = ("torch",)
    """Imported before memory is looked at; the last one names the contestant's version."""

    def build(self, task: Task) -> None:
        """Get ready; untimed.

        Raises:
            Exception: any, where the contestant cannot take this network on this device.
        """
        raise NotImplementedError

    def forward(self) -> Any:
        """One forward, complete when this returns; the logits, in a form of its own."""
        raise NotImplementedError

    def logits(self) -> list[float]:
        """The logits of one forward, the clips' one after another."""
        return [float(value) for value in self.forward().reshape(-1).tolist()]

    def turn(self, forwards: int) -> dict[str, Any]:
        """Seconds on the clock and of processor time, of one forward out of as many."""
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(forwards):
            self.forward()
        ended, done = time.perf_counter(), time.process_time()
        return {"wall_s": (ended - started) / forwards, "cpu_s": (done - worked) / forwards}

    def kinds(self) -> dict[str, dict[str, float]]:
        """Kind of operation -> calls, flops, wall_s and cpu_s of one forward; empty where it cannot be told."""
        return {}

    def device_peak_bytes(self) -> int | None:
        """Peak of the accelerator's memory; None without one."""
        return None


def random_model(architecture: str) -> VideoModel:
    """A network whose every tensor is random, from a fixed seed, and whose maps neither vanish nor grow."""
    import torch

    from videozoo.models import create_model

    model = create_model(architecture)
    generator = torch.Generator().manual_seed(_SEED)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:  # batch norms' weights halve, so that fifty residual additions do not overflow
            tensor.normal_(0.5 if name.endswith("weight") else 0.0, 0.1, generator=generator)
    return model.eval()


def random_clip(task: Task) -> Any:
    """The clips that every contestant sees: float32 of shape (N, C, T, H, W), a numpy array."""
    numpy: Any = importlib.import_module("numpy")
    return numpy.random.default_rng(_SEED).standard_normal(task.clip, dtype="float32")
