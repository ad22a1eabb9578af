"""From a video file to scores under a row's whole test protocol, against the same work done the originals' way.

    python benchmarks/predict.py [--models ircsn_r50 tpn_slowonly_r50] [--rounds 3] [--threads 2] [--size 340x256]
    python benchmarks/predict.py --shares --threads 1      # ours alone, all 3-D networks: results/predict_profile.csv

The video, 10 s of H.264 at 30 frames a second, is made in a temporary folder. ``originals`` decodes the file anew for
every clip, turns every frame into float, resizes and normalises it anew for every crop, and runs the network as
`create_model` builds it, one view at a time. ``videozoo`` is what ``videozoo predict`` does, heap reuse included; its
parts are those of ``--profile``. ``streamed`` is the time per video of two that `Recognizer.recognise_all` is given.
Every measurement is a process of its own, by turns; loading, and a first run on one view, are left out. Weights are
random, and the same for all.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import torch
from torch import Tensor

from videozoo import stopwatch
from videozoo.benchmark.machine import conditions
from videozoo.inference import optimize_for_inference, reuse_heap
from videozoo.layers.video_model import VideoModel
from videozoo.models import create_model
from videozoo.predict import Recognizer, create_transform
from videozoo.prediction import Prediction
from videozoo.video.transforms import crop_boxes, resized_size
from videozoo.video.views import ViewTransform

CONTENDERS = ("originals", "videozoo", "streamed")
BEFORE_THE_NETWORK = ("decode", "resize", "normalise")
SHARED = "shares"
"""`Recognizer` as above, its parts in processor time, which other people's work on the machine disturbs least."""
PARTS = (*BEFORE_THE_NETWORK, "network", "rest")
THREE_DIMENSIONAL = (
    "ircsn_r50", "ircsn_r152", "ipcsn_r152", "tpn_slowonly_r50", "tpn_tsm_r50", "r2plus1d_34", "r2plus1d_152",
)  # fmt: skip
SHARES = Path(__file__).parent.parent / "results" / "predict_profile.csv"


def write_video(path: Path, width: int, height: int, *, num_frames: int = 300) -> None:
    """A drifting pattern with a little noise, encoded as most videos are."""
    noise = np.random.default_rng(0).integers(-8, 9, (num_frames, height, width, 3), dtype=np.int16)
    y, x, c = np.ogrid[:height, :width, :3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(num_frames):
            image = 128 + 60 * np.sin((x + 3 * t) / 17 + c) + 50 * np.cos((y - 2 * t) / 23 + 2 * c)
            pixels = (image + noise[t]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def originals(path: Path, model: VideoModel, transform: ViewTransform) -> Tensor:
    """The views' logits in the order of `Recognizer`, computed plainly."""
    views, num_frames = transform.views, transform.views.num_frames
    crops: dict[tuple[int, int], Tensor] = {}
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.input.mean, transform.input.std))
    with av.open(str(path)) as container:
        total = container.streams.video[0].frames
    for number, wanted in enumerate(transform.frame_indices(total).reshape(-1, num_frames).tolist()):
        frames = dict(decoded(path, wanted))
        for crop in range(len(crop_boxes(views.short_side, views.short_side, views.crop, views.crop_size))):
            images = []
            for index in wanted:
                image = frames[index].permute(2, 0, 1).float()
                size = resized_size(image.shape[1], image.shape[2], views.short_side)
                image = torch.nn.functional.interpolate(image[None], size, mode="bilinear")[0]
                left, top, flip = crop_boxes(*size, views.crop, views.crop_size)[crop]
                image = image[:, top : top + views.crop_size, left : left + views.crop_size]
                images.append(((image.flip(2) if flip else image) - mean) / std)
            crops[crop, number] = model(torch.stack(images, dim=1)[None])[0]
    return torch.stack([crops[key] for key in sorted(crops)])


def decoded(path: Path, wanted: list[int]) -> Iterator[tuple[int, Tensor]]:
    """The wanted frames, from the beginning of the file."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                yield index, torch.from_numpy(frame.to_ndarray(format="rgb24"))
            if index == max(wanted):
                return


def measure(contender: str, name: str, path: Path, threads: int) -> dict[str, object]:
    """One contender in this process: wall and CPU seconds a video, their parts, and the scores."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_model(name).eval()
    transform = create_transform(model)
    if contender == SHARED:
        setattr(stopwatch, "time", SimpleNamespace(perf_counter=time.process_time))  # noqa: B010 - for this process alone
    if contender != "originals":
        reuse_heap()
        model = optimize_for_inference(model)
    recognizer = Recognizer(model, transform, tuple(map(str, range(model.num_classes))))
    replace(recognizer, transform=create_transform(model, "center"))(path)
    wall, cpu = time.perf_counter(), time.process_time()
    seconds: dict[str, float] = {}
    videos = 1
    with torch.inference_mode():
        if contender == "originals":
            rows = originals(path, model, transform)
        elif contender in ("videozoo", SHARED):
            prediction = recognizer(path)
            rows, seconds = prediction.view_logits, dict(prediction.seconds)
        else:
            done = [outcome for outcome in recognizer.recognise_all([path, path]) if isinstance(outcome, Prediction)]
            rows, videos = done[-1].view_logits, len(done)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / videos, "cpu": cpu / videos, "seconds": seconds, "rows": rows.tolist()}


