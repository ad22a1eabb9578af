"""What the children of the tests do; a module of its own, which is quickly imported."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from videozoo.errors import UnknownLayout


def environment_and_limits() -> dict[str, object]:
    found: dict[str, object] = {"environment": sorted(os.environ), "isolated": sys.flags.isolated}
    if sys.platform != "win32":
        import resource

        found["core"] = resource.getrlimit(resource.RLIMIT_CORE)[0]
        found["output"] = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        found["files"] = (
            sorted(int(name) for name in os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else []
        )
    return found


def doubled(values: list[int], name: str) -> dict[str, list[int]]:
    sys.stdout.write("what a library prints is no answer")
    sys.stdout.flush()
    return {name: [2 * value for value in values]}


def write_much(path: str) -> None:
    with open(path, "wb") as stream:
        for _ in range(200):
            stream.write(bytes(1 << 20))


def take_much_memory() -> int:
    return len(bytearray(1 << 34))


def take_much_memory_in_numpy() -> int:
    import numpy as np

    return np.empty(1 << 34, np.uint8).size


def spin() -> None:
    while True:
        pass


def wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(0)


def fail(kind: str) -> NoReturn:
    if kind == "disk":
        raise OSError(28, "one\ntwo")
    raise {"unknown": UnknownLayout, "index": IndexError}[kind]("one\ntwo")


def nonsense() -> None:
    os.write(3, b"[" * 100_000)


class Deadly:
    """What ends a child of multiprocessing that receives it."""

    def __reduce__(self) -> tuple[type[Deadly], tuple[()]]:
        return Deadly, ()

    def __init__(self) -> None:
        if multiprocessing.parent_process() is not None:
            os._exit(3)
