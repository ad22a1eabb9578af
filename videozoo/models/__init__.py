"""The networks, one family a module, and the door to all of them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, cast

from videozoo import lockfile, registry
from videozoo.errors import CheckpointMismatch, InvalidArgument
from videozoo.layers.video_model import VideoModel
from videozoo.model_config import is_folder_name
from videozoo.model_folder import describe, open_folder
from videozoo.pretrained import StrPath


def create_model(
    name: str,
    pretrained: bool | str = False,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_rate: float | None = None,
    bn_frozen: bool = False,
    aux_head: bool | None = None,
    num_segments: int | None = None,
    backbone: str | None = None,
    pool1: bool | None = None,
    checkpoint_path: StrPath | None = None,
    lock: StrPath | None = None,
) -> VideoModel:
    """Build a network by name.

    Args:
        name: an architecture (`list_models`), or ``architecture.tag`` together with ``pretrained=True``; or
            ``hf-hub:org/name@revision``, a repository of the Hugging Face Hub, or ``local-dir:PATH``, a folder of the
            same layout, which are always loaded with their weights, classes, preprocessing and labels.
        pretrained: False for random weights; True for the architecture's default weights; a tag (``"k400"``); a
            pretraining (``"ig65m"``), which means the first row with it.
        num_classes: None for the weights' own classes; another number puts a new classifier in place, 0 none.
        in_chans: input channels; None for 3, or for what the repository says.
        drop_rate: dropout before the classifier; None for the architecture's own.
        bn_frozen: in training, batch norms keep their statistics and are not learned.
        aux_head: TPN: also build the auxiliary classifier.
        num_segments: TSM: frames that are shifted among each other.
        backbone: TSN and TSM: another timm network as the trunk.
        pool1: R(2+1)D and R3D: also build the max pool after the stem that VMZ's PyTorch code has.
        checkpoint_path: load this file, converted or as its framework wrote it, instead of published weights.
        lock: the lock file that published weights have to meet, and that keeps the digests of those which it lacks;
            None for the one that ``VIDEOZOO_LOCK`` names, else the cache's own.

    Returns:
        A module from clips (N, C, T, H, W) to logits (N, num_classes).

    Raises:
        UnknownModel, UnknownWeights: no such name; the message has the nearest ones.
        InvalidArgument: an argument that this architecture does not have.
        FetchError: the weights cannot be had.
        CheckpointError: the file cannot be used for this architecture.

    >>> create_model("test_ircsn", num_classes=5).num_classes
    5
    """
    options = {
        "in_chans": in_chans,
        "drop_rate": drop_rate,
        "aux_head": aux_head,
        "num_segments": num_segments,
        "backbone": backbone,
        "pool1": pool1,
    }
    chosen = {option: value for option, value in options.items() if value is not None}
    if is_folder_name(name):
        if checkpoint_path is not None or isinstance(pretrained, str):
            raise InvalidArgument(f"{name} has its own weights: leave out checkpoint_path and the tag")
        if lock is not None:
            raise InvalidArgument(f"{name} is in no lock file: leave out lock, and pin a repository by @revision")
        return _from_folder(name, num_classes, bn_frozen, chosen)
    architecture, _, tag = name.partition(".")
    if tag:
        pretrained = _one_tag(name, tag, pretrained)
    foreign = _foreign(architecture, chosen)
    if foreign:
        raise InvalidArgument(f"{architecture} has no argument {foreign}")
    with lockfile.used(lock):
        network = factory(architecture)(
            pretrained, num_classes=num_classes, bn_frozen=bn_frozen, checkpoint_path=checkpoint_path, **chosen
        )
    return cast(VideoModel, network)


def _from_folder(name: str, num_classes: int | None, bn_frozen: bool, chosen: Mapping[str, Any]) -> VideoModel:
    """The network of a model folder; ``chosen`` arguments stand above the folder's own."""
    folder = open_folder(name)
    config = folder.config
    for arguments, says in ((config.model_args, f"{folder.origin}: "), (chosen, "")):
        foreign = _foreign(config.architecture, arguments)
        if foreign:
            error = CheckpointMismatch if says else InvalidArgument
            raise error(f"{says}{config.architecture} has no argument {foreign}")
    try:
        network = factory(config.architecture)(
            num_classes=config.num_classes if num_classes is None else num_classes,
            bn_frozen=bn_frozen,
            checkpoint_path=folder.weights,
            **{**config.model_args, **chosen},
        )
    except InvalidArgument as error:
        raise InvalidArgument(f"{folder.origin}: {error}") from None
    describe(network, folder)
    return cast(VideoModel, network)


def factory(architecture: str) -> Any:
    """The function that builds an architecture.

    Raises:
        UnknownModel: there is none of this name.
    """
    return getattr(importlib.import_module(f"{__name__}.{registry.architecture(architecture).family}"), architecture)


def _foreign(architecture: str, arguments: Mapping[str, Any]) -> str:
    """Names of the arguments that the architecture does not have."""
    return ", ".join(sorted(arguments.keys() - inspect.signature(factory(architecture)).parameters.keys()))


def _one_tag(name: str, tag: str, pretrained: bool | str) -> str:
    if pretrained is False:
        raise InvalidArgument(f"{name} names weights, but pretrained is False: pass pretrained=True to load them")
    if pretrained is not True and pretrained != tag:
        raise InvalidArgument(f"{name} and pretrained={pretrained!r} name different weights: give one of them")
    return tag
