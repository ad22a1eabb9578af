"""All figures of the README about inference, taken by ``videozoo benchmark`` into ``results``, network by network.

    python benchmarks/inference.py targets    # seven networks against eager, ONNX Runtime, OpenVINO; 2 and 1 threads
    python benchmarks/inference.py rows       # networks and clips of the published rows, ours alone, one thread

On a quiet machine, 10 to 20 minutes together. The file is begun anew, unless ``--resume`` is given: what it holds is
then not measured again. ``python benchmarks/publish.py`` makes the README's table and the plot of it.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from videozoo.benchmark.measure import Plan, measure, plan
from videozoo.benchmark.report import append_csv, read_csv, text
from videozoo.manifest import load

RESULTS = Path(__file__).parent.parent / "results"
TARGETS = ("ircsn_r50", "ircsn_r152", "ipcsn_r152", "tpn_slowonly_r50", "tsm_r50", "tpn_tsm_r50", "tsn_r50")
_PEERS = ("eager", "onnxruntime", "openvino")


def targets(mmaction2_python: str | None, rounds: int) -> list[Plan]:
    """The networks whose speed was promised."""
    against = (*_PEERS, "mmaction2") if mmaction2_python else _PEERS
    return [
        plan(name, against=against, threads=(2, 1), rounds=rounds, mmaction2_python=mmaction2_python)
        for name in TARGETS
    ]  # fmt: skip


def rows(rounds: int) -> list[Plan]:
    """One plan for each network and size of clip, of all rows with a published accuracy."""
    entries = [
        entry for entry in load().entries
        if entry.figures.top1_percent is not None and not entry.architecture.startswith("test_")
    ]  # fmt: skip
    shapes = {
        (entry.architecture, entry.protocol.full.num_frames, entry.protocol.full.crop_size): None for entry in entries
    }
    return [
        plan(name, against=(), threads=(1,), rounds=rounds, num_frames=num_frames, size=size)
        for name, num_frames, size in shapes
    ]


def main() -> int:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("targets", "rows"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mmaction2-python", metavar="FILE", help="an interpreter that has MMAction2 0.x")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds, and measure the rest")
    options = parser.parse_args()
    plans = targets(options.mmaction2_python, options.rounds) if options.what == "targets" else rows(options.rounds)
    path = RESULTS / f"inference_{options.what}.csv"
    path.parent.mkdir(exist_ok=True)
    if not options.resume:
        path.unlink(missing_ok=True)
    held = read_csv([path]) if path.exists() else []
    done = {(record["model"], record["clip"], record["threads"]) for record in held}
    for wanted in (each for each in plans if not options.models or each.model in options.models):
        clip = f"{wanted.batch}x3x{wanted.num_frames}x{wanted.size}x{wanted.size}"
        missing = tuple(threads for threads in wanted.threads if (wanted.model, clip, str(threads)) not in done)
        started = time.perf_counter()
        for result in measure(Plan(**vars(wanted) | {"threads": missing})) if missing else ():
            append_csv(path, result)
            print(text(result), end=f"\n{time.perf_counter() - started:.0f} s\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
