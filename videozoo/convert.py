"""``videozoo-convert`` as a library call: a file of unknown make to safetensors under our names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from videozoo import manifest, registry
from videozoo.conversion import Conversion, WeightFile, convert, fit, open_weights, write
from videozoo.errors import CheckpointMismatch, UnknownLayout
from videozoo.files import refuse_unfit, sha256_file
from videozoo.layers.video_model import VideoModel
from videozoo.models import create_model
from videozoo.pretrained import StrPath


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion found and did."""

    source: Path
    source_sha256: str
    source_format: str
    source_layout: str
    architecture: str
    num_classes: int
    weights: str | None
    """The manifest row whose digest the source has; None for a file that no row names."""
    digest_is_prefix: bool
    """Whether only the published 8-digit prefix of the row's digest could be compared."""
    output: Path
    output_sha256: str
    num_tensors: int
    ignored: dict[str, str]
    """Tensors of the source that were left out, and why."""
    filled: dict[str, str]
    """Tensors of ours that the source lacks and that were filled with zeros, and why."""


def convert_checkpoint(
    source: StrPath,
    output: StrPath | None = None,
    *,
    architecture: str | None = None,
    ema: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert a checkpoint to safetensors under our names; nothing in the file is run.

    Args:
        source: the file, of any extension.
        output: the new file; None puts it beside the source with the extension ``.safetensors``.
        architecture: None finds it from the tensors.
        ema: take the averaged copy of the weights that a training checkpoint may hold.
        overwrite: replace ``output`` if it exists.

    Returns:
        What was found and written. The file was read back and compared before it got its name.

    Raises:
        UnknownModel: ``architecture`` is no architecture.
        CheckpointError: the file is unreadable, of no known layout, or does not fit.
        OutputError: ``output`` exists or cannot be written.
    """
    path = Path(source)
    opened = open_weights(path, ema=ema)
    target = path.with_suffix(".safetensors") if output is None else Path(output)
    refuse_unfit(target, overwrite=overwrite)  # before the work, not after it
    if architecture is None:
        architecture = identify(opened)
    conversion = convert(opened, _network(architecture, opened), architecture)
    write(conversion, target, overwrite=overwrite)
    return _report(conversion, target)


def identify(source: WeightFile) -> str:
    """The one architecture whose tensors are those of the file.

    Raises:
        UnknownLayout: none fits, with the nearest candidates and what keeps them from fitting; or several do.
    """
    if source.architecture is not None:
        return source.architecture
    fitting: list[str] = []
    reasons: dict[str, str] = {}
    for name in filter(source.may_hold, [*registry.list_models(), *registry.list_models("test_*")]):
        try:
            fit(source, _network(name, source), name)
        except CheckpointMismatch as error:
            reasons[name] = str(error).splitlines()[0].split(": ", 1)[-1]
        else:
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownLayout(f"{source.path} fits {' and '.join(fitting)}: say which one it is (--arch, architecture=)")
    nearest = sorted(reasons, key=lambda name: _misfits(reasons[name]))[:3]
    lines = [f"  {name}: {reasons[name]}" for name in nearest]
    raise UnknownLayout(
        "\n".join([f"{source.path} fits no architecture; the nearest are {', '.join(nearest)}", *lines])
    )


def _misfits(reason: str) -> int:
    """How many tensors the first line of a mismatch counts."""
    return sum(int(part.split()[0]) for part in reason.split("; ") if part.split()[0].isdigit())


def _network(architecture: str, source: WeightFile) -> VideoModel:
    spec = registry.architecture(architecture)
    classes = manifest.load().datasets[spec.dataset].num_classes if source.num_classes is None else source.num_classes
    with torch.device("meta"):
        return create_model(architecture, num_classes=classes)


def _report(conversion: Conversion, output: Path) -> ConversionReport:
    source, entry = conversion.source, conversion.entry
    file = None if entry is None else entry.file
    return ConversionReport(
        source=source.path,
        source_sha256=conversion.sha256,
        source_format=source.format,
        source_layout=source.layout.name,
        architecture=conversion.architecture,
        num_classes=conversion.num_classes,
        weights=None if entry is None else entry.name,
        digest_is_prefix=file is not None and file.sha256 is None,
        output=output,
        output_sha256=sha256_file(output),
        num_tensors=len(conversion.renaming.tensors),
        ignored=conversion.renaming.ignored,
        filled=conversion.renaming.filled,
    )
