"""``videozoo-convert`` at its edges: odd names, standard streams, signals, outputs that collide, other archives."""

from __future__ import annotations

import importlib.abc
import io
import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import videozoo
from videozoo import __main__, isolation
from videozoo.checkpoints import readers
from videozoo.cli import main
from videozoo.errors import UnreadableCheckpoint

Capture = pytest.CaptureFixture[str]
LONG = "x" * 300


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory is empty; no child process for each file, which would take seconds."""
    monkeypatch.chdir(tmp_path)

    def call(function: Callable[..., object], source: Path, arguments: dict[str, object], **_: object) -> object:
        return function(**arguments)

    monkeypatch.setattr(isolation, "call", call)


def save(name: str, value: float = 1.0, tensor: str = "w") -> None:
    buffer = io.BytesIO()
    torch.save({tensor: torch.full((2,), value)}, buffer)
    Path(name).write_bytes(buffer.getvalue())


def shell(code: str, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip


def error(capsys: Capture, arguments: Sequence[str], status: int) -> str:
    """The one line, of printable characters, that a command says when it fails."""
    assert main.run_convert(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("videozoo: error: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    return err[:-1]


# Folders


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (["m.pkl", "m.pth"], ["m.pkl", "m.pth"]),
        (["m.pkl", "m.pth", "m.pth.bak"], ["m.pkl", "m.pth", "m.pth.bak"]),
        (["m.pkl", "m.pth", "m.pth.bak", "m.pth.bak.old"], ["m.pkl", "m.pth", "m.pth.bak", "m.pth.bak.old"]),
        (["m.pth", "n.pth.bak"], ["m", "n.pth"]),
    ],
)
def test_no_two_files_share_an_output(names: list[str], outputs: list[str]) -> None:
    Path("zoo").mkdir()
    for number, name in enumerate(names):
        save(f"zoo/{name}", number)
    assert main.run_convert(["zoo", "--recursive", "--tensors-only", "-o", "out", "--force"]) == 0
    found = {path.name: load_file(path)["w"][0].item() for path in Path("out").iterdir()}
    assert found == {f"{output}.safetensors": number for number, output in enumerate(outputs)}


def test_a_folder_does_not_go_into_a_file(capsys: Capture) -> None:
    save("a.pth")
    Path("out").write_text("mine")
    assert "it is no folder" in error(capsys, [".", "--recursive", "-o", "out"], 6)
    assert Path("out").read_text() == "mine"


def test_the_folder_itself_as_output_is_in_place() -> None:
    save("m.pth")
    save("m.safetensors")
    assert main.run_convert([".", "--recursive", "--tensors-only", "-o", Path.cwd().as_posix()]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["m.pth", "m.safetensors"]


# Names


def test_every_name_is_printed_on_one_line(capsys: Capture) -> None:
    save("two\nlines\x1b[31m.pth", tensor="\x1b]0;title\n  w")
    save("é.pth")
    assert "two\\nlines\\x1b[31m.pth: 1 tensors, \\x1b]0;title\\n  w ..." in error(
        capsys, ["two\nlines\x1b[31m.pth"], 3
    )
    assert main.run_convert(["two\nlines\x1b[31m.pth", "--tensors-only"]) == 0
    assert "two\\nlines\\x1b[31m.safetensors: 1 tensors" in capsys.readouterr().out
    assert main.run_convert([".", "--recursive", "--tensors-only", "-o", "out"]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert ["two\\nlines\\x1b[31m.pth", "torch_zip"] in [line.split()[:2] for line in out.split("\n")]
    assert "é.pth" in out


def test_a_mismatch_names_tensors_printably(capsys: Capture, foreign_file: Callable[..., Path]) -> None:
    state = torch.load(foreign_file("test_tsn"), weights_only=True)["state_dict"]
    torch.save({"state_dict": {**state, "new\nline\x07": torch.ones(1)}}, "a.pth")
    assert "1 unexpected, first new\\nline\\x07" in error(capsys, ["a.pth", "--arch", "test_tsn"], 3)


def test_another_network_is_told_of_tensors_only(capsys: Capture) -> None:
    save("a.pth")
    assert "--tensors-only" in error(capsys, ["a.pth"], 3)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([LONG], 3, "File name too long; give it a shorter name"),
        (["a.pth", "-o", LONG], 6, "File name too long; name an output with a shorter name"),
        ([".", "--recursive", "-o", LONG], 6, "File name too long; name another folder"),
        ([""], 2, "SRC is empty: name a file"),
        (["a.pth", "-o", ""], 2, "-o is empty: name a file"),
        (["a.pth", "-o", "-"], 2, "no standard stream is used"),
        (["a.pth/b"], 3, "cannot be read: Not a directory"),
        (["a.pth", "-o", "./a.pth", "--force"], 2, "would replace the original"),
        (["link.pth", "-o", "a.pth", "--force"], 2, "would replace the original"),
        (["b.safetensors", "--force"], 2, "would replace the original"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="other names, other messages")
def test_names_that_cannot_be(arguments: list[str], status: int, message: str, capsys: Capture) -> None:
    save("a.pth")
    save("b.safetensors")
    Path("link.pth").symlink_to("a.pth")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert message in error(capsys, [*arguments, "--tensors-only"], status)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


# Streams and signals

TERMINATED_HALFWAY = """\
import os, pathlib, signal
from videozoo import __main__, isolation

