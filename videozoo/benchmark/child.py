"""A child process that holds one contestant, and the few lines of JSON that it is asked with.

The child gets one line that says what to hold, answers one line when it is ready, and then one line for each line that
asks for a turn, or for the kinds of operations. It ends when its input does. It may run under another interpreter: the
modules here import nothing but the standard library when they are imported.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from videozoo.benchmark.contestants import CONTESTANTS
from videozoo.benchmark.task import Contestant, Task
from videozoo.errors import InvalidArgument

PREPARE = "prepare"
_CODE = """\
import json, sys
request = json.loads(sys.stdin.readline())
if request["path"] is None:
    sys.path.append(request["home"])
else:
    sys.path[:] = request["path"]
from videozoo.benchmark.child import serve
serve(request)
"""
_MEBIBYTE = 1 << 20


class Unable(Exception):
    """A contestant cannot take part; the message says why, in a line."""


class Child:
    """One contestant in its own process; `close` ends it.

    Args:
        name: a key of ``CONTESTANTS``, or ``prepare``.
        task: what it runs.
        python: another interpreter, which has the contestant's packages.
        against: for ``prepare``: whose files to write.

    Raises:
        Unable: it is not installed, does not take the network, or its process failed.
    """

    def __init__(self, name: str, task: Task, *, python: str | None = None, against: Sequence[str] = ()) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        environment = os.environ | {"OMP_NUM_THREADS": str(task.threads)}
        try:
            self._process = subprocess.Popen(
                [python or sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
                start_new_session=True,  # an interrupt from the terminal is the parent's to handle
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise Unable(f"{python} cannot be started: {error.strerror}") from None
        path = None if python else [str(Path(entry).absolute()) for entry in sys.path]
        home = str(Path(__file__).parents[2])
        request = {"path": path, "home": home, "name": name, "task": asdict(task), "against": list(against)}
        try:
            self.ready = self._ask(request)
        except BaseException:
            self.close()
            raise

    def turn(self, forwards: int) -> dict[str, Any]:
        """What `Contestant.turn` found, and the peak of memory so far.

        Raises:
            Unable: the process failed.
        """
        return self._ask({"forwards": forwards})

    def kinds(self) -> dict[str, dict[str, float]]:
        """What `Contestant.kinds` found.

        Raises:
            Unable: the process failed.
        """
        return dict(self._ask({"kinds": True})["kinds"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise Unable("its process has no pipes")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise Unable(f"its process {self._end()}") from None
        if "unable" in answer:
            raise Unable(str(answer["unable"]))
        return dict(answer)

    def _end(self) -> str:
        self._process.kill()  # it may still be alive, with its output closed
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {status}" + (f": {lines[-1][:200]}" if lines else "")


def serve(request: dict[str, Any]) -> None:
    """The child's side."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no part of the answer

    def answer(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    task = Task(**(request["task"] | {"clip": tuple(request["task"]["clip"])}))
    try:
        if request["name"] == PREPARE:
            from videozoo.benchmark.prepare import prepare

            answer(prepare(task, request["against"]))
            return
        contestant, ready = _ready(request["name"], task)
    except Exception as error:  # any: a contestant that fails is left out of the run
        answer({"unable": _reason(request["name"], error)})
        return
    answer(ready)
    for line in sys.stdin:
        asked = json.loads(line)
        found = {"kinds": contestant.kinds()} if "kinds" in asked else contestant.turn(asked["forwards"])
        answer(found | {"peak_mb": _mebibytes("VmHWM"), "device_peak_mb": _device_mebibytes(contestant)})


def _ready(name: str, task: Task) -> tuple[Contestant, dict[str, Any]]:
    contestant = CONTESTANTS[name]()
    modules = [importlib.import_module(module) for module in contestant.modules]
    imports_mb = _mebibytes("VmRSS")
    contestant.build(task)
    logits = contestant.logits()
    gc.collect()
    _forget_the_peak()
    version = str(getattr(modules[-1], "__version__", "")).partition("-")[0]
    return contestant, {"version": version, "logits": logits, "imports_mb": imports_mb}


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        hint = "name an interpreter that has it with --mmaction2-python" if name == "mmaction2" else (
            "pip install 'videozoo[benchmark]'"
        )  # fmt: skip
        return f"{error.name} is not installed: {hint}"
    text = (str(error).splitlines() or [""])[0][:300]
    return text if isinstance(error, InvalidArgument) else f"{type(error).__name__}: {text}"


def _device_mebibytes(contestant: Contestant) -> float | None:
    peak = contestant.device_peak_bytes()
    return None if peak is None else peak / _MEBIBYTE


def _mebibytes(what: str) -> float | None:
    """``VmRSS`` or ``VmHWM`` of this process; None where the platform does not tell."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(f"{what}:")), None)


def _forget_the_peak() -> None:
    """What the building took is no part of the peak, where the platform lets us say so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
