"""Why a network takes the time it takes: kind by kind of operation, beside what the machine's arithmetic gives.

Shares and rates are of processor time, all threads together, which other people's work on the machine disturbs least.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from videozoo.benchmark.child import Child
from videozoo.benchmark.contestants import MACHINE, OURS
from videozoo.benchmark.machine import conditions
from videozoo.benchmark.measure import Plan, bound
from videozoo.benchmark.task import Task

WHOLE = "all"
"""In the place of a kind: a whole forward, timed without looking into it."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """One kind of operation in one forward; medians over the rounds."""

    name: str
    """The contestant."""
    kind: str
    calls: int
    gflop: float
    """Operations, in 1e9; two for a multiplication with its addition."""
    ms: float
    """On the clock."""
    cpu_ms: float
    share: float | None
    """Of the processor time of all kinds."""
    gflops: float
    """Rate reached, in 1e9 operations per second of processor time."""
    bound_cpu_ms: float
    """The operations at the machine's rate."""


def profile(wanted: Plan, names: Sequence[str] = (OURS, "eager"), say: Say = lambda text: None) -> list[dict[str, Any]]:
    """One record for each contestant and kind of operation, and one for the whole forward, with the conditions.

    Args:
        wanted: the network, the clip and the rounds; the first number of threads counts.
        names: contestants that run in torch.
        say: told what happens, in short lines.

    Raises:
        Unable: a contestant failed.
    """
    clip = (wanted.batch, 3, wanted.num_frames, wanted.size, wanted.size)
    task = Task(wanted.model, clip, wanted.threads[0], wanted.device, wanted.dtype, folder="")
    stated = conditions()
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name in (*names, MACHINE):
            children[name] = Child(name, task)
            stack.callback(children[name].close)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
        kinds: dict[str, list[Mapping[str, Mapping[str, float]]]] = {name: [] for name in names}
        for number in range(-1, wanted.rounds):
            say(f"{wanted.model}: round {number + 1} of {wanted.rounds}" if number >= 0 else f"{wanted.model}: warm-up")
            for name, child in children.items():
                turn = child.turn(1)
                if number >= 0:
                    turns[name].append(turn)
                    if name != MACHINE:
                        kinds[name].append(child.kinds())
    _, _, rate = bound(turns[MACHINE])
    shared = {
        "model": wanted.model, "clip": "x".join(map(str, clip)), "threads": task.threads, "rounds": wanted.rounds,
        "bound_gflops": (rate or 0) / 1e9,
    }  # fmt: skip
    stated["arithmetic"] = turns[MACHINE][0]["arithmetic"]
    return [
        shared | asdict(share) | stated for name in names for share in shares(name, turns[name], kinds[name], rate or 0)
    ]


def shares(
    name: str, turns: Sequence[Mapping[str, float]], kinds: Sequence[Mapping[str, Mapping[str, float]]], rate: float
) -> list[Share]:
    """The whole forward first, then the kinds, most time first.

    Args:
        name: the contestant.
        turns: ``wall_s`` and ``cpu_s`` of forwards that nobody looked into.
        kinds: what `Contestant.kinds` found, once for each round.
        rate: of the machine, in operations per second of processor time.
    """
    medians = {
        kind: {key: statistics.median(each[kind][key] for each in kinds) for key in kinds[0][kind]} for kind in kinds[0]
    }
    total = sum(found["cpu_s"] for found in medians.values())
    whole = {key: statistics.median(turn[key] for turn in turns) for key in ("wall_s", "cpu_s")}
    whole |= {key: sum(found[key] for found in medians.values()) for key in ("calls", "flops")}
    ordered = sorted(medians.items(), key=lambda item: -item[1]["cpu_s"])
    return [_share(name, WHOLE, whole, None, rate), *(_share(name, *each, total, rate) for each in ordered)]


def _share(name: str, kind: str, found: Mapping[str, float], total_s: float | None, rate: float) -> Share:
    return Share(
        name=name, kind=kind, calls=int(found["calls"]), gflop=found["flops"] / 1e9, ms=1e3 * found["wall_s"],
        cpu_ms=1e3 * found["cpu_s"], share=found["cpu_s"] / total_s if total_s else None,
        gflops=found["flops"] / max(found["cpu_s"], 1e-9) / 1e9,
        bound_cpu_ms=1e3 * found["flops"] / rate if rate else 0.0,
    )  # fmt: skip
