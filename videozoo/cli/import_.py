"""``videozoo import``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo import lockfile, registry
from videozoo.errors import InvalidArgument, VideoZooError, first_line, printable

if TYPE_CHECKING:
    from videozoo.importing import Imported

NAME = "import"
HELP = "Find out which published weights files of your own are, and convert them into the cache, to be used offline."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a checkpoint as it was published")
    parser.add_argument(
        "--as", dest="row", metavar="ROW",
        help="the weights that FILE is, where no digest was published and its name is not the published one",
    )  # fmt: skip
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Import every file; one that cannot be is reported, and the others still are."""
    if options.row is not None:
        if len(options.files) > 1:
            raise InvalidArgument(f"--as {options.row} is for one file, and {len(options.files)} are given")
        registry.get_weights(options.row)  # an unknown one is refused before the file is read
    from videozoo.importing import import_file

    status, answers = 0, list[dict[str, object]]()
    with lockfile.used(options.lock):
        for path in options.files:
            try:
                found = import_file(path, row=options.row)
            except VideoZooError as error:
                print(f"videozoo: error: {first_line(error)}", file=sys.stderr)
                answers.append({"source": path, "error": {"type": type(error).__name__, "message": str(error)}})
                status = error.exit_status
                continue
            answers.append(asdict(found))
            if not options.json:
                _print(found)
    if options.json:
        print(json.dumps(answers, indent=2, default=str))
    return status


def _print(found: Imported) -> None:
    how = {
        "sha256": "by its sha256",
        "prefix": "by the published 8-digit prefix of its sha256",
        "lock": "by its sha256 in the lock file",
        "name and structure": "by its name and its tensors; no digest was published to compare it with",
        "--as and structure": "as you say, and its tensors fit; no digest was published to compare it with",
    }
    print(f"{printable(found.source)}\n  is         {found.weights}, {how[found.known_by]}")
    print(f"  sha256     {found.sha256}, {found.size_bytes:,} bytes\n  converted  {printable(found.converted)}")
