"""``videozoo-convert`` as a library call: a file of unknown make to safetensors under our names.

What reads is imported by the functions that do, so that a process which leaves it to a child starts at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING

from videozoo import cache, isolation, manifest, registry
from videozoo.errors import (
    CheckpointMismatch,
    InvalidArgument,
    OutputError,
    UnknownLayout,
    UnreadableCheckpoint,
    VideoZooError,
    first_line,
)
from videozoo.files import place, refuse_unfit, sha256_file
from videozoo.manifest import Entry

if TYPE_CHECKING:
    from videozoo.checkpoints.keymap import Inventory
    from videozoo.checkpoints.paddle import SixteenBit
    from videozoo.conversion import Conversion, WeightFile

StrPath = str | PathLike[str]
_log = logging.getLogger(__name__)
_TENSORS_FOUND: Mapping[str, type | UnionType] = {"source_sha256": str, "source_format": str, "num_tensors": int}
_CHECKPOINT_FOUND: dict[str, type | UnionType] = {
    **_TENSORS_FOUND,
    "source_layout": str,
    "architecture": str,
    "num_classes": int,
    "weights": str | None,
    "digest_is_prefix": bool,
    "ignored": dict,
    "filled": dict,
}
"""What the two ways to convert find, and of which type: a child that was taken over could answer anything."""


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
    recorded_as: str | None
    """The row without a published digest whose file this is by its name, layout, architecture and number of classes:
    the lock has its digest from now on. None for any other file."""
    digest_is_prefix: bool
    """Whether only the published 8-digit prefix of the row's digest could be compared."""
    output: Path
    output_sha256: str
    num_tensors: int
    ignored: dict[str, str]
    """Tensors of the source that were left out, and why."""
    filled: dict[str, str]
    """Tensors of ours that the source lacks and that were filled with zeros, and why."""


@dataclass(frozen=True)
class TensorReport:
    """What `convert_tensors` found and did."""

    source: Path
    source_sha256: str
    source_format: str
    output: Path
    output_sha256: str
    num_tensors: int


def convert_checkpoint(
    source: StrPath,
    output: StrPath | None = None,
    *,
    architecture: str | None = None,
    ema: bool = False,
    sixteen_bit: SixteenBit | None = None,
    overwrite: bool = False,
    isolated: bool = False,
) -> ConversionReport:
    """Convert a checkpoint to safetensors under our names; nothing in the file is run.

    Args:
        source: the file, of any extension.
        output: the new file; None puts it beside the source with the extension ``.safetensors``.
        architecture: None finds it from the tensors.
        ema: take the second set of weights that a training checkpoint may hold.
        sixteen_bit: what unsigned 16-bit integers of a Paddle file are, ``bfloat16`` or ``uint16``; None tells from its
            name table.
        overwrite: replace ``output`` if it exists.
        isolated: read the file in a child process with limits, as the command line does; else in this process.

    Returns:
        What was found and written. The file was read back and compared before it got its name. If the source is
        by name and structure the file of a row without a published digest, ``videozoo.lock`` has recorded its digest.

    Raises:
        InvalidArgument: ``sixteen_bit`` is something else.
        UnknownModel: ``architecture`` is no architecture.
        CheckpointError: the file is unreadable, of no known layout, or does not fit; or went over a limit.
        OutputError: ``output`` exists or cannot be written.
    """
    if architecture is not None:
        registry.architecture(architecture)  # an unknown one is refused before a process is started for it
    arguments = {"architecture": architecture, "ema": ema, "sixteen_bit": _checked(sixteen_bit)}
    target, found = _converted(_checkpoint, source, output, arguments, overwrite=overwrite, isolated=isolated)
    report = ConversionReport(Path(source), output=target, output_sha256=sha256_file(target), recorded_as=None, **found)  # type: ignore[arg-type]
    return replace(report, recorded_as=_record(report))


