"""The manifest: every architecture and every published weight file, as typed, frozen records.

``weights_manifest.json`` is the single source of what videozoo knows about weights: where a file is, its digest, its
format, how to feed the network, which labels belong to it, the published figures with the protocol that gave them,
provenance and licence. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Sampling = Literal["clips", "segments", "paddlevideo_segments"]
Crop = Literal["center", "three", "ten"]
Average = Literal["prob", "score"]
Format = Literal["torch", "caffe2_pickle", "paddle_pickle", "safetensors"]
Layout = Literal["mmaction2", "vmz_caffe2", "vmz_torch", "paddlevideo"]


@dataclass(frozen=True, slots=True)
class Views:
    """Which frames and which crops of a video the network sees, and how its answers are averaged."""

    sampling: Sampling
    """``clips``: runs of ``num_frames`` frames, ``frame_stride`` apart; ``segments``: one frame from the middle of each
    of ``num_frames`` equal parts; ``paddlevideo_segments``: the same, but all zero where a video has at most that
    many."""
    num_frames: int
    """Frames the network sees at once (T)."""
    frame_stride: int
    """Distance of two frames of a clip, in frames of the video; 1 for segments."""
    num_clips: int
    """Clips spread evenly over the video (1 for segments)."""
    twice_sample: bool
    """Whether the video is sampled a second time from the start of each part."""
    short_side: int
    """Pixels of the shorter side after the resize that keeps the aspect ratio."""
    crop: Crop
    crop_size: int
    average_clips: Average | None
    """``prob``: mean of the views' softmax; ``score``: mean of the logits; None: one row of logits for the whole
    video."""


@dataclass(frozen=True, slots=True)
class Input:
    """Normalisation of the network's input, in units of 0..255 pixel values, channels in order R, G, B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb"] = "rgb"


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the network is fed: normalisation and the two named sets of views."""

    input: Input
    full: Views
    """The protocol of the published figure."""
    center: Views
    """One centred view, as used for validation during training."""


@dataclass(frozen=True, slots=True)
class File:
    """One published file."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    """Full digest, 64 hexadecimal digits, where it is known."""
    sha256_prefix: str | None
    """The first 8 hexadecimal digits, where the publisher put them into the file name."""
    size_bytes: int | None
    format: Format
    layout: Layout
    huggingface_repo: str | None
    embedded: bool
    """Whether the file lies inside the package."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Published accuracy and cost, as the source states them; None where it states nothing."""

    top1_percent: float | None
    top5_percent: float | None
    reference_top1_percent: float | None
    reference_top5_percent: float | None
    reference_url: str | None
    inference_videos_per_second: float | None
    gpu_memory_mb: int | None
    protocol: str | None
    """The inference protocol that gave the accuracy, in words."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the row comes from: the columns of the model-zoo page that describe the training."""

    zoo: str
    page: str | None
    """None for weights that this project trained."""
    config: str | None
    """The upstream's own config name, verbatim."""
    config_path: str | None
    resolution: str | None
    gpus: str | None
    backbone: str | None
    pretrained: str | None
    checkpoint_kind: str | None
    """``ckpt`` for a file that the zoo trained, ``infer_ckpt`` for one that it ported."""
    log_url: str | None
    json_log_url: str | None
    ported_from: str | None


@dataclass(frozen=True, slots=True)
class License:
    """What the publishing repositories say."""

    code: str
    weights: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a network with the row's weights answers to the fixed input of ``videozoo verify``, once measured."""

    logits: tuple[float, ...]
    """The first 8; of a trunk, the first 8 of its pooled features."""
    tolerance: float
    """How far each may differ, as another processor adds in another order."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled data set; ``labels`` names a file under ``videozoo/labels``, None where no list is carried."""

    name: str
    title: str
    num_classes: int
    labels: str | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network without weights, and how it is fed when no row says otherwise."""

    name: str
    family: str
    """Module under ``videozoo.models`` that holds the factory."""
    title: str
    num_parameters: int
    dataset: str
    """Data set whose class count is the default."""
    citation: str
    """Key of ``citations``."""
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: weights of one architecture."""

    architecture: str
    tag: str
    default: bool
    """Whether ``pretrained=True`` means this row."""
    pretraining: str | None
    """Data set, or network, that the training started from; None for training from scratch, and so for every row that
    was only pretrained."""
    dataset: str
    """Data set that the weights were trained on."""
    num_classes: int
    """As many as ``dataset`` has; 0 for a trunk without a classifier."""
    file: File | None
    """None where the page announces a file that was never published."""
    protocol: Protocol
    figures: Figures
    source: Source
    license: License
    notes: tuple[str, ...]
    expectation: Expectation | None = None

    @property
    def name(self) -> str:
        """``architecture.tag``, the name of the weights."""
        return f"{self.architecture}.{self.tag}"

    @property
    def is_raw(self) -> bool:
        """Whether the weights were only pretrained, tag ``<dataset>_raw``: a start for training, not a recogniser."""
        return _RAW in self.tag.split("_")


@dataclass(frozen=True, slots=True)
class Manifest:
    """All records, in the order of the file; of rows with the same pretraining, the first is the default one."""

    datasets: Mapping[str, Dataset]
    citations: Mapping[str, str]
    """BibTeX by key."""
    architectures: Mapping[str, Architecture]
    entries: tuple[Entry, ...]


_NAME = "weights_manifest.json"
_RAW = "raw"


def path() -> Path:
    """Where the manifest lies: inside an installed package, else beside the package in a source tree.

    Raises:
        FileNotFoundError: the installation is damaged.
    """
    package = Path(__file__).parent
    for folder in (package, package.parent):
        if (folder / _NAME).is_file():
            return folder / _NAME
    raise FileNotFoundError(f"{_NAME} lies neither in {package} nor beside it; install videozoo again")