def call(function, source, arguments, **options):
    pathlib.Path(arguments["temporary"]).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGTERM)

isolation.call = call
raise SystemExit(__main__.videozoo_convert())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_a_termination_leaves_nothing() -> None:
    save("a.pth")
    done = shell(TERMINATED_HALFWAY, "a.pth", "--tensors-only")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "videozoo: terminated\n")
    assert [path.name for path in Path().iterdir()] == ["a.pth"]


@pytest.mark.parametrize("command", [__main__.videozoo, __main__.videozoo_convert])
def test_an_interrupt_while_importing_is_one_line(
    command: Callable[[], int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> None:
            if fullname == "videozoo.cli.main":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "videozoo.cli.main")
    monkeypatch.delattr("videozoo.cli.main")
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])  # of this process are other tests'
    assert command() == 130
    assert capsys.readouterr() == ("", "videozoo: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_standard_output_is_called_that() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = shell("from videozoo import __main__; raise SystemExit(__main__.videozoo())", "list", stdout=full)
    finally:
        os.close(full)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("videozoo: error: standard output could not be written (No space left on device)")


# Archives


def npz(*, compressed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, a=np.ones(3))
    return buffer.getvalue()


def program(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in ("data.pkl", "code/__torch__/net.py", "constants.pkl"):
            archive.writestr(f"net/{name}", 100 * "x")
    return buffer.getvalue()


def torch_like() -> bytearray:
    """An archive as torch writes it, but for its members' own headers, which have the sizes and the checksum."""
    source, buffer = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.ones(2)}, source)
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(buffer, "w") as written:
        for name in given.namelist():
            written.writestr(zipfile.ZipInfo(name), given.read(name))
    return bytearray(buffer.getvalue())


def changed(offset: int) -> bytes:
    data = torch_like()
    data[offset] ^= 1
    return bytes(data)


def prefixed() -> bytes:
    """Bytes before the first member, of which every offset takes account."""
    data, prefix = torch_like(), b"PK\x03\x04" + bytes(60)
    at = data.index(b"PK\x01\x02")
    start = at
    while data[at : at + 4] == b"PK\x01\x02":
        (offset,) = struct.unpack_from("<L", data, at + 42)
        struct.pack_into("<L", data, at + 42, offset + len(prefix))
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    struct.pack_into("<L", data, at + 16, start + len(prefix))
    return prefix + bytes(data)


def test_an_archive_with_full_headers_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(torch_like())
    assert readers.state_dict(readers.read(tmp_path / "a.pth"))["w"].shape == (2,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (program(zipfile.ZIP_STORED), "a TorchScript program, not weights; save its state_dict()"),
        (program(zipfile.ZIP_DEFLATED), "a TorchScript program, not weights; save its state_dict()"),
        (npz(compressed=False), "a NumPy archive"),
        (npz(compressed=True), "a NumPy archive"),
        (changed(14), "two different headers"),
        (changed(18), "two different headers"),
        (changed(22), "two different headers"),
        (prefixed(), "64 bytes before its first member"),
    ],
    ids=["script", "script_packed", "npz", "npz_packed", "checksum", "packed_size", "size", "prefix"],
)
def test_other_archives_are_refused_by_their_name(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match="a.pth: .*" + message.replace("(", r"\(").replace(")", r"\)")):
        readers.read(tmp_path / "a.pth")


def test_a_folder_in_an_archive_has_any_name(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "epoch:5\n.pth")
    assert readers.state_dict(readers.read(tmp_path / "epoch:5\n.pth"))["w"].shape == (2,)
