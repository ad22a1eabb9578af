"""What is written of one piece of a video, or of a video that cannot be decoded."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; of ``vector``, ``labels`` with ``probabilities``, and ``error`` one is there."""

    path: str
    """As the input names it."""
    window: int
    """Number of the window in its video; 0 where the video is one piece."""
    start_seconds: float | None
    """Where the piece begins, by the file's average frame rate; None where nothing says the rate."""
    end_seconds: float | None
    """Where it ends."""
    vector: NDArray[np.float32] | None = None
    """(num_features,) mean over the piece's views."""
    labels: tuple[str, ...] | None = None
    """The best classes, best first."""
    probabilities: tuple[float, ...] | None = None
    """Of ``labels``, float32."""
    error: str | None = None
    """Why there is no answer, in one line."""


def packed(row: Row) -> dict[str, Any]:
    """What distinguishes the row, as JSON with every bit; see `unpacked`."""
    line: dict[str, Any] = {"window": row.window, "start_seconds": row.start_seconds, "end_seconds": row.end_seconds}
    if row.error is not None:
        return line | {"error": row.error}
    if row.vector is not None:
        return line | {"vector": base64.b64encode(row.vector.astype("<f4").tobytes()).decode()}
    return line | {"labels": row.labels, "probabilities": row.probabilities}


def unpacked(path: str, line: dict[str, Any]) -> Row:
    """The row of this path that `packed` made the line from."""
    vector = np.frombuffer(base64.b64decode(line["vector"]), dtype="<f4") if "vector" in line else None
    return Row(
        path,
        int(line["window"]),
        line["start_seconds"],
        line["end_seconds"],
        vector,
        tuple(line["labels"]) if "labels" in line else None,
        tuple(line["probabilities"]) if "probabilities" in line else None,
        line.get("error"),
    )
