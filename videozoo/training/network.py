"""The network of a training before its first step, and its loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo import registry
from videozoo.conversion import open_weights
from videozoo.errors import CheckpointMismatch, FetchError, InvalidArgument
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Input, Protocol, Views
from videozoo.model_config import is_folder_name
from videozoo.model_folder import open_folder
from videozoo.models import create_model
from videozoo.models.tpn import TPN
from videozoo.models.tsn import TSN
from videozoo.predict import own_class_names, protocol_of
from videozoo.ranks import announced
from videozoo.training.recipe import LossSettings, Recipe
from videozoo.video.lookup import plain

_log = logging.getLogger(__name__)


class WithLoss(nn.Module):
    """A network that answers with its loss when it is given the labels: what several processes share has one call."""

    def __init__(self, network: VideoModel, settings: LossSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(self, clips: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N, num_classes) of clips (N, 3, T, H, W); with labels (N,), the mean loss."""
        if labels is None:
            return self.network(clips)
        if not self.settings.aux_weight:
            return self._cross_entropy(self.network(clips), labels)
        logits, aux_logits = cast(TPN, self.network).forward_with_aux(clips)
        return self._cross_entropy(logits, labels) + self.settings.aux_weight * self._cross_entropy(aux_logits, labels)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)


def create_network(
    name: str,
    recipe: Recipe,
    *,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    pretrained: str | None = None,
    checkpoint: Path | None = None,
) -> VideoModel:
    """The network that a recipe begins with, in training mode.

    Args:
        name: an architecture, or a model folder (``local-dir:``, ``hf-hub:``), which brings its weights.
        recipe: what else is to be known.
        num_classes: of the classifier; a new one is drawn where the weights have another number.
        class_names: what the classes are called; a new classifier is drawn, too, where the weights' own are called
            otherwise, or have another order. None: as the weights have it.
        pretrained: tag of published weights, instead of those that the recipe names.
        checkpoint: a file of weights, instead of those that the recipe names.

    Raises:
        FetchError: weights that cannot be had.
        CheckpointError: weights that do not fit.
        InvalidArgument: settings that this architecture does not have.
    """
    settings = recipe.model
    brings_weights = is_folder_name(name) or pretrained is not None or checkpoint is not None
    tag = pretrained if brings_weights else settings.pretrained
    network = create_model(
        name,
        tag or False,
        num_classes=num_classes,
        drop_rate=settings.drop_rate,
        bn_frozen=settings.freeze != "none",
        aux_head=True if recipe.loss.aux_weight else None,
        checkpoint_path=checkpoint,
    )
    if not brings_weights and settings.imagenet is not None:
        fill_trunk(network, settings.imagenet)
    stored = _stored_classes(name, tag, checkpoint)
    if stored == num_classes and _has_other_names(network, class_names, of_file=checkpoint is not None):
        if announced().rank == 0:
            _log.warning("%s: its classifier was replaced by a new, untrained one, for classes of other names", name)
        network.reset_classifier(num_classes)
        stored = None
    if isinstance(network.fc, nn.Linear) and stored != num_classes:
        nn.init.normal_(network.fc.weight, std=settings.fc_std)
    if settings.freeze == "trunk":
        for parameter in network.parameters():
            parameter.requires_grad = False
        aux_head = network.aux_head if isinstance(network, TPN) else None
        for part in (network.get_classifier(), aux_head):
            if part is not None:
                part.requires_grad_()
    network.pretrained_cfg["protocol"] = training_protocol(protocol_of(network), recipe)
    return network.train()


def _has_other_names(network: VideoModel, names: Sequence[str] | None, *, of_file: bool) -> bool:
    """Whether the classes of the weights are known to have other names; those of a user's own file are not known."""
    if names is None or (of_file and network.pretrained_cfg["tag"] is None):
        return False
    known = own_class_names(network)
    return known is not None and list(map(plain, known)) != list(map(plain, names))


