"""What an evaluation gives: typed results, and the figures in them from the scores of every video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videozoo import metrics
from videozoo.errors import InvalidArgument
from videozoo.manifest import Entry, Views
from videozoo.tables import views_in_words
from videozoo.video.dataset import ListedVideo, Problem, VideoList

SINGLE_LABEL_METRICS = ("top_k_accuracy", "mean_class_accuracy")
MULTI_LABEL_METRICS = ("mean_average_precision", "mmit_mean_average_precision")
METRICS = (*SINGLE_LABEL_METRICS, *MULTI_LABEL_METRICS)
TOPK = (1, 5)
WORST_CLASSES = 10
"""How many classes of those that are recognised worst a result names."""

Scores = NDArray[np.float32]
Outcome = Scores | str
"""What became of a video: its scores (num_classes,), or why it could not be decoded."""


@dataclass(frozen=True)
class Published:
    """What the weights' publisher states, to stand beside what was measured."""

    weights: str
    top1_percent: float | None
    top5_percent: float | None
    protocol: str | None
    """How the publisher says that it was measured."""
    views: str
    """The row's own test protocol, in the words of ``EvaluationResult.protocol``."""


@dataclass(frozen=True)
class ClassResult:
    """How one class was recognised."""

    label: int
    name: str
    num_videos: int
    num_right: int
    mistaken_for: str
    """The class that its videos were most often taken for."""
    num_mistaken: int
    """How often they were."""


@dataclass(frozen=True)
class VideoResult:
    """What the network said of one video."""

    line: int | None
    name: str
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    """As `Prediction.scores`: float32, averaged over the views."""


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured, and how. It does not depend on the number of processes, attempts or hours."""

    model: str
    """The weights' name, or the architecture's where the weights have none."""
    weights_sha256: str
    """Digest of the network's tensors as they computed."""
    list: str
    list_sha256: str
    """Digest of the videos, their places and their labels."""
    num_videos: int
    num_failed: int
    """Videos that could not be decoded; no metric knows of them."""
    protocol: str
    """The views of a video, in words."""
    views: Views
    metrics: dict[str, float]
    """Each from 0 to 1."""
    published: Published | None
    """None where the weights are no row of the manifest."""
    worst_classes: tuple[ClassResult, ...]
    """At most ten, worst first; none where videos have several labels."""
    failures: tuple[Problem, ...]
    videos: tuple[VideoResult, ...] | None
    """Per video, in the order of the list, those that failed left out; None unless they were asked for."""


def chosen_metrics(names: Sequence[str] | None, videos: VideoList) -> tuple[str, ...]:
    """The metrics that are asked for; of None, those that fit the labels.

    Raises:
        InvalidArgument: there is no such metric, or it needs one label a video.
    """
    if names is None:
        return MULTI_LABEL_METRICS if videos.multi_label else SINGLE_LABEL_METRICS
    for name in names:
        if name not in METRICS:
            raise InvalidArgument(f"no metric is called {name!r}: there are {', '.join(METRICS)}")
        if videos.multi_label and name in SINGLE_LABEL_METRICS:
            raise InvalidArgument(f"{name} needs one label a video, and {videos.source} has several")
    if not names:
        raise InvalidArgument(f"no metric was asked for: there are {', '.join(METRICS)}")
    return tuple(dict.fromkeys(names))


def measured(wanted: Sequence[str], decoded: Sequence[tuple[ListedVideo, Scores]]) -> dict[str, float]:
    """The metrics ``wanted``, by name; top-k accuracy as one figure for each k."""
    scores = np.stack([scores for _, scores in decoded])
    figures: dict[str, float] = {}
    for name in wanted:
        if name == "top_k_accuracy":
            values = metrics.top_k_accuracy(scores, _labels(decoded), TOPK)
            figures |= {f"top{k}_accuracy": value for k, value in zip(TOPK, values, strict=True)}
        elif name == "mean_class_accuracy":
            figures[name] = metrics.mean_class_accuracy(scores, _labels(decoded))
        else:
            targets = np.zeros(scores.shape, dtype=np.int64)
            for row, (video, _) in zip(targets, decoded, strict=True):
                row[list(video.labels)] = 1
            by_video = name == "mmit_mean_average_precision"
            precision = metrics.mmit_mean_average_precision if by_video else metrics.mean_average_precision
            figures[name] = precision(scores, targets)
    return figures


def worst_classes(decoded: Sequence[tuple[ListedVideo, Scores]], names: Sequence[str]) -> tuple[ClassResult, ...]:
    """The classes with the least accuracy, of equals the larger one first; only such as were mistaken."""
    confusion = metrics.confusion_matrix(np.stack([scores for _, scores in decoded]), _labels(decoded))
    found = []
    for label, row in enumerate(confusion):
        wrong = row.copy()
        wrong[label] = 0
        other = int(wrong.argmax())
        if wrong[other]:
            found.append(
                ClassResult(label, names[label], int(row.sum()), int(row[label]), names[other], int(wrong[other]))
            )
    found.sort(key=lambda result: (result.num_right / result.num_videos, -result.num_videos, result.label))
    return tuple(found[:WORST_CLASSES])


def published(entry: Entry) -> Published:
    """What the manifest's row states."""
    figures = entry.figures
    words = protocol_in_words(entry.protocol.full)
    return Published(entry.name, figures.top1_percent, figures.top5_percent, figures.protocol, words)


def protocol_in_words(views: Views) -> str:
    """Views and their average: ``10 clips x 3 crops of 256, 32 frames 2 apart, mean of probabilities``."""
    frames = f", {views.num_frames} frames {views.frame_stride} apart" if views.sampling == "clips" else ""
    averages = {"prob": "mean of probabilities", "score": "mean of logits", None: "one row of logits"}
    return f"{views_in_words(views)}{frames}, {averages[views.average_clips]}"


def write_result(path: Path, result: EvaluationResult) -> None:
    """Fill a file with a result, as JSON; OSError where that cannot be."""
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape", newline="\n")


def read_result(path: Path) -> EvaluationResult:
    """What `write_result` wrote."""
    table = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    videos = table["videos"]
    return EvaluationResult(
        **table
        | {
            "views": Views(**table["views"]),
            "published": None if table["published"] is None else Published(**table["published"]),
            "worst_classes": tuple(ClassResult(**found) for found in table["worst_classes"]),
            "failures": tuple(Problem(**found) for found in table["failures"]),
            "videos": None if videos is None else tuple(VideoResult(**_with_tuples(found)) for found in videos),
        }
    )


def _with_tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _labels(decoded: Sequence[tuple[ListedVideo, Scores]]) -> NDArray[np.int64]:
    return np.array([video.labels[0] for video, _ in decoded], dtype=np.int64)
