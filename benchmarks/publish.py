"""The tables of the README and of docs/speed.md, and the plot of accuracy against cost, from the files in ``results``.

    python benchmarks/publish.py

``benchmarks/inference.py`` and ``benchmarks/export.py`` measure; this measures nothing. The plot needs matplotlib.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videozoo.benchmark.report import read_csv
from videozoo.manifest import Entry, Views, load
from videozoo.tables import views_in_words

ROOT = Path(__file__).parent.parent
TARGETS, ROWS, PROFILE, PLOT = (
    ROOT / "results" / name
    for name in ("inference_targets.csv", "inference_rows.csv", "inference_profile.csv", "accuracy_cost.svg")
)
README, SPEED = ROOT / "README.md", ROOT / "docs" / "speed.md"
EXPORT = ROOT / "results" / "export.csv"
ASKED = {
    "ircsn_r50": {"eager": 6.2, "onnxruntime": 1.75, "openvino": 1.06},
    "ircsn_r152": {"eager": 5.5, "onnxruntime": 1.7, "openvino": 1.0, "mmaction2": 4.2},
    "ipcsn_r152": {"eager": 5.0, "onnxruntime": 1.6, "openvino": 1.0},
    "tpn_slowonly_r50": {"eager": 2.0, "onnxruntime": 1.3, "openvino": 1.02},
    "tsm_r50": {"eager": 4.5, "onnxruntime": 1.2, "openvino": 1.05},
    "tpn_tsm_r50": {"eager": 3.5, "onnxruntime": 1.2, "openvino": 1.05},
    "tsn_r50": {"eager": 3.8, "onnxruntime": 1.2, "openvino": 1.0},
}
"""Network -> peer -> how many times our time it was meant to take, with two threads, on the clock."""
ASKED_OF_ONE_THREAD = {"ircsn_r50": {"eager": 4.4}, "ircsn_r152": {"eager": 3.8}}
"""The same of processor time."""
_OURS = "videozoo"
_WHOLE = "all"
_LEAST_SHARE = 0.005
"""Of a kind of operation that has a column: in some network."""
_CROPS = {"center": 1, "three": 3, "ten": 10}
_LOADS = ("load_average", "load_average_after")
_SAME_PLACE = 0.6
"""Per cent; labels nearer than that would cover each other."""


def table(records: Sequence[dict[str, str]]) -> str:
    """Markdown: one line for each network and number of threads, and the conditions below."""
    names = [name for name in dict.fromkeys(record["name"] for record in records) if name != _OURS]
    header = ["network, clip", "threads", "ms", "CPU ms", "clips/s", "bound x", "CPU bound x", "peak MiB"]
    header += [f"against {name}: clock, CPU" for name in names]
    lines = [header, ["---"] * len(header)]
    for key in dict.fromkeys((record["model"], record["clip"], record["threads"]) for record in records):
        of_it = {
            record["name"]: record for record in records
            if (record["model"], record["clip"], record["threads"]) == key
        }  # fmt: skip
        ours = of_it[_OURS]
        cells = [f"`{key[0]}`, {key[1]}", key[2], *(f"{float(ours[name]):.0f}" for name in ("latency_ms", "cpu_ms"))]
        cells += [f"{float(ours[name]):.2f}" for name in ("clips_per_second", "over_bound", "cpu_over_bound")]
        cells.append(f"{float(ours['peak_mb']):.0f}")
        for name in names:
            theirs = of_it.get(name)
            cells.append(f"{float(theirs['latency_ratio']):.2f}x, {float(theirs['cpu_ratio']):.2f}x" if theirs else "-")
        lines.append(cells)
    versions = ", ".join(sorted({f"{record['name']} {record['version']}" for record in records}))
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", f"{_conditions(records)}; {versions}."])


def missed(records: Sequence[dict[str, str]]) -> str:
    """Markdown: one line for each ratio that was aimed at and not reached, with the largest that this machine allows.

    A network that takes no more than the arithmetic bound would be as many times faster than a peer as the peer is
    above the bound.
    """
    lines = [["network", "threads", "against", "aim", "reached", "at the bound", "why"]]
    lines.append(["---"] * len(lines[0]))
    aims = [("2", "latency_ratio", "over_bound", ASKED), ("1", "cpu_ratio", "cpu_over_bound", ASKED_OF_ONE_THREAD)]
    reached = 0
    for threads, ratio, over, asked in aims:
        of = {(record["model"], record["name"]): record for record in records if record["threads"] == threads}
        for model, peer, aim in ((model, peer, aim) for model, peers in asked.items() for peer, aim in peers.items()):
            record, own = of.get((model, peer)), of.get((model, _OURS))
            if record is None or own is None:
                continue
            if float(record[ratio]) >= aim:
                reached += 1
                continue
            possible = float(record[over])
            why = f"needs {possible / aim:.2f} x the bound, ours is at {float(own[over]):.2f}"
            cells = [
                f"`{model}`",
                threads,
                peer,
                f"{aim:.2f}x",
                f"{float(record[ratio]):.2f}x",
                f"{possible:.2f}x",
                why,
            ]
            lines.append(cells)
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", f"{reached} aims are reached."])


def kinds_table(records: Sequence[dict[str, str]]) -> str:
    """Markdown: one line for each network and way to run it, with the share of time of each kind of operation."""
    kinds = [kind for kind in dict.fromkeys(record["kind"] for record in records) if kind != _WHOLE]
    kinds = [
        kind for kind in kinds
        if any(record["kind"] == kind and float(record["share"]) >= _LEAST_SHARE for record in records)
    ]  # fmt: skip
    lines = [["network", "way", "CPU ms", "bound", *kinds], ["---"] * (4 + len(kinds))]
    for model, name in dict.fromkeys((record["model"], record["name"]) for record in records):
        of_it = {record["kind"]: record for record in records if (record["model"], record["name"]) == (model, name)}
        whole = of_it[_WHOLE]
        cells = [f"`{model}`", name, *(f"{float(whole[key]):.0f}" for key in ("cpu_ms", "bound_cpu_ms"))]
        lines.append([*cells, *(_share(of_it.get(kind)) for kind in kinds)])
    first = records[0]
    rates = [float(record["bound_gflops"]) for record in records]
    return "\n".join([
        *(f"| {' | '.join(cells)} |" for cells in lines), "",
        f"{first['cpu']} ({first['arithmetic']}), {first['threads']} threads, medians of {first['rounds']} rounds, "
        f"{first['date']}, load average {first['load_average']}; the machine's arithmetic gave {min(rates):.0f} to "
        f"{max(rates):.0f} GFLOP/s a core.",
    ])  # fmt: skip


def _share(record: dict[str, str] | None) -> str:
    """Per cent of the time, and the rate where there is arithmetic."""
    if record is None:
        return ""
    rate = f" at {float(record['gflops']):.0f}" if float(record["gflop"]) else ""
    return f"{100 * float(record['share']):.1f} %{rate}"


def _conditions(records: Sequence[dict[str, str]]) -> str:
    first = records[0]
    dates = sorted(record["date"] for record in records)
    loads = [float(record[name]) for record in records for name in _LOADS if record[name]]
    return (
        f"{first['cpu']} ({first['arithmetic']}), {first['cpus']} processors, {first['system']}, "
        f"Python {first['python']}, torch {first['torch']}, {first['dtype']}, medians of {first['rounds']} rounds, "
        f"{dates[0]} to {dates[-1]}, load average {min(loads):.1f} to {max(loads):.1f}"
    )


def export_table(records: Sequence[dict[str, str]]) -> str:
    """Markdown: one line for each network, the largest disagreement of each format, and the conditions below."""
    formats = list(dict.fromkeys(record["format"] for record in records))
    lines = [["network", "clips", "checked on", *formats], ["---"] * (3 + len(formats))]
    for model in dict.fromkeys(record["model"] for record in records):
        of_it = {record["format"]: record for record in records if record["model"] == model}
        first = next(iter(of_it.values()))
        cells = [of_it[name]["difference"] if name in of_it else "-" for name in formats]
        lines.append([f"`{model}`", first["clips"], first["checked"].replace(";", ","), *cells])
    runtimes = ", ".join(sorted({record["runtime"] for record in records}))
    return "\n".join(
        [
            *(f"| {' | '.join(cells)} |" for cells in lines),
            "",
            f"Largest difference of a logit, in parts of the largest logit of eager {records[0]['dtype']} in torch "
            f"{records[0]['torch']}; tolerance {records[0]['tolerance']}; {runtimes}; {records[-1]['date']}.",
        ]
    )


def with_table(text: str, found: str, name: str = "inference") -> str:
    """``text`` with the part between the two marker lines of this name replaced."""
    first, last = (f"<!-- {name}-table:{which} -->" for which in ("begin", "end"))
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"there must be {first} and, after it, {last}")
    return f"{before}{begin}\n{found}\n{end}{after}"


def documents() -> dict[Path, str]:
    """The documents with all tables of this script."""
    readme, speed = (path.read_text(encoding="utf-8") for path in (README, SPEED))
    targets = read_csv([TARGETS])
    with PROFILE.open(encoding="utf-8", newline="") as file:
        profile = list(csv.DictReader(file))
    with EXPORT.open(encoding="utf-8", newline="") as file:
        export = list(csv.DictReader(file))
    return {
        README: with_table(with_table(readme, table(targets)), export_table(export), "export"),
        SPEED: with_table(with_table(speed, missed(targets), "aims"), kinds_table(profile), "profile"),
    }


def num_views(views: Views) -> int:
    """Clips of one video that the network sees."""
    return views.num_clips * _CROPS[views.crop] * (2 if views.twice_sample else 1)


def points(records: Sequence[dict[str, str]]) -> list[tuple[Entry, float, float]]:
    """Row, processor seconds of the network for one video, top-1 in per cent; of every row that has both."""
    cost = {(record["model"], record["clip"]): float(record["cpu_ms"]) for record in records if record["name"] == _OURS}
    found = []
    for entry in load().entries:
        views, top1 = entry.protocol.full, entry.figures.top1_percent
        measured = cost.get(
            (entry.architecture, f"1x3x{views.num_frames}x{views.crop_size}x{views.crop_size}")
        )  # fmt: skip
        if top1 is not None and measured is not None:
            found.append((entry, measured / 1e3 * num_views(views), top1))
    return found


def draw(records: Sequence[dict[str, str]], path: Path) -> None:
    """Write the plot."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "videozoo"  # the same figures give the same bytes
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 8))
    by_protocol: dict[tuple[str, str, str], list[tuple[Entry, float, float]]] = {}
    for point in points(records):
        entry = point[0]
        key = (entry.architecture, views_in_words(entry.protocol.full), entry.dataset)
        by_protocol.setdefault(key, []).append(point)
    markers = "osD^vP*Xhp<>d8"
    for number, ((architecture, views, dataset), found) in enumerate(by_protocol.items()):
        frames = found[0][0].protocol.full.num_frames
        label = f"{architecture}: {frames} frames, {views}, {dataset}"
        marker = markers[number % len(markers)]
        axes.scatter([cost for _, cost, _ in found], [top1 for *_, top1 in found], label=label, marker=marker, s=36)
        _name_rows(axes, found, left=number % 2 == 1)
    axes.set_xscale("log")
    axes.set_xlabel("processor seconds of the network for one video: measured for a clip, times the protocol's views")
    axes.set_ylabel("published top-1 accuracy under that protocol, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)
    axes.margins(x=0.12)
    first = records[0]
    axes.set_title(f"{_conditions(records)}, threads: {first['threads']}".replace(", Python", ",\nPython"), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _name_rows(axes: Any, found: Sequence[tuple[Entry, float, float]], *, left: bool) -> None:
    """What the rows were pretrained on, beside the points; rows that lie together share a name."""
    named: list[tuple[str, float]] = []
    for entry, cost, top1 in sorted(found, key=lambda point: -point[2]):
        name = entry.pretraining or "from scratch"
        if not any(name == other and abs(top1 - place) < _SAME_PLACE for other, place in named):
            side = {"xytext": (-6, -2), "ha": "right"} if left else {"xytext": (6, -2), "ha": "left"}
            axes.annotate(name, (cost, top1), fontsize=6, textcoords="offset points", **side)
            named.append((name, top1))


def main() -> int:
    """Write tables and plot."""
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
    draw(read_csv([ROWS]), PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
