"""Time and memory of conversions, against ``torch.load`` and ``safetensors.torch.save_file`` of the same file.

    python benchmarks/convert.py [--rounds 5]

The file holds r2plus1d_34 (255 MB) under the names that VMZ gives its tensors, in torch's zip archive and in its older
container. Each measurement is a process of its own, by turns: a user's script, with its imports. Whole is the time of
the process, work that of the call alone, and peak its resident memory (VmHWM of Linux, which counts mapped pages).
Torch is imported by the first only: the others do without. ``command`` is ``videozoo-convert``, which reads the file in
a child of its own; its peak is the larger of the two processes'.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors
import torch

from videozoo import registry
from videozoo.checkpoints.keymap import foreign_names
from videozoo.checkpoints.vmz import VMZ_TORCH
from videozoo.models import create_model

ARCHITECTURE = "r2plus1d_34"
_PEAK = """\
def peak_mb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
"""  # not ru_maxrss, which begins with that of the parent
_WORK = {
    "torch.load + save_file": (
        "import torch; from safetensors.torch import save_file",
        "save_file(torch.load(source, weights_only=True), output)",
    ),
    "convert_checkpoint": ("from videozoo import convert_checkpoint", "convert_checkpoint(source, output)"),
    "convert_tensors": ("from videozoo.convert import convert_tensors", "convert_tensors(source, output)"),
}
_CALL = """
import json, sys, time
{imports}
source, output = sys.argv[1:]
started = time.perf_counter()
{work}
print(json.dumps({{"work_s": time.perf_counter() - started, "peak_mb": peak_mb()}}))
"""
_COMMAND = """\
import json, resource, sys
from videozoo.cli.main import run_convert
sys.stdout = sys.stderr
if run_convert([sys.argv[1], "-o", sys.argv[2], "--force"]):
    sys.exit(1)
peak = max(peak_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.__stdout__.write(json.dumps({"peak_mb": peak}))
"""
THEIRS, *_ = _WORK
_CODES = {name: _PEAK + _CALL.format(imports=imports, work=work) for name, (imports, work) in _WORK.items()}
_CODES["command"] = _PEAK + _COMMAND


def write_sources(folder: Path) -> dict[str, Path]:
    """The same tensors in both containers."""
    torch.manual_seed(0)
    model = create_model(ARCHITECTURE)
    tensors = model.state_dict()
    names = foreign_names(VMZ_TORCH.tables[registry.architecture(ARCHITECTURE).family], tensors)
    state = {names[ours]: tensor for ours, tensor in tensors.items()}
    paths = {"zip": folder / "zip.pth", "legacy": folder / "legacy.pth"}
    torch.save(state, paths["zip"])
    torch.save(state, paths["legacy"], _use_new_zipfile_serialization=False)
    return paths


def measure(code: str, source: Path, output: Path) -> dict[str, float]:
    """Run the code in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(output)],
        env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    output.unlink()
    return found | {"whole_s": time.perf_counter() - started}


def main() -> None:
    """Print medians, and ratios to the first line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{rounds} rounds by turns, one thread, source in the page cache; median (ratio to the first line)")
    with tempfile.TemporaryDirectory() as folder:
        for form, source in write_sources(Path(folder)).items():
            found: dict[str, list[dict[str, float]]] = {name: [] for name in _CODES}
            for _ in range(rounds):
                for name, code in _CODES.items():
                    found[name].append(measure(code, source, Path(folder) / "out.safetensors"))
            print(f"\n{form}, {source.stat().st_size / 1e6:.0f} MB")
            for name, runs in found.items():
                cells = [f"{name:23}"]
                for key, unit in (("whole_s", "s"), ("work_s", "s"), ("peak_mb", "MB")):
                    if key in runs[0]:
                        value = statistics.median(run[key] for run in runs)
                        base = statistics.median(run[key] for run in found[THEIRS])
                        cells.append(f"{key.split('_')[0]} {value:6.2f} {unit} ({value / base:.2f})")
                print("  ".join(cells))


if __name__ == "__main__":
    main()
