"""``videozoo extract``."""

from __future__ import annotations

import argparse
from pathlib import Path

from videozoo.cli import batch
from videozoo.cli.weights import add_weight_arguments

NAME = "extract"
HELP = "Write a network's features of many videos to a table."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("videos", nargs="+", metavar="INPUT", help=batch.INPUTS)
    parser.add_argument("--model", required=True, metavar="NAME", help="an architecture, or architecture.tag")
    parser.add_argument(
        "--layer", default="pooled", metavar="NAME",
        help="pooled (default), what the classifier sees, or a stage, as layer3, averaged over space and time",
    )  # fmt: skip
    add_weight_arguments(parser)
    parser.add_argument(
        "--views", choices=("full", "center"),
        help="all views of the published test protocol (default), or one in the centre (default for windows)",
    )  # fmt: skip
    parser.add_argument("--fast-resize", action="store_true", help="not OpenCV's resize to the bit; off by one level")
    parser.add_argument("--device", help="cpu (default), cuda, cuda:1 ...")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    batch.add_arguments(parser, required=True)


def run(options: argparse.Namespace) -> int:
    """Extract; a video that fails is a row with its reason, and the others still run."""
    batch.refuse_unknown_network(options)
    prepared = batch.prepare(options)  # before anything is fetched or imported
    from videozoo.batch.answers import Question

    return batch.run(options, prepared, batch.network(options), Question("features", layer=options.layer))
