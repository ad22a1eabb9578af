"""Convolutions for inference: batch norm folded in, bias, addition and ReLU in one pass, channels-last memory.

Two ways compute the same. On the CPU, oneDNN's own convolutions on packed weights, where the installed torch has them
(`videozoo.layers.packed`); some of three pixels or frames take Winograd's way there (`videozoo.layers.winograd` and
``winograd_time``). And plain torch, everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo.layers import winograd, winograd_time
from videozoo.layers.frames import fold_frames, temporal_shift, unfold_frames
from videozoo.layers.packed import MadePerShape, PackedConv, prepacked_works
from videozoo.layers.winograd import WinogradConv
from videozoo.layers.winograd_time import WinogradTimeConv

Convolution = PackedConv | WinogradConv | WinogradTimeConv
"""In oneDNN; an addition after it is `PackedConv`'s alone."""


@dataclass(frozen=True)
class Step:
    """A convolution and what follows it."""

    conv: nn.Module
    norm: nn.Module | None = None
    relu: bool = True
    shift_segments: int | None = None
    """Frames among which the input is shifted first (`temporal_shift`); None for no shift."""


class Residual(Protocol):
    """A block that computes ReLU(steps(x) + shortcut(x))."""

    @property
    def downsample(self) -> nn.Sequential | None:
        """The shortcut's convolution and batch norm; None for the identity."""

    def steps(self) -> list[Step]:
        """The branch; nothing follows its last batch norm but the addition."""


class FusedConv(nn.Module):
    """Convolution, batch norm and ReLU as one convolution with a bias; optionally an addition before the ReLU.

    A 3-D convolution that sees one frame at a time runs in two dimensions, with time in the batch. The weights are
    those of `torch.nn.Conv2d` and ``Conv3d``; what is packed from them is made at the first use, is not in the
    state dict, and is made anew after ``.to()`` and ``load_state_dict``.

    At first ``weight`` is the convolution's own, in the same memory and without the batch norm's factors. `fold` ends
    that. A state dict, ``.to()``, pickle, deepcopy and plain torch's convolutions do so too; packing folds into memory
    that it gives back, and a program traced before has the multiplication in it.
    """

    def __init__(self, step: Step, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        conv = cast("nn.Conv2d | nn.Conv3d", step.conv)
        weight = conv.weight.detach()
        scale, bias = fold_batch_norm(conv, step.norm)
        stride, padding, dilation = conv.stride, cast("tuple[int, ...]", conv.padding), conv.dilation
        if weight.ndim == 5 and conv.kernel_size[0] == stride[0] == 1 and padding[0] == 0:
            weight, stride, padding, dilation = weight.squeeze(2), stride[1:], padding[1:], dilation[1:]
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.to(dtype or weight.dtype), requires_grad=False)
        # one attribute, so that threads see both or neither
        self._unfolded: tuple[Tensor, Tensor | None] | None = (weight, scale)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, conv.groups
        self.relu = step.relu
        self.adds = False
        """Whether a shortcut is added."""
        self._packed: MadePerShape[Convolution] = MadePerShape()
        if dtype not in (None, weight.dtype):
            self.fold(dtype)

    def fold(self, dtype: torch.dtype | None = None) -> None:
        """Take a weight of its own, with the batch norm in it; ``dtype`` None for the convolution's. Once."""
        unfolded = self._unfolded  # read once: another thread may fold, too
        if unfolded is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            weight, own = unfolded[0], _multiplied(*unfolded)
            own = own.to(dtype or weight.dtype, memory_format=_channels_last(weight), copy=own is weight)
            self.weight = nn.Parameter(own, requires_grad=False)
        self._unfolded = None

    def _folded(self) -> Tensor:
        """The weight with the batch norm in it, computed anew until `fold` was called."""
        unfolded = self._unfolded
        return self.weight if unfolded is None else _multiplied(*unfolded)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(N, C, T, H, W) or (N, C, H, W) to the same layout.

        ``shortcut`` is added before the ReLU; it has the output's shape and may be overwritten.
        """
        if x.ndim == 5 and self.weight.ndim == 4:
            num_frames = x.shape[2]
            return unfold_frames(
                self.forward(fold_frames(x), None if shortcut is None else fold_frames(shortcut)), num_frames
            )
        x = self._converted(x)
        if _use_prepacked(x, self.weight):
            if shortcut is None:
                return self._convolution(x)(x)
            shortcut = shortcut.contiguous(memory_format=_channels_last(self.weight))
            return cast(PackedConv, self._convolution(x))(x, shortcut)
        if not torch.compiler.is_compiling():  # what is traced changes no module
            self.fold()
        convolve = F.conv2d if self.weight.ndim == 4 else F.conv3d
        x = convolve(x, self._folded(), self.bias, self.stride, self.padding, self.dilation, self.groups)
        if shortcut is not None:
            x = x.add_(shortcut)
        return x.relu_() if self.relu else x

    def pooled(self, x: Tensor, pool: SpatialMaxPool) -> Tensor | None:
        """``pool(self(x))`` of (N, C, T, H, W), frames by Winograd while they are in the cache; None without oneDNN."""
        if x.ndim != self.weight.ndim or not _use_prepacked(x := self._converted(x), self.weight):
            return None
        conv = self._convolution(x)
        return conv(x, pool.of_frames) if isinstance(conv, WinogradTimeConv) else pool(conv(x))

    def _converted(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if torch.compiler.is_exporting():  # a graph that asks for a layout fits no clip of a single frame or pixel
            return x
        return x.contiguous(memory_format=_channels_last(self.weight))

    def _convolution(self, x: Tensor) -> Convolution:
        geometry = (self.padding, self.stride, self.dilation, self.groups)

        def make() -> Convolution:
            if not self._suits_winograd(x):
                return PackedConv(self._folded(), self.bias, geometry, self.relu, x.shape)
            if self.weight.ndim == 4:
                return WinogradConv(self._folded(), self.bias, x.shape)
            return WinogradTimeConv(self._folded(), self.bias, x.shape, self.stride[1:], self.padding[1:])

        return self._packed.get(x, make) or PackedConv(self._folded(), self.bias, geometry, self.relu)

    def _suits_winograd(self, x: Tensor) -> bool:
        channels_out, channels_in, *kernel = self.weight.shape
        if (
            kernel[0] != 3
            or not self.relu
            or self.adds
            or self.groups != 1
            or self.weight.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return False
        first, *others = zip(kernel, self.stride, self.padding, self.dilation, strict=True)
        if first != (3, 1, 1, 1):
            return False
        if len(others) == 1:
            wins = winograd.wins(len(x), x.shape[2], x.shape[3], channels_in, channels_out)
            return others == [first] and wins and winograd.works()
        size = x.shape[2], x.shape[3] // self.stride[1], x.shape[4] // self.stride[2]
        wins = winograd_time.wins(size, prod(kernel[1:]), channels_in, channels_out, prod(self.stride))
        return self.dilation[1:] == (1, 1) and wins and winograd_time.works()

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, relu={self.relu}"

    def _apply(self, *args: Any) -> FusedConv:
        self.fold()
        self._packed = MadePerShape()
        return super()._apply(*args)  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, *args: Any) -> None:
        self.fold()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.fold()  # it may write into the weight
        self._packed = MadePerShape()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy, which know nothing of packed weights."""
        self.fold()
        return self.__dict__ | {"_packed": MadePerShape()}


