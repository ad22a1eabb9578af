"""The ways to run one network in torch, and the list of all ways.

A contestant is built once, untimed, and then asked for forwards, in a child process of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from videozoo.benchmark.arithmetic import Machine
from videozoo.benchmark.peers import Mmaction2, OnnxRuntime, OpenVino
from videozoo.benchmark.task import Contestant, Task, random_clip, random_model
from videozoo.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from videozoo.layers.video_model import VideoModel

OURS = "videozoo"
MACHINE = "machine"


class Eager(Contestant):
    """The network as `create_model` gives it, in evaluation."""

    def build(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.cuda = task.device.startswith("cuda")
        self.dtype = getattr(torch, task.dtype)
        self.context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        self.clip = torch.from_numpy(random_clip(task)).to(task.device)
        self.net = self.prepared(random_model(task.model).to(task.device))

    def prepared(self, model: VideoModel) -> nn.Module:
        """What is called with a clip."""
        return model

    def forward(self) -> Any:
        import torch

        with torch.inference_mode(), self.context():
            logits = self.net(self.clip)
            if self.cuda:
                torch.cuda.synchronize()
        return logits.float()

    def kinds(self) -> dict[str, dict[str, float]]:
        from videozoo.benchmark.operations import Operations

        if self.cuda:
            return {}
        with Operations() as operations:
            self.forward()
        return operations.kinds

    def device_peak_bytes(self) -> int | None:
        import torch

        return torch.cuda.max_memory_allocated() if self.cuda else None


class ChannelsLast(Eager):
    """Weights and clip in channels-last memory, and nothing else."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        for part in model.modules():
            weight = getattr(part, "weight", None)
            if isinstance(weight, torch.nn.Parameter) and weight.ndim in (4, 5):
                layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
                weight.data = weight.data.contiguous(memory_format=layout)
        self.clip = self.clip.contiguous(memory_format=torch.channels_last_3d)
        return model


class Autocast(ChannelsLast):
    """Channels-last, and torch's own choice of what runs in the reduced precision."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        kind, dtype = self.clip.device.type, self.dtype
        if dtype == torch.float32:
            raise InvalidArgument("autocast takes --dtype bfloat16 or float16")
        self.context = lambda: torch.autocast(kind, dtype=dtype)
        return super().prepared(model)


class Compile(Eager):
    """``torch.compile`` of the network, with its default settings."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        return torch.compile(model)  # type: ignore[return-value]


class Library(Eager):
    """`optimize_for_inference`, in a process whose allocator is as it was."""

    modules = ("torch", "videozoo")

    def prepared(self, model: VideoModel) -> nn.Module:
        from videozoo.inference import optimize_for_inference

        return optimize_for_inference(model, dtype=self.dtype)


class Videozoo(Library):
    """`optimize_for_inference` and `reuse_heap`, as the command line runs networks."""

    def build(self, task: Task) -> None:
        from videozoo.inference import reuse_heap

        if task.device == "cpu":
            reuse_heap()
        super().build(task)


class VideozooCompile(Videozoo):
    """The same with ``compile=True``."""

    def prepared(self, model: VideoModel) -> nn.Module:
        from videozoo.inference import optimize_for_inference

        return optimize_for_inference(model, dtype=self.dtype, compile=True)


CONTESTANTS: dict[str, type[Contestant]] = {
    OURS: Videozoo,
    "library": Library,
    "videozoo_compile": VideozooCompile,
    "eager": Eager,
    "channels_last": ChannelsLast,
    "autocast": Autocast,
    "compile": Compile,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "mmaction2": Mmaction2,
    MACHINE: Machine,
}
