"""Temporal pyramid networks: two stages of a trunk, brought to one size, fused in both directions.

"Temporal Pyramid Network for Action Recognition", CVPR 2020, arXiv 2004.03548. In the released configuration both
temporal rates are 8 and the pyramid has two levels, so the resampling between levels is the identity; the flow is the
cascade: the bottom-up path starts from the levels that the top-down path has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo.errors import InvalidArgument
from videozoo.layers.fused import FusedConv, Step
from videozoo.layers.video_model import VideoModel, classifier
from videozoo.models.slowonly import SlowOnly
from videozoo.models.tsm import TSM
from videozoo.pretrained import StrPath, pretrained_model

TEMPORAL_POOL = 8
GROUPS = 32


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (1, 1, 1),
        *,
        spatial_stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        stride = (1, spatial_stride, spatial_stride)
        self.conv = nn.Conv3d(
            in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) to (N, out_channels, T, H', W')."""
        return self.relu(self.bn(self.conv(x)))


class LevelFusion(nn.Module):
    """Both levels through a grouped convolution each, concatenated, mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvNormReLU(channels, channels, groups=GROUPS) for _ in range(2))
        self.mix = ConvNormReLU(2 * channels, 2 * channels)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Two of (N, channels, T, H, W) to (N, 2 * channels, T, H, W)."""
        return self.mix(torch.cat([self.levels[0](low), self.levels[1](high)], dim=1))