class FusedBlock(nn.Module):
    """A residual block of fused convolutions.

    Args:
        block: what is fused.
        dtype: of the weights; None for the block's own.
        overwrite: whether the output may take the place of the input; not where a caller of the network sees it.
    """

    def __init__(self, block: Residual, dtype: torch.dtype | None = None, *, overwrite: bool) -> None:
        super().__init__()
        steps = block.steps()
        self.branch = nn.ModuleList(FusedConv(step, dtype) for step in steps)
        self.shift_segments = [step.shift_segments for step in steps]
        self.downsample = None
        if block.downsample is not None:
            self.downsample = FusedConv(Step(block.downsample[0], block.downsample[1], relu=False), dtype)
        last = cast(FusedConv, self.branch[-1])
        last.relu = last.adds = True
        self.overwrite = overwrite

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) or (N, C, H, W) to the same layout."""
        shortcut = x if self.downsample is None else self.downsample(x)
        if shortcut is x and not self.overwrite:
            shortcut = x.clone()
        last = len(self.branch) - 1
        for index, (conv, segments) in enumerate(zip(self.branch, self.shift_segments, strict=True)):
            x = x if segments is None else temporal_shift(x, segments)
            x = conv(x, shortcut) if index == last else conv(x)
        return x


class SpatialMaxPool(nn.Module):
    """A (1, k, k) max pool in two dimensions, with time in the batch."""

    def __init__(self, pool: nn.MaxPool3d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = (
            cast("tuple[int, int, int]", size)[1:] for size in (pool.kernel_size, pool.stride, pool.padding)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, T, H', W')."""
        return unfold_frames(self.of_frames(fold_frames(x)), x.shape[2])

    def of_frames(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


class AsFloat32(nn.Module):
    """In the place of dropout, before a classifier: networks of few bits classify in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        return x.float()


def fuse(steps: Sequence[Step], dtype: torch.dtype | None = None) -> nn.Module:
    """Steps without a shortcut as one module."""
    fused = [FusedConv(step, dtype) for step in steps]
    return fused[0] if len(fused) == 1 else nn.Sequential(*fused)


def fold_batch_norm(conv: nn.Conv2d | nn.Conv3d, norm: nn.Module | None) -> tuple[Tensor | None, Tensor | None]:
    """What makes ``conv`` answer as ``conv`` and, in evaluation, ``norm`` after it do.

    Returns:
        Factors of the weight, (channels out,), None for none; and the bias. Both are new memory.
    """
    bias = None if conv.bias is None else conv.bias.detach().clone()
    if norm is None:
        return None, bias
    batch_norm = cast("nn.BatchNorm3d", norm)
    mean, var = cast(Tensor, batch_norm.running_mean).double(), cast(Tensor, batch_norm.running_var).double()
    scale = batch_norm.weight.detach().double() * (var + batch_norm.eps).rsqrt()
    offset = batch_norm.bias.detach().double() - mean * scale
    if bias is not None:
        offset = offset + bias * scale
    # the weights themselves in their own precision: a float64 copy of them all would take longer than loading them
    precision = torch.promote_types(conv.weight.dtype, torch.float32)
    return scale.to(precision), offset.to(precision)


def _multiplied(weight: Tensor, scale: Tensor | None) -> Tensor:
    """A convolution's weight with the factors of `fold_batch_norm` in it, in the layout that it is used in."""
    if scale is None:
        return weight
    folded = torch.empty_like(weight, dtype=scale.dtype, memory_format=_channels_last(weight))
    return torch.mul(weight, scale.reshape(-1, *[1] * (weight.ndim - 1)), out=folded).to(weight.dtype)


def _channels_last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _use_prepacked(x: Tensor, weight: Tensor) -> bool:
    """Whether this very call can run in oneDNN: on a CPU, nothing traced or differentiated, a type of number it has."""
    return (
        type(x) is Tensor  # no stand-in that only knows torch's public functions
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.numel() > 0
        and prepacked_works(weight.dtype)
    )