def _stored_classes(name: str, tag: str | None, checkpoint: Path | None) -> int | None:
    """Classes of the weights that a network starts from; None without weights."""
    if is_folder_name(name):
        return open_folder(name).config.num_classes
    if checkpoint is not None:
        return open_weights(checkpoint).num_classes
    return None if tag is None else registry.resolve_weights(name, tag).num_classes


def fill_trunk(network: VideoModel, name: str) -> None:
    """Start the trunk from the weights of a 2-D ResNet of timm.

    A kernel of (h, w) is repeated over the time of a 3-D kernel and divided by its length, so that a still picture
    keeps its answers (arXiv 1705.07750).

    Args:
        network: a TSN, TSM, SlowOnly or TPN network.
        name: timm's name of the weights, such as ``resnet50.tv_in1k``.

    Raises:
        InvalidArgument: timm has no such network.
        FetchError: its weights cannot be had.
        CheckpointMismatch: it does not fit the trunk.
    """
    if not timm.is_model(name):
        raise InvalidArgument(f"recipe.model.imagenet: timm has no network {name!r}")
    try:
        source = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of the library that fetches, of its HTTP client, of the system
        raise FetchError(
            f"the ImageNet weights timm/{name} cannot be had ({type(error).__name__}): --checkpoint FILE starts from a "
            "file of yours, --set model.imagenet=false from random weights"
        ) from None
    inflate(network, source, name)


def inflate(network: VideoModel, source: dict[str, Tensor], name: str) -> None:
    """`fill_trunk` from tensors at hand.

    Raises:
        CheckpointMismatch: they do not fit the trunk.
    """
    whole = network.trunk if isinstance(network, TPN) else network
    trunk: nn.Module = whole.backbone if isinstance(whole, TSN) else whole
    target = {
        key.replace(".conv1.conv.", ".conv1."): tensor  # a shifted convolution is wrapped
        for key, tensor in trunk.state_dict().items()
        if not key.startswith("fc.")
    }
    if target.keys() != source.keys():
        odd = sorted(target.keys() ^ source.keys())
        raise CheckpointMismatch(f"{name} is not the trunk of this network: {len(odd)} tensors differ, as {odd[0]}")
    with torch.no_grad():
        for key, tensor in target.items():
            given = source[key]
            if tensor.ndim == given.ndim + 1:
                given = given.unsqueeze(2).expand_as(tensor) / tensor.shape[2] if _fits(given, tensor) else given
            if given.shape != tensor.shape:
                raise CheckpointMismatch(f"{name}: {key} of {tuple(given.shape)} does not fit {tuple(tensor.shape)}")
            tensor.copy_(given)


def _fits(given: Tensor, target: Tensor) -> bool:
    return (*given.shape[:2], *given.shape[2:]) == (*target.shape[:2], *target.shape[3:])


def training_protocol(protocol: Protocol, recipe: Recipe) -> Protocol:
    """How the trained network is to be fed: as ``protocol``, with the recipe's frames, pixels and crops."""
    augmentation, center = recipe.augmentation, protocol.center
    same_clip = protocol.full.num_frames == center.num_frames
    scale = augmentation.crop_size / center.crop_size

    def changed(views: Views, *, num_frames: int) -> Views:
        short_side = max(augmentation.crop_size, round(views.short_side * scale))
        crop_size = short_side if views.crop_size == views.short_side else augmentation.crop_size
        segments = "segments" if views.sampling == "clips" else views.sampling
        sampling = "clips" if augmentation.sampling == "clips" else segments
        clips = views.num_clips if sampling == "clips" else 1
        return replace(
            views, sampling=sampling, num_frames=num_frames, frame_stride=augmentation.frame_stride, num_clips=clips,
            short_side=short_side, crop_size=crop_size,
        )  # fmt: skip

    return Protocol(
        input=Input(recipe.input.mean, recipe.input.std),
        full=changed(protocol.full, num_frames=augmentation.num_frames if same_clip else protocol.full.num_frames),
        center=changed(center, num_frames=augmentation.num_frames),
    )
