"""R(2+1)D and R3D, as Facebook's VMZ builds them.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, arXiv 1711.11248. In R(2+1)D every 3-D
convolution is a spatial one, a batch norm, a ReLU and a temporal one, with about as many parameters as the 3-D one has.

Where others differ: torchvision counts the channels between the two once a block, VMZ anew for each convolution, so
that in a block that changes the width they differ; torchvision's epsilon is 1e-5, this one 1e-3, as in Caffe2, where
the released weights were trained. VMZ's PyTorch port of the 152 layers has a max pool after the stem, with which the
released weights give other answers; ``pool1=True`` builds it. The strides in time are the same for every clip: Caffe2's
builder leaves out the last one or two for clips of fewer than 8 frames, which matters for 3, 5, 6 and 7 frames alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from videozoo.layers.fused import Step
from videozoo.layers.resnet3d import EXPANSION, MakeStem, ResNet3d, Triple, projection, stem_convolution, steps_of
from videozoo.pretrained import StrPath, pretrained_model

EPS = 1e-3
STEM_CHANNELS = 45
"""Between the two halves of the stem; VMZ fixes them, also for other widths."""


class FactoredConv(nn.Module):
    """A spatial convolution (1, k, k), batch norm, ReLU and a temporal one (t, 1, 1), without bias.

    Args:
        kernel: (t, k, k), odd; each half is padded to keep the size.
        stride: the spatial half has the last two, the temporal half the first.
    """

    def __init__(
        self, in_channels: int, middle_channels: int, out_channels: int, kernel: Triple, stride: Triple
    ) -> None:
        super().__init__()
        t, h, w = kernel
        self.spatial = nn.Conv3d(
            in_channels,
            middle_channels,
            (1, h, w),
            stride=(1, stride[1], stride[2]),
            padding=(0, h // 2, w // 2),
            bias=False,
        )
        self.bn = nn.BatchNorm3d(middle_channels, eps=EPS)
        self.relu = nn.ReLU(inplace=True)
        self.temporal = nn.Conv3d(
            middle_channels, out_channels, (t, 1, 1), stride=(stride[0], 1, 1), padding=(t // 2, 0, 0), bias=False
        )

    def steps(self, norm: nn.Module, relu: bool) -> list[Step]:
        """Both halves, and what follows the second."""
        return [Step(self.spatial, self.bn), Step(self.temporal, norm, relu)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, out_channels, T', H', W')."""
        x = self.relu(self.bn(self.spatial(x)))  # (N, middle_channels, T, H', W')
        return self.temporal(x)  # (N, out_channels, T', H', W')


MakeConv = Callable[[int, int, Triple], nn.Module]
"""(input channels, output channels, stride) to a 3x3x3 convolution or what stands for it."""


def conv_3d(in_channels: int, out_channels: int, stride: Triple) -> nn.Conv3d:
    """A 3x3x3 convolution."""
    return nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv_2plus1d(in_channels: int, out_channels: int, stride: Triple) -> FactoredConv:
    """A factored 3x3x3 convolution with at most as many parameters as `conv_3d` has.

    >>> conv_2plus1d(64, 128, (2, 2, 2)).temporal.in_channels, conv_2plus1d(128, 128, (1, 1, 1)).temporal.in_channels
    (230, 288)
    """
    middle_channels = 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)
    return FactoredConv(in_channels, middle_channels, out_channels, (3, 3, 3), stride)


def stem_2plus1d(in_chans: int, width: int) -> FactoredConv:
    """The factored first convolution, 3x7x7."""
    return FactoredConv(in_chans, STEM_CHANNELS, width, (3, 7, 7), (1, 2, 2))


class ResidualBlock(Protocol):
    """What `R2Plus1D` needs of a block class: its expansion, and a block from channels, planes, stride, convolution."""

    expansion: int

    def __call__(self, in_channels: int, planes: int, stride: Triple, conv: MakeConv) -> nn.Module: ...


