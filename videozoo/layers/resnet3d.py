"""The common frame of 3-D residual networks: stem, four stages of residual blocks, one classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from videozoo.layers.blank import repeated
from videozoo.layers.fused import FusedBlock, FusedConv, Residual, SpatialMaxPool, Step, fuse
from videozoo.layers.video_model import VideoModel, init_convolutions

Triple = tuple[int, int, int]
MakeBlock = Callable[[int, int, int, Triple], nn.Module]
"""(stage 1..4, input channels, planes, stride) to one residual block with ``planes * expansion`` output channels."""
MakeStem = Callable[[int, int], nn.Module]
"""(input channels, output channels) to the first convolution, which has stride 1 in time and 2 in space."""

EXPANSION = 4
"""Of a bottleneck: its output channels over its planes."""


def stem_convolution(in_chans: int, width: int, kernel: Triple) -> nn.Conv3d:
    """A first convolution of odd ``kernel``, which halves height and width."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(in_chans, width, kernel, stride=(1, 2, 2), padding=padding, bias=False)


def projection(in_channels: int, out_channels: int, stride: Triple, eps: float) -> nn.Sequential | None:
    """The shortcut's 1x1x1 convolution and batch norm; None where the block keeps the shape."""
    if stride == (1, 1, 1) and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm3d(out_channels, eps=eps)
    )


def steps_of(conv: nn.Module, norm: nn.Module, *, relu: bool = True) -> list[Step]:
    """A convolution, which may be a chain of them that has ``steps(norm, relu)``, and its batch norm as steps."""
    steps = getattr(conv, "steps", None)
    return [Step(conv, norm, relu)] if steps is None else steps(norm, relu)


class ResNet3d(VideoModel):
    """Stem (spatial stride 2), 1x3x3 max pool, four stages, average over time and space.

    Args:
        make_stem: makes the first convolution.
        make_block: makes one residual block.
        depths: blocks of each stage.
        temporal_strides: temporal stride of each stage; the spatial ones are 1, 2, 2, 2.
        width: channels of the stem; stage s has ``width * 2**(s - 1)`` planes.
        eps: epsilon of every batch norm.
        expansion: output channels of a block over its planes.
        pool1: whether a max pool of spatial stride 2 follows the stem.
    """

    first_conv = "conv1"

    def __init__(
        self,
        make_stem: MakeStem,
        make_block: MakeBlock,
        depths: Sequence[int],
        *,
        temporal_strides: Sequence[int],
        width: int,
        eps: float,
        num_classes: int,
        in_chans: int,
        drop_rate: float,
        bn_frozen: bool,
        expansion: int = EXPANSION,
        pool1: bool = True,
    ) -> None:
        super().__init__(
            num_features=width * 8 * expansion,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )
        self.conv1 = make_stem(in_chans, width)
        self.bn1 = nn.BatchNorm3d(width, eps=eps)
        self.relu = nn.ReLU(inplace=True)
        pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.maxpool = pool if pool1 else nn.Identity()
        self.feature_info = [{"num_chs": width, "reduction": 2, "module": "relu"}]
        channels, reduction = width, 4 if pool1 else 2
        for stage, (depth, temporal_stride) in enumerate(zip(depths, temporal_strides, strict=True), start=1):
            planes = width * 2 ** (stage - 1)
            spatial_stride = 1 if stage == 1 else 2
            reduction *= spatial_stride
            blocks = [make_block(stage, channels, planes, (temporal_stride, spatial_stride, spatial_stride))]
            channels = planes * expansion
            blocks += repeated(partial(make_block, stage, channels, planes, (1, 1, 1)), depth - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layer{stage}"})
        self._add_classifier()
        init_convolutions(self)

    def fused_parts(self, dtype: torch.dtype | None) -> Iterator[tuple[nn.Module, nn.Module]]:
        yield self.conv1, fuse(steps_of(self.conv1, self.bn1), dtype)
        yield self.bn1, nn.Identity()
        yield self.relu, nn.Identity()
        if isinstance(self.maxpool, nn.MaxPool3d):
            yield self.maxpool, SpatialMaxPool(self.maxpool)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for index, block in enumerate(cast(nn.Sequential, stage)):
                yield block, FusedBlock(cast(Residual, block), dtype, overwrite=index > 0)

    def forward_features(self, x: Tensor) -> Tensor:
        maps = self.forward_intermediates(x, indices=[4], intermediates_only=True)
        return maps[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        self._check_clip(x)
        wanted = self._stages(indices)
        last = max(wanted) if stop_early and intermediates_only else 4
        found: dict[int, Tensor] = {}
        pooled = None if 0 in wanted else self._pooled_stem(x)
        if pooled is None:
            found[0] = self.relu(self.bn1(self.conv1(x)))  # (N, width, T, H/2, W/2)
            pooled = self.maxpool(found[0]) if last > 0 else found[0]
        x = pooled  # (N, width, T, H/4, W/4), or H/2 and W/2 without a pool
        for stage in range(1, last + 1):
            found[stage] = x = getattr(self, f"layer{stage}")(x)
        maps = [found[index] for index in wanted]
        return maps if intermediates_only else (x, maps)

    def _pooled_stem(self, x: Tensor) -> Tensor | None:
        """What the layers before the stages answer, in one pass; None where there is none, or hooks listen to them."""
        stem = (self.conv1, self.bn1, self.relu, self.maxpool)
        if not isinstance(self.conv1, FusedConv) or not isinstance(self.maxpool, SpatialMaxPool):
            return None
        if any(module._forward_hooks or module._forward_pre_hooks for module in stem):
            return None
        return self.conv1.pooled(x, self.maxpool)
