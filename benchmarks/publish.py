"""The README's tables of inference and export, and the plot of accuracy against cost, from the files in ``results``.

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
TARGETS, ROWS, PLOT = (
    ROOT / "results" / name for name in ("inference_targets.csv", "inference_rows.csv", "accuracy_cost.svg")
)
EXPORT = ROOT / "results" / "export.csv"
_OURS = "videozoo"
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


def with_table(text: str, name: str, found: str) -> str:
    """``text`` with the part between the two marker lines of a name replaced."""
    begin_line, end_line = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(begin_line)
    _, end, after = rest.partition(end_line)
    if not begin or not end:
        raise SystemExit(f"README.md must hold {begin_line} and, after it, {end_line}")
    return f"{before}{begin_line}\n{found}\n{end_line}{after}"


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
    """Write both."""
    readme = ROOT / "README.md"
    text = with_table(readme.read_text(encoding="utf-8"), "inference-table", table(read_csv([TARGETS])))
    with open(EXPORT, newline="", encoding="utf-8") as stream:
        text = with_table(text, "export-table", export_table(list(csv.DictReader(stream))))
    readme.write_text(text, encoding="utf-8")
    draw(read_csv([ROWS]), PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
