"""CPU time and memory of `create_model` with weights, against random init, ``torch.load`` and a copy.

    python benchmarks/load.py [--rounds 7]
    python benchmarks/load.py --optimize [--rounds 7]   # `optimize_for_inference` on top of the load, every network
                                                        # with and without share_weights

ircsn_r152 (119 MB) from a warm cache, one thread. Each measurement is a process of its own, by turns; imports are left
out on both sides. Memory is the peak of resident memory (VmHWM of Linux) above what the imports took, after every
tensor was read once, so that mapped pages count. A file that was touched since it was hashed is hashed again.
Start-up is the CPU time of whole processes.

``--optimize`` takes the two after each other in one process, and a small clip. ``packing`` is what the first clip costs
more than the second: oneDNN packs the weights then. ``total`` is load, optimisation and packing. Memory is, above what
the imports took, the peak by then (the mapped file's pages included) and what is allocated at the end (without them).
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from videozoo import cache, registry
from videozoo.cache.untouched import SETTLED_NS
from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.tensors import as_arrays
from videozoo.models import create_model

ROW = "ircsn_r152.ig65m_k400"
_OPTIMIZED = (
    "ircsn_r50.ig65m_k400", ROW, "ipcsn_r152.ig65m_k400", "tpn_slowonly_r50.imagenet_k400", "tpn_tsm_r50.tsm_sthv1",
    "tsn_r50.imagenet_k400", "r2plus1d_34.ig65m_k400",
)  # fmt: skip
_CODE = """\
import json, sys, time
import torch, videozoo.models.csn
from videozoo import create_model
torch.set_num_threads(1)
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
before, started = memory("VmRSS"), time.process_time()
{work}
cpu = time.process_time() - started
for tensor in model.state_dict().values():
    tensor.sum()
print(json.dumps({{"cpu_ms": 1000 * cpu, "above_mb": memory("VmHWM") - before}}))
"""
_CLASSIC = """\
model = create_model("ircsn_r152")
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))"""
_OURS = f'model = create_model("{ROW}", pretrained=True)'
_STEPS = """\
import json, sys, time
import torch, videozoo.models.{module}
from videozoo import create_model, optimize_for_inference
torch.set_num_threads(1)
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
before, anonymous = memory("VmRSS"), memory("RssAnon")
times = [time.process_time()]
def tick():
    times.append(time.process_time())
model = create_model("{row}", pretrained=True)
tick()
fast = optimize_for_inference(model, share_weights={shared})
tick()
clip = torch.zeros(1, 3, model.smallest_clip[0], 32, 32)
del model
with torch.inference_mode():
    fast(clip), tick(), fast(clip), tick()
load, optimize, first, second = (1000 * (b - a) for a, b in zip(times, times[1:]))
packing = first - second
total = load + optimize + packing
print(json.dumps(dict(load=load, optimize=optimize, packing=packing, total=total,
    peak=memory("VmHWM") - before, own=memory("RssAnon") - anonymous)))
"""
CLASSIC, OURS, HASHED = "random init, torch.load, copy", "create_model", "create_model, file touched"
_WORK = {CLASSIC: _CLASSIC, OURS: _OURS}
_STARTS = {
    "python -c 'import torch'": ["-c", "import torch"],
    "videozoo list": ["-m", "videozoo", "list"],
    "python -c 'import videozoo'": ["-c", "import videozoo"],
    "python -c pass": ["-c", "pass"],
}


def store(folder: Path, row: str = ROW) -> Path:
    """Random weights in the cache as the row's, and in torch's format."""
    entry = registry.get_weights(row)
    model = create_model(entry.architecture)
    metadata = {"videozoo.architecture": entry.architecture, "videozoo.weights": row}
    cache.store_converted(entry, lambda path: safetensors_file.write(path, as_arrays(model.state_dict()), metadata))
    torch.save(model.state_dict(), folder / "classic.pth")
    return folder / "classic.pth"


def load(work: str, classic: Path, environment: dict[str, str]) -> dict[str, float]:
    """One load in a process of its own."""
    return answer(_CODE.format(work=work), environment, str(classic))


def answer(code: str, environment: dict[str, str], *arguments: str) -> dict[str, float]:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, capture_output=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def start(arguments: list[str], environment: dict[str, str]) -> float:
    """CPU milliseconds of a whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def optimized(folder: Path, rounds: int, environment: dict[str, str]) -> None:
    """Print load, `optimize_for_inference` (and its ratio to the load) and packing of every network, and memory."""
    for row in _OPTIMIZED:
        store(folder, row)
    time.sleep(SETTLED_NS / 1e9)
    runs: dict[tuple[str, bool], list[dict[str, float]]] = {
        (row, shared): [] for row in _OPTIMIZED for shared in (False, True)
    }
    for number in range(-1, rounds):
        for (row, shared), found in runs.items():
            module = registry.architecture(registry.get_weights(row).architecture).family
            steps = answer(_STEPS.format(row=row, module=module, shared=shared), environment)
            found += [steps] if number >= 0 else []  # the first load hashes the file
    for (row, shared), found in runs.items():
        load, optimize, packing, total, peak, own = (
            statistics.median(steps[key] for steps in found) for key in found[0]
        )
        print(
            f"{row:30} {'share_weights' if shared else 'default':13} load {load:5.1f} ms CPU, "
            f"optimize {optimize:6.1f} ({optimize / load:.2f}x), packing {packing:6.1f}, total {total:6.1f}, "
            f"peak {peak:4.0f} MB, allocated {own:4.0f} MB"
        )


def main() -> None:
    """Print medians, and ratios to the first line of each table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--optimize", action="store_true", help="optimize_for_inference on top of the load instead")
    options = parser.parse_args()
    rounds = options.rounds
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, one thread, {rounds} rounds by turns; median"
    )
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VIDEOZOO_HOME"] = str(folder / "home")
        own = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        if options.optimize:
            optimized(folder, rounds, own)
            return
        classic = store(folder)
        time.sleep(SETTLED_NS / 1e9)
        load(_OURS, classic, own)  # hashes, and remembers it
        runs: dict[str, list[dict[str, float]]] = {what: [] for what in (CLASSIC, OURS, HASHED)}
        starts: dict[str, list[float]] = {what: [] for what in _STARTS}
        for _ in range(rounds):
            for what in (CLASSIC, OURS):
                runs[what].append(load(_WORK[what], classic, own))
            for what, arguments in _STARTS.items():
                starts[what].append(start(arguments, own))
        for _ in range(rounds):
            os.utime(cache.converted(registry.get_weights(ROW)) or folder)
            runs[HASHED].append(load(_WORK[OURS], classic, own))
    report({what: [run["cpu_ms"] for run in found] for what, found in runs.items()}, "ms CPU")
    report({what: [run["above_mb"] for run in found] for what, found in runs.items()}, "MB")
    report(starts, "ms CPU")


def report(found: dict[str, list[float]], unit: str) -> None:
    """One line for each contender: median, range, ratio of medians to the first."""
    base = statistics.median(next(iter(found.values())))
    for what, values in found.items():
        median = statistics.median(values)
        print(f"{what:32} {median:7.1f} {unit} ({min(values):.1f}-{max(values):.1f}), 1/{base / median:.1f}")


if __name__ == "__main__":
    main()
