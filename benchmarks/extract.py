"""Throughput of ``videozoo extract`` against a plain loop of decode and model, and its memory over many files.

    python benchmarks/extract.py                     # throughput, tsn_r50
    python benchmarks/extract.py --memory 1000       # resident memory while 1000 files go through

Each way is a process of its own per round and has its network loaded and warm when the clock starts; they take turns.
The plain loop is what a short script does: the network as `create_model` gives it, one video after the other. "loop,
optimised" is the same with the network and the heap as `extract` has them: what is left is the overlap alone.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from predict import write_video

import videozoo
from videozoo.batch import local
from videozoo.batch.answers import Network, Question, pooled_features
from videozoo.batch.inputs import find_videos
from videozoo.mmaction2_file import write_mmaction2
from videozoo.predict import Recognizer
from videozoo.video.decode import open_frames

WAYS = ("loop", "loop, optimised", "extract")


class Loaded(Network):
    """A network that is there already."""

    recognizer: Recognizer

    def load(self, device: str | None = None) -> Recognizer:
        return self.recognizer


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tsn_r50")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the network")
    parser.add_argument("--workers", default="1", help="processes that decode, as 1,2")
    parser.add_argument("--memory", type=int, metavar="FILES", help="measure memory over so many small files instead")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "WORKERS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options, *options.child)))
    elif options.memory:
        memory(options.memory)
    else:
        throughput(options)


def throughput(options: argparse.Namespace) -> None:
    """Videos a second, each way."""
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        for number in range(options.videos):
            write_video(videos / f"{number:04}.mp4", 340, 256)
        write_mmaction2(videozoo.create_model(options.model), Path(folder) / "weights.pth")
        ways = [*((way, "0") for way in WAYS[:-1]), *(("extract", workers) for workers in options.workers.split(","))]
        found: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                command = [sys.executable, __file__, *sys.argv[1:], "--child", *way, folder]
                environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(*way, found[way][-1], file=sys.stderr)
    print(f"{options.model}, {options.videos} videos of 10 s, 340 x 256, H.264; {options.threads} threads")
    print(f"medians of {options.rounds} rounds; load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    base = statistics.median(row["seconds"] for row in found[ways[0]])
    for (way, workers), rows in found.items():
        seconds = statistics.median(row["seconds"] for row in rows)
        processor = statistics.median(row["processor_seconds"] for row in rows)
        name = way if workers == "0" else f"{way}, {workers} decoding"
        print(
            f"{name:22} {options.videos / seconds:6.3f} videos/s  {base / seconds:5.2f}x the loop  "
            f"{processor / options.videos:6.2f} CPU s a video"
        )


def child(options: argparse.Namespace, way: str, workers: str, folder: str) -> dict[str, float]:
    """One way once: clock and processor time, its decoding processes included, without loading and the first video."""
    weights, paths = Path(folder) / "weights.pth", sorted((Path(folder) / "videos").iterdir())
    if way != "loop":
        videozoo.reuse_heap()
    recognizer = videozoo.load_recognizer(options.model, checkpoint_path=weights, mode="center", optimize=way != "loop")
    for _ in range(2):
        pooled_features(recognizer, recognizer.transform.sample(open_frames(paths[0])))
    network = Loaded(options.model)
    object.__setattr__(network, "recognizer", recognizer)
    started, used = time.perf_counter(), processor_seconds()
    if way == "extract":
        with tempfile.TemporaryDirectory() as out:
            job = local.Job(find_videos([f"{folder}/videos"]), network, Question("features"), Path(out) / "a.parquet")
            local.run(job, num_processes=int(workers))
    else:
        for path in paths:
            pooled_features(recognizer, recognizer.transform.sample(open_frames(path)))
    return {"seconds": time.perf_counter() - started, "processor_seconds": processor_seconds() - used}


def processor_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(num_files: int) -> None:
    """Resident memory of the command while files go through."""
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        write_video(videos / "0000.mp4", 340, 256, num_frames=60)
        for number in range(1, num_files):
            os.link(videos / "0000.mp4", videos / f"{number:04}.mp4")
        out = Path(folder) / "out.parquet"
        command = [sys.executable, "-m", "videozoo", "extract", str(videos), "--model", "test_ircsn", "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        journal, marks = Path(f"{out}.journal"), iter(range(num_files // 10, num_files + 1, num_files // 10))
        mark = next(marks)
        while process.poll() is None:
            time.sleep(0.05)
            with suppress(OSError):
                done = journal.read_bytes().count(b'"done"')
                if mark is not None and done >= mark:
                    print(f"{done:6} files  {sum(resident(process.pid)) / 1e6:7.0f} MB in all processes", flush=True)
                    mark = next(marks, None)


def resident(pid: int) -> Iterator[int]:
    """Bytes of a process and of its children."""
    for child in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        yield int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
