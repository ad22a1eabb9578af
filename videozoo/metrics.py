"""Accuracy of scores, by the rules of the original projects: small functions of numpy arrays.

torchmetrics (1.9) is not used. It agrees on mean class accuracy, absent classes included, and on top-k accuracy without
ties; but it settles ties as ``torch.topk`` does, refuses a k above the number of classes, and counts a class without
positives as an average precision of 0 (0.1548 on the figures of ``tests/test_metrics.py``, MMAction2 0.1645). What is
left is shorter than the calls would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from videozoo.errors import InvalidArgument

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, topk: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """Share of the videos whose class is among the k best, for each k.

    Among equal scores the order is that of numpy's default sort, as in MMAction2: with ties at the k-th place the
    outcome depends on the sort, and may be another one with another numpy or processor. A k above the number of classes
    gives 1.0.

    Args:
        scores: (videos, classes), of any scale.
        labels: (videos,) class numbers.
        topk: each k, at least 1.

    Raises:
        InvalidArgument: no videos, a label that is no class, a k below 1, or shapes that do not fit.

    >>> top_k_accuracy([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]], [1, 2], topk=(1, 2))
    (0.5, 1.0)
    """
    found, truth = _scores_and_labels(scores, labels)
    if not topk or min(topk) < 1:
        raise InvalidArgument(f"topk={tuple(topk)}: give each k, at least 1")
    ranking = np.argsort(found, axis=1)
    return tuple(float((ranking[:, -k:] == truth[:, None]).any(axis=1).mean()) for k in topk)


def mean_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes of the share of a class's videos whose best class it is; of equals, the first is the best.

    As in MMAction2, the mean runs over the classes that occur as a label or as a best class: one that is found but
    never right because no video has it counts 0, one that is neither does not count.

    Args:
        scores: (videos, classes).
        labels: (videos,) class numbers.

    Raises:
        InvalidArgument: no videos, a label that is no class, or shapes that do not fit.

    >>> mean_class_accuracy([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]], [0, 0])
    0.25
    """
    confusion = confusion_matrix(scores, labels)
    labelled = confusion.sum(axis=1)
    met = (labelled > 0) | (confusion.sum(axis=0) > 0)
    return float((confusion.diagonal()[met] / np.maximum(labelled[met], 1)).mean())


def confusion_matrix(scores: ArrayLike, labels: ArrayLike) -> Integers:
    """Videos by label (rows) and best class (columns): int64 (classes, classes).

    Raises:
        InvalidArgument: no videos, a label that is no class, or shapes that do not fit.
    """
    found, truth = _scores_and_labels(scores, labels)
    num_classes = found.shape[1]
    pairs = truth * num_classes + found.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def mean_average_precision(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean over the classes of the average precision with which their score ranks the videos.

    Classes that no video has are left out, as in MMAction2; videos with equal scores are taken at once.

    Args:
        scores: (videos, classes).
        targets: (videos, classes), 1 for the classes of a video and 0 for the others.

    Raises:
        InvalidArgument: shapes that do not fit, values other than 0 and 1, or no class of any video.
    """
    found, truth = _scores_and_targets(scores, targets)
    values = [average_precision(*pair) for pair in zip(found.T, truth.T, strict=True) if pair[1].any()]
    if not values:
        raise InvalidArgument("mean average precision of targets that are all 0: no video has a class")
    return float(np.mean(values))


def mmit_mean_average_precision(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean over the videos of the average precision with which a video's scores rank the classes.

    The rule of Multi-Moments in Time (arXiv:1911.00232).

    Args:
        scores: (videos, classes).
        targets: (videos, classes), 1 for the classes of a video and 0 for the others; each video has at least one.

    Raises:
        InvalidArgument: shapes that do not fit, values other than 0 and 1, or a video without a class.
    """
    found, truth = _scores_and_targets(scores, targets)
    if not truth.any(axis=1).all():
        raise InvalidArgument(f"video {int(truth.any(axis=1).argmin())} (counted from 0) has no class")
    return float(np.mean([average_precision(*pair) for pair in zip(found, truth, strict=True)]))


def average_precision(scores: Floats, targets: NDArray[np.bool_]) -> float:
    """Sum over the thresholds, from the highest, of precision times the recall that the threshold adds.

    Args:
        scores: (items,).
        targets: (items,), at least one of them true.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(targets[order])
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    right, taken = right[last_of_equals], np.arange(1, len(scores) + 1)[last_of_equals]
    added = np.diff(right, prepend=0) / right[-1]
    return float((right / taken * added).sum())


def _scores_and_labels(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    found, truth = np.asarray(scores), np.asarray(labels)
    if found.ndim != 2 or truth.shape != found.shape[:1] or 0 in found.shape:
        raise InvalidArgument(
            f"scores {found.shape} and labels {truth.shape}: need (videos, classes) and (videos,), neither 0"
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= found.shape[1]:
        raise InvalidArgument(f"labels must be whole numbers from 0 to {found.shape[1] - 1}")
    return found, truth.astype(np.int64)


def _scores_and_targets(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    found, truth = np.asarray(scores), np.asarray(targets)
    if found.ndim != 2 or truth.shape != found.shape or 0 in found.shape:
        raise InvalidArgument(
            f"scores {found.shape} and targets {truth.shape}: need (videos, classes) of both, neither 0"
        )
    if not np.isin(truth, (0, 1)).all():
        raise InvalidArgument("targets must be 0 or 1")
    return found, truth.astype(bool)
