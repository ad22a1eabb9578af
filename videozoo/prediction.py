"""What a network says of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videozoo.errors import InvalidArgument
from videozoo.manifest import Average


def ranked(values: Tensor, labels: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The ``k`` best (label, value) pairs of (num_classes,) values, best first; all where there are fewer."""
    best, indices = values.topk(min(k, len(values)))
    return [(labels[index], value) for value, index in zip(best.tolist(), indices.tolist(), strict=True)]


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video."""

    scores: Tensor
    """(num_classes,) float32: the views' answers averaged as the row says. Logits where it says None or ``score``."""
    view_logits: Tensor
    """(views, num_classes) float32, crops outermost, then clips; one row where the network averages over all frames."""
    frame_indices: NDArray[np.int64]
    """(clips * T,) 0-based numbers of the frames that were seen, clip after clip."""
    labels: tuple[str, ...]
    """Class names in class order."""
    average_clips: Average | None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Wall time of ``decode``, ``resize``, ``normalise`` (crops included), ``network`` and the ``rest``: all of a call.
    In a stream, decoding and resizing ran beside the network's work on the video before."""

    @property
    def probabilities(self) -> Tensor:
        """(num_classes,) float32 that sum to 1: the scores, through a softmax where they are logits."""
        return self.scores if self.average_clips == "prob" else self.scores.softmax(dim=0)

    def topk(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` best (label, score) pairs, best first; all of them where there are fewer classes.

        Raises:
            InvalidArgument: ``k`` is below 1.
        """
        if k < 1:
            raise InvalidArgument(f"k={k}: at least 1")
        return ranked(self.scores, self.labels, k)


@dataclass(frozen=True)
class WindowPrediction:
    """What a network says of one window of a stream."""

    first: int
    """0-based number of the window's first frame."""
    end: int
    """Number of the frame behind its last one."""
    prediction: Prediction
    """``frame_indices`` are numbers of the stream's frames."""