def _record(report: ConversionReport) -> str | None:
    """Lock a file of which no digest was published, at its first use; return its row's name if that was done."""
    row = registry.find_by_file_name(report.source.name)
    found = (report.architecture, report.num_classes)
    if row is None or found != (row.architecture, row.num_classes) or not has_layout(report, row):
        return None
    try:
        if sha256_file(report.source) != report.source_sha256:
            raise UnreadableCheckpoint("the file changed while it was read")
        cache.record_first_use(row, report.source, report.source_sha256)
    except VideoZooError as error:
        _log.warning("%s, converted as a file of no row: %s", report.source.name, error)
        return None
    return row.name


def has_layout(report: ConversionReport, row: Entry) -> bool:
    """Whether a file names its tensors as the row's file does."""
    layout = "" if row.file is None else row.file.layout
    return report.source_layout.startswith(layout.removesuffix("video"))  # paddle_imagenet is one of PaddleVideo's


def convert_tensors(
    source: StrPath,
    output: StrPath | None = None,
    *,
    ema: bool = False,
    sixteen_bit: SixteenBit | None = None,
    overwrite: bool = False,
    isolated: bool = False,
) -> TensorReport:
    """Write the tensors of a file as safetensors under the names that they have there, whatever network they are of.

    Of a training checkpoint, these are the model's. A ``module.`` that all names begin with is left out.

    Args:
        source: see `convert_checkpoint`, as for all others.
        output: see there.
        ema: see there.
        sixteen_bit: see there.
        overwrite: see there.
        isolated: see there.

    Raises:
        InvalidArgument: ``sixteen_bit`` is something else.
        CheckpointError: the file is unreadable, holds no tensors, or such as safetensors lacks; or went over a limit.
        OutputError: ``output`` exists or cannot be written.
    """
    arguments = {"ema": ema, "sixteen_bit": _checked(sixteen_bit)}
    target, found = _converted(_tensors, source, output, arguments, overwrite=overwrite, isolated=isolated)
    return TensorReport(source=Path(source), output=target, output_sha256=sha256_file(target), **found)  # type: ignore[arg-type]


def _checked(sixteen_bit: SixteenBit | None) -> SixteenBit | None:
    if sixteen_bit not in (None, "bfloat16", "uint16"):
        raise InvalidArgument(f"sixteen_bit={sixteen_bit!r}: bfloat16, uint16 or None")
    return sixteen_bit


def _converted(
    work: Callable[..., dict[str, object]],
    source: StrPath,
    output: StrPath | None,
    arguments: Mapping[str, object],
    *,
    overwrite: bool,
    isolated: bool,
) -> tuple[Path, dict[str, object]]:
    """Let ``work`` fill the output; return its path and what was found."""
    path = Path(source)
    if path.is_dir():
        raise UnreadableCheckpoint(f"{path}: not a checkpoint: a folder; add --recursive to convert what is in it")
    target = path.with_suffix(".safetensors") if output is None else Path(output)
    if not path.exists():
        raise UnreadableCheckpoint(f"{path}: cannot be read: there is no such file")
    refuse_unfit(target, overwrite=overwrite)  # before the work, not after it
    found: dict[str, object] = {}

    def write(temporary: Path) -> None:
        every = {"source": str(path), "temporary": str(temporary), **arguments}
        if isolated:
            result = isolation.call(work, path, every, imports=["videozoo.conversion"])
            found.update(
                _from_child(result, _CHECKPOINT_FOUND if work is _checkpoint else _TENSORS_FOUND, temporary, path)
            )
        else:
            found.update(work(**every))

    place(target, write, overwrite=overwrite)
    return target, found


