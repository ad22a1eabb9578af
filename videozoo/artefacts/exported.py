"""An exported network behind the interface of the zoo's networks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videozoo.artefacts.form import Form, parse_form
from videozoo.artefacts.run import Run, open_artefact
from videozoo.errors import InvalidArgument, UnreadableCheckpoint, printable, reason
from videozoo.layers.video_model import VideoModel
from videozoo.model_config import MAX_COUNT, ModelConfig, parse
from videozoo.model_folder import ModelFolder, describe

_MOST_VALUES = 1 << 30
"""Of the clip on which a graph is tried."""


class ExportedModel(VideoModel):
    """A graph that answers with logits alone, on the CPU, in evaluation.

    Args:
        run: from clips to logits, as NumPy arrays.
        config: network, labels and preprocessing, as the artefact states them.
        form: what clips the graph takes.
        path: where it lies.
    """

    for_inference = True
    first_conv = ""

    def __init__(self, run: Run, config: ModelConfig, form: Form, path: Path) -> None:
        super().__init__(
            num_features=0,
            num_classes=config.num_classes,
            in_chans=form.clip[1],
            drop_rate=0.0,
            bn_frozen=False,
        )
        self.feature_info = []
        self.form = form
        self._run = run
        self._path = path
        self._place = nn.Parameter(torch.empty(0), requires_grad=False)  # tells callers where clips have to be
        self.eval()
        describe(self, ModelFolder(str(path), config, path))
        self.pretrained_cfg["architecture"] = config.architecture

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        return self.form.smallest_clip

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes), float32, of clips (N, C, T, H, W).

        Raises:
            InvalidArgument: clips that the graph does not take.
            UnreadableCheckpoint: the graph does not do what its description says.
        """
        self._check_clip(x)
        fault = self.form.fault(tuple(x.shape))
        if fault is not None:
            raise InvalidArgument(f"clips {tuple(x.shape)} do not fit this exported network: {fault}")
        clips = x.detach().to("cpu", torch.float32).contiguous().numpy()
        step = max(1, len(clips)) if "batch" in self.form.dynamic else self.form.clip[0]
        logits = np.concatenate([self.logits(clips[start : start + step]) for start in range(0, len(clips), step)])
        return torch.from_numpy(logits)

    def logits(self, clips: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph gives for clips (N, C, T, H, W): (N, num_classes).

        Raises:
            UnreadableCheckpoint: it does not do what its description says.
        """
        where = printable(self._path)
        try:
            logits = np.asarray(self._run(clips))
        except Exception as error:  # any: whatever a runtime says of a graph that is not as its description says
            raise UnreadableCheckpoint(f"{where}: its graph fails on clips {clips.shape}: {reason(error)}") from None
        if logits.shape != (len(clips), self.num_classes) or logits.dtype != np.float32:
            raise UnreadableCheckpoint(
                f"{where}: its graph gives {logits.dtype} {logits.shape} for clips {clips.shape}, not logits of "
                f"{self.num_classes} classes, as its description says"
            )
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        raise InvalidArgument("an exported network answers with logits alone: create_model builds one with features")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        self.forward_features(x)
        return []


def load_exported(path: Path, *, trusted: bool = False) -> ExportedModel:
    """The network in a file that ``export_model`` wrote.

    Args:
        path: the file; for OpenVINO the ``.xml`` beside its ``.bin``.
        trusted: whether code in it may run, as it does in ``.pt2`` files.

    Raises:
        InvalidArgument: a ``.pt2`` file that is not trusted, or the format's runtime is not installed.
        UnreadableCheckpoint: no such file, a damaged one, one that videozoo did not write, or one whose graph, tried
            once on an empty clip, does not do what its description says.
    """
    text, run = open_artefact(path, trusted=trusted)
    where = printable(path)
    config = parse(text.encode("utf-8"), where)
    record: Any = json.loads(text).get("export")
    form = parse_form(record, where)
    if max(form.clip) > MAX_COUNT:
        raise UnreadableCheckpoint(f"{where}: clips {form.in_words()} are too large")
    model = ExportedModel(run, config, form, path)
    shape = form.smallest
    if math.prod(shape) > _MOST_VALUES:
        raise UnreadableCheckpoint(f"{where}: clips {form.in_words()} are too large")
    model.logits(np.zeros(shape, np.float32))
    return model
