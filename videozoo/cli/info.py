"""``videozoo info``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from videozoo import cache, registry
from videozoo.credentials import without_credentials
from videozoo.manifest import Architecture, Entry, Protocol, Views

NAME = "info"
HELP = "Show all that is known about an architecture or about weights."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="an architecture, architecture.tag, or the upstream's config name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print one record."""
    record = _find(options.name)
    if options.json:
        print(json.dumps(asdict(record) | {"name": record.name}, indent=2))
        return 0
    lines = _architecture(record) if isinstance(record, Architecture) else _weights(record)
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        print(f"{key.ljust(width)}  {value}")
    return 0


def _find(name: str) -> Architecture | Entry:
    return registry.architecture(name) if registry.is_model(name) else registry.get_weights(name)


def _architecture(spec: Architecture) -> list[tuple[str, str]]:
    weights = registry.list_weights(f"{spec.name}.*")
    return [
        ("name", spec.name),
        ("what", spec.title),
        ("parameters", f"{spec.num_parameters:,}"),
        ("weights", ", ".join(weights) or "none published"),
        *_protocol(spec.protocol),
    ]


def _weights(entry: Entry) -> list[tuple[str, str]]:
    figures, source, file = entry.figures, entry.source, entry.file
    lines = [
        ("name", entry.name + (" (default)" if entry.default else "")),
        ("what", registry.architecture(entry.architecture).title),
        ("data", f"{entry.dataset}, {entry.num_classes} classes"),
        ("pretraining", entry.pretraining or "none"),
        ("top-1, top-5", f"{_percent(figures.top1_percent)}, {_percent(figures.top5_percent)}"),
        ("protocol", figures.protocol or "not stated"),
        *_protocol(entry.protocol),
        ("zoo", f"{source.zoo}, config {source.config or '-'}, {source.resolution or 'resolution not stated'}"),
        ("page", source.page or "-"),
    ]
    if source.ported_from:
        lines.append(("ported from", source.ported_from))
    if file is None:
        lines.append(("file", "announced by the page, never published"))
    else:
        prefix = f"{file.sha256_prefix} (prefix: the first 8 of 64 digits)" if file.sha256_prefix else "not known"
        lines += [("file", file.name), ("sha256", file.sha256 or prefix)]
        lines += [("source", place) for place in _sources(entry)]
    lines.append(("licence", f"code {entry.license.code}; weights {entry.license.weights or 'not stated'}"))
    return lines + [("note", note) for note in entry.notes]


def _sources(entry: Entry) -> list[str]:
    """Where the file is looked for, in that order."""
    if entry.file is not None and entry.file.embedded:
        return ["inside the package"]
    folders = [f"{folder} (VIDEOZOO_WEIGHTS_DIR)" for folder in cache.weights_dirs()]
    return [
        f"{cache.home()} (cache)",
        *folders,
        *(without_credentials(address.url) for address in cache.remote_addresses(entry)),
    ]


def _protocol(protocol: Protocol) -> list[tuple[str, str]]:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (protocol.input.mean, protocol.input.std))
    views = [("views, full", _views(protocol.full)), ("views, center", _views(protocol.center))]
    return [*views, ("input", f"R, G, B in 0..255, mean {mean}, std {std}")]


def _views(views: Views) -> str:
    twice = ", sampled twice" if views.twice_sample else ""
    clip = f"{views.num_frames} segments" if views.sampling != "clips" else (
        f"{views.num_clips} x {views.num_frames} frames, {views.frame_stride} apart"
    )  # fmt: skip
    average = {"prob": "mean of probabilities", "score": "mean of logits", None: "features of all frames averaged"}
    return (
        f"{clip}{twice}, short side {views.short_side}, {views.crop} crop of {views.crop_size}, "
        f"{average[views.average_clips]}"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:g} %"