def _from_child(
    result: object, expected: Mapping[str, type | UnionType], temporary: Path, source: Path
) -> dict[str, object]:
    """What the child says that it found, if the file that it wrote is one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(temporary, framework="np") as file:
            names = list(file.keys())
    except SafetensorError:
        names = []
    if (
        not isinstance(result, dict)
        or result.keys() != expected.keys()
        or not all(isinstance(result[name], kind) for name, kind in expected.items())
        or not names
        or len(names) != result["num_tensors"]
    ):
        raise UnreadableCheckpoint(f"{source}: the process that read it wrote something else than its tensors")
    return result


def _checkpoint(
    source: str, temporary: str, architecture: str | None, ema: bool, sixteen_bit: SixteenBit | None
) -> dict[str, object]:
    """`convert_checkpoint` without the care for the output's name; in JSON values, as it may run in a child."""
    from videozoo.conversion import convert, open_weights, write_checked

    opened = open_weights(Path(source), ema=ema, sixteen_bit=sixteen_bit)
    if architecture is None:
        architecture = identify(opened)
    conversion = convert(opened, *_needed(architecture, opened))
    write_checked(conversion, Path(temporary))
    return _found(conversion)


def _tensors(source: str, temporary: str, ema: bool, sixteen_bit: SixteenBit | None) -> dict[str, object]:
    """`convert_tensors` likewise."""
    from videozoo.checkpoints import readers, safetensors_file
    from videozoo.conversion import CONVERTER, shown_name

    path = Path(source)
    checkpoint = readers.read(path)
    tensors = readers.state_dict(checkpoint, ema=ema, sixteen_bit=sixteen_bit)
    digest = checkpoint.file.sha256()
    metadata = {"videozoo.source": shown_name(path), "videozoo.source_sha256": digest, "videozoo.converter": CONVERTER}
    try:
        different = safetensors_file.write_verified(temporary, tensors, metadata)
    except InvalidArgument as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from None
    if different is not None:
        raise OutputError(f"{temporary} read back differently from what was written: check the disk")
    return {"source_sha256": digest, "source_format": checkpoint.format, "num_tensors": len(tensors)}


def identify(source: WeightFile) -> str:
    """The one architecture whose tensors are those of the file.

    Raises:
        UnknownLayout: none fits, with the nearest candidates and what keeps them from fitting; or several do.
    """
    from videozoo.conversion import fit

    if source.architecture is not None:
        return source.architecture
    fitting: list[str] = []
    reasons: dict[str, str] = {}
    for name in filter(source.may_hold, [*registry.list_models(), *registry.list_models("test_*")]):
        try:
            fit(source, _needed(name, source)[0], name)
        except CheckpointMismatch as error:
            reasons[name] = first_line(
                CheckpointMismatch(str(error).removeprefix(f"{source.path} does not fit {name}: "))
            )
        else:
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownLayout(f"{source.path} fits {' and '.join(fitting)}: say which one it is (--arch, architecture=)")
    nearest = sorted(reasons, key=lambda name: _misfits(reasons[name]))[:3]
    best, *others = [f"{name} ({reasons[name]})" for name in nearest]
    raise UnknownLayout(
        f"{source.path} fits no architecture; the nearest is {best}; for another network's tensors under their own "
        "names add --tensors-only (convert_tensors in Python)" + "".join(f"\n  next: {other}" for other in others)
    )


def _misfits(reason: str) -> int:
    """How many tensors the first line of a mismatch counts."""
    return sum(int(part.split()[0]) for part in reason.split("; ") if part.split()[0].isdigit())


def _needed(architecture: str, source: WeightFile) -> tuple[Inventory, str, int]:
    """What a network with the file's classes needs; the arguments of `conversion.convert`."""
    from videozoo.inventory import inventory

    spec = registry.architecture(architecture)
    classes = manifest.load().datasets[spec.dataset].num_classes if source.num_classes is None else source.num_classes
    return inventory(architecture, classes), architecture, classes


def _found(conversion: Conversion) -> dict[str, object]:
    """The report but for the paths, in JSON values."""
    source, entry = conversion.source, conversion.entry
    file = None if entry is None else entry.file
    return {
        "source_sha256": conversion.sha256,
        "source_format": source.format,
        "source_layout": source.layout.name,
        "architecture": conversion.architecture,
        "num_classes": conversion.num_classes,
        "weights": None if entry is None else entry.name,
        "digest_is_prefix": file is not None and file.sha256 is None,
        "num_tensors": len(conversion.renaming.tensors),
        "ignored": conversion.renaming.ignored,
        "filled": conversion.renaming.filled,
    }
