"""A run over many videos: what is asked of which videos and where it is written; the same for every engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videozoo.batch.answers import Network, Question
from videozoo.batch.inputs import Item
from videozoo.batch.pieces import Plan
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.errors import InvalidArgument
from videozoo.predict import Recognizer


@dataclass(frozen=True)
class Job:
    """What to do."""

    items: Sequence[Item]
    network: Network
    question: Question
    out: Path
    """The file, or for Ray the folder."""
    window_seconds: float | None = None
    stride_seconds: float | None = None
    frame_rate: float | None = None
    overwrite: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidArgument for windows that cannot be, or for nothing to do."""
        window, stride = self.window_seconds, self.stride_seconds
        for name, value in (("window", window), ("stride", stride), ("fps", self.frame_rate)):
            if value is not None and not 0 < value < 1e9:
                raise InvalidArgument(f"{name} {value}: a number above 0")
        if stride is not None and (window is None or stride > window):
            raise InvalidArgument(f"stride {stride}: goes with a window, and is no longer than it")
        if self.question.topk < 1:
            raise InvalidArgument(f"topk {self.question.topk}: at least 1")

    def plan(self, recognizer: Recognizer) -> Plan:
        """How videos are cut for this network."""
        return Plan(recognizer.transform, self.window_seconds, self.stride_seconds, self.frame_rate)

    def about(self, recognizer: Recognizer) -> dict[str, Any]:
        """What two runs must have in common for their rows to fit one table; also the table's own description.

        Which videos is not among it: a folder that has got one more does not make what is done useless.
        """
        transform = recognizer.transform
        asked: dict[str, Any] = {"layer": self.question.layer}
        if self.question.kind == "labels":
            names = json.dumps(recognizer.labels).encode()
            asked = {"topk": self.question.topk, "labels": hashlib.sha256(names).hexdigest()}
        about = {
            "kind": self.question.kind,
            **asked,
            "model": self.network.name,
            "weights": sha256_tensors(recognizer.model.state_dict()),
            "views": asdict(transform.views),
            "input": asdict(transform.input),
            "resize": "exact" if transform.exact else "fast",
            "window_seconds": self.window_seconds,
            "stride_seconds": self.stride_seconds,
            "frame_rate": self.frame_rate,
        }
        return dict(json.loads(json.dumps(about)))  # as it will be read: lists for tuples


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run has written."""

    out: str
    num_videos: int
    num_rows: int
    """Those with an answer."""
    num_failed: int
    """Videos with a row that has an error in the place of an answer."""
