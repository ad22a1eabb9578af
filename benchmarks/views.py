"""One fully convolutional pass over whole frames in the place of three crops: what it would save, and what it changes.

    python benchmarks/views.py accuracy [--clips 160]                  # the trained test networks on labelled clips
    python benchmarks/views.py time VIDEO... [--models ircsn_r50 ...]  # processor time and logits, random weights

The library has no such views; this says why. ``accuracy`` draws wide clips of the eight motions, which the networks
were not trained on, and counts right answers by one view in the centre, by three crops, and by the whole frame; "same"
is how often the answer is that of three crops. ``time`` takes one clip of each video by turns. Its difference is that
of the logits, in parts of the largest difference between two classes of the three crops' mean; beside it how far a
single crop, the middle one, is from that mean.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from videozoo.benchmark.machine import conditions
from videozoo.benchmark.task import random_model
from videozoo.inference import optimize_for_inference, reuse_heap
from videozoo.manifest import Crop
from videozoo.predict import Recognizer, create_transform, load_recognizer
from videozoo.synthetic import MOTIONS, draw_clip, motion_of
from videozoo.video.ahead import Video
from videozoo.video.decode import open_frames
from videozoo.video.transforms import normalise

FIRST_SEED = 10_000_000
"""Of the labelled clips, which nobody was trained on."""
MIDDLE = 2
"""Of three crops."""


def of_whole_frames(recognizer: Recognizer, video: Video) -> Tensor:
    """Logits (clips, num_classes) of the resized frames without a crop."""
    transform = recognizer.transform
    sampled = transform.sample(open_frames(video))
    height, width, _ = sampled.frames[0].shape
    num_clips, num_frames = sampled.positions.shape
    clips = torch.empty((num_clips, 3, num_frames, height, width), memory_format=torch.channels_last_3d)
    for view, positions in zip(clips, sampled.positions.tolist(), strict=True):
        for place, position in enumerate(positions):
            normalise(sampled.frames[position], transform.input.mean, transform.input.std, out=view[:, place])
    with torch.inference_mode():
        return recognizer.model(clips)


def of_crops(recognizer: Recognizer, video: Video, crop: Crop) -> Tensor:
    """Logits (views, num_classes) of square crops as high as the frame."""
    transform = recognizer.transform
    views = replace(transform.views, crop=crop, crop_size=transform.views.short_side)
    return replace(recognizer, transform=replace(transform, views=views))(video).view_logits


def accuracy(name: str, clips: int) -> None:
    """Print the share of right answers."""
    recognizer = load_recognizer(name)
    answers: dict[str, list[int]] = {"centre": [], "three crops": [], "whole frames": []}
    seeds = range(FIRST_SEED, FIRST_SEED + clips)
    for seed in seeds:
        frames = draw_clip(seed, height=48, width=85)  # 16 : 9
        found = of_crops(recognizer, frames, "center"), of_crops(recognizer, frames, "three")
        for what, logits in zip(answers, (*found, of_whole_frames(recognizer, frames)), strict=True):
            answers[what].append(int(logits.mean(dim=0).argmax()))
    print(f"{name}: {clips} clips of {len(MOTIONS)} motions, 85 x 48 pixels")
    for what, numbers in answers.items():
        right = sum(number == motion_of(seed) for number, seed in zip(numbers, seeds, strict=True))
        same = sum(a == b for a, b in zip(numbers, answers["three crops"], strict=True))
        print(f"  {what:12} right {100 * right / clips:5.1f} %   same {100 * same / clips:5.1f} %", flush=True)


def gain(name: str, videos: list[Path], rounds: int) -> None:
    """Print processor time for one clip of each video, and how far the logits are apart."""
    model = optimize_for_inference(random_model(name))
    transform = create_transform(model)
    transform = replace(transform, views=replace(transform.views, num_clips=1, twice_sample=False))
    recognizer = Recognizer(model, transform, tuple(map(str, range(model.num_classes))))
    for video in videos:
        crops_s, whole_s = [], []
        for _ in range(rounds):
            ticks = [time.process_time()]
            crops = of_crops(recognizer, video, "three")
            ticks.append(time.process_time())
            whole = of_whole_frames(recognizer, video)[0]
            ticks.append(time.process_time())
            crops_s.append(ticks[1] - ticks[0])
            whole_s.append(ticks[2] - ticks[1])
        three, once = statistics.median(crops_s), statistics.median(whole_s)
        mean = crops.mean(dim=0)
        spread = mean.max() - mean.min()
        off, one = (float((other - mean).abs().max() / spread) for other in (whole, crops[MIDDLE]))
        print(
            f"{name:18} {video.name:20} three crops {three:6.2f} s CPU, whole frames {once:6.2f} s "
            f"({three / once:.2f}x), largest difference {100 * off:.1f} % (the middle crop's {100 * one:.1f} %)",
            flush=True,
        )


def main() -> None:
    """Print the conditions and one line for each measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "time"))
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO")
    parser.add_argument("--models", nargs="+", metavar="MODEL")
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reuse_heap()
    print(", ".join(f"{name} {value}" for name, value in conditions().items()))
    if options.what == "accuracy":
        for name in options.models or ("test_ircsn", "test_tpn", "test_tsn"):
            accuracy(name, options.clips)
    else:
        for name in options.models or ("ircsn_r50", "tpn_slowonly_r50"):
            gain(name, options.videos, options.rounds)


if __name__ == "__main__":
    main()
