"""``videozoo convert`` of whole folders and of tensors alone: what is written, what the summary says, exit statuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_files import FORMS, same_bits
from safetensors.torch import load_file

import videozoo
from videozoo import isolation
from videozoo.cli import main
from videozoo.convert import convert_tensors
from videozoo.errors import InvalidArgument, UnreadableCheckpoint

ForeignFile = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the seconds of a child process for each file; that the command line starts one has its own test."""

    def call(function: Callable[..., object], source: Path, arguments: dict[str, object], **_: object) -> object:
        return function(**arguments)

    monkeypatch.setattr(isolation, "call", call)


@pytest.fixture
def folder(foreign_file: ForeignFile, tmp_path: Path) -> Path:
    """Two networks, tensors of no network, and no checkpoints at all."""
    folder = tmp_path / "zoo"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(foreign_file("test_ircsn"), folder / "csn.bin")
    shutil.copy(foreign_file("test_tsn"), folder / "deep" / "tsn.pth")
    torch.save({"w": torch.ones(2)}, folder / "other.pth")
    (folder / "notes.txt").write_text("what I did\n")
    return folder


def rows(capsys: Capture, arguments: list[str], status: int) -> dict[str, dict[str, object]]:
    assert main.run_convert([*arguments, "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    return {row["file"]: row for row in json.loads(out)}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_is_tried_by_content(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    found = rows(capsys, [str(folder), "--recursive", "-o", str(out)], 3)
    assert list(found) == ["csn.bin", "deep/tsn.pth", "notes.txt", "other.pth"]
    assert found["csn.bin"]["architecture"] == "test_ircsn"
    assert found["deep/tsn.pth"]["architecture"] == "test_tsn"
    assert [row["weights"] for row in found.values()] == ["-"] * 4
    assert str(found["notes.txt"]["outcome"]).startswith("UnreadableCheckpoint: ")
    assert str(found["other.pth"]["outcome"]).startswith("UnknownLayout: ")
    assert [row["exit_status"] for row in found.values()] == [0, 0, 3, 3]
    assert files(out) == ["csn.safetensors", "deep/tsn.safetensors"]
    assert files(folder) == ["csn.bin", "deep/tsn.pth", "notes.txt", "other.pth"]


@pytest.mark.usefixtures("in_this_process")
def test_the_summary_is_a_table(folder: Path, capsys: Capture) -> None:
    assert main.run_convert([str(folder), "--recursive"]) == 3
    out, err = capsys.readouterr()
    assert err == ""
    header, *lines, last = out.splitlines()
    assert header.split() == ["file", "format", "architecture", "weights", "outcome"]
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["csn.bin", "torch_zip", "test_ircsn", "-"]
    assert last == "4 files: 1 UnknownLayout, 1 UnreadableCheckpoint, 2 written"
    assert "deep/tsn.safetensors" in files(folder)


@pytest.mark.usefixtures("in_this_process")
def test_existing_outputs_are_skipped_unless_told(folder: Path, capsys: Capture) -> None:
    (folder / "notes.txt").unlink()
    (folder / "other.pth").unlink()
    (folder / "csn.safetensors").write_bytes(b"mine")
    command = [str(folder), "--recursive"]
    outcomes = {name: row["outcome"] for name, row in rows(capsys, command, 0).items()}
    assert outcomes["csn.bin"] == f"skipped: {folder / 'csn.safetensors'} exists"
    assert outcomes["csn.safetensors"] == "skipped: it is safetensors already"
    assert (folder / "csn.safetensors").read_bytes() == b"mine"
    first = (folder / "deep" / "tsn.safetensors").read_bytes()
    outcomes = {name: row["outcome"] for name, row in rows(capsys, [*command, "--force"], 0).items()}
    assert {outcome.split(":")[0] for outcome in map(str, outcomes.values())} == {"written", "skipped"}
    assert load_file(folder / "csn.safetensors")
    assert (folder / "deep" / "tsn.safetensors").read_bytes() == first


@pytest.mark.usefixtures("in_this_process")
def test_equal_names_keep_their_extensions_and_an_output_inside_is_no_source(folder: Path, capsys: Capture) -> None:
    shutil.copy(folder / "csn.bin", folder / "csn.pth")
    out = folder / "converted"
    command = [str(folder), "--recursive", "--tensors-only", "-o", str(out)]
    first = rows(capsys, command, 3)
    assert files(out) == [
        "csn.bin.safetensors", "csn.pth.safetensors", "deep/tsn.safetensors", "other.safetensors",
    ]  # fmt: skip
    assert {row["architecture"] for row in first.values()} == {"-"}
    assert list(rows(capsys, command, 3)) == list(first)


@pytest.mark.usefixtures("in_this_process")
def test_the_same_bytes_from_anywhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes.txt").unlink()
    assert main.run_convert([str(folder), "--recursive", "--tensors-only", "-o", str(tmp_path / "one")]) == 0
    monkeypatch.chdir(folder)
    environment = os.environ | {"LC_ALL": "C", "PYTHONHASHSEED": "3", "TZ": "Asia/Tokyo"}
    environment["PYTHONPATH"] = str(Path(videozoo.__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-m", "videozoo", "convert", ".", "--recursive", "--tensors-only", "-o", "../two"],
        env=environment, umask=0o077, check=True, capture_output=True,
    )  # fmt: skip
    assert files(tmp_path / "one") == files(tmp_path / "two") != []
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "--recursive"], "there is no such folder"),
        (["notes.txt", "--recursive"], "leave --recursive out for a file"),
        (["notes.txt", "--tensors-only", "--arch", "test_tsn"], "not allowed with"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(folder)
    try:
        status = main.run_convert(arguments)
    except SystemExit as error:
        status = int(str(error.code))
    assert status == InvalidArgument.exit_status
    assert message in capsys.readouterr().err


def test_the_command_line_reads_in_a_child(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def call(function: Callable[..., object], source: Path, *_: object, **__: object) -> object:
        calls.append(source)
        raise UnreadableCheckpoint("stop")

    monkeypatch.setattr(isolation, "call", call)
    assert main.run_convert([str(folder / "csn.bin")]) == 3
    assert main.run_convert([str(folder), "--recursive", "--tensors-only"]) == 3
    assert len(calls) == 5


# Tensors alone


@pytest.mark.parametrize("form", FORMS)
def test_tensors_alone_are_bit_exact(form: str, tmp_path: Path) -> None:
    expected = FORMS[form](tmp_path / "a.pdopt")
    report = convert_tensors(tmp_path / "a.pdopt")
    assert report.output == tmp_path / "a.safetensors"
    assert report.num_tensors == len(expected)
    assert same_bits(dict(sorted(load_file(report.output).items())), dict(sorted(expected.items())))
    with pytest.raises(InvalidArgument, match="sixteen_bit='half'"):
        convert_tensors(tmp_path / "a.pdopt", sixteen_bit="half")  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_this_process")
def test_what_safetensors_lacks_is_refused(tmp_path: Path, capsys: Capture) -> None:
    torch.save({"__metadata__": torch.ones(1)}, tmp_path / "a.pth")
    assert main.run_convert([str(tmp_path / "a.pth"), "--tensors-only"]) == 3
    assert "safetensors cannot hold it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
