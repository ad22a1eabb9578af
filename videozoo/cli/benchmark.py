"""``videozoo benchmark``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

NAME = "benchmark"
HELP = "Measure networks against other ways to run them: latency, processor time, memory, distance to the machine."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="an architecture, or architecture.tag for its frames"
    )
    parser.add_argument(
        "--against", default="eager,onnxruntime,openvino", metavar="NAMES",
        help="what to compare with: eager, compile, channels_last, autocast, onnxruntime, openvino, mmaction2, library "
        "(ours without heap reuse), videozoo_compile, or '' for nothing (default: eager,onnxruntime,openvino)",
    )  # fmt: skip
    parser.add_argument("--threads", default="", metavar="N", help="also several: 2,1 (default: all processors)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 ...")
    parser.add_argument("--dtype", default="float32", help="of our side, and of autocast: float32, bfloat16, float16")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="clips at once (1)")
    parser.add_argument("--frames", type=int, metavar="T", help="frames of a clip (default: the published protocol's)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the clip (default: the network's own)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of everyone (7)")
    parser.add_argument("--mmaction2-python", metavar="FILE", help="an interpreter that has MMAction2 0.x")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also add the figures to this file, network by network"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print one table for each network and number of threads."""
    from videozoo.benchmark.measure import measure, plan
    from videozoo.benchmark.report import append_csv, check_csv, text
    from videozoo.errors import InvalidArgument

    try:
        threads = [int(part) for part in options.threads.split(",") if part]
    except ValueError:
        raise InvalidArgument(f"--threads {options.threads}: numbers, with commas between them") from None
    plans = [
        plan(
            model, against=[part for part in options.against.split(",") if part], threads=threads,
            device=options.device, dtype=options.dtype, batch=options.batch, rounds=options.rounds,
            num_frames=options.frames, size=options.size, mmaction2_python=options.mmaction2_python,
        )
        for model in options.models
    ]  # fmt: skip
    if options.csv is not None:
        check_csv(options.csv)
    answers = []
    for wanted in plans:
        for result in measure(wanted, _say):
            answers.append(asdict(result))
            if options.csv is not None:
                append_csv(options.csv, result)
            if not options.json:
                print(text(result), end="\n\n", flush=True)
    if options.json:
        print(json.dumps(answers, indent=2))
    return 0


def _say(line: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"videozoo: {line}", file=sys.stderr)
