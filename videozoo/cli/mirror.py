"""``videozoo mirror``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from videozoo import lockfile
from videozoo.errors import VideoZooError, first_line, printable

NAME = "mirror"
HELP = "Write a folder that any web server, or a Hugging Face repository, can serve as VIDEOZOO_MIRROR."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if need be; what is there and right is kept")
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN",
        help="weights by name or wildcard, fetched if need be; default: those that the cache holds",
    )  # fmt: skip
    parser.add_argument("--trust-first-use", action="store_true", help="also fetch files of which no digest is known")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Mirror row by row; one that cannot be had is reported, and the others still are."""
    from videozoo.mirror import entries_to_mirror, mirror, prepare, write_readme

    status, answers = 0, list[dict[str, object]]()
    with lockfile.used(options.lock):
        entries = entries_to_mirror(options.patterns)
        prepare(options.folder)
        for entry in entries:
            try:
                done = mirror(options.folder, entry, trust_first_use=options.trust_first_use)
            except VideoZooError as error:
                print(f"videozoo: error: {first_line(error)}", file=sys.stderr)
                answers.append({"weights": entry.name, "error": {"type": type(error).__name__, "message": str(error)}})
                status = error.exit_status
                continue
            answers.append(asdict(done))
            if not options.json:
                for state, names in (("written", done.written), ("there", done.kept)):
                    for name in names:
                        print(f"{state:8} {name}", flush=True)
        write_readme(options.folder)
    if options.json:
        print(json.dumps(answers, indent=2))
    else:
        failed = sum("error" in answer for answer in answers)
        print(f"{len(answers) - failed} of {len(answers)} weights in {printable(options.folder)}")
    return status
