"""``videozoo convert`` and ``videozoo-convert``."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.errors import InvalidArgument, OutputError, VideoZooError
from videozoo.files import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from videozoo.convert import ConversionReport, TensorReport

NAME = "convert"
HELP = "Convert checkpoints of MMAction2, VMZ and PaddleVideo to safetensors; nothing in a file is run."
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "source", type=Path, metavar="SRC", help="the checkpoint, of any extension; with --recursive, a folder"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: SRC with the extension .safetensors")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--arch", metavar="NAME", help="the architecture; default: found from the tensors")
    what.add_argument(
        "--tensors-only", action="store_true", help="write the tensors under their own names, of whatever network"
    )
    parser.add_argument("--recursive", action="store_true", help="try every file below SRC; OUT is then a folder")
    parser.add_argument("--ema", action="store_true", help="take the second set of weights that EMA hooks store")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "uint16"),
        help="what 16-bit integers of a Paddle file are; default: bfloat16 where Paddle's own table lists them",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON; a mismatch is then listed whole")


def run(options: argparse.Namespace) -> int:
    """Convert one file, or all files of a folder, and print what was found."""
    if options.recursive:
        return _run_folder(options)
    report = _convert(options, options.source, options.output)
    if options.json:
        print(json.dumps(asdict(report), indent=2, default=str))
    else:
        _print(report)
    return 0


def _convert(options: argparse.Namespace, source: Path, output: Path | None) -> ConversionReport | TensorReport:
    from videozoo.convert import convert_checkpoint, convert_tensors

    if options.tensors_only:
        return convert_tensors(
            source, output, ema=options.ema, sixteen_bit=options.dtype, overwrite=options.force, isolated=True
        )
    return convert_checkpoint(
        source, output, architecture=options.arch, ema=options.ema, sixteen_bit=options.dtype,
        overwrite=options.force, isolated=True,
    )  # fmt: skip


def _print(report: ConversionReport | TensorReport) -> None:
    layout = getattr(report, "source_layout", "not looked at")
    print(f"source        {report.source} ({report.source_format}, layout {layout})")
    print(f"sha256        {report.source_sha256}")
    if (conversion := _whole(report)) is not None:
        digest = "8-digit prefix of its sha256" if conversion.digest_is_prefix else "sha256"
        published = f"{conversion.weights}, by the {digest}" if conversion.weights else "no row of the manifest"
        if conversion.recorded_as:
            published = f"{conversion.recorded_as}, by name and structure; no digest was published, the lock has it now"
        print(f"architecture  {conversion.architecture}, {conversion.num_classes} classes")
        print(f"published as  {published}")
        for names, what in ((conversion.ignored, "left out"), (conversion.filled, "filled with 0")):
            for reason in sorted(set(names.values())):
                count = sum(given == reason for given in names.values())
                print(f"{what:13} {count} tensors: {reason}")
    print(f"output        {report.output}: {report.num_tensors} tensors, read back and compared")


def _whole(report: ConversionReport | TensorReport) -> ConversionReport | None:
    from videozoo.convert import ConversionReport

    return report if isinstance(report, ConversionReport) else None


@dataclass(frozen=True)
class _Row:
    """One line of the summary."""

    file: str
    format: str
    architecture: str
    weights: str
    outcome: str
    exit_status: int


def _run_folder(options: argparse.Namespace) -> int:
    """Every file by itself: one that cannot be converted does not keep the others from it."""
    if not options.source.is_dir():
        raise InvalidArgument(
            f"--recursive {options.source}: there is no such folder; leave --recursive out for a file"
        )
    rows = [
        _attempt(options, options.source / name, output)
        for name, output in _outputs(options.source, options.output).items()
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    return max((row.exit_status for row in rows), default=0)


def _outputs(folder: Path, into: Path | None) -> dict[str, Path]:
    """Name of every file below ``folder`` -> where its conversion goes, in an order that does not change.

    Files that differ in nothing but their extension keep it, so that no two have the same output.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        if into is not None:
            folders[:] = [name for name in folders if (Path(parent) / name).absolute() != into.absolute()]
        names += [(Path(parent) / name).relative_to(folder) for name in files if not name.startswith(TEMPORARY_PREFIX)]
    names.sort(key=lambda name: name.as_posix())
    base = folder if into is None else into
    shared = Counter(name.with_suffix("") for name in names if into is not None or name.suffix != _SUFFIX)
    return {
        str(name): base / (name.with_suffix(_SUFFIX) if shared[name.with_suffix("")] < 2 else f"{name}{_SUFFIX}")
        for name in names
    }


def _attempt(options: argparse.Namespace, source: Path, output: Path) -> _Row:
    name = str(source.relative_to(options.source))
    if output == source or (os.path.lexists(output) and not options.force):
        why = "it is safetensors already" if output == source else f"{output} exists"
        return _Row(name, "-", "-", "-", f"skipped: {why}", 0)
    try:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {output}: {error.strerror}") from None
        report = _convert(options, source, output)
    except VideoZooError as error:
        return _Row(name, "-", "-", "-", f"{type(error).__name__}: {str(error).splitlines()[0]}", error.exit_status)
    whole = _whole(report)
    architecture = "-" if whole is None else whole.architecture
    weights = None if whole is None else whole.weights
    return _Row(name, report.source_format, architecture, weights or "-", f"written: {output}", 0)


def _print_table(rows: Sequence[_Row]) -> None:
    header = ("file", "format", "architecture", "weights", "outcome")
    lines = [header, *((row.file, row.format, row.architecture, row.weights, row.outcome) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    kinds = Counter(row.outcome.split(":")[0] for row in rows)
    print(f"{len(rows)} files: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())) or 'nothing'}")
