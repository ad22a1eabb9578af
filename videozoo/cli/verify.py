"""``videozoo verify``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from videozoo import lockfile, registry
from videozoo.errors import printable

NAME = "verify"
HELP = "Take or fetch the file of weights, hash it, build the network and compare its logits with the stored ones."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="architecture.tag, or an architecture for its default weights")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print what was found; of weights without an expectation, also the one to contribute."""
    entry = registry.get_weights(options.name)
    from videozoo.verification import verify

    with lockfile.used(options.lock):
        found = verify(entry)
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    print(found.weights)
    for path, sha256 in found.files.items():
        print(f"  file    {printable(path)}\n  sha256  {sha256}")
    if found.difference is not None and entry.expectation is not None:
        print(
            f"  logits  as expected on the fixed input {found.input_shape}: largest difference {found.difference:.2g}, "
            f"{entry.expectation.tolerance:g} allowed"
        )
        return 0
    print(f"  logits  measured on the fixed input {found.input_shape}; the row has no expectation to compare them with")
    print("docs/hub.md says how to contribute this one:")
    print(json.dumps({"weights": found.weights, "expectation": asdict(found.measured)}))
    return 0
