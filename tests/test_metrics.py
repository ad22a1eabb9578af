"""Metrics against the figures that MMAction2's own functions gave on the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from videozoo import metrics
from videozoo.errors import InvalidArgument

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "pipeline_metrics.json").read_text(encoding="utf-8"))
LABELS = np.array(GOLDEN["labels"])


def plain_scores() -> NDArray[np.float64]:
    random = np.random.Generator(np.random.Philox(5))
    scores = random.standard_normal((200, 17))
    scores[np.arange(200), LABELS] += 1.0
    assert scores.sum() == pytest.approx(GOLDEN["s_sum"], abs=1e-9)
    return scores


def tied_scores() -> NDArray[np.float64]:
    scores = plain_scores()
    scores[::4] = np.round(scores[::4])
    scores[1::40] = 0.25
    assert scores.sum() == pytest.approx(GOLDEN["t_sum"], abs=1e-9)
    return scores


def several_labels() -> NDArray[np.int64]:
    targets = (np.random.Generator(np.random.Philox(6)).random((200, 17)) < 0.15).astype(np.int64)
    targets[:, 3] = 0
    assert targets.sum() == GOLDEN["average_precision"]["many_sum"]
    return targets


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_scores_without_ties(dtype: type) -> None:
    scores = plain_scores().astype(dtype)
    assert metrics.top_k_accuracy(scores, LABELS) == (GOLDEN["plain"]["top1"], GOLDEN["plain"]["top5"])
    found = metrics.mean_class_accuracy(scores, LABELS)
    assert found == pytest.approx(GOLDEN["plain"]["mean_class_accuracy"], abs=1e-12)
    assert metrics.mean_class_accuracy(list(scores), LABELS.tolist()) == found


def test_ties() -> None:
    """Mean class accuracy takes the first of equals; top-k is left to numpy's sort, which may differ by processor."""
    scores = tied_scores()
    found = metrics.mean_class_accuracy(scores, LABELS)
    assert found == pytest.approx(GOLDEN["ties"]["mean_class_accuracy"], abs=1e-12)
    for name, value in zip(("top1", "top5"), metrics.top_k_accuracy(scores, LABELS), strict=True):
        bounds = GOLDEN["ties_bounds"][name]
        assert bounds["pessimistic"] <= value <= bounds["optimistic"]
        right = np.argsort(scores)[:, -int(name[3:]) :] == LABELS[:, None]  # the originals' rule, on this machine
        assert value == right.any(axis=1).mean()


@pytest.mark.parametrize("edge", GOLDEN["edges"], ids=["absent", "found-but-never-labelled"])
def test_classes_that_do_not_occur(edge: dict[str, object]) -> None:
    assert metrics.top_k_accuracy(edge["scores"], edge["labels"]) == (edge["top1"], edge["top5"])  # type: ignore[arg-type]
    found = metrics.mean_class_accuracy(edge["scores"], edge["labels"])  # type: ignore[arg-type]
    assert found == pytest.approx(edge["mean_class_accuracy"], abs=1e-12)


def test_average_precision() -> None:
    expected, targets = GOLDEN["average_precision"], several_labels()
    assert metrics.mean_average_precision(plain_scores(), targets) == pytest.approx(expected["mAP_s"], abs=1e-12)
    assert metrics.mean_average_precision(tied_scores(), targets) == pytest.approx(expected["mAP_t"], abs=1e-12)
    labelled = targets.any(axis=0).mean()  # as if classes without videos counted 0
    assert round(float(expected["mAP_s"]), 4) == 0.1645 and round(float(expected["mAP_s"] * labelled), 4) == 0.1548
    targets[~targets.any(axis=1), 0] = 1
    found = metrics.mmit_mean_average_precision(plain_scores(), targets)
    assert found == pytest.approx(expected["mmit_mAP_s_rows_without_label_given_class0"], abs=1e-12)


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**32))
def test_one_confusion_matrix_tells_the_accuracies(num_videos: int, num_classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels = random.standard_normal((num_videos, num_classes)), random.integers(0, num_classes, num_videos)
    confusion = metrics.confusion_matrix(scores, labels)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=num_classes).tolist()
    top1, all_of_them = metrics.top_k_accuracy(scores, labels, topk=(1, num_classes))
    assert top1 == pytest.approx(confusion.trace() / num_videos)
    assert all_of_them == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.1, 0.9]], [2], "from 0 to 1"),
        ([[0.1, 0.9]], [-1], "from 0 to 1"),
        ([[0.1, 0.9]], [0.5], "whole numbers"),
        ([[0.1, 0.9]], [0, 1], r"\(1, 2\) and labels \(2,\)"),
        ([], [], "neither 0"),
        ([0.1, 0.9], [0, 1], "neither 0"),
    ],
)
def test_accuracies_of_what_does_not_fit(scores: list[float], labels: list[int], message: str) -> None:
    for metric in (metrics.top_k_accuracy, metrics.mean_class_accuracy):
        with pytest.raises(InvalidArgument, match=message):
            metric(scores, labels)


def test_precision_of_what_does_not_fit() -> None:
    for metric in (metrics.mean_average_precision, metrics.mmit_mean_average_precision):
        for targets, message in (([[0, 2]], "0 or 1"), ([[0]], "both"), ([[0, 0]], "has")):
            with pytest.raises(InvalidArgument, match=message):
                metric([[0.1, 0.9]], targets)
    for topk in ((), (0,), (1, -5)):
        with pytest.raises(InvalidArgument, match="at least 1"):
            metrics.top_k_accuracy([[0.1, 0.9]], [0], topk)