@cache
def load() -> Manifest:
    """The manifest, parsed once per process."""
    return parse(json.loads(path().read_text(encoding="utf-8")))


def parse(data: Mapping[str, Any]) -> Manifest:
    """Typed records from the manifest's JSON.

    Raises:
        KeyError, TypeError: ``data`` does not follow ``weights_manifest.schema.json``.
    """
    return Manifest(
        datasets={name: Dataset(name=name, **row) for name, row in data["datasets"].items()},
        citations=dict(data["citations"]),
        architectures={
            name: Architecture(name=name, **row | {"protocol": _protocol(row["protocol"])})
            for name, row in data["architectures"].items()
        },
        entries=tuple(_entry(row) for row in data["weights"]),
    )


def _entry(row: Mapping[str, Any]) -> Entry:
    file, expected = row["file"], row["expectation"]
    nested: dict[str, Any] = {
        "file": None if file is None else File(**file | {"urls": tuple(file["urls"])}),
        "protocol": _protocol(row["protocol"]),
        "figures": Figures(**row["figures"]),
        "source": Source(**row["source"]),
        "license": License(**row["license"]),
        "notes": tuple(row["notes"]),
        "expectation": expected and Expectation(tuple(expected["logits"]), expected["tolerance"]),
    }
    return Entry(**dict(row) | nested)


def _protocol(row: Mapping[str, Any]) -> Protocol:
    pixels = row["input"]
    return Protocol(
        input=Input(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["channel_order"]),
        full=Views(**row["full"]),
        center=Views(**row["center"]),
    )


def faults(manifest: Manifest) -> tuple[str, ...]:
    """What is wrong with ``manifest`` beyond the reach of its JSON Schema, one line each; empty when all is well.

    Names and digests must differ even where letter case is ignored (file systems do), references must resolve, and each
    architecture that has rows has one default row, the first.
    """
    entries = manifest.entries
    files = [entry.file for entry in entries if entry.file is not None]
    found = [
        *_repeated("weights", (entry.name for entry in entries)),
        *_repeated("file name", (file.name for file in files)),
        *_repeated("sha256", (file.sha256 for file in files if file.sha256 is not None)),
        *_repeated("sha256 prefix", (file.sha256_prefix for file in files if file.sha256_prefix is not None)),
    ]
    for architecture in manifest.architectures.values():
        found += _architecture_faults(architecture, manifest)
    for entry in entries:
        found += (f"{entry.name}: {fault}" for fault in _entry_faults(entry, manifest))
    return tuple(found)


def _repeated(kind: str, values: Iterable[str]) -> Iterator[str]:
    counts = Counter(value.lower() for value in values)
    return (f"{kind} {value!r} occurs {count} times" for value, count in counts.items() if count > 1)


def _architecture_faults(architecture: Architecture, manifest: Manifest) -> Iterator[str]:
    if architecture.dataset not in manifest.datasets:
        yield f"{architecture.name}: unknown dataset {architecture.dataset!r}"
    if architecture.citation not in manifest.citations:
        yield f"{architecture.name}: unknown citation {architecture.citation!r}"
    defaults = [entry.default for entry in manifest.entries if entry.architecture == architecture.name]
    if defaults and defaults != [True] + [False] * (len(defaults) - 1):
        yield f"{architecture.name}: the first row, and no other, must be the default"
    yield from (f"{architecture.name}: {fault}" for fault in protocol_faults(architecture.protocol))


def _entry_faults(entry: Entry, manifest: Manifest) -> Iterator[str]:
    if entry.architecture not in manifest.architectures:
        yield f"unknown architecture {entry.architecture!r}"
    dataset = manifest.datasets.get(entry.dataset)
    if dataset is None:
        yield f"unknown dataset {entry.dataset!r}"
    elif entry.num_classes not in (dataset.num_classes, 0):
        yield f"{entry.num_classes} classes, but {entry.dataset} has {dataset.num_classes}"
    if entry.pretraining is not None and not entry.tag.startswith(f"{entry.pretraining}_"):
        yield f"the tag does not start with its pretraining {entry.pretraining!r}"
    if entry.is_raw and (entry.pretraining is not None or entry.default):
        yield "weights that were only pretrained are found by their tag alone: no pretraining, and not the default"
    if entry.num_classes == 0 and not entry.is_raw:
        yield "0 classes, but only weights that were only pretrained may lack a classifier"
    if entry.file is not None:
        yield from _file_faults(entry.file)
    yield from protocol_faults(entry.protocol)


def _file_faults(file: File) -> Iterator[str]:
    if file.sha256_prefix is not None and file.sha256_prefix not in file.name:
        yield f"the prefix {file.sha256_prefix} does not stand in the file name {file.name}"
    if file.sha256 is not None and not file.sha256.startswith(file.sha256_prefix or ""):
        yield f"the digest {file.sha256} does not start with {file.sha256_prefix}"
    for url in file.urls:
        if unquote(urlsplit(url).path).rpartition("/")[2] != file.name:
            yield f"{url} does not end in the file name {file.name}"


def protocol_faults(protocol: Protocol) -> Iterator[str]:
    """What contradicts itself in a protocol, one line each."""
    if len(protocol.input.mean) != len(protocol.input.std):
        yield f"{len(protocol.input.mean)} means, but {len(protocol.input.std)} standard deviations"
    for name, views in (("full", protocol.full), ("center", protocol.center)):
        if views.crop_size > views.short_side:
            yield f"{name}: a crop of {views.crop_size} pixels does not fit a short side of {views.short_side}"