class TemporalMaxPool(nn.MaxPool3d):
    """The largest of each 8 frames; the last ones may be fewer."""

    def __init__(self) -> None:
        super().__init__((TEMPORAL_POOL, 1, 1), ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, ceil(T / 8), H, W)."""
        if not torch.compiler.is_exporting():
            return super().forward(x)
        # OpenVINO rounds otherwise where fewer frames come than the window has
        padded = F.pad(x, (0, 0, 0, 0, 0, TEMPORAL_POOL - 1), value=float("-inf"))
        return F.max_pool3d(padded, (TEMPORAL_POOL, 1, 1))


class TemporalPyramid(nn.Module):
    """The neck: stage 3 (N, C, T, 2H, 2W) and stage 4 (N, 2C, T, H, W) to (N, 2C, ceil(T / 8), H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = ConvNormReLU(channels, 2 * channels, (1, 3, 3), spatial_stride=2)
        self.temporal = nn.ModuleList(_temporal_conv(2 * channels, channels, GROUPS) for _ in range(2))
        self.pool = TemporalMaxPool()
        self.bottom_up = _temporal_conv(channels, channels, 1)
        self.top_down_fusion = LevelFusion(channels)
        self.bottom_up_fusion = LevelFusion(channels)
        self.fusion = ConvNormReLU(4 * channels, 2 * channels)
        _init_convolutions(self)

    def forward(self, stage3: Tensor, stage4: Tensor) -> Tensor:
        low = self.pool(self.temporal[0](self.spatial(stage3)))  # (N, C, T', H, W)
        high = self.pool(self.temporal[1](stage4))  # (N, C, T', H, W)
        low = low + high
        top_down = self.top_down_fusion(low, high)  # (N, 2C, T', H, W)
        high = high + self.bottom_up(low)
        bottom_up = self.bottom_up_fusion(low, high)  # (N, 2C, T', H, W)
        return self.fusion(torch.cat([top_down, bottom_up], dim=1))  # (N, 2C, T', H, W)


def _temporal_conv(in_channels: int, out_channels: int, groups: int) -> nn.Conv3d:
    """3x1x1, with neither batch norm nor ReLU behind it."""
    return nn.Conv3d(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=False)


def _init_convolutions(module: nn.Module) -> None:
    """Glorot's uniform initialisation (AISTATS 2010), as released, in the pyramid and in the auxiliary head."""
    for child in module.modules():
        if isinstance(child, nn.Conv3d):
            nn.init.xavier_uniform_(child.weight)


class AuxiliaryHead(nn.Module):
    """A second classifier on stage 3, for its loss in training (weight 0.5 in the released recipes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
        self.bn = nn.BatchNorm3d(2 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.fc = classifier(2 * channels, num_classes)
        _init_convolutions(self)

    def forward(self, stage3: Tensor) -> Tensor:
        """(N, channels, T, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn(self.conv(stage3))).mean(dim=(2, 3, 4))  # (N, 2 * channels)
        return self.fc(self.dropout(x))


class TPN(VideoModel):
    """A trunk, the pyramid on its last two stages, one classifier.

    Args:
        trunk: a `SlowOnly` or `TSM` network without classifier. On a TSM trunk a clip longer than its segments counts
            as several, whose logits are averaged.
        aux_head: also build the auxiliary classifier, which `forward_with_aux` uses.
        bn_frozen: in training, batch norms keep their statistics and are not learned.
    """

    def __init__(
        self,
        trunk: SlowOnly | TSM,
        *,
        aux_head: bool = False,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        bn_frozen: bool = False,
    ) -> None:
        super().__init__(
            num_features=trunk.num_features,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )
        channels = trunk.num_features // 2
        self.trunk = trunk
        self.neck = TemporalPyramid(channels)
        self.aux_head = AuxiliaryHead(channels, num_classes) if aux_head else None
        self._add_classifier()
        self.first_conv = f"trunk.{trunk.first_conv}"
        self.feature_info = [
            *(info | {"module": f"trunk.{info['module']}"} for info in trunk.feature_info),
            {"num_chs": self.num_features, "reduction": trunk.feature_info[-1]["reduction"], "module": "neck"},
        ]

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        return self.trunk.smallest_clip

    def fused_parts(self, dtype: torch.dtype | None) -> Iterator[tuple[nn.Module, nn.Module]]:
        yield from self.trunk.fused_parts(dtype)
        for module in self.neck.modules():
            if isinstance(module, ConvNormReLU):
                yield module, FusedConv(Step(module.conv, module.bn), dtype)
        for conv in (*self.neck.temporal, self.neck.bottom_up):
            yield conv, FusedConv(Step(conv, relu=False), dtype)
        if self.aux_head is not None:
            yield self.aux_head.conv, FusedConv(Step(self.aux_head.conv, self.aux_head.bn), dtype)
            yield self.aux_head.bn, nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self._pyramid(*self._trunk_maps(x, [-2, -1]))

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and auxiliary logits, each (N, num_classes), of clips (N, C, T, H, W).

        Raises:
            InvalidArgument: the network was built without ``aux_head=True``.
        """
        if self.aux_head is None:
            raise InvalidArgument("this network has no auxiliary head: build it with aux_head=True")
        stage3, stage4 = self._trunk_maps(x, [-2, -1])
        return self.forward_head(self._pyramid(stage3, stage4)), self.aux_head(stage3)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        wanted = self._stages(indices)
        neck = len(self.feature_info) - 1
        if stop_early and intermediates_only and neck not in wanted:
            return self._trunk_maps(x, wanted)
        found = self._trunk_maps(x, list(range(neck)))
        found.append(self._pyramid(found[-2], found[-1]))
        maps = [found[index] for index in wanted]
        return maps if intermediates_only else (found[-1], maps)

    def reset_classifier(self, num_classes: int) -> None:
        super().reset_classifier(num_classes)
        if self.aux_head is not None:
            weight = next(self.aux_head.parameters())
            self.aux_head.fc = classifier(self.num_features, num_classes).to(weight.device, weight.dtype)

    def tensors_on_request(self) -> dict[str, Tensor]:
        if self.aux_head is not None:
            return {}
        with torch.device("meta"):
            head = AuxiliaryHead(self.num_features // 2, self.num_classes)
        return {f"aux_head.{name}": tensor for name, tensor in head.state_dict().items()}

    def _check_clip(self, x: Tensor) -> None:
        self.trunk._check_clip(x)

    def _trunk_maps(self, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
        maps = self.trunk.forward_intermediates(x, indices, stop_early=True, intermediates_only=True)
        return maps if isinstance(maps, list) else maps[1]

    def _pyramid(self, stage3: Tensor, stage4: Tensor) -> Tensor:
        """(N, C, T, 2H, 2W) and (N, 2C, T, H, W) to (N, 2C, T', H, W); the clips of a TSM trunk do not mix."""
        if not isinstance(self.trunk, TSM):
            return self.neck(stage3, stage4)
        clips = stage3.shape[2] // self.trunk.num_segments
        maps = self.neck(_split_time(stage3, clips), _split_time(stage4, clips))
        return maps.unflatten(0, (-1, clips)).transpose(1, 2).flatten(2, 3)


def _split_time(x: Tensor, clips: int) -> Tensor:
    """(N, C, clips * T, H, W) to (N * clips, C, T, H, W)."""
    return x.unflatten(2, (clips, -1)).transpose(1, 2).flatten(0, 1)


def tpn_slowonly_r50(
    pretrained: bool | str = False,
    *,
    aux_head: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TPN:
    """Temporal pyramid on SlowOnly-R50, 71.8 M parameters (91.5 M with the auxiliary head); 8 frames of 224 pixels."""

    def net(*, num_classes: int, in_chans: int) -> TPN:
        trunk = SlowOnly((3, 4, 6, 3), num_classes=0, in_chans=in_chans)
        return TPN(
            trunk,
            aux_head=aux_head,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )

    return pretrained_model("tpn_slowonly_r50", net, pretrained, checkpoint_path, num_classes, in_chans)


def tpn_tsm_r50(
    pretrained: bool | str = False,
    *,
    aux_head: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TPN:
    """Temporal pyramid on TSM-R50, 63.2 M parameters (82.4 M with the auxiliary head); 8 segments of 224 pixels."""

    def net(*, num_classes: int, in_chans: int) -> TPN:
        trunk = TSM(timm.create_model("resnet50", num_classes=0, in_chans=in_chans), num_classes=0, in_chans=in_chans)
        return TPN(
            trunk,
            aux_head=aux_head,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )

    return pretrained_model("tpn_tsm_r50", net, pretrained, checkpoint_path, num_classes, in_chans)


def test_tpn(
    pretrained: bool | str = False,
    *,
    aux_head: bool = False,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.5,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TPN:
    """A tiny TPN on SlowOnly with trained weights for eight synthetic motions; 8 frames of 32 pixels."""

    def net(*, num_classes: int, in_chans: int) -> TPN:
        trunk = SlowOnly((1, 1, 1, 1), width=2, num_classes=0, in_chans=in_chans)
        return TPN(
            trunk,
            aux_head=aux_head,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )

    return pretrained_model("test_tpn", net, pretrained, checkpoint_path, num_classes, in_chans)
