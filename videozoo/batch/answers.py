"""The model stage: a piece of a video to a row with a vector or with ranked labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from videozoo.batch.pieces import Piece
from videozoo.batch.rows import Row
from videozoo.errors import InvalidArgument, printable, reason
from videozoo.layers.video_model import VideoModel
from videozoo.predict import Mode, Recognizer, load_recognizer, views_per_chunk
from videozoo.prediction import ranked
from videozoo.video.views import SampledVideo

POOLED = "pooled"
"""The layer in front of the classifier."""

Answer = Callable[[str, Piece], Row]

_DEVICE_LOST: tuple[type[Exception], ...] = (torch.AcceleratorError,)
"""After it no other piece is answered either. (Too little memory for one piece is another error.)"""


@dataclass(frozen=True, slots=True)
class Network:
    """Which network with which weights and views, as `load_recognizer` takes it: it goes from process to process."""

    name: str
    pretrained: str | None = None
    checkpoint: Path | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    device: str = "cpu"
    mode: Mode = "full"
    exact: bool = True
    lock: Path | None = None

    def load(self, device: str | None = None) -> Recognizer:
        """The network with its weights; see `load_recognizer`."""
        return load_recognizer(
            self.name,
            pretrained=self.pretrained or True,
            checkpoint_path=self.checkpoint,
            device=device or self.device,
            mode=self.mode,
            exact=self.exact,
            num_classes=self.num_classes,
            class_names=self.class_names,
            lock=self.lock,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every piece: a layer's features, or the best classes."""

    kind: Literal["features", "labels"]
    layer: str = POOLED
    """Of features: ``pooled``, or a stage of ``feature_info``."""
    topk: int = 5
    """Of labels."""

    def to(self, recognizer: Recognizer) -> Answer:
        """Ask it of a network. A piece that the network cannot answer for gets a row that says why.

        Raises:
            InvalidArgument: the network has no such layer, or, being exported, none.
        """
        if self.kind == "labels":
            return _guarded(lambda path, piece: _ranked(recognizer, self.topk, path, piece))
        if not recognizer.model.num_features:
            raise InvalidArgument("an exported network answers with logits alone: features need one of the zoo's")
        stage = None if self.layer == POOLED else stage_number(recognizer.model, self.layer)
        return _guarded(lambda path, piece: _features(recognizer, stage, path, piece))


def _guarded(answer: Answer) -> Answer:
    def guarded(path: str, piece: Piece) -> Row:
        try:
            return answer(path, piece)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, _DEVICE_LOST):
                raise
            return Row(
                path, piece.window, piece.start_seconds, piece.end_seconds,
                error=f"{printable(path)} cannot be answered for: {type(error).__name__}: {reason(error)}",
            )  # fmt: skip

    return guarded


def stage_number(model: VideoModel, layer: str) -> int:
    """Which stage a layer's name means: all of it, as ``backbone.layer3``, or its last part.

    Raises:
        InvalidArgument: none.
    """
    names = [str(record["module"]) for record in model.feature_info]
    for number, name in enumerate(names):
        if layer in (name, name.rpartition(".")[2]):
            return number
    raise InvalidArgument(f"layer {layer}: this network has {POOLED}, {', '.join(names)}")


def _ranked(recognizer: Recognizer, topk: int, path: str, piece: Piece) -> Row:
    prediction = recognizer.recognise_sampled(piece.sampled)
    labels, probabilities = zip(*ranked(prediction.probabilities, prediction.labels, topk), strict=True)
    return Row(path, piece.window, piece.start_seconds, piece.end_seconds, labels=labels, probabilities=probabilities)


def _features(recognizer: Recognizer, stage: int | None, path: str, piece: Piece) -> Row:
    vector = pooled_features(recognizer, piece.sampled, stage).numpy()
    return Row(path, piece.window, piece.start_seconds, piece.end_seconds, vector=vector)


@torch.inference_mode()
def pooled_features(recognizer: Recognizer, sampled: SampledVideo, stage: int | None = None) -> torch.Tensor:
    """Features of a video: (num_features,) float32, the mean over its views.

    Args:
        recognizer: whose network and preprocessing.
        sampled: the video's frames.
        stage: a stage's maps, averaged over space and time, in place of what the classifier sees.
    """
    model, transform = recognizer.model, recognizer.transform
    device = next(model.parameters()).device
    chunks = transform.clips(sampled, chunk_size=views_per_chunk(transform.views), channels_last=model.for_inference)
    rows = []
    for clips in chunks:
        if stage is None:
            pooled = model.forward_head(model.forward_features(clips.to(device)), pre_logits=True)
        else:
            maps = model.forward_intermediates(
                clips.to(device), indices=[stage], stop_early=True, intermediates_only=True
            )
            pooled = maps[0].flatten(2).mean(dim=2)
        rows.append(pooled.float().cpu())
    return torch.cat(rows).mean(dim=0)
