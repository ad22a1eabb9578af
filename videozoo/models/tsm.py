"""Temporal shift modules: a 2-D ResNet whose blocks look at their neighbours in time.

"TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383. The residual branch of a
block sees its input with an eighth of the channels taken from the next frame and an eighth from the previous one. In
ResNets with 23 or more blocks in the third stage, every second block is shifted.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from videozoo.errors import InvalidArgument
from videozoo.layers.frames import ShiftedConv
from videozoo.models.tsn import TSN, timm_trunk
from videozoo.pretrained import StrPath, pretrained_model


class TSM(TSN):
    """A shifted ResNet on clips of ``num_segments`` frames; a longer clip counts as several, whose logits are averaged.

    Args:
        backbone: a timm ResNet without classifier; its blocks' first convolutions are wrapped in place.
        num_segments: frames that are shifted among each other; T has to be a multiple of it.
        bn_frozen: in training, batch norms keep their statistics and are not learned.

    Raises:
        InvalidArgument: the backbone has no residual stages ``layer1`` to ``layer4``.
    """

    frames_are_independent = False

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_segments: int = 8,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        bn_frozen: bool = False,
    ) -> None:
        shift_residual_branches(backbone, num_segments)
        super().__init__(backbone, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, bn_frozen=bn_frozen)
        self.num_segments = num_segments

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        return (self.num_segments, 1, 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify every frame, then average: (N, num_features, T, H', W') to (N, num_classes)."""
        x = x.flatten(3).mean(dim=3).transpose(1, 2)  # (N, T, num_features); over two axes torch is 20 times slower
        return x.mean(dim=1) if pre_logits else self.fc(self.dropout(x)).mean(dim=1)

    def _check_clip(self, x: Tensor) -> None:
        super()._check_clip(x)
        if x.shape[2] % self.num_segments:
            raise InvalidArgument(
                f"{x.shape[2]} frames: this network takes {self.num_segments} segments, or a multiple"
            )


def shift_residual_branches(resnet: nn.Module, num_segments: int) -> None:
    """Wrap the first convolution of the residual blocks of a timm ResNet, in place."""
    found = [getattr(resnet, f"layer{stage}", None) for stage in (1, 2, 3, 4)]
    stages = [stage for stage in found if isinstance(stage, nn.Sequential)]
    if num_segments < 1 or len(stages) < 4:
        raise InvalidArgument(
            f"{type(resnet).__name__} with num_segments={num_segments}: the temporal shift needs a timm ResNet "
            "(layer1 to layer4) and at least one segment"
        )
    every = 2 if len(stages[2]) >= 23 else 1
    for blocks in stages:
        for block in list(blocks)[::every]:
            block.conv1 = ShiftedConv(cast(nn.Module, block.conv1), num_segments)


def tsm_r50(
    pretrained: bool | str = False,
    *,
    backbone: str = "resnet50",
    num_segments: int = 8,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TSM:
    """Temporal shift module on timm's ResNet-50, 24.3 M parameters; 8 frames of 224 pixels.

    ``backbone`` names another timm ResNet, such as ``resnet101``, for use without published weights
    (arXiv 1811.08383).
    """

    def net(*, num_classes: int, in_chans: int) -> TSM:
        return TSM(
            timm_trunk(backbone, in_chans),
            num_segments=num_segments,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )

    return pretrained_model("tsm_r50", net, pretrained, checkpoint_path, num_classes, in_chans)
