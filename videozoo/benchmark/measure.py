"""Rounds of turns: every contestant is asked for one turn, then every one for the next, and so on.

What else the machine does hits all of them alike. Who begins changes from round to round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

from videozoo import registry
from videozoo.benchmark.child import PREPARE, Child, Unable
from videozoo.benchmark.contestants import CONTESTANTS, MACHINE, OURS
from videozoo.benchmark.machine import conditions, load_average
from videozoo.benchmark.task import Task
from videozoo.errors import InvalidArgument, VideoZooError
from videozoo.processors import num_processors

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
_TURN_SECONDS = 0.2
"""A turn has as many forwards as this takes, at least one."""
_MOST_FORWARDS = 100
_MILLI = 1e3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    model: str
    """An architecture."""
    against: tuple[str, ...]
    threads: tuple[int, ...]
    device: str
    dtype: str
    batch: int
    rounds: int
    num_frames: int
    """T."""
    size: int
    """H and W."""
    mmaction2_python: str | None = None


@dataclass(frozen=True)
class Figures:
    """What one contestant took; times are of one forward of the whole batch."""

    name: str
    version: str | None
    latency_ms: float
    """Median over the rounds, on the clock."""
    latency_low_ms: float
    """First quartile."""
    latency_high_ms: float
    """Third quartile."""
    cpu_ms: float
    """Median of processor time, of all threads together."""
    clips_per_second: float
    peak_mb: float | None
    """Peak of resident memory of the process during the forwards, imports included, in MiB."""
    imports_mb: float | None
    """Resident memory when its libraries were imported and nothing was built."""
    device_peak_mb: float | None
    error: float | None
    """Largest difference of a logit to eager float32 on the CPU, in parts of the largest logit; None for logits that
    cannot be compared."""
    latency_ratio: float | None
    """Times our latency; None where we could not run."""
    cpu_ratio: float | None
    """Times our processor time."""
    over_bound: float | None
    """Latency over the arithmetic bound."""
    cpu_over_bound: float | None
    """Processor time over that of the bound."""


@dataclass(frozen=True)
class Result:
    """One network at one number of threads."""

    model: str
    clip: tuple[int, ...]
    """N, C, T, H, W."""
    threads: int
    device: str
    dtype: str
    rounds: int
    parameters: int
    flops: int
    """Operations of the batch; two for a multiplication with its addition."""
    bound_kernel: str | None
    """The fastest of the products that were measured in the same rounds."""
    bound_gflops: float | None
    """Its median rate, on the clock, in 1e9 operations per second."""
    bound_ms: float | None
    """``flops`` at that rate."""
    bound_cpu_ms: float | None
    """``flops`` at the best median rate per second of processor time."""
    contestants: tuple[Figures, ...]
    skipped: Mapping[str, str]
    """Contestant -> why it has no figures."""
    conditions: Mapping[str, str | int | float | None]


def plan(
    name: str,
    *,
    against: Sequence[str] = ("eager",),
    threads: Sequence[int] = (),
    device: str = "cpu",
    dtype: str = "float32",
    batch: int = 1,
    rounds: int = 7,
    num_frames: int | None = None,
    size: int | None = None,
    mmaction2_python: str | None = None,
) -> Plan:
    """A plan whose values were looked at.

    Args:
        name: an architecture, or weights, whose protocol then says how many frames; the weights are random in any case.
        against: other keys of ``CONTESTANTS`` than our own.
        threads: one measurement each; empty for as many as there are processors.
        device: ``cpu``, ``cuda``, ``cuda:1`` ...
        dtype: of our side, and of autocast.
        batch: clips at once.
        rounds: turns of each contestant.
        num_frames: None for those of the published test protocol.
        size: pixels of the clip's side; None for those of the network's centred view.
        mmaction2_python: an interpreter that has MMAction2 0.x.

    Raises:
        UnknownModel, UnknownWeights: no such name.
        InvalidArgument: a value outside its range.
    """
    protocol = registry.architecture(name).protocol if "." not in name else registry.get_weights(name).protocol
    peers = CONTESTANTS.keys() - {OURS, MACHINE}
    unknown = [each for each in against if each not in peers]
    if unknown:
        raise InvalidArgument(f"--against {unknown[0]}: there are {', '.join(sorted(peers))}")
    if dtype not in DTYPES:
        raise InvalidArgument(f"--dtype {dtype}: one of {', '.join(DTYPES)}")
    if device.partition(":")[0] not in DEVICES:
        raise InvalidArgument(f"--device {device}: one of {', '.join(DEVICES)}, or cuda:N")
    num_frames = protocol.full.num_frames if num_frames is None else num_frames
    size = protocol.center.crop_size if size is None else size
    counts = {"--batch": batch, "--rounds": rounds, "--frames": num_frames, "--size": size}
    for option, value in [*counts.items(), *(("--threads", each) for each in threads)]:
        if value < 1:
            raise InvalidArgument(f"{option} {value}: at least 1")
    return Plan(
        name.partition(".")[0], tuple(dict.fromkeys(against)),
        tuple(dict.fromkeys(threads)) or (num_processors(),), device, dtype, batch, rounds, num_frames, size,
        mmaction2_python,
    )  # fmt: skip


def measure(wanted: Plan, say: Say = lambda text: None) -> Iterator[Result]:
    """One result for each number of threads.

    Args:
        wanted: from `plan`.
        say: told what happens, in short lines.

    Raises:
        VideoZooError: the network cannot run on such clips, or nothing runs on this device.
    """
    clip = (wanted.batch, 3, wanted.num_frames, wanted.size, wanted.size)
    with TemporaryDirectory(prefix="videozoo-benchmark-") as folder:
        task = Task(wanted.model, clip, max(wanted.threads), "cpu", "float32", folder)
        say(f"{wanted.model}: preparing")
        try:
            child = Child(PREPARE, task, against=wanted.against)
        except Unable as error:
            raise VideoZooError(f"{wanted.model} on clips of {list(clip)}: {error}") from None
        child.close()
        for threads in wanted.threads:
            yield _result(
                wanted, replace(task, threads=threads, device=wanted.device, dtype=wanted.dtype), child.ready, say
            )


def _result(wanted: Plan, task: Task, prepared: Mapping[str, Any], say: Say) -> Result:
    stated = conditions()
    with ExitStack() as stack:
        children, skipped = _start(wanted, task, stack, say)
        turns = _take_turns(children, wanted.rounds, skipped, say)
    machine = turns.pop(MACHINE, [])
    if not turns:
        raise InvalidArgument(f"{wanted.model}: nothing runs on {task.device}: {next(iter(skipped.values()))}")
    stated["load_average_after"] = load_average()
    stated["arithmetic"] = machine[0]["arithmetic"] if machine else None
    kernel, wall_rate, cpu_rate = bound(machine)
    flops = prepared["flops"]
    bound_ms = flops / wall_rate * _MILLI if wall_rate else None
    bound_cpu_ms = flops / cpu_rate * _MILLI if cpu_rate and task.device == "cpu" else None
    found = [
        _figures(name, children[name].ready, each, prepared["logits"], wanted.batch) for name, each in turns.items()
    ]
    ours = next((figures for figures in found if figures.name == OURS), None)
    return Result(
        model=wanted.model, clip=task.clip, threads=task.threads, device=task.device, dtype=task.dtype,
        rounds=wanted.rounds, parameters=prepared["parameters"], flops=flops, bound_kernel=kernel,
        bound_gflops=wall_rate / 1e9 if wall_rate else None, bound_ms=bound_ms, bound_cpu_ms=bound_cpu_ms,
        contestants=tuple(_compared(figures, ours, bound_ms, bound_cpu_ms) for figures in found),
        skipped=skipped, conditions=stated,
    )  # fmt: skip


def _start(wanted: Plan, task: Task, stack: ExitStack, say: Say) -> tuple[dict[str, Child], dict[str, str]]:
    """Those that are ready, one after another, and why the others are not."""
    children: dict[str, Child] = {}
    skipped: dict[str, str] = {}
    for name in (OURS, *wanted.against, MACHINE):
        say(f"{wanted.model}: starting {name}")
        python = wanted.mmaction2_python if name == "mmaction2" else None
        try:
            children[name] = Child(name, task, python=python)
        except Unable as error:
            skipped[name] = str(error)
        else:
            stack.callback(children[name].close)
    return children, skipped


def _take_turns(
    children: Mapping[str, Child], rounds: int, skipped: dict[str, str], say: Say
) -> dict[str, list[dict[str, Any]]]:
    """What every contestant found in every round; one that fails on the way is moved to ``skipped``."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
    forwards: dict[str, int] = {}
    for number in range(-1, rounds):
        say(f"round {number + 1} of {rounds}" if number >= 0 else "warming up")
        for name in _rotated(list(turns), number):
            try:
                turn = children[name].turn(forwards.get(name, 1))
            except Unable as error:
                skipped[name] = str(error)
                del turns[name]
                continue
            if number >= 0:
                turns[name].append(turn)
            else:
                forwards[name] = _forwards(turn)
    return turns


