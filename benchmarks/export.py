"""How well exported networks agree with the networks they were made from: one line for each, into results/export.csv.

    python benchmarks/export.py [--models A,B] [--formats onnx,openvino] [--out results/export.csv]

Random weights; every dynamic axis that the network can have; three inputs of different sizes, the first of which is the
centred view of the published protocol. Lines of other networks and formats stay in the file as they are. `python
benchmarks/publish.py` writes the README's table from it.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
import tempfile
import time
from pathlib import Path

import torch

import videozoo
from videozoo.benchmark.task import random_model
from videozoo.export import export_model
from videozoo.files import place

ROOT = Path(__file__).parent.parent
MODELS = (
    "tsn_r50", "slowonly_r50", "tsm_r50", "tpn_slowonly_r50", "tpn_tsm_r50", "ircsn_r50", "r2plus1d_34", "ircsn_r152",
    "ipcsn_r152",
)  # fmt: skip
RUNTIMES = {"onnx": ("onnxruntime", ".onnx"), "openvino": ("openvino", ".xml"), "torch-export": ("torch", ".pt2")}

_KEYS = ("model", "format", "fused")


def measure(model: str, format: str, fused: bool, folder: Path) -> dict[str, str]:
    """One line of the table."""
    runtime, suffix = RUNTIMES[format]
    network = random_model(model)
    shifted = network.smallest_clip[0] > 1
    dynamic = ("batch", "size") if shifted else ("batch", "frames", "size")
    started = time.process_time()
    done = export_model(
        network, folder / f"{model}{suffix}", format=format, dynamic=dynamic, fused=fused, mode="center", overwrite=True
    )
    return {
        "model": model,
        "format": format,
        "fused": "yes" if fused else "no",
        "dtype": done.dtype,
        "clips": done.clips,
        "checked": "; ".join("x".join(map(str, one.shape)) for one in done.agreement),
        "difference": f"{done.difference:.2e}",
        "tolerance": f"{done.tolerance:.0e}",
        "size_mb": f"{sum(done.files.values()) / 1e6:.1f}",
        "cpu_s": f"{time.process_time() - started:.0f}",
        "runtime": f"{runtime} {str(importlib.import_module(runtime).__version__).partition('-')[0]}",
        "torch": str(torch.__version__).partition("+")[0],
        "videozoo": videozoo.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def with_row(rows: list[dict[str, str]], row: dict[str, str]) -> list[dict[str, str]]:
    """The lines with another in the place of the one of the same network, format and folding, or at their end."""
    same = [number for number, other in enumerate(rows) if all(other[key] == row[key] for key in _KEYS)]
    if not same:
        return [*rows, row]
    return [row if number == same[0] else other for number, other in enumerate(rows)]


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    place(path, write, overwrite=True)


def main() -> int:
    """Write the lines, one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default="onnx,openvino")
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "export.csv")
    options = parser.parse_args()
    rows = _read(options.out)
    for model in options.models.split(","):
        for format_name in options.formats.split(","):
            with tempfile.TemporaryDirectory(prefix="videozoo-") as folder:
                row = measure(model, format_name, options.fused, Path(folder))
            sys.stderr.write("  ".join(row.values()) + "\n")
            rows = with_row(rows, row)
            _write(options.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
