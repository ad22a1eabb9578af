"""Reading in a child process: its limits, what comes back, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import child_functions as child
import pytest
import torch

import videozoo
from videozoo import convert_checkpoint, errors, isolation
from videozoo.convert import convert_tensors
from videozoo.errors import OutputError, UnknownLayout, UnreadableCheckpoint

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.pth"
    path.write_bytes(b"x" * 100)
    return path


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def gone(process: int) -> bool:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


def test_arguments_and_results_are_plain_values(source: Path) -> None:
    found = isolation.call(child.doubled, source, {"values": [1, 2], "name": "ü\udc80"})
    assert found == {"ü\udc80": [2, 4]}


def test_secrets_stay_here(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONSTARTUP", "x.py")
    found = isolation.call(child.environment_and_limits, source, {})
    assert isinstance(found, dict)
    assert "HF_TOKEN" not in found["environment"]
    assert not any(name.startswith("PYTHON") for name in found["environment"])
    assert found["isolated"] == 1
    if sys.platform.startswith("linux"):
        assert (found["core"], found["output"]) == (0, isolation.limits(100).output_bytes)
        assert len(found["files"]) <= 5  # three streams, the copy of one, and the folder that is being listed


@linux
@pytest.mark.parametrize("function", [child.take_much_memory, child.take_much_memory_in_numpy])
def test_memory_is_limited(function: Callable[[], int], source: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: reading it takes more memory than its size justifies"):
        isolation.call(function, source, {}, imports=["numpy"])


@linux
def test_output_is_limited(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File too large"):
        isolation.call(child.write_much, source, {"path": str(tmp_path / "out")})
    assert (tmp_path / "out").stat().st_size == isolation.limits(100).output_bytes


@linux
def test_processor_time_is_limited(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 1.0)
    monkeypatch.setattr(isolation, "_CLOCK_MULTIPLE", 60)
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: .* ended by signal SIG(XCPU|KILL)"):
        isolation.call(child.spin, source, {})


def test_time_is_limited(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 1.0)
    monkeypatch.setattr(isolation, "_CLOCK_MULTIPLE", 1)
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: not read within 1 seconds"):
        isolation.call(child.wait, source, {"path": str(tmp_path / "process")})
    if (tmp_path / "process").exists():  # on a busy machine it may not have come so far
        assert gone(int((tmp_path / "process").read_text()))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (child.die, "ended by signal SIGKILL"),
        (child.leave, "with status 0 and gave no answer"),
        (child.nonsense, "gave no answer"),
    ],
)
def test_a_child_without_an_answer_is_one_line(function: Callable[[], None], message: str, source: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=message) as caught:
        isolation.call(function, source, {})
    assert str(caught.value).startswith(f"{source}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("unknown", UnknownLayout, "one\ntwo"),
        ("index", UnreadableCheckpoint, "failed .IndexError: "),
        ("disk", OSError, "one\ntwo"),
    ],
)
def test_errors_come_back(kind: str, error: type[Exception], message: str, source: Path) -> None:
    with pytest.raises(error, match=message):
        isolation.call(child.fail, source, {"kind": kind})


@linux
def test_an_interrupt_ends_the_child(source: Path, tmp_path: Path) -> None:
    started = tmp_path / "process"

    def interrupt() -> None:
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        isolation.call(child.wait, source, {"path": str(started)})
    assert gone(int(started.read_text()))


@linux
def test_the_child_ends_with_its_parent(source: Path, tmp_path: Path) -> None:
    started = tmp_path / "process"
    code = (
        "from pathlib import Path; import child_functions; from videozoo import isolation; "
        f"isolation.call(child_functions.wait, Path({str(source)!r}), dict(path={str(started)!r}))"
    )
    folders = [str(Path(videozoo.__file__).parent.parent), str(Path(__file__).parent)]
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)})
    end = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    assert gone(int(started.read_text()))


# Conversions


def test_an_isolated_conversion_is_the_same(foreign_file: Callable[..., Path], tmp_path: Path) -> None:
    for isolated in (False, True):
        folder = tmp_path / str(isolated)
        folder.mkdir()
        report = convert_checkpoint(foreign_file("test_ircsn"), folder / "a.safetensors", isolated=isolated)
        assert (report.architecture, report.num_classes) == ("test_ircsn", 8)
        assert [path.name for path in folder.iterdir()] == ["a.safetensors"]
    first, second = (tmp_path / name / "a.safetensors" for name in ("False", "True"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("convert", [convert_checkpoint, convert_tensors])
def test_what_is_refused_leaves_nothing(convert: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"w": os.getcwd}))
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: tensor 'w' needs posix\.getcwd") as caught:
        convert(path, isolated=True)
    assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(b"")
    with pytest.raises(UnreadableCheckpoint, match="0 bytes"):
        convert(path, isolated=True)
    with pytest.raises(OutputError, match="there is no folder"):
        convert(path, tmp_path / "missing" / "a.safetensors", isolated=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "x", '{"num_tensors": 2}'])
def test_what_the_child_says_is_checked(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")

    def lying(function: object, source: Path, arguments: dict[str, str], **_: object) -> object:
        Path(arguments["temporary"]).write_text(text)
        return json.loads(text) if text.startswith("{") else None

    monkeypatch.setattr(isolation, "call", lying)
    with pytest.raises(UnreadableCheckpoint, match="wrote something else than its tensors"):
        convert_tensors(tmp_path / "a.pth", isolated=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_limits_grow_with_the_file() -> None:
    small, large = isolation.limits(0), isolation.limits(1 << 30)
    assert large.memory_bytes - small.memory_bytes == isolation.MEMORY_MULTIPLE << 30
    assert large.output_bytes > 4 << 30
    assert large.processor_seconds > small.processor_seconds == isolation.SECONDS
    assert issubclass(errors.UnreadableCheckpoint, errors.CheckpointError)
