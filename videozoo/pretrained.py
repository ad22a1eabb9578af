"""Where the stages meet: an architecture and a name of weights, or a file, to a loaded network.

The network is built on the meta device, so no random number is drawn that weights would overwrite, and takes the
tensors of the (memory-mapped) file as they are.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from videozoo import cache, manifest, registry
from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.keymap import Inventory, Place
from videozoo.checkpoints.tensors import as_tensor, dtype_name
from videozoo.conversion import WeightFile, convert, fit, open_weights, write_checked
from videozoo.errors import CheckpointMismatch, InvalidArgument, OutputError, UnknownWeights
from videozoo.inventory import inventory
from videozoo.layers.blank import blank_networks, fill
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Architecture, Entry

StrPath = str | PathLike[str]
Net = TypeVar("Net", bound=VideoModel, covariant=True)

_log = logging.getLogger(__name__)


class MakeNet(Protocol[Net]):
    """Builds a network with random weights."""

    def __call__(self, *, num_classes: int, in_chans: int) -> Net:
        """``num_classes`` 0 means no classifier."""


def pretrained_model(
    architecture: str,
    make: MakeNet[Net],
    pretrained: bool | str,
    checkpoint_path: StrPath | None,
    num_classes: int | None,
    in_chans: int,
) -> Net:
    """Build a network and, if asked, load weights into it.

    Args:
        architecture: the registered name.
        make: builds the network.
        pretrained: False for random weights; True for the default row; a tag, a pretraining or a row's full name.
        checkpoint_path: a file of the user's own, converted or not, which is loaded instead of the row's.
        num_classes: None for the weights' own; any other number replaces the classifier by a new one.
        in_chans: input channels; weights for 3 are summed or repeated as timm does it.

    Raises:
        UnknownWeights: no such row.
        FetchError: the row's file cannot be had.
        CheckpointError: the file cannot be used for this architecture.
    """
    if in_chans < 1:
        raise InvalidArgument(f"in_chans={in_chans}: need at least 1")
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 0):
        raise InvalidArgument(f"num_classes={num_classes!r}: give a number of 0 or more, or None")
    if not isinstance(pretrained, bool | str):
        raise InvalidArgument(f"pretrained={pretrained!r}: give True, False, a tag or a pretraining")
    spec = registry.architecture(architecture)
    entry = registry.resolve_weights(architecture, pretrained) if _asks_for_row(pretrained, checkpoint_path) else None
    if checkpoint_path is not None:
        source = _copied(open_weights(Path(checkpoint_path)))
    elif entry is not None:
        source = _published_file(entry)
    else:
        network = make(num_classes=_classes(spec, None) if num_classes is None else num_classes, in_chans=in_chans)
        network.pretrained_cfg = _pretrained_cfg(spec, None, network)
        return network
    network = _load(source, spec, make, in_chans)
    found, expected = network.num_classes, _classes(spec, entry)
    if num_classes is None and found != expected:
        raise CheckpointMismatch(f"{source.path} {_about_choice(spec.name, found, expected)}")
    if num_classes not in (None, found):
        _log.warning("%s: %s", source.path.name, _about_classifier(found, num_classes))
        network.reset_classifier(num_classes)
    own = row_of(source, architecture)
    if entry is not None and own is not None and own != entry:
        _log.warning(
            "%s is %s, but is used as %s: frames are prepared for the latter", source.path, own.name, entry.name
        )
    network.pretrained_cfg = _pretrained_cfg(spec, entry or own, network)
    network.row_is_claimed = entry is None and own is not None and source.architecture is not None
    return network


def _about_choice(architecture: str, found: int, expected: int) -> str:
    if not found:
        return (
            f"has no classifier for {architecture}: pass num_classes={expected}, or another number, for a new, "
            "untrained one, or 0 for none"
        )
    return (
        f"has {found} classes, {architecture} has {expected}: pass num_classes={found} (--num-classes) to take the "
        "file's classifier, or another number for a new one"
    )


def _about_classifier(found: int, wanted: int) -> str:
    if not found:
        return f"it has no classifier; a new, untrained one for {wanted} classes was put in place"
    news = f"replaced by a new, untrained one for {wanted}" if wanted else "taken away"
    return f"its classifier for {found} classes was {news}"


def row_of(source: WeightFile, architecture: str) -> Entry | None:
    """The manifest row of a file: the one that a converted file claims to be of, or whose digest an original has."""
    if source.architecture is None:
        entry = registry.find_by_digest(source.file.sha256())
    else:
        try:
            entry = registry.get_weights(source.metadata.get("videozoo.weights", ""))
        except UnknownWeights:
            entry = None
    return entry if entry is not None and entry.architecture == architecture else None


def _copied(source: WeightFile) -> WeightFile:
    """The same with tensors of their own: whoever saves over a file that he loaded would cut off a window on it."""
    copies = {name: Array(array.dtype, array.bits.copy()) for name, array in source.tensors.items()}
    return replace(source, tensors=copies)


def _asks_for_row(pretrained: bool | str, checkpoint_path: StrPath | None) -> bool:
    """Whether a row is meant: with a file of the user's own, only a row that was named."""
    return isinstance(pretrained, str) or (pretrained and checkpoint_path is None)


