"""SlowOnly: the slow pathway of SlowFast on its own.

"SlowFast Networks for Video Recognition", ICCV 2019, arXiv 1812.03982. A bottleneck ResNet that keeps every frame:
stride 2 in space only, and 3x1x1 convolutions in time in the last two stages alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from videozoo.layers.fused import Step
from videozoo.layers.resnet3d import EXPANSION, ResNet3d, Triple, projection, stem_convolution
from videozoo.pretrained import StrPath, pretrained_model

EPS = 1e-5


class SlowBlock(nn.Module):
    """Bottleneck with a 1x3x3 convolution; ``temporal`` widens the first 1x1x1 to 3x1x1."""

    def __init__(self, in_channels: int, planes: int, stride: Triple, *, temporal: bool) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        kernel, padding = ((3, 1, 1), (1, 0, 0)) if temporal else ((1, 1, 1), (0, 0, 0))
        self.conv1 = nn.Conv3d(in_channels, planes, kernel, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm3d(planes, eps=EPS)
        self.conv2 = nn.Conv3d(planes, planes, (1, 3, 3), stride=stride, padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(planes, eps=EPS)
        self.conv3 = nn.Conv3d(planes, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels, eps=EPS)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, out_channels, stride, EPS)

    def steps(self) -> list[Step]:
        """The residual branch for `FusedBlock`."""
        return [Step(self.conv1, self.bn1), Step(self.conv2, self.bn2), Step(self.conv3, self.bn3, relu=False)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, 4 * planes, T, H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))  # (N, planes, T, H, W)
        x = self.relu(self.bn2(self.conv2(x)))  # (N, planes, T, H', W')
        x = self.bn3(self.conv3(x))  # (N, 4 * planes, T, H', W')
        return self.relu(x + shortcut)


class SlowOnly(ResNet3d):
    """A SlowOnly network; any T, H, W, and T stays as it is.

    Args:
        depths: blocks of each stage.
        width: channels of the stem.
        bn_frozen: in training, batch norms keep their statistics and are not learned.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        width: int = 64,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        bn_frozen: bool = False,
    ) -> None:
        super().__init__(
            lambda in_chans, width: stem_convolution(in_chans, width, (1, 7, 7)),
            lambda stage, in_channels, planes, stride: SlowBlock(in_channels, planes, stride, temporal=stage >= 3),
            depths,
            temporal_strides=(1, 1, 1, 1),
            width=width,
            eps=EPS,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )
        for module in self.modules():
            if isinstance(module, SlowBlock):
                nn.init.zeros_(module.bn3.weight)  # a residual branch starts silent (arXiv 1706.02677)


def slowonly_r50(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> SlowOnly:
    """SlowOnly, 50 layers, 32.5 M parameters; 8 frames of 224 pixels, 8 apart (arXiv 1812.03982)."""
    net = partial(SlowOnly, (3, 4, 6, 3), drop_rate=drop_rate, bn_frozen=bn_frozen)
    return pretrained_model("slowonly_r50", net, pretrained, checkpoint_path, num_classes, in_chans)
