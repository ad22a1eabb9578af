"""All figures of the README about inference, taken by ``videozoo benchmark`` into ``results``, network by network.

    python benchmarks/inference.py targets    # seven networks against eager, ONNX Runtime, OpenVINO; 2 and 1 threads
    python benchmarks/inference.py rows       # networks and clips of the published rows, ours alone, one thread
    python benchmarks/inference.py bfloat16   # three of the seven, ours in bfloat16: time and agreement; one thread
    python benchmarks/inference.py profile    # the seven networks, ours and eager, kind by kind of operation; 2 threads

On a quiet machine, 10 to 20 minutes together. The file is begun anew, unless ``--resume`` is given: what it holds is
then not measured again. ``python benchmarks/publish.py`` makes the README's tables and the plot of it.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

from videozoo.benchmark.measure import Plan, measure, plan
from videozoo.benchmark.profile import WHOLE, profile
from videozoo.benchmark.report import append_csv, read_csv, text
from videozoo.manifest import load

RESULTS = Path(__file__).parent.parent / "results"
TARGETS = ("ircsn_r50", "ircsn_r152", "ipcsn_r152", "tpn_slowonly_r50", "tsm_r50", "tpn_tsm_r50", "tsn_r50")
LOSSY = ("ircsn_r50", "tpn_slowonly_r50", "tsn_r50")
_PEERS = ("eager", "onnxruntime", "openvino")


def targets(mmaction2_python: str | None, rounds: int) -> list[Plan]:
    """The networks whose speed was promised."""
    against = (*_PEERS, "mmaction2") if mmaction2_python else _PEERS
    return [
        plan(name, against=against, threads=(2, 1), rounds=rounds, mmaction2_python=mmaction2_python)
        for name in TARGETS
    ]  # fmt: skip


def bfloat16(rounds: int) -> list[Plan]:
    """Ours in few bits; "error" is against eager float32."""
    return [plan(name, against=(), threads=(1,), rounds=rounds, dtype="bfloat16") for name in LOSSY]


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


def write_profile(path: Path, plans: list[Plan]) -> None:
    """Why the networks take the time they take: the file is written when all are measured."""
    records = []
    for wanted in plans:
        started = time.perf_counter()
        found = profile(wanted)
        records += found
        first = found[0]
        print(
            f"{first['model']}, {first['clip']}, {first['threads']} threads: {first['gflop']:.1f} GFLOP, "
            f"{first['bound_cpu_ms']:.0f} ms CPU at the machine's {first['bound_gflops']:.0f} GFLOP/s a core"
        )
        for record in found:
            share = "      " if record["kind"] == WHOLE else f"{100 * record['share']:4.1f} %"
            print(
                f"  {record['name']:9} {record['kind']:22} {record['cpu_ms']:8.1f} ms CPU  {share}  "
                f"{record['gflop']:7.2f} GFLOP  {record['gflops']:6.1f} GFLOP/s"
            )
        print(f"{time.perf_counter() - started:.0f} s\n", flush=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in record.items()})


def main() -> int:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("targets", "rows", "bfloat16", "profile"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of the profile (2)")
    parser.add_argument("--mmaction2-python", metavar="FILE", help="an interpreter that has MMAction2 0.x")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds, and measure the rest")
    options = parser.parse_args()
    path = RESULTS / f"inference_{options.what}.csv"
    path.parent.mkdir(exist_ok=True)
    if options.what == "profile":
        names = options.models or TARGETS
        write_profile(
            path, [plan(name, against=(), threads=(options.threads,), rounds=options.rounds) for name in names]
        )
        return 0
    if options.what == "targets":
        plans = targets(options.mmaction2_python, options.rounds)
    else:
        plans = (rows if options.what == "rows" else bfloat16)(options.rounds)
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
