"""Throughput of ``videozoo extract`` against a plain loop of decode and model, and its memory over many files.

    python benchmarks/extract.py                     # throughput, tsn_r50
    python benchmarks/extract.py --memory 1000       # resident memory while 1000 files go through

Each way is a process of its own per round; they take turns. The clock runs from the moment when the network is loaded
to the last answer, for ``extract`` to the finished table; no way has seen a video before. Processor time is that of the
same part, but the decoding processes' own is whole, their start included. The plain loop is what a short script does:
the network as `create_model` gives it, one video after the other. "loop, optimised" is the same with the network and
the heap as ``extract`` has them.

Heavy modules are imported where they are used: the decoding processes import this file again.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videozoo.predict import Recognizer

WAYS = ("loop", "loop, optimised", "extract")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tsn_r50")
    parser.add_argument("--videos", type=int, default=120)
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
    import torch
    from predict import write_video

    import videozoo
    from videozoo.mmaction2_file import write_mmaction2

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        write_video(videos / "0000.mp4", 340, 256)
        for number in range(1, options.videos):
            os.link(videos / "0000.mp4", videos / f"{number:04}.mp4")
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
    """One way once: clock and processor time, without loading."""
    import videozoo

    if way != "loop":
        videozoo.reuse_heap()
    clock = Clock(options.model, Path(folder) / "weights.pth", optimize=way != "loop")
    if way == "extract":
        extract(clock, folder, int(workers))
    else:
        loop(clock.load(), folder)
    return {"seconds": time.perf_counter() - clock.started, "processor_seconds": processor_seconds() - clock.used}


class Clock:
    """Starts when the network is loaded."""

    def __init__(self, model: str, weights: Path, *, optimize: bool) -> None:
        self.started = self.used = 0.0
        self.model, self._weights, self._optimize = model, weights, optimize

    def load(self, *_: Any) -> Recognizer:
        """The network, with one view a video."""
        from videozoo.predict import load_recognizer

        recognizer = load_recognizer(self.model, checkpoint_path=self._weights, mode="center", optimize=self._optimize)
        self.started, self.used = time.perf_counter(), processor_seconds()
        return recognizer


def loop(recognizer: Recognizer, folder: str) -> None:
    """One video after the other."""
    from videozoo.batch.answers import pooled_features
    from videozoo.video.decode import open_frames

    for path in sorted((Path(folder) / "videos").iterdir()):
        pooled_features(recognizer, recognizer.transform.sample(open_frames(path)))


def extract(clock: Clock, folder: str, num_processes: int) -> None:
    """As the command does it."""
    from unittest.mock import patch

    from videozoo.batch import local
    from videozoo.batch.answers import Network, Question
    from videozoo.batch.inputs import find_videos

    with tempfile.TemporaryDirectory() as out, patch.object(Network, "load", clock.load):
        found = find_videos([f"{folder}/videos"])
        job = local.Job(found, Network(clock.model), Question("features"), Path(out) / "a.parquet")
        local.run(job, num_processes=num_processes)


def processor_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(num_files: int) -> None:
    """Resident memory of the command while files go through."""
    from predict import write_video

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
    main()
