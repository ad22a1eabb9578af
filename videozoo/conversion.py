"""A foreign weight file -> our tensors with their provenance -> a safetensors file that was read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videozoo import lockfile, registry
from videozoo.checkpoints import readers, safetensors_file
from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.keymap import TRUNK_PREFIXES, Inventory, Layout, Renaming, Table, rename
from videozoo.checkpoints.mmaction2 import MMACTION2, MMACTION2_TRUNK
from videozoo.checkpoints.paddle import SixteenBit
from videozoo.checkpoints.paddlevideo import PADDLE_IMAGENET, PADDLEVIDEO
from videozoo.checkpoints.vmz import VMZ_CAFFE2, VMZ_TORCH
from videozoo.errors import CheckpointMismatch, OutputError, UnknownLayout, printable
from videozoo.manifest import Entry

CONVERTER = lockfile.CONVERTER
"""Written into converted files."""

NATIVE = Layout(
    name="videozoo",
    first_convs=["conv1.spatial.weight", *(f"{prefix}conv1.weight" for prefix in TRUNK_PREFIXES)],
    classifier="fc.weight",
    tables={},
)
"""Files that were converted before, or saved from our networks: the names are ours."""
LAYOUTS: Sequence[Layout] = (
    MMACTION2,
    MMACTION2_TRUNK,
    VMZ_CAFFE2,
    VMZ_TORCH,
    PADDLEVIDEO,
    PADDLE_IMAGENET,
    NATIVE,
)


@dataclass(frozen=True)
class WeightFile:
    """An opened file: its tensors under the names that it uses, without scopes, and what is known about it."""

    path: Path
    file: FileMap
    format: str
    layout: Layout
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]

    @property
    def num_classes(self) -> int | None:
        """Classes of the last layer, 0 for a file that is a trunk alone; None where the last layer is no matrix."""
        return self.layout.num_classes(self.tensors)

    @property
    def in_chans(self) -> int | None:
        """Input channels of the first convolution; None where it has none."""
        weights = [self.tensors[name] for name in self.layout.first_convs if name in self.tensors]
        return weights[0].shape[1] if len(weights[0].shape) > 1 else None

    @property
    def architecture(self) -> str | None:
        """The architecture that a converted file says it holds."""
        return self.metadata.get("videozoo.architecture")

    def may_hold(self, architecture: str) -> bool:
        """Whether the layout has names for such a network."""
        return self.layout is NATIVE or registry.architecture(architecture).family in self.layout.tables


@dataclass(frozen=True)
class Conversion:
    """A file's tensors under our names, proven complete, and where they come from."""

    source: WeightFile
    sha256: str
    """Of the original file."""
    architecture: str
    num_classes: int
    entry: Entry | None
    """The manifest's row, if the digest is one that it knows."""
    renaming: Renaming

    @property
    def metadata(self) -> dict[str, str]:
        """What the converted file says about itself. Of a row's file, that does not depend on where the source lay."""
        return {
            "videozoo.architecture": self.architecture,
            "videozoo.num_classes": str(self.num_classes),
            "videozoo.source": shown_name(self.source.path),
            "videozoo.source_sha256": self.sha256,
            "videozoo.source_layout": self.source.layout.name,
            "videozoo.converter": CONVERTER,
        } | ({} if self.entry is None else row_metadata(self.entry))


def shown_name(path: Path) -> str:
    """The file's name as text that can be stored, whatever bytes it has."""
    return path.name.encode("utf-8", "replace").decode()


def row_metadata(entry: Entry) -> dict[str, str]:
    """What a converted file says about itself because it is a row's: the same wherever, and as whatever, it lay."""
    source = {} if entry.file is None else {"videozoo.source": entry.file.name}
    return {"videozoo.weights": entry.name} | source


def open_weights(path: Path, *, ema: bool = False, sixteen_bit: SixteenBit | None = None) -> WeightFile:
    """Read a weight file of any known format and tell its layout from its names. Nothing in the file is run.

    Args:
        path: the file; its extension does not matter.
        ema: take the averaged copy of the weights that a training checkpoint may hold.
        sixteen_bit: what unsigned 16-bit integers of a Paddle file are; None tells from its name table.

    Raises:
        UnreadableCheckpoint: not a checkpoint, damaged, or unsafe.
        UnknownLayout: no known layout names its tensors so.
        CheckpointMismatch: it holds the tensors of several devices.
    """
    checkpoint = readers.read(path)
    tensors = readers.state_dict(checkpoint, ema=ema, sixteen_bit=sixteen_bit)
    for layout in LAYOUTS:
        try:
            bare = layout.bare(tensors)
        except CheckpointMismatch as error:
            raise CheckpointMismatch(f"{path}: {error}") from None
        if bare is not None:
            return WeightFile(path, checkpoint.file, checkpoint.format, layout, bare, checkpoint.metadata)
    first = ", ".join(printable(name) for name in list(tensors)[:3])
    known = " or ".join(layout.name for layout in LAYOUTS)
    raise UnknownLayout(
        f"{path}: {len(tensors)} tensors, {first} ..., are not named as in {known}; for the tensors of another network "
        "under the names that they have, add --tensors-only (convert_tensors in Python)"
    )


def fit(source: WeightFile, needed: Inventory, architecture: str) -> Renaming:
    """The file's tensors under the names that a network of this architecture needs.

    Raises:
        CheckpointMismatch: the file holds another architecture; every tensor in question is listed.
    """
    if source.architecture not in (None, architecture):
        raise CheckpointMismatch(f"{source.path} holds {source.architecture}, not {architecture}")
    family = registry.architecture(architecture).family
    if not source.may_hold(architecture):
        raise CheckpointMismatch(
            f"{source.path}: {source.layout.name} has no {family} networks, such as {architecture}"
        )
    table = Table(renames=()) if source.layout is NATIVE else source.layout.tables[family]
    try:
        return rename(table, source.tensors, needed)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"{source.path} does not fit {architecture}: {error}") from None


def convert(source: WeightFile, needed: Inventory, architecture: str, num_classes: int) -> Conversion:
    """Prove that the file has what a network needs and find its manifest row by its digest.

    Raises:
        CheckpointMismatch: see `fit`.
    """
    renaming = fit(source, needed, architecture)
    digest = source.file.sha256()
    entry = registry.find_by_digest(digest)
    if entry is not None and entry.architecture != architecture:
        entry = None
    return Conversion(source, digest, architecture, num_classes, entry, renaming)


def write_checked(conversion: Conversion, path: Path) -> None:
    """Write the converted tensors as safetensors, read them back and compare.

    The same source gives the same bytes on every run.

    Raises:
        OutputError: the file read back differently.
    """
    different = safetensors_file.write_verified(path, conversion.renaming.tensors, conversion.metadata)
    if different is not None:
        raise OutputError(f"{path} read back differently from what was written: check the disk")
