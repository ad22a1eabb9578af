"""``videozoo convert`` and ``videozoo-convert``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.errors import InvalidArgument, OutputError, UnreadableCheckpoint, VideoZooError, first_line, printable
from videozoo.files import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from videozoo.convert import ConversionReport, TensorReport

NAME = "convert"
HELP = "Convert checkpoints of MMAction2, VMZ and PaddleVideo to safetensors; nothing in a file is run."
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("source", metavar="SRC", help="the checkpoint, of any extension; with --recursive, a folder")
    parser.add_argument("-o", "--output", metavar="OUT", help="default: SRC with the extension .safetensors")
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
    source = _path(options.source, "SRC")
    output = None if options.output is None else _path(options.output, "-o")
    if options.recursive:
        return _run_folder(options, source, output)
    report = _convert(options, source, output)
    if options.json:
        print(json.dumps(asdict(report), indent=2, default=str))
    else:
        _print(report)
    return 0


def _path(text: str, argument: str) -> Path:
    if text in ("", "-"):
        hint = "is empty" if not text else "is -, and no standard stream is used"
        raise InvalidArgument(f"{argument} {hint}: name a file (./- for one that is called -)")
    return Path(text)


def _convert(options: argparse.Namespace, source: Path, output: Path | None) -> ConversionReport | TensorReport:
    from videozoo.convert import convert_checkpoint, convert_tensors

    _check_source(source)
    if source.is_file() and _is_same(source, source.with_suffix(_SUFFIX) if output is None else output):
        raise InvalidArgument(f"{source}: the output would replace the original; name another one with -o")
    if options.tensors_only:
        return convert_tensors(
            source, output, ema=options.ema, sixteen_bit=options.dtype, overwrite=options.force, isolated=True
        )
    return convert_checkpoint(
        source, output, architecture=options.arch, ema=options.ema, sixteen_bit=options.dtype,
        overwrite=options.force, isolated=True,
    )  # fmt: skip


def _check_source(source: Path) -> None:
    """Raises:
    UnreadableCheckpoint: the system will not even say whether there is such a file.
    """
    try:
        source.stat()
    except FileNotFoundError:
        return  # the conversion says so
    except OSError as error:
        advice = "; give it a shorter name" if error.errno == errno.ENAMETOOLONG else ""
        raise UnreadableCheckpoint(f"{source}: cannot be read: {error.strerror}{advice}") from None


def _is_same(source: Path, output: Path) -> bool:
    try:
        return source.samefile(output)
    except OSError:
        return False


def _print(report: ConversionReport | TensorReport) -> None:
    layout = getattr(report, "source_layout", "not looked at")
    print(f"source        {printable(report.source)} ({report.source_format}, layout {layout})")
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
    print(f"output        {printable(report.output)}: {report.num_tensors} tensors, read back and compared")


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


def _run_folder(options: argparse.Namespace, folder: Path, into: Path | None) -> int:
    """Every file by itself: one that cannot be converted does not keep the others from it."""
    _check_source(folder)
    if not folder.is_dir():
        raise InvalidArgument(f"--recursive {folder}: there is no such folder; leave --recursive out for a file")
    if into is not None:
        _check_folder(into)
        into = None if _is_same(folder, into) else into
    rows = [_attempt(options, folder, name, output) for name, output in _outputs(folder, into).items()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    return max((row.exit_status for row in rows), default=0)


def _check_folder(into: Path) -> None:
    """Raises:
    OutputError: it is a file, or cannot be a folder.
    """
    try:
        fit = stat.S_ISDIR(into.stat().st_mode)
    except FileNotFoundError:
        return  # it will be made
    except OSError as error:
        raise OutputError(f"cannot write into {into}: {error.strerror}; name another folder with -o") from None
    if not fit:
        raise OutputError(f"cannot write into {into}: it is no folder; with --recursive, name one with -o")


def _outputs(folder: Path, into: Path | None) -> dict[str, Path]:
    """Name of every file below ``folder`` -> where its conversion goes, in an order that does not change.

    The extension gives way to ours. Where two files would share an output, they keep theirs before ours, and so on
    until no two do: whole names are unique.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        if into is not None:
            folders[:] = [name for name in folders if (Path(parent) / name).absolute() != into.absolute()]
        names += [(Path(parent) / name).relative_to(folder) for name in files if not name.startswith(TEMPORARY_PREFIX)]
    names.sort(key=lambda name: name.as_posix())
    base = folder if into is None else into
    outputs = {name: name.with_suffix(_SUFFIX) for name in names}
    sources = [name for name in names if into is not None or name.suffix != _SUFFIX]  # in place, the others are outputs
    whole: set[Path] = set()
    while True:
        shared = Counter(outputs[name] for name in sources)
        clashing = {name for name in sources if shared[outputs[name]] > 1} - whole
        if not clashing:
            return {str(name): base / output for name, output in outputs.items()}
        outputs |= {name: name.with_name(name.name + _SUFFIX) for name in clashing}
        whole |= clashing


def _attempt(options: argparse.Namespace, folder: Path, name: str, output: Path) -> _Row:
    source = folder / name
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
        return _Row(name, "-", "-", "-", f"{type(error).__name__}: {first_line(error)}", error.exit_status)
    whole = _whole(report)
    architecture = "-" if whole is None else whole.architecture
    weights = None if whole is None else whole.weights
    return _Row(name, report.source_format, architecture, weights or "-", f"written: {output}", 0)


def _print_table(rows: Sequence[_Row]) -> None:
    header = ("file", "format", "architecture", "weights", "outcome")
    lines = [header, *(tuple(map(printable, astuple(row)[: len(header)])) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    kinds = Counter(row.outcome.split(":")[0] for row in rows)
    print(f"{len(rows)} files: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items())) or 'nothing'}")
