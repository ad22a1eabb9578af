"""``videozoo list``."""

from __future__ import annotations

import argparse
import json

from videozoo import manifest, registry
from videozoo.errors import UnknownModel

NAME = "list"
HELP = "List architectures and weights."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="wildcards, such as '*csn*'")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print a row for every weight, and one for every architecture without weights."""
    rows = _rows(options.pattern)
    if not rows:
        raise UnknownModel(f"nothing matches {options.pattern!r}; `videozoo list` prints everything")
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = [("name", "top-1 %", "top-5 %", "parameters", "data", ""), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        name, top1, top5, parameters, data, note = line
        cells = (
            name.ljust(widths[0]), top1.rjust(widths[1]), top5.rjust(widths[2]), parameters.rjust(widths[3]),
            data.ljust(widths[4]), note,
        )  # fmt: skip
        print("  ".join(cells).rstrip())
    return 0


def _rows(pattern: str) -> list[dict[str, object]]:
    zoo = manifest.load()
    names = set(registry.list_weights(pattern)) | set(registry.list_models(pattern))
    rows: list[dict[str, object]] = []
    for spec in zoo.architectures.values():
        entries = [entry for entry in zoo.entries if entry.architecture == spec.name]
        parameters = {"architecture": spec.name, "parameters": spec.num_parameters}
        for entry in entries:
            if entry.name in names or spec.name in names:
                figures = {"top1_percent": entry.figures.top1_percent, "top5_percent": entry.figures.top5_percent}
                state = {"default": entry.default, "has_file": entry.file is not None}
                rows.append({"name": entry.name, "dataset": entry.dataset} | parameters | figures | state)
        if not entries and spec.name in names:
            empty = {"top1_percent": None, "top5_percent": None, "default": False, "has_file": False}
            rows.append({"name": spec.name, "dataset": None} | parameters | empty)
    return rows


def _cells(row: dict[str, object]) -> tuple[str, str, str, str, str, str]:
    notes = {(True, True): "default", (False, False): "no file published", (True, False): "default, no file published"}
    note = "no weights" if row["dataset"] is None else notes.get((bool(row["default"]), bool(row["has_file"])), "")
    figures = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("top1_percent", "top5_percent")]
    millions = f"{int(str(row['parameters'])) / 1e6:.1f} M"
    return str(row["name"]), figures[0], figures[1], millions, str(row["dataset"] or "-"), note
