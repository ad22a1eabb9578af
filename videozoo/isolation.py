"""A function of ours in a child process with limits: for reading files that nobody trusts.

The child is a fresh interpreter (``python -I``) with a bare environment, no terminal and no open files. It gets one
JSON request and answers with one JSON value; nothing that it sends is unpickled. Where the platform has them, it sets
limits for itself once it has imported what it needs and before it opens the file. The parent limits the time in any
case, and ends the child when it is interrupted itself; the child ends when its parent does.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from videozoo import errors
from videozoo.errors import UnreadableCheckpoint, VideoZooError

MEMORY_MULTIPLE = 8
"""Times the file's size, of address space: the file and the output are mapped, and the reader's budget is four."""
MEMORY_FLOOR_BYTES = 1 << 30
"""Of address space, besides what the imported libraries have taken already."""
OUTPUT_MULTIPLE = 5
OUTPUT_FLOOR_BYTES = 1 << 26
"""Of every file that the child writes."""
SECONDS = 60.0
"""Of processor time; four times as much on the clock."""
SECONDS_PER_BYTE = 1 / 5e6
_CLOCK_MULTIPLE = 4

_KEPT_VARIABLES = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("LANG", "LC_ALL"),
)
_ANSWER_BYTES = 1 << 24
_CHILD = """\
import json, sys
request = json.loads(sys.stdin.readline())
sys.path[:] = request["path"]
from videozoo.isolation import answer
answer(request)
"""


@dataclass(frozen=True)
class Limits:
    """What a child may use."""

    memory_bytes: int
    """Address space, besides what is taken when the limits are set."""
    output_bytes: int
    processor_seconds: int
    clock_seconds: float


def limits(file_bytes: int) -> Limits:
    """The limits for reading a file of this size."""
    seconds = SECONDS + SECONDS_PER_BYTE * file_bytes
    return Limits(
        memory_bytes=MEMORY_FLOOR_BYTES + MEMORY_MULTIPLE * file_bytes,
        output_bytes=OUTPUT_FLOOR_BYTES + OUTPUT_MULTIPLE * file_bytes,
        processor_seconds=round(seconds),
        clock_seconds=_CLOCK_MULTIPLE * seconds,
    )


def call(
    function: Callable[..., object], source: Path, arguments: Mapping[str, object], *, imports: Sequence[str] = ()
) -> object:
    """``function(**arguments)`` in a child process that is limited as ``source`` deserves.

    Args:
        function: a function at the top level of a module of this package; its result and arguments are JSON values.
        source: the file that it will read; for the limits and for messages.
        arguments: its keyword arguments.
        imports: modules to be imported before the limits are set, such as take much memory.

    Returns:
        What it returned. It comes from the child: check it before use.

    Raises:
        VideoZooError: what it raised.
        OSError: it could not write.
        UnreadableCheckpoint: the child went over a limit, was killed, or failed in a way of its own.
    """
    try:
        allowed = limits(source.stat().st_size)
    except (OSError, ValueError):
        allowed = limits(0)  # the function says what is wrong with the file
    request = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "module": function.__module__,
        "name": function.__name__,
        "arguments": dict(arguments),
        "imports": list(imports),
        "limits": vars(allowed),
    }
    with tempfile.TemporaryFile() as answers:
        status = _run(json.dumps(request), answers, source, allowed)
        answers.seek(0)
        text = answers.read(_ANSWER_BYTES)
    try:
        reply = json.loads(text)
        kind, value = reply["kind"], reply["value"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UnreadableCheckpoint(f"{source}: the process that read it {_end(status)}") from None
    if status != 0:
        raise UnreadableCheckpoint(f"{source}: the process that read it {_end(status)}")
    if kind != "result":
        _raise_again(str(kind), str(value), source)
    return value


def _run(request: str, answers: BinaryIO, source: Path, allowed: Limits) -> int:
    """Exit status of the child; negative for a signal. It has ended when this returns or raises."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD],
        stdin=subprocess.PIPE, stdout=answers, stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # an interrupt from the terminal is the parent's to handle
    )  # fmt: skip
    try:
        if child.stdin is not None:
            with suppress(BrokenPipeError):  # the exit status says more
                child.stdin.write(request.encode() + b"\n")
                child.stdin.flush()  # left open: its end tells the child that the parent has gone
        return child.wait(allowed.clock_seconds)
    except subprocess.TimeoutExpired:
        raise UnreadableCheckpoint(
            f"{source}: not read within {allowed.clock_seconds:.0f} seconds; if you trust the file, read it without a "
            "child process (convert_checkpoint in Python)"
        ) from None
    finally:
        child.kill()
        child.wait()
        if child.stdin is not None:
            with suppress(BrokenPipeError):
                child.stdin.close()


def _end(status: int) -> str:
    if status < 0:
        import signal

        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        over = ", its limit of processor time," if name == "SIGXCPU" else ""
        return f"was ended by signal {name}{over} and gave no answer"
    return f"ended with status {status} and gave no answer"


def _raise_again(kind: str, message: str, source: Path) -> NoReturn:
    error = getattr(errors, kind, None)
    if isinstance(error, type) and issubclass(error, VideoZooError):
        raise error(message)
    if kind == "MemoryError":
        raise UnreadableCheckpoint(f"{source}: reading it takes more memory than its size justifies")
    if kind == "OSError":
        raise OSError(0, message)
    raise UnreadableCheckpoint(f"{source}: the process that read it failed ({kind}: {message})")


def answer(request: dict[str, object]) -> None:
    """The child's side: do what ``request`` asks and write the answer to what was the standard output."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    for module in cast(list[str], request["imports"]):
        importlib.import_module(module)
    function = getattr(importlib.import_module(str(request["module"])), str(request["name"]))
    set_limits(Limits(**cast(dict[str, Any], request["limits"])))
    try:
        kind, value = "result", function(**cast(dict[str, object], request["arguments"]))
    except VideoZooError as error:
        kind, value = type(error).__name__, str(error)
    except MemoryError:
        kind, value = "MemoryError", ""
    except OSError as error:
        kind, value = "OSError", error.strerror or type(error).__name__
    except Exception as error:
        kind, value = type(error).__name__, ascii(str(error)[:200])
    with out:
        out.write(json.dumps({"kind": kind, "value": value}).encode())


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def set_limits(allowed: Limits) -> None:
    """Limit this process; without effect where the platform has no such limits."""
    try:
        import resource
    except ImportError:
        return
    cpu = round(time.process_time()) + allowed.processor_seconds
    wanted = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, allowed.output_bytes), (resource.RLIMIT_CPU, cpu)]
    taken = _address_space()
    if taken is not None:
        wanted.append((resource.RLIMIT_AS, taken + allowed.memory_bytes))
    for what, size in wanted:
        _, hard = resource.getrlimit(what)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(what, (size, size))


def _address_space() -> int | None:
    """Bytes that this process has mapped; None where the platform does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