def _classes(spec: Architecture, entry: Entry | None) -> int:
    return manifest.load().datasets[spec.dataset].num_classes if entry is None else entry.num_classes


def inventory_of(network: VideoModel) -> Inventory:
    """What a network needs; it may lie on the meta device."""
    sides = (network.state_dict(), network.tensors_on_request())
    return Inventory(
        *({name: Place(dtype_name(tensor), tuple(tensor.shape)) for name, tensor in side.items()} for side in sides)
    )


def _published_file(entry: Entry) -> WeightFile:
    """The row's converted file from the cache; fetched and converted first if need be."""
    found = cache.obtain(entry)
    if found.kind == "converted":
        return open_weights(found.path)
    original = open_weights(found.path)
    needed = inventory(entry.architecture, entry.num_classes)
    # The row is named here: of one without a published digest, the digest does not tell it.
    conversion = replace(convert(original, needed, entry.architecture, entry.num_classes), entry=entry)
    try:
        return open_weights(cache.store_converted(entry, lambda path: write_checked(conversion, path)))
    except OutputError as error:
        _log.warning("%s: %s; the conversion is not kept", entry.name, error)
        return original


def _load(source: WeightFile, spec: Architecture, make: MakeNet[Net], in_chans: int) -> Net:
    """The network with the file's tensors, and with as many classes as the file has."""
    classes = _classes(spec, None) if source.num_classes is None else source.num_classes
    with blank_networks():
        network = make(num_classes=classes, in_chans=in_chans)
        first = f"{network.first_conv}.weight"
        stored_chans = source.in_chans or in_chans
        original = network if in_chans == stored_chans else make(num_classes=classes, in_chans=stored_chans)
    arrays = fit(source, inventory_of(original), spec.name).tensors
    tensors = {name: as_tensor(array) for name, array in arrays.items()}
    if original is not network:
        tensors[first] = adapt_input_channels(tensors[first], in_chans)
    fill(network, tensors)
    return network


def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A first convolution for ``in_chans`` input channels from one for 3, as timm does it.

    Args:
        weight: (out, 3, ...).
        in_chans: how many channels the input has.

    Returns:
        (out, in_chans, ...): for one channel the sum over the three; else the three repeated, scaled by 3 / in_chans,
        so that a grey input keeps its activations.

    Raises:
        CheckpointMismatch: ``weight`` is for another number of channels than 3.
    """
    if weight.shape[1] != 3:
        raise CheckpointMismatch(
            f"the weights are for {weight.shape[1]} input channels: pass in_chans={weight.shape[1]}"
        )
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = [1, -(-in_chans // 3)] + [1] * (weight.ndim - 2)
    return weight.repeat(repeats)[:, :in_chans] * (3 / in_chans)


def _pretrained_cfg(spec: Architecture, entry: Entry | None, network: VideoModel) -> dict[str, Any]:
    """Timm's description of a network and its weights; mean and std are for pixel values in 0..1."""
    protocol = spec.protocol if entry is None else entry.protocol
    view = protocol.center
    file = None if entry is None else entry.file
    return {
        "architecture": spec.name,
        "tag": None if entry is None else entry.tag,
        "url": None if file is None or not file.urls else file.urls[0],
        "num_classes": network.num_classes,
        "input_size": (network.in_chans, view.num_frames, view.crop_size, view.crop_size),
        "frame_stride": view.frame_stride,
        "mean": tuple(value / 255 for value in protocol.input.mean),
        "std": tuple(value / 255 for value in protocol.input.std),
        "first_conv": network.first_conv,
        "classifier": "fc",
        "dataset": spec.dataset if entry is None else entry.dataset,
        "license": None if entry is None else entry.license.weights,
    }
