"""Where the time of one forward goes: every operation of torch that it calls, by kind, with its arithmetic."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTION = "convolution"
DEPTHWISE = "depthwise convolution"
_KINDS = {
    "batch norm": ("batch_norm",),
    "pooling": ("pool", "mean"),
    "addition, ReLU": ("relu", "add"),
    "copies, shift": ("clone", "copy", "contiguous", "fill", "zero", "cat", "reshape"),
    "classifier": ("linear", "addmm"),
}
"""Kind -> parts of the names of its operations, the first that fits."""
WINOGRAD = "Winograd's transforms"
"""All but the convolutions that `videozoo.layers.winograd` and ``winograd_time`` call."""
OTHER = "other"
KINDS = (CONVOLUTION, DEPTHWISE, WINOGRAD, *_KINDS, OTHER)


class Operations(TorchDispatchMode):
    """In this context, the operations of the forwards are timed; what lies between them is not.

    A convolution that adds the shortcut and takes the ReLU as it writes is one operation, of its own kind. Operations
    on a GPU end after their call returns, so this is for the CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: dict[str, dict[str, float]] = {}
        """Kind -> ``calls``, ``flops`` (two for a multiplication with its addition), ``wall_s`` and ``cpu_s``."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        started, worked = time.perf_counter(), time.process_time()
        found = func(*args, **(kwargs or {}))
        wall, cpu = time.perf_counter() - started, time.process_time() - worked
        kind, flops = _kind(str(func), args, found)
        sums = self.kinds.setdefault(kind, {"calls": 0, "flops": 0, "wall_s": 0.0, "cpu_s": 0.0})
        for name, value in (("calls", 1), ("flops", flops), ("wall_s", wall), ("cpu_s", cpu)):
            sums[name] += value
        return found


def _kind(name: str, args: Sequence[Any], found: Any) -> tuple[str, int]:
    """Kind and arithmetic of one call; ``name`` is such as ``aten.conv3d.default``."""
    operation = name.split(".")[1]
    if "conv" in operation and "reorder" not in operation:
        first = 1 if name.endswith(".binary") else 0  # behind what is added to, which comes first there
        x, weight = args[first], args[first + 1]
        terms = weight.numel() // weight.shape[0]
        return DEPTHWISE if weight.shape[1] == 1 < x.shape[1] else CONVOLUTION, 2 * found.numel() * terms
    if _caller().startswith("videozoo.layers.winograd"):
        return WINOGRAD, 0
    if "linear" in operation:
        return "classifier", 2 * found.numel() * args[1].shape[-1]
    return next((kind for kind, parts in _KINDS.items() if any(part in operation for part in parts)), OTHER), 0


def _caller() -> str:
    """The module that called the operation, besides torch's own and this one."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith((__name__, "torch")):
        frame = frame.f_back
    return str(frame.f_globals["__name__"])
