"""The main job from end to end, offline: eight videos, a foreign checkpoint, conversion, recognition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import torch

from videozoo import cache, registry
from videozoo.convert import ConversionReport, convert_checkpoint
from videozoo.errors import CheckpointMismatch
from videozoo.models import create_model
from videozoo.predict import load_recognizer
from videozoo.prediction import Prediction
from videozoo.synthetic import MOTIONS, Frames, draw_clip, motion_of

ARCHITECTURE = "test_ircsn"
FIRST_SEED = 2_000_000
"""Of the demo's clips: neither trained on nor measured on; a multiple of 8, so that the classes come in order."""


@dataclass(frozen=True)
class Recognised:
    """One video of the demo."""

    video: Path
    truth: str
    prediction: Prediction


def convert_embedded(folder: Path) -> ConversionReport:
    """Convert the embedded checkpoint, which has MMAction2's layout, into ``folder`` and verify the result.

    Raises:
        DigestMismatch: the embedded file is damaged.
        CheckpointMismatch: the converted file gives other tensors than ``create_model(pretrained=True)``.
    """
    original = cache.fetch(registry.get_weights(ARCHITECTURE))
    report = convert_checkpoint(original, folder / f"{ARCHITECTURE}.safetensors")
    converted = create_model(ARCHITECTURE, checkpoint_path=report.output).state_dict()
    published = create_model(ARCHITECTURE, pretrained=True).state_dict()
    if not all(torch.equal(converted[name], published[name]) for name in published):
        raise CheckpointMismatch(f"{report.output} does not hold the tensors of {report.weights}")
    return report


def write_videos(folder: Path) -> list[tuple[Path, str]]:
    """Write one short mp4 for each of the eight motions; (file, true class)."""
    videos = []
    for seed in range(FIRST_SEED, FIRST_SEED + len(MOTIONS)):
        truth = MOTIONS[motion_of(seed)]
        path = folder / f"{truth.replace(' ', '_')}.mp4"
        write_video(path, draw_clip(seed, height=96, width=128))
        videos.append((path, truth))
    return videos


def write_video(path: Path, frames: Frames, *, fps: int = 16) -> None:
    """Encode frames (T, H, W, 3) uint8 as an MPEG-4 video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def recognise(checkpoint: Path, videos: list[tuple[Path, str]]) -> Iterator[Recognised]:
    """Recognise every video with the converted weights."""
    recognizer = load_recognizer(ARCHITECTURE, checkpoint_path=checkpoint)
    for video, truth in videos:
        yield Recognised(video, truth, recognizer(video))
