"""Whether decoding and augmentation keep up with training: the same steps on real videos and on synthetic clips.

    python benchmarks/train_data.py [--model ircsn_r50] [--workers 2] [--batch-size 1] [--steps 4] [--rounds 3]

``synthetic`` is the bound: optimizer steps on one batch that lies ready. ``fed`` is the same steps on batches that
worker processes decode and augment meanwhile, from videos of 10 s of H.264 made in a temporary folder. The two are
measured by turns, and the medians compared. ``loader`` is what the workers alone deliver while nothing trains: the
rate of a network above which they would be what limits training. The parts of a sample are processor times of one
thread. Clips are as CSN's recipe has them: 32 frames 2 apart, short side 256, RandomResizedCrop, 224 pixels, mirrored.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice, repeat
from pathlib import Path

import numpy as np
import torch
from predict import write_video
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo import registry
from videozoo.layers.video_model import VideoModel
from videozoo.models import create_model
from videozoo.predict import protocol_of
from videozoo.training import recipes
from videozoo.video.batches import Batch, EpochOrder, TrainingLoader
from videozoo.video.dataset import read_list
from videozoo.video.decode import VideoFile
from videozoo.video.draws import draw_frames
from videozoo.video.training import TrainingVideos, augmented
from videozoo.video.transforms import normalise_clips, resize_short_side

CSN = recipes.resolve(recipes.read("ircsn_r50.ig65m_k400"), registry.architecture("ircsn_r50").protocol).augmentation
NUM_VIDEOS = 64


def listed_videos(folder: Path, width: int, height: int, num_classes: int) -> TrainingVideos:
    """One video under so many names: what is drawn from it differs, and what is read is in memory for all."""
    write_video(folder / "video.mp4", width, height)
    lines = []
    for number in range(NUM_VIDEOS):
        (folder / f"{number}.mp4").symlink_to(folder / "video.mp4")
        lines.append(f"{number}.mp4 {number % num_classes}\n")
    (folder / "list.txt").write_text("".join(lines))
    return TrainingVideos(read_list(folder / "list.txt"), CSN, num_classes=num_classes)


def endless(loader: TrainingLoader) -> Iterator[Batch]:
    """One epoch after the other."""
    for epoch in count():
        yield from loader.epoch(epoch)


class Steps:
    """SGD steps as CSN's recipe takes them, timed."""

    def __init__(self, model: VideoModel, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.device = device
        self.input = protocol_of(model).input
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        self.rates: dict[str, list[float]] = {}
        self.busy: dict[str, list[float]] = {}

    def run(self, name: str, batches: Iterator[Batch], num_steps: int) -> None:
        """Book clips a second, and seconds of this process's processor time a clip."""
        started, busy, num_clips = time.perf_counter(), time.process_time(), 0
        for batch in islice(batches, num_steps):
            self.step(batch)
            num_clips += len(batch.clips)
        self.rates.setdefault(name, []).append(num_clips / (time.perf_counter() - started))
        self.busy.setdefault(name, []).append((time.process_time() - busy) / num_clips)

    def step(self, batch: Batch) -> None:
        """One step on one batch."""
        clips = normalise_clips(batch.clips.to(self.device, non_blocking=True), self.input.mean, self.input.std)
        with torch.autocast(self.device.type, enabled=self.device.type != "cpu"):
            loss = F.cross_entropy(self.model(clips), batch.labels.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 40.0)
        self.optimizer.step()
        loss.item()  # waits for an accelerator


def loader_rate(batches: Iterator[Batch], num_batches: int) -> float:
    """Clips a second that the workers deliver while nothing else runs."""
    started = time.perf_counter()
    num_clips = sum(len(next(batches).clips) for _ in range(num_batches))
    return num_clips / (time.perf_counter() - started)


def parts_of_a_sample(videos: TrainingVideos, num_samples: int) -> dict[str, float]:
    """Milliseconds of processor time by what they are spent on; every part is measured without those after it."""
    video = videos.videos.videos[0].path  # type: ignore[union-attr]
    spent = dict.fromkeys(("decode", "resize", "crop and the rest"), 0.0)
    for seed in range(num_samples):
        begin = time.process_time()
        source = VideoFile(video)
        random = np.random.default_rng(seed)
        random.random()  # as `augmented` draws whether to mirror before it draws frames
        indices = draw_frames(CSN, source.num_frames, random)
        frames = [frame for _, frame in source.read(indices.tolist())]
        decoded = time.process_time()
        for frame in frames:
            resize_short_side(frame.unsqueeze(0), CSN.short_side or 0)
        resized = time.process_time()
        augmented(VideoFile(video), CSN, np.random.default_rng(seed))
        whole = time.process_time() - resized
        spent["decode"] += decoded - begin
        spent["resize"] += resized - decoded
        spent["crop and the rest"] += whole - (resized - begin)
    return {part: 1000 * seconds / num_samples for part, seconds in spent.items()}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ircsn_r50")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the process that trains")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="an accelerator trains in mixed precision")
    parser.add_argument("--size", default="340x256", help="of the videos")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width, height = (int(side) for side in options.size.split("x"))
    model = create_model(options.model)
    timed = Steps(model, torch.device(options.device))
    print(f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, videos of {options.size}")
    print(f"{options.model} on {options.device}, {options.threads} threads, batch {options.batch_size}")
    with tempfile.TemporaryDirectory() as folder:
        videos = listed_videos(Path(folder), width, height, model.num_classes)
        order = EpochOrder(len(videos), batch_size=options.batch_size)
        loader = TrainingLoader(videos, order, num_workers=options.workers, pin_memory=options.device != "cpu")
        batches = endless(loader)
        # What the workers have ready, two batches each, is used up before anything is timed.
        ready = next(batches)
        loader_rate(batches, 2 * options.workers)
        alone = loader_rate(batches, max(16, 4 * options.workers))
        timed.step(ready)
        for _ in range(options.rounds):
            timed.run("synthetic", repeat(ready), options.steps)
            loader_rate(batches, 2 * options.workers)
            timed.run("fed", batches, options.steps)
        torch.set_num_threads(1)  # as in a worker
        parts = parts_of_a_sample(videos, 10)
    report(timed, alone, parts, options.workers)


def report(timed: Steps, alone: float, parts: dict[str, float], num_workers: int) -> None:
    """Print rates, their ratio, and where the time of a sample goes."""
    medians = {name: statistics.median(rates) for name, rates in timed.rates.items()}
    for name, rates in timed.rates.items():
        print(
            f"{name:10} {medians[name]:8.3f} clips/s ({min(rates):.3f} to {max(rates):.3f}), "
            f"{statistics.median(timed.busy[name]):.2f} s of processor time a clip"
        )
    times = alone / medians["synthetic"]
    print(f"loader     {alone:8.3f} clips/s by {num_workers} workers alone, {times:.0f} times synthetic")
    print(f"fed / synthetic: {100 * medians['fed'] / medians['synthetic']:.1f} %")
    print("a sample, in ms of one processor:", ", ".join(f"{part} {ms:.0f}" for part, ms in parts.items()))


if __name__ == "__main__":
    main()