def child(contender: str, name: str, path: Path, threads: int) -> dict[str, object]:
    """`measure` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, __file__, "--child", contender, str(path), "--models", name, "--threads", str(threads)],
        env=environment, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def report(name: str, runs: dict[str, list[dict[str, object]]]) -> None:
    """Medians, ratios to the originals' way, the parts of one call, and how far the logits are apart."""
    print(f"\n{name}", flush=True)
    medians = {
        what: {key: statistics.median(float(str(run[key])) for run in found) for key in ("wall", "cpu")}
        for what, found in runs.items()
    }
    for what, median in medians.items():
        ratios = {key: medians["originals"][key] / median[key] for key in median}
        cells = [f"{label} {median[key]:7.2f} s ({ratios[key]:.2f}x)" for key, label in (("wall", ""), ("cpu", "CPU"))]
        print(f"  {what:10} {'   '.join(cells)}")
    parts = [run["seconds"] for run in runs["videozoo"]]
    shares = [
        {part: value / sum(run.values()) for part, value in run.items()} for run in parts if isinstance(run, dict)
    ]
    for part in PARTS:
        print(f"    {part:10} {100 * statistics.median(share.get(part, 0.0) for share in shares):5.1f} %")
    before = statistics.median(sum(share.get(part, 0.0) for part in BEFORE_THE_NETWORK) for share in shares)
    print(f"    decode and preprocessing together {100 * before:.1f} %")
    theirs, ours = (torch.tensor(runs[what][-1]["rows"]) for what in ("originals", "videozoo"))
    print(f"    logits up to {theirs.abs().max():.3f}, largest difference {(theirs - ours).abs().max():.1e}")


def write_shares(models: list[str], video: Path, threads: int, size: str) -> None:
    """Where the processor time of one call goes, network by network; the file is written anew."""
    columns = ["model", "views", *(f"{part}_cpu_s" for part in PARTS), "before_the_network_share", "threads", "pixels"]
    with SHARES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *conditions()], lineterminator="\n")
        writer.writeheader()
        for name in models:
            stated = conditions()
            found = child(SHARED, name, video, threads)
            seconds, rows = found["seconds"], found["rows"]
            if not isinstance(seconds, dict) or not isinstance(rows, list):
                raise SystemExit(f"{name}: no parts were told")
            share = sum(seconds.get(part, 0.0) for part in BEFORE_THE_NETWORK) / sum(seconds.values())
            writer.writerow(
                {f"{part}_cpu_s": f"{seconds.get(part, 0.0):.4g}" for part in PARTS}
                | {"model": name, "views": len(rows), "before_the_network_share": f"{share:.4f}"}
                | {"threads": threads, "pixels": size}
                | stated
            )
            file.flush()
            print(f"{name:18} {len(rows)} views, {sum(seconds.values()):.1f} s CPU", end=", ")
            print(f"before the network {100 * share:.1f} %", flush=True)


def main() -> None:
    """Print the conditions, then one table a model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="340x256")
    parser.add_argument("--shares", action="store_true", help="ours alone, and where its processor time goes")
    parser.add_argument("--child", nargs=2, metavar=("CONTENDER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], options.models[0], Path(options.child[1]), options.threads)))
        return
    width, height = map(int, options.size.split("x"))
    print(f"Python {platform.python_version()}, torch {torch.__version__}, PyAV {av.__version__}")
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{options.rounds} rounds by turns, {options.threads} threads, {width}x{height} pixels, 300 frames; medians")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, width, height)
        if options.shares:
            write_shares(options.models or list(THREE_DIMENSIONAL), path, options.threads, options.size)
            return
        for name in options.models or ["ircsn_r50", "tpn_slowonly_r50"]:
            runs: dict[str, list[dict[str, object]]] = {what: [] for what in CONTENDERS}
            for _ in range(options.rounds):
                for what in CONTENDERS:
                    runs[what].append(child(what, name, path, options.threads))
            report(name, runs)


if __name__ == "__main__":
    main()
