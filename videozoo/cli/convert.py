"""``videozoo convert`` and ``videozoo-convert``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

NAME = "convert"
HELP = "Convert a checkpoint of MMAction2 to safetensors; nothing in the file is run."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint, of any extension")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: SRC with the extension .safetensors")
    parser.add_argument("--arch", metavar="NAME", help="the architecture; default: found from the tensors")
    parser.add_argument("--ema", action="store_true", help="take the averaged copy that a training checkpoint may hold")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON; a mismatch is then listed whole")


def run(options: argparse.Namespace) -> int:
    """Convert one file and print what was found."""
    from videozoo.convert import convert_checkpoint

    report = convert_checkpoint(
        options.source, options.output, architecture=options.arch, ema=options.ema, overwrite=options.force
    )
    if options.json:
        print(json.dumps(asdict(report), indent=2, default=str))
        return 0
    digest = "8-digit prefix of its sha256" if report.digest_is_prefix else "sha256"
    published = f"{report.weights}, by the {digest}" if report.weights else "no row of the manifest"
    print(f"source        {report.source} ({report.source_format}, layout {report.source_layout})")
    print(f"sha256        {report.source_sha256}")
    print(f"architecture  {report.architecture}, {report.num_classes} classes")
    print(f"published as  {published}")
    for names, what in ((report.ignored, "left out"), (report.filled, "filled with 0")):
        for reason in sorted(set(names.values())):
            count = sum(given == reason for given in names.values())
            print(f"{what:13} {count} tensors: {reason}")
    print(f"output        {report.output}: {report.num_tensors} tensors, read back and compared")
    return 0
