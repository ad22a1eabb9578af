"""``videozoo cache``: what lies there, what is damaged, what can go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from videozoo import cache, create_model
from videozoo.cache import planning
from videozoo.cache.places import cached
from videozoo.cli.main import run
from videozoo.registry import get_weights

BY_PREFIX = "tpn_slowonly_r50.k400"
WITHOUT_DIGEST = "ircsn_r152.ig65m_raw"
CONVERTED = "converted/test_tsn.motion8.safetensors"


@pytest.fixture
def home() -> Path:
    """A cache with one conversion in it."""
    create_model("test_tsn", pretrained=True)
    return cache.home()


def original(row: str, content: bytes = b"content") -> Path:
    """Put a file where the original of a row belongs."""
    path = cached(get_weights(row), "original")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    """Relative name -> what ``--json`` says of the file."""
    run(["cache", *arguments, "--json"])
    files = json.loads(capsys.readouterr().out)
    return {Path(file.pop("path")).relative_to(cache.home()).as_posix(): file for file in files}


def test_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = original(BY_PREFIX).with_name("x.pth.part")
    unfinished.touch()
    original(WITHOUT_DIGEST)
    (home / "converted" / ".videozoo-00.tmp").touch()
    (home / "converted" / "gone.k400.safetensors").touch()
    (home / "mine.txt").touch()
    (home / "videozoo.lock").write_text('{"version": 1, "weights": {}}')
    found = {name: (file["kind"], file["row"], file["digest"]) for name, file in listed(capsys, "list").items()}
    slowonly, csn = get_weights(BY_PREFIX), get_weights(WITHOUT_DIGEST)
    assert slowonly.file is not None and csn.file is not None
    assert found == {
        CONVERTED: ("converted", "test_tsn.motion8", "sha256"),
        f"{CONVERTED}.json": ("record", "test_tsn.motion8", None),
        f"originals/{BY_PREFIX}/{slowonly.file.name}": ("original", BY_PREFIX, "prefix"),
        f"originals/{BY_PREFIX}/x.pth.part": ("partial", BY_PREFIX, None),
        f"originals/{WITHOUT_DIGEST}/{csn.file.name}": ("original", WITHOUT_DIGEST, "none"),
        "converted/.videozoo-00.tmp": ("temporary", None, None),
        "converted/gone.k400.safetensors": ("unknown", "gone.k400", None),
        "mine.txt": ("unknown", None, None),
        "videozoo.lock": ("lock file", None, None),
        "locks/test_tsn.motion8.lock": ("guard", None, None),
    }
    assert run(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert f"{(home / CONVERTED).stat().st_size:,}" in out and out.splitlines()[-1].startswith("10 files, ")


def test_list_of_a_cache_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_HOME", str(cache.home() / "missing"))
    for action in ("list", "verify", "clean"):
        assert listed(capsys, action) == {}
    assert not cache.home().exists()


def test_verify_hashes_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "verify"]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 files")
    data = bytearray((home / CONVERTED).read_bytes())
    data[-1] ^= 1
    (home / CONVERTED).write_bytes(data)
    wrong, unknown = original(BY_PREFIX), original(WITHOUT_DIGEST)
    assert run(["cache", "verify"]) == 4
    out, err = capsys.readouterr()
    assert out.startswith("0 of 3 files")
    lines = err.splitlines()
    assert len(lines) == 3 and all(line.startswith("videozoo: error: ") for line in lines)
    assert str(home / CONVERTED) in lines[0] and "its sha256 is" in lines[0]
    assert str(unknown) in lines[1] and "no digest is known" in lines[1]
    assert str(wrong) in lines[2] and "prefix" in lines[2]
    assert run(["cache", "verify", "--json"]) == 4
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_a_damaged_lock_file_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original(BY_PREFIX)
    (home / "videozoo.lock").write_text("{")
    for action in ("list", "verify", "clean"):
        assert run(["cache", action]) == 2
        assert "is not a videozoo lock file" in capsys.readouterr().err


STALE = ["a.pth.damaged", ".videozoo-00.tmp"]
KEPT = ["a.pth.part", "a.pth.part.json"]


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [([], STALE), (["--partial"], STALE + KEPT), (["tpn_*"], [*STALE, *KEPT, "tpn.pth"]), (["ircsn_*"], STALE)],
)
def test_clean(arguments: list[str], gone: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = original(BY_PREFIX)
    for name in STALE + KEPT:
        (path.parent / name).write_bytes(b"12345")
    gone = [path.name if name == "tpn.pth" else name for name in gone]
    (home / "converted" / ".videozoo-00.tmp").touch()
    before = {file for file in home.rglob("*") if file.is_file()}
    assert run(["cache", "clean", "--dry-run", *arguments]) == 0
    assert {file for file in home.rglob("*") if file.is_file()} == before
    promised = capsys.readouterr().out.replace("would remove", "removed")
    assert run(["cache", "clean", *arguments]) == 0
    assert capsys.readouterr().out == promised
    left = {file for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"}
    expected = {path.parent / name for name in gone} | {home / "converted" / ".videozoo-00.tmp"}
    assert {file for file in before if file.suffix != ".lock"} - left == expected
    assert path.parent.exists() is (path.name not in gone)
    assert (home / CONVERTED).exists()


def test_clean_of_what_another_release_converted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "CONVERTER", "videozoo 2")
    assert run(["cache", "clean"]) == 0
    assert not (home / CONVERTED).exists() and not (home / f"{CONVERTED}.json").exists()


def test_clean_of_a_record_alone(home: Path) -> None:
    (home / CONVERTED).unlink()
    assert run(["cache", "clean"]) == 0
    assert not (home / f"{CONVERTED}.json").exists()


def test_clean_leaves_what_a_living_process_writes(home: Path) -> None:
    path = original(BY_PREFIX)
    mine, other = path.parent / ".videozoo-00.tmp", home / "converted" / ".videozoo-01.tmp"
    mine.touch()
    other.touch()
    with cache.guard(BY_PREFIX):
        assert run(["cache", "clean", "--partial", BY_PREFIX]) == 0
        assert mine.exists() and other.exists() and path.exists()
    assert run(["cache", "clean"]) == 0
    assert not mine.exists() and not other.exists() and path.exists()


def test_the_list_needs_no_torch(tmp_path: Path) -> None:
    from test_package import HEAVY, python

    done = python(
        f"from videozoo.cli.main import run; run(['cache', 'list']); import sys; print({HEAVY} & {{*sys.modules}})"
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_clean_of_a_name_that_means_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "converted" / ".videozoo-00.tmp").touch()
    for pattern, near in (("test_tsn.moton8", "its tags are motion8"), ("tst_tsn", "the nearest are test_tsn")):
        assert run(["cache", "clean", pattern]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and near in err
    assert (home / CONVERTED).exists() and (home / "converted" / ".videozoo-00.tmp").exists()
    assert run(["cache", "clean", "test_tsn"]) == 0  # an architecture means its default row
    assert not (home / CONVERTED).exists()


def test_a_home_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path / "file"))
    for arguments in (["cache", "list"], ["cache", "clean"], ["verify", "test_tsn"], ["fetch", "tpn_tsm_r50"]):
        assert run(arguments) == 6
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "VIDEOZOO_HOME" in err and "is a file" in err


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("linked", ["originals", "converted"])
def test_folders_that_are_links(linked: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original(BY_PREFIX)
    before = listed(capsys, "list")
    (home / linked).rename(tmp_path / "elsewhere")
    (home / linked).symlink_to(tmp_path / "elsewhere")
    (home / linked / "loop").symlink_to(home)
    (home / "other").symlink_to(tmp_path / "elsewhere")
    after = listed(capsys, "list")
    assert {name: after[name] for name in before} == before
    assert after["other"]["kind"] == "unknown" and not any(name.startswith("other/") for name in after)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_do_not_reach_the_terminal_raw(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "originals" / "a\x1b[2Jb"
    folder.mkdir(parents=True)
    (folder / "c\nd\udc80.damaged").touch()
    assert run(["cache", "list"]) == 0
    assert run(["cache", "clean"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "c\nd" not in out and out.count(r"originals/a\x1b[2Jb/c\nd\udc80.damaged") == 2