class SimpleBlock(nn.Module):
    """Two 3x3x3 convolutions, the first with the stride, and the shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: Triple, conv: MakeConv) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, planes, stride)
        self.bn1 = nn.BatchNorm3d(planes, eps=EPS)
        self.conv2 = conv(planes, planes, (1, 1, 1))
        self.bn2 = nn.BatchNorm3d(planes, eps=EPS)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, planes, stride, EPS)

    def steps(self) -> list[Step]:
        """The residual branch for `FusedBlock`."""
        return [*steps_of(self.conv1, self.bn1), *steps_of(self.conv2, self.bn2, relu=False)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, planes, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))  # (N, planes, T', H', W')
        x = self.bn2(self.conv2(x))  # (N, planes, T', H', W')
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1x1, a 3x3x3 convolution with the stride, 1x1x1, and the shortcut."""

    expansion = EXPANSION

    def __init__(self, in_channels: int, planes: int, stride: Triple, conv: MakeConv) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.conv1 = nn.Conv3d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes, eps=EPS)
        self.conv2 = conv(planes, planes, stride)
        self.bn2 = nn.BatchNorm3d(planes, eps=EPS)
        self.conv3 = nn.Conv3d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels, eps=EPS)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, out_channels, stride, EPS)

    def steps(self) -> list[Step]:
        """The residual branch for `FusedBlock`."""
        return [Step(self.conv1, self.bn1), *steps_of(self.conv2, self.bn2), Step(self.conv3, self.bn3, relu=False)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, 4 * planes, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))  # (N, planes, T, H, W)
        x = self.relu(self.bn2(self.conv2(x)))  # (N, planes, T', H', W')
        x = self.bn3(self.conv3(x))  # (N, 4 * planes, T', H', W')
        return self.relu(x + shortcut)


class R2Plus1D(ResNet3d):
    """A residual network of factored convolutions (R(2+1)D) or whole ones (R3D); any T, H, W.

    Args:
        block: `SimpleBlock` or `Bottleneck`.
        depths: blocks of each stage.
        factored: R(2+1)D; else R3D.
        width: channels of the stem.
        pool1: whether a max pool of spatial stride 2 follows the stem.
        bn_frozen: in training, batch norms keep their statistics and are not learned.
    """

    def __init__(
        self,
        block: ResidualBlock,
        depths: Sequence[int],
        *,
        factored: bool = True,
        width: int = 64,
        pool1: bool = False,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        bn_frozen: bool = False,
    ) -> None:
        stem: MakeStem = stem_2plus1d if factored else partial(stem_convolution, kernel=(3, 7, 7))
        conv: MakeConv = conv_2plus1d if factored else conv_3d
        super().__init__(
            stem,
            lambda stage, in_channels, planes, stride: block(in_channels, planes, stride, conv),
            depths,
            temporal_strides=(1, 2, 2, 2),
            width=width,
            eps=EPS,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
            expansion=block.expansion,
            pool1=pool1,
        )
        if factored:
            self.first_conv = "conv1.spatial"


def r2plus1d_18(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    bn_frozen: bool = False,
    pool1: bool = False,
    checkpoint_path: StrPath | None = None,
) -> R2Plus1D:
    """R(2+1)D, 18 layers, 33.4 M parameters; 32 frames of 112 pixels (arXiv 1711.11248)."""
    net = partial(R2Plus1D, SimpleBlock, (2, 2, 2, 2), pool1=pool1, drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("r2plus1d_18", net, pretrained, checkpoint_path, num_classes, in_chans)


def r2plus1d_34(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    bn_frozen: bool = False,
    pool1: bool = False,
    checkpoint_path: StrPath | None = None,
) -> R2Plus1D:
    """R(2+1)D, 34 layers, 63.7 M parameters; 8 or 32 frames of 112 pixels (arXiv 1711.11248)."""
    net = partial(R2Plus1D, SimpleBlock, (3, 4, 6, 3), pool1=pool1, drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("r2plus1d_34", net, pretrained, checkpoint_path, num_classes, in_chans)


def r2plus1d_152(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    bn_frozen: bool = False,
    pool1: bool = False,
    checkpoint_path: StrPath | None = None,
) -> R2Plus1D:
    """R(2+1)D, 152 layers, 118.2 M parameters; 32 frames of 112 pixels (arXiv 1711.11248).

    ``pool1`` puts in the max pool after the stem that VMZ's PyTorch code has and the trained network has not.
    """
    net = partial(R2Plus1D, Bottleneck, (3, 8, 36, 3), pool1=pool1, drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("r2plus1d_152", net, pretrained, checkpoint_path, num_classes, in_chans)


def r3d_18(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    bn_frozen: bool = False,
    pool1: bool = False,
    checkpoint_path: StrPath | None = None,
) -> R2Plus1D:
    """R3D, 18 layers, 33.4 M parameters; 32 frames of 112 pixels (arXiv 1711.11248).

    torchvision's network of this name has the same tensors and another epsilon: its weights load, and answer about 2 %
    of the logits' spread beside what they answer there.
    """
    net = partial(
        R2Plus1D, SimpleBlock, (2, 2, 2, 2), factored=False, pool1=pool1, drop_rate=drop_rate, bn_frozen=bn_frozen
    )
    return pretrained_model("r3d_18", net, pretrained, checkpoint_path, num_classes, in_chans)
