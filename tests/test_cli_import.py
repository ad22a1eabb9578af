"""``videozoo import``: the user's file is told by its digest, or by a name, and its row then loads offline."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from videozoo import cache, create_model, isolation, lockfile
from videozoo.cache import places
from videozoo.cli.main import run
from videozoo.files import sha256_file
from videozoo.registry import get_weights

NAME = "test_tsn.motion8"
EMBEDDED = places.PACKAGE_WEIGHTS / "test_tsn.pth"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read in a child process; here in this one, as a child takes seconds to start."""
    read: list[Path] = []

    def here(function: Callable[..., object], source: Path, arguments: dict[str, object], **_: object) -> object:
        read.append(source)
        return function(**arguments)

    monkeypatch.setattr(isolation, "call", here)
    return read


@pytest.fixture
def published(edit_manifest: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The embedded row as one that was published elsewhere, under another name."""
    monkeypatch.setattr(places, "PACKAGE_WEIGHTS", tmp_path / "nothing")
    edit_manifest(NAME, embedded=False, name="tsn_published.pth", urls=["https://host.invalid/tsn_published.pth"])


@pytest.fixture
def without_digest(published: None, edit_manifest: Callable[..., None]) -> None:
    """The same, without a digest."""
    edit_manifest(NAME, sha256=None, size_bytes=None)


def copy(folder: Path, name: str = "mine.bin") -> Path:
    return Path(shutil.copy(EMBEDDED, folder / name))


def imported(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert run(["import", "--json", *map(str, arguments)]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("known", ["sha256", "prefix"])
@pytest.mark.usefixtures("published")
def test_by_digest(
    known: str, tmp_path: Path, children: list[Path], edit_manifest: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = copy(tmp_path)
    digest = sha256_file(path)
    if known == "prefix":
        edit_manifest(NAME, sha256=None, sha256_prefix=digest[:8], size_bytes=None)
    answer = imported(capsys, path)
    assert children == [path]
    assert (answer["weights"], answer["known_by"], answer["sha256"]) == (NAME, known, digest)
    line = lockfile.read(cache.lock_path())[NAME]
    assert (line.sha256, line.size_bytes, line.source) == (digest, path.stat().st_size, str(path))
    assert line.converted is not None
    assert line.converted.sha256 == sha256_file(str(answer["converted"]))
    path.unlink()
    expected = torch.load(EMBEDDED, weights_only=True)["state_dict"]
    model = create_model("test_tsn", pretrained="motion8")
    assert torch.equal(model.state_dict()["fc.bias"], expected["cls_head.fc_cls.bias"])
    assert model.pretrained_cfg["tag"] == "motion8"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [("tsn_published.pth", [], "by its name and its tensors"), ("mine.bin", ["--as", NAME], "as you say")],
)
@pytest.mark.usefixtures("without_digest")
def test_by_structure(
    name: str, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy(tmp_path, name)
    assert run(["import", str(path), *arguments]) == 0
    out = capsys.readouterr().out
    assert words in out and "no digest was published" in out and NAME in out
    path.unlink()
    assert create_model("test_tsn", pretrained=True).pretrained_cfg["tag"] == "motion8"
    again = copy(tmp_path, "again.pth")  # the lock knows it now
    assert imported(capsys, again)["known_by"] == "lock"


@pytest.mark.usefixtures("without_digest")
def test_the_bytes_depend_on_the_source_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = imported(capsys, copy(tmp_path), "--as", NAME)
    digest = sha256_file(str(first["converted"]))
    (cache.home() / "videozoo.lock").unlink()
    second = imported(capsys, copy(tmp_path, "tsn_published.pth"))
    assert sha256_file(str(second["converted"])) == digest
    shutil.rmtree(cache.home() / "converted")
    (places.cached(get_weights(NAME), "original").parent).mkdir(parents=True)
    copy(places.cached(get_weights(NAME), "original").parent, "tsn_published.pth")
    create_model("test_tsn", pretrained=True)  # converted in this process, and held against the lock
    assert sha256_file(str(second["converted"])) == digest


@pytest.mark.usefixtures("without_digest")
def test_a_converted_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted = Path(str(imported(capsys, copy(tmp_path), "--as", NAME)["converted"]))
    shutil.move(converted, tmp_path / "converted.safetensors")
    shutil.rmtree(converted.parent)
    lock = (cache.home() / "videozoo.lock").read_text()
    (cache.home() / "videozoo.lock").unlink()
    assert run(["import", str(tmp_path / "converted.safetensors"), "--as", NAME]) == 3
    assert "import the original" in capsys.readouterr().err
    (cache.home() / "videozoo.lock").write_text(lock)
    answer = imported(capsys, tmp_path / "converted.safetensors")
    assert (answer["weights"], answer["known_by"]) == (NAME, "lock")
    create_model("test_tsn", pretrained=True)


@pytest.mark.usefixtures("without_digest")
def test_files_that_are_not_the_rows(
    tmp_path: Path, foreign_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = foreign_file("test_tpn")
    shutil.copy(foreign_file("test_tsn", 5), tmp_path / "five.pth")
    (tmp_path / "text.pth").write_text("hello")
    good = copy(tmp_path)
    cases: list[tuple[list[object], int, str]] = [
        ([tmp_path / "missing.pth"], 3, "cannot be read"),
        ([good], 2, "--as ROW"),
        ([good, "--as", "test_tsm"], 2, "no weights are called"),
        ([good, other, "--as", NAME], 2, "is for one file"),
        ([other, "--as", NAME], 3, "test_tsn"),
        ([tmp_path / "five.pth", "--as", NAME], 3, "has 5 classes"),
        ([tmp_path / "text.pth", "--as", NAME], 3, "not a checkpoint"),
        ([good, "--as", "tpn_slowonly_r50.k400"], 4, "prefix c568e7ad"),
        ([good, "--as", "tsn_r50.imagenet_k400_eval3"], 4, "never published"),
    ]
    for arguments, status, words in cases:
        assert run(["import", *map(str, arguments)]) == status, words
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("videozoo: error: ") and words in line
    kept = [path for path in cache.home().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == [] and not (cache.home() / "videozoo.lock").exists()


@pytest.mark.usefixtures("without_digest")
def test_another_layout_is_another_file(
    tmp_path: Path, edit_manifest: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(NAME, layout="vmz_torch")
    assert run(["import", str(copy(tmp_path)), "--as", NAME]) == 3
    assert "layout mmaction2" in capsys.readouterr().err


def test_the_others_are_still_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "project.lock"
    (tmp_path / "unknown.pth").write_bytes(b"x")
    assert run(["import", "--json", "--lock", str(lock), str(tmp_path / "unknown.pth"), str(copy(tmp_path))]) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert first["error"]["type"] == "UnknownWeights" and second["weights"] == NAME
    assert set(lockfile.read(lock)) == {NAME}


@pytest.mark.usefixtures("without_digest")
def test_the_lock_is_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(capsys, copy(tmp_path), "--as", NAME)
    other = tmp_path / "other.pth"
    other.write_bytes(EMBEDDED.read_bytes() + b"\0")
    assert run(["import", str(other), "--as", NAME]) == 4
    assert sha256_file(other) in capsys.readouterr().err


def test_the_child_process_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path / "home"))
    assert run(["import", str(copy(tmp_path))]) == 0
    assert (tmp_path / "home" / "converted" / f"{NAME}.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    assert run(["import", str(path)]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path}: it is not a regular file" in err
