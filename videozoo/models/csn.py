"""Channel-separated networks.

"Video Classification with Channel-Separated Convolutional Networks", ICCV 2019, arXiv 1904.02811. Every 3x3x3
convolution of a 3-D bottleneck ResNet is depthwise; channels meet only in the 1x1x1 convolutions.

Epsilon of the batch norms is 1e-3: the released weights were trained in Caffe2, and 1e-5 moves the logits by up to 1 %.
The strides in time are the same for every clip. VMZ's Caffe2 builder leaves out the last one or two for clips of fewer
than 8 frames, which changes the answer for clips of 3, 5, 6 and 7 frames alone; nothing was published for those.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from videozoo.layers.fused import Step
from videozoo.layers.resnet3d import EXPANSION, ResNet3d, Triple, projection, stem_convolution
from videozoo.pretrained import StrPath, pretrained_model

EPS = 1e-3


class ChannelSeparatedBlock(nn.Module):
    """1x1x1, something depthwise that carries the stride, 1x1x1, and the shortcut."""

    def __init__(self, in_channels: int, planes: int, stride: Triple) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.conv1 = nn.Conv3d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes, eps=EPS)
        self.add_convolution(planes, stride)
        self.conv3 = nn.Conv3d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels, eps=EPS)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, out_channels, stride, EPS)

    @abstractmethod
    def add_convolution(self, planes: int, stride: Triple) -> None:
        """Create the layers of `convolve`."""

    @abstractmethod
    def convolve(self, x: Tensor) -> Tensor:
        """The spatio-temporal part up to its batch norm: (N, planes, T, H, W) to (N, planes, T', H', W')."""

    @abstractmethod
    def convolve_steps(self) -> list[Step]:
        """`convolve` and the ReLU behind it as steps."""

    def steps(self) -> list[Step]:
        """The residual branch for `FusedBlock`."""
        return [Step(self.conv1, self.bn1), *self.convolve_steps(), Step(self.conv3, self.bn3, relu=False)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, 4 * planes, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))  # (N, planes, T, H, W)
        x = self.relu(self.convolve(x))  # (N, planes, T', H', W')
        x = self.bn3(self.conv3(x))  # (N, 4 * planes, T', H', W')
        return self.relu(x + shortcut)


class InteractionReducedBlock(ChannelSeparatedBlock):
    """The ir-CSN bottleneck: a depthwise 3x3x3 convolution alone."""

    def add_convolution(self, planes: int, stride: Triple) -> None:
        self.conv2 = _depthwise(planes, stride)
        self.bn2 = nn.BatchNorm3d(planes, eps=EPS)

    def convolve(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(x))

    def convolve_steps(self) -> list[Step]:
        return [Step(self.conv2, self.bn2)]


class InteractionPreservedBlock(ChannelSeparatedBlock):
    """The ip-CSN bottleneck: before the depthwise convolution a 1x1x1, with a batch norm and no ReLU behind it."""

    def add_convolution(self, planes: int, stride: Triple) -> None:
        self.conv2_pointwise = nn.Conv3d(planes, planes, 1, bias=False)
        self.bn2_pointwise = nn.BatchNorm3d(planes, eps=EPS)
        self.conv2_depthwise = _depthwise(planes, stride)
        self.bn2_depthwise = nn.BatchNorm3d(planes, eps=EPS)

    def convolve(self, x: Tensor) -> Tensor:
        x = self.bn2_pointwise(self.conv2_pointwise(x))  # (N, planes, T, H, W)
        return self.bn2_depthwise(self.conv2_depthwise(x))  # (N, planes, T', H', W')

    def convolve_steps(self) -> list[Step]:
        return [
            Step(self.conv2_pointwise, self.bn2_pointwise, relu=False),
            Step(self.conv2_depthwise, self.bn2_depthwise),
        ]


def _depthwise(planes: int, stride: Triple) -> nn.Conv3d:
    return nn.Conv3d(planes, planes, 3, stride=stride, padding=1, groups=planes, bias=False)


class CSN(ResNet3d):
    """A channel-separated network; any T, H, W.

    Args:
        block: `InteractionReducedBlock` or `InteractionPreservedBlock`.
        depths: blocks of each stage.
        width: channels of the stem.
        bn_frozen: in training, batch norms keep their statistics and are not learned (as the CSN recipes train).
    """

    def __init__(
        self,
        block: type[ChannelSeparatedBlock],
        depths: Sequence[int],
        *,
        width: int = 64,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        bn_frozen: bool = False,
    ) -> None:
        super().__init__(
            lambda in_chans, width: stem_convolution(in_chans, width, (3, 7, 7)),
            lambda stage, in_channels, planes, stride: block(in_channels, planes, stride),
            depths,
            temporal_strides=(1, 2, 2, 2),
            width=width,
            eps=EPS,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )


def ircsn_r50(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-reduced CSN, 50 layers, 13.1 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionReducedBlock, (3, 4, 6, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ircsn_r50", net, pretrained, checkpoint_path, num_classes, in_chans)


def ircsn_r101(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-reduced CSN, 101 layers, 22.2 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionReducedBlock, (3, 4, 23, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ircsn_r101", net, pretrained, checkpoint_path, num_classes, in_chans)


def ircsn_r152(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-reduced CSN, 152 layers, 29.7 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionReducedBlock, (3, 8, 36, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ircsn_r152", net, pretrained, checkpoint_path, num_classes, in_chans)


def ipcsn_r50(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-preserved CSN, 50 layers, 14.4 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionPreservedBlock, (3, 4, 6, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ipcsn_r50", net, pretrained, checkpoint_path, num_classes, in_chans)


def ipcsn_r101(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-preserved CSN, 101 layers, 24.6 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionPreservedBlock, (3, 4, 23, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ipcsn_r101", net, pretrained, checkpoint_path, num_classes, in_chans)


def ipcsn_r152(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """Interaction-preserved CSN, 152 layers, 33.0 M parameters; 32 frames of 224 pixels (arXiv 1904.02811)."""
    net = partial(CSN, InteractionPreservedBlock, (3, 8, 36, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("ipcsn_r152", net, pretrained, checkpoint_path, num_classes, in_chans)


def test_ircsn(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> CSN:
    """A tiny ir-CSN with trained weights for eight synthetic motions; 8 frames of 32 pixels."""
    net = partial(CSN, InteractionReducedBlock, (1, 1, 1, 1), width=8, drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("test_ircsn", net, pretrained, checkpoint_path, num_classes, in_chans)
