"""Temporal segment networks: a 2-D network on one frame of each segment, averaged.

"Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016, arXiv 1608.00859. The trunk
is timm's; features are averaged over all frames before the classifier, so the network cannot see their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from videozoo.errors import InvalidArgument
from videozoo.layers.frames import ShiftedConv, fold_frames, unfold_frames
from videozoo.layers.fused import FusedBlock, FusedConv, Step
from videozoo.layers.video_model import VideoModel
from videozoo.pretrained import StrPath, pretrained_model


class TSN(VideoModel):
    """A 2-D trunk shared by all frames, global average over space and time, one classifier; any T.

    Args:
        backbone: a timm network without classifier whose features are maps (N, num_features, H', W').
        bn_frozen: in training, batch norms keep their statistics and are not learned.
    """

    frames_are_independent = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_classes: int = 400,
        in_chans: int = 3,
        drop_rate: float = 0.4,
        bn_frozen: bool = False,
    ) -> None:
        super().__init__(
            num_features=cast(int, backbone.num_features),
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
            bn_frozen=bn_frozen,
        )
        self.backbone = cast(Any, backbone)  # timm's networks have no common base class
        self.feature_info = [info | {"module": f"backbone.{info['module']}"} for info in self.backbone.feature_info]
        self.first_conv = "backbone." + self.backbone.pretrained_cfg.get("first_conv", "conv1")
        self._add_classifier()

    def fused_parts(self, dtype: torch.dtype | None) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Of ResNets all but the pooling; of other trunks the first convolution alone, which converts to ``dtype``."""
        trunk = cast(Any, self.backbone)
        is_resnet = isinstance(trunk, ResNet)
        stem = self.get_submodule(self.first_conv)
        first = next((module for module in stem.modules() if isinstance(module, nn.Conv2d)), None)
        if first is None:
            if dtype is not None:
                raise InvalidArgument(f"dtype={dtype}: {type(trunk).__name__} does not begin with a convolution")
            return
        plain_stem = is_resnet and first is trunk.conv1 and _are_plain((trunk.bn1,), (trunk.act1,))
        yield first, FusedConv(Step(first, trunk.bn1 if plain_stem else None, relu=plain_stem), dtype)
        if plain_stem:
            yield trunk.bn1, nn.Identity()
            yield trunk.act1, nn.Identity()
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4) if is_resnet else ():
            for index, block in enumerate(stage):
                residual = _residual(block)
                if residual is not None:
                    yield block, FusedBlock(residual, dtype, overwrite=index > 0)

    def forward_features(self, x: Tensor) -> Tensor:
        self._check_clip(x)
        maps = self.backbone.forward_features(fold_frames(x))  # (N*T, num_features, H', W')
        if maps.ndim != 4 or maps.shape[1] != self.num_features:
            raise InvalidArgument(
                f"the trunk's features have shape {tuple(maps.shape)}: need maps (N, {self.num_features}, H, W)"
            )
        return unfold_frames(maps, x.shape[2])  # (N, num_features, T, H', W')

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
        last, maps = self.backbone.forward_intermediates(
            fold_frames(x), indices=sorted(set(wanted)), stop_early=stop_early and intermediates_only
        )
        found = dict(zip(sorted(set(wanted)), maps, strict=True))
        clips = [unfold_frames(found[index], x.shape[2]) for index in wanted]
        return clips if intermediates_only else (unfold_frames(last, x.shape[2]), clips)


@dataclass(frozen=True)
class _Residual:
    """A block of timm's ResNets for `FusedBlock`."""

    branch: list[Step]
    downsample: nn.Sequential | None

    def steps(self) -> list[Step]:
        return self.branch


def _residual(block: Any) -> _Residual | None:
    """What a block of timm computes, if it is convolutions, batch norms and ReLUs alone."""
    if type(block) not in (Bottleneck, BasicBlock):
        return None
    count = 3 if isinstance(block, Bottleneck) else 2
    norms, activations = ([getattr(block, f"{kind}{n}") for n in range(1, count + 1)] for kind in ("bn", "act"))
    shortcut = block.downsample
    if shortcut is not None:
        shortcut = nn.Sequential(*(module for module in shortcut if not isinstance(module, nn.Identity)))
        if [type(module) for module in shortcut] != [nn.Conv2d, nn.BatchNorm2d]:
            return None
        norms.append(shortcut[1])
    extras = (block.se, block.drop_path, block.drop_block, block.aa)
    if not _are_plain(norms, activations) or any(not isinstance(part, nn.Identity | None) for part in extras):
        return None
    return _Residual(
        [_step(getattr(block, f"conv{n}"), norms[n - 1], n < count) for n in range(1, count + 1)], shortcut
    )


def _step(conv: nn.Module, norm: nn.Module, relu: bool) -> Step:
    if isinstance(conv, ShiftedConv):
        return Step(conv.conv, norm, relu, shift_segments=conv.num_segments)
    return Step(conv, norm, relu)


def _are_plain(norms: Iterable[nn.Module], activations: Iterable[nn.Module]) -> bool:
    return all(type(norm) is nn.BatchNorm2d for norm in norms) and all(type(act) is nn.ReLU for act in activations)


def timm_trunk(name: str, in_chans: int) -> nn.Module:
    """The network ``name`` of timm, with random weights and without a classifier.

    Raises:
        InvalidArgument: timm has no network of this name.
    """
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3))
        raise InvalidArgument(f"timm has no network {name!r}" + (f"; the nearest are {near}" if near else ""))
    return timm.create_model(name, num_classes=0, in_chans=in_chans)


def tsn_r50(
    pretrained: bool | str = False,
    *,
    backbone: str = "resnet50",
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.4,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TSN:
    """Temporal segment network on timm's ResNet-50, 24.3 M parameters; any number of frames of 224 pixels.

    ``backbone`` names another timm network, such as ``resnet101``, for use without published weights
    (arXiv 1608.00859).
    """

    def net(*, num_classes: int, in_chans: int) -> TSN:
        trunk = timm_trunk(backbone, in_chans)
        return TSN(trunk, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, bn_frozen=bn_frozen)

    return pretrained_model("tsn_r50", net, pretrained, checkpoint_path, num_classes, in_chans)


def test_tsn(
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.4,
    bn_frozen: bool = False,
    checkpoint_path: StrPath | None = None,
) -> TSN:
    """A tiny TSN with trained weights for eight synthetic motions; 8 frames of 32 pixels. It cannot see order."""

    def net(*, num_classes: int, in_chans: int) -> TSN:
        trunk = timm.create_model(
            "resnet50", num_classes=0, in_chans=in_chans, layers=(1, 1, 1, 1), channels=(8, 16, 24, 40)
        )
        return TSN(trunk, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, bn_frozen=bn_frozen)

    return pretrained_model("test_tsn", net, pretrained, checkpoint_path, num_classes, in_chans)