def _forwards(warm_up: Mapping[str, Any]) -> int:
    """How many make a turn."""
    seconds = warm_up.get("wall_s", _TURN_SECONDS)  # the machine's own turn has a length of its own
    return min(_MOST_FORWARDS, max(1, math.ceil(_TURN_SECONDS / seconds)))


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names) if names else 0
    return names[start:] + names[:start]


def bound(machine: list[dict[str, Any]]) -> tuple[str | None, float | None, float | None]:
    """The fastest kernel, and the best median rates: on the clock, and of processor time."""
    if not machine:
        return None, None, None
    medians = {
        name: [statistics.median(turn["rates"][name][which] for turn in machine) for which in (0, 1)]
        for name in machine[0]["rates"]
    }
    kernel = max(medians, key=lambda name: medians[name][0])
    return kernel, medians[kernel][0], max(cpu for _, cpu in medians.values())


def _figures(
    name: str, ready: Mapping[str, Any], turns: list[dict[str, Any]], reference: list[float], batch: int
) -> Figures:
    walls = [turn["wall_s"] * _MILLI for turn in turns]
    low, median, high = statistics.quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls * 3
    return Figures(
        name=name, version=ready["version"] or None, latency_ms=median, latency_low_ms=low, latency_high_ms=high,
        cpu_ms=statistics.median(turn["cpu_s"] * _MILLI for turn in turns), clips_per_second=batch * _MILLI / median,
        peak_mb=turns[-1]["peak_mb"], imports_mb=ready["imports_mb"], device_peak_mb=turns[-1]["device_peak_mb"],
        error=_difference(ready["logits"], reference),
        latency_ratio=None, cpu_ratio=None, over_bound=None, cpu_over_bound=None,
    )  # fmt: skip


def _difference(logits: list[float], reference: list[float]) -> float | None:
    if len(logits) != len(reference) or not all(map(math.isfinite, logits)):
        return None
    return max(abs(a - b) for a, b in zip(logits, reference, strict=True)) / max(map(abs, reference))


def _compared(figures: Figures, ours: Figures | None, bound_ms: float | None, bound_cpu_ms: float | None) -> Figures:
    return replace(
        figures,
        latency_ratio=figures.latency_ms / ours.latency_ms if ours else None,
        cpu_ratio=figures.cpu_ms / ours.cpu_ms if ours else None,
        over_bound=figures.latency_ms / bound_ms if bound_ms else None,
        cpu_over_bound=figures.cpu_ms / bound_cpu_ms if bound_cpu_ms else None,
    )
