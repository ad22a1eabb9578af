"""Folders of many small videos, and the command over them as a process: what tests that kill it share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from synthetic_frames import make_frames

from videozoo.demo import write_video

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def write_many(folder: Path, count: int) -> Path:
    """So many files, one in twenty of them damaged: empty, cut off, or noise."""
    generator = random.Random(7)
    for number in range(count):
        path = folder / f"v{number:03}.mp4"
        write_video(path, make_frames(18 + number % 7, 32, 48))
        if number % 20 == 13:
            data = path.read_bytes()
            path.write_bytes((b"", data[: len(data) // 2], generator.randbytes(1000))[number // 20 % 3])
    return folder


def command(videos: Path, out: Path, *more: str) -> list[str]:
    """``videozoo extract`` of a small network."""
    return [
        sys.executable, "-m", "videozoo", "extract", str(videos), "--model", "test_ircsn", "--views", "center",
        "--out", str(out), *more,
    ]  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds; the process must still run then."""
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        threading.Event().wait(0.02)
