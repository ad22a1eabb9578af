"""``videozoo mirror`` and what a user gets from one: converted files where the lock knows them, originals elsewhere."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_server import Reply, Server, running

from videozoo import cache, create_model, isolation, load_recognizer, lockfile
from videozoo.cache import places, planning, untouched
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.download import limits
from videozoo.errors import DigestMismatch, InvalidArgument
from videozoo.files import sha256_file
from videozoo.lockfile import Locked, LockedConversion
from videozoo.registry import get_weights
from videozoo.synthetic import draw_clip

NAME = "test_tsn.motion8"
EMBEDDED = places.PACKAGE_WEIGHTS / "test_tsn.pth"
ORIGINAL = f"originals/{NAME}/tsn.pth"
CONVERTED = f"converted/{NAME}.safetensors"
FILES = {ORIGINAL, CONVERTED, "videozoo.lock", "README.md"}


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def publish(server: Server, edit_manifest: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded row as one that a server publishes; files are read in this process, which saves seconds."""

    def here(function: Callable[..., object], source: Path, arguments: dict[str, object], **_: object) -> object:
        return function(**arguments)

    monkeypatch.setattr(isolation, "call", here)
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    url = server.serve("/published/tsn.pth", Reply(EMBEDDED.read_bytes()))
    edit_manifest(NAME, embedded=False, name="tsn.pth", urls=[url])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mirror of the row, and the cache empty again."""
    assert run(["mirror", str(tmp_path / "mirror"), NAME]) == 0
    shutil.rmtree(cache.home())
    return tmp_path / "mirror"


@pytest.fixture
def mirror(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It is served below ``/zoo``, and nothing else is."""
    serve(folder, server, "/zoo")
    server.serve("/published/tsn.pth", Reply(status=410))
    server.requests.clear()
    monkeypatch.setenv("VIDEOZOO_MIRROR", f"{server.address}/zoo")
    return folder


def serve(folder: Path, server: Server, below: str) -> None:
    for name in files(folder):
        server.serve(f"{below}/{name}", Reply((folder / name).read_bytes()))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The folder


def test_the_layout_and_the_lock(folder: Path, server: Server) -> None:
    assert files(folder) == FILES
    assert (folder / ORIGINAL).read_bytes() == EMBEDDED.read_bytes()
    line = lockfile.read(folder / "videozoo.lock")[NAME]
    assert line.source == f"{server.address}/published/tsn.pth"
    readme = (folder / "README.md").read_text()
    for name, known in ((ORIGINAL, line), (CONVERTED, line.converted)):
        assert known is not None
        assert (known.sha256, known.size_bytes) == (sha256_file(folder / name), (folder / name).stat().st_size)
        assert f"| `{name}` | {known.size_bytes} | `{known.sha256}` |" in readme


@pytest.mark.parametrize("arguments", [[NAME], ["test_ts*", "--json"]])
def test_again_copies_nothing(
    arguments: list[str], folder: Path, server: Server, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run(["mirror", str(folder), NAME])  # fills the cache again
    capsys.readouterr()
    server.requests.clear()
    before = {name: (folder / name).stat().st_mtime_ns for name in FILES}
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    assert run(["mirror", str(folder), *arguments]) == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in files(folder)} == before
    assert server.requests == []
    out = capsys.readouterr().out
    if "--json" in arguments:
        assert json.loads(out) == [{"weights": NAME, "written": [], "kept": [ORIGINAL, CONVERTED]}]
    else:
        assert out.splitlines() == [
            f"there    {ORIGINAL}", f"there    {CONVERTED}", f"1 of 1 weights in {folder}",
        ]  # fmt: skip


def test_what_was_damaged_or_interrupted_is_written_again(folder: Path) -> None:
    expected = {name: (folder / name).read_bytes() for name in FILES}
    (folder / ORIGINAL).write_bytes(b"short")
    (folder / CONVERTED).write_bytes(b"x" * len(expected[CONVERTED]))
    (folder / "originals" / NAME / ".videozoo-00.tmp").touch()
    assert run(["mirror", str(folder), NAME]) == 0
    assert {name: (folder / name).read_bytes() for name in files(folder)} == expected


def test_without_a_pattern_what_the_cache_holds(folder: Path, tmp_path: Path, server: Server) -> None:
    create_model("test_ircsn", pretrained=True)  # comes with the package: nobody needs a mirror for it
    assert run(["mirror", str(tmp_path / "second")]) == 0
    assert files(tmp_path / "second") == {"README.md"}
    assert run(["fetch", NAME]) == 0
    server.requests.clear()
    assert run(["mirror", str(tmp_path / "second")]) == 0
    assert files(tmp_path / "second") == FILES and server.requests == []
    assert {(tmp_path / "second" / name).read_bytes() for name in FILES} == {
        (folder / name).read_bytes() for name in FILES
    }


def test_a_row_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["fetch", NAME])
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    capsys.readouterr()
    assert run(["mirror", str(tmp_path / "mirror"), "tpn_tsm_r50", NAME]) == 4
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("videozoo: error: tpn_tsm_r50.tsm_sthv1: ")
    assert out.splitlines()[-1] == f"1 of 2 weights in {tmp_path / 'mirror'}"
    assert files(tmp_path / "mirror") == FILES


def test_an_imported_row_is_mirrored_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    private = tmp_path / "private.pth"
    shutil.copy(EMBEDDED, private)
    assert run(["import", str(private)]) == 0
    private.unlink()
    assert run(["mirror", str(tmp_path / "mirror")]) == 0
    assert files(tmp_path / "mirror") == FILES - {ORIGINAL}
    assert "private" not in (tmp_path / "mirror" / "videozoo.lock").read_text()


@pytest.mark.parametrize("locked", [True, False])
def test_a_converted_file_that_only_seems_untouched_is_not_published(
    locked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untouched, "SETTLED_NS", 0)
    create_model("test_tsn", pretrained=True)
    lock, path = cache.lock_path(), cache.home() / CONVERTED
    if not locked:
        line = lockfile.read(lock)[NAME]
        lockfile.put(lock, NAME, dataclasses.replace(line, converted=None))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    untouched.remember(path, untouched.state(path))
    assert cache.converted(get_weights(NAME)) == path  # a load does not notice
    assert run(["mirror", str(tmp_path / "mirror"), NAME]) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "its sha256 is" in err
    assert CONVERTED not in files(tmp_path / "mirror") and not (tmp_path / "mirror" / "videozoo.lock").exists()


def test_an_embedded_row_that_is_named(tmp_path: Path) -> None:
    assert run(["mirror", str(tmp_path / "mirror"), "test_tpn"]) == 0
    name = "test_tpn.motion8"
    assert {f"originals/{name}/test_tpn.pth", f"converted/{name}.safetensors"} < files(tmp_path / "mirror")
    assert lockfile.read(tmp_path / "mirror" / "videozoo.lock")[name].source == "test_tpn.pth"


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run(["mirror", str(tmp_path / "file" / "mirror"), NAME]) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_the_cache_is_no_mirror(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (cache.home(), cache.home() / "mirror"):
        assert run(["mirror", str(folder), NAME]) == 2
        assert "name another folder" in capsys.readouterr().err
    assert not (cache.home() / "mirror").exists()


# What a user gets


def test_the_original_where_the_mirrors_lock_was_not_named(mirror: Path, server: Server) -> None:
    create_model("test_tsn", pretrained=True)
    assert server.paths() == [f"/zoo/{ORIGINAL}"]


def test_the_converted_file_where_it_was(
    mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDEOZOO_LOCK", str(mirror / "videozoo.lock"))
    lock = (mirror / "videozoo.lock").read_text()
    assert run(["info", NAME]) == 0
    places = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("source ")]
    assert places[1:] == [
        f"{server.address}/zoo/{CONVERTED}", f"{server.address}/zoo/{ORIGINAL}", f"{server.address}/published/tsn.pth",
    ]  # fmt: skip
    model = create_model("test_tsn", pretrained=True)
    assert model.pretrained_cfg["tag"] == "motion8"
    assert server.paths() == [f"/zoo/{CONVERTED}"]
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    create_model("test_tsn", pretrained=True)
    assert run(["cache", "verify"]) == 0
    assert run(["fetch", NAME]) == 0
    assert (mirror / "videozoo.lock").read_text() == lock


def test_from_a_hugging_face_repository(mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(mirror, server, "/hub/lab/zoo/resolve/v1")
    monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/hub")
    monkeypatch.setenv("VIDEOZOO_MIRROR", "hf-hub:lab/zoo@v1")
    create_model("test_tsn", pretrained=True, lock=mirror / "videozoo.lock")
    assert server.paths() == [f"/hub/lab/zoo/resolve/v1/{CONVERTED}"]


@pytest.mark.parametrize("fault", [Reply(status=404), Reply(b"<html>"), None], ids=["missing", "page", "flipped"])
def test_the_original_where_the_converted_file_is_wrong(
    fault: Reply | None, mirror: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((mirror / CONVERTED).read_bytes())
    content[-1] ^= 1
    server.serve(f"/zoo/{CONVERTED}", fault or Reply(bytes(content)))
    monkeypatch.setenv("VIDEOZOO_LOCK", str(mirror / "videozoo.lock"))
    create_model("test_tsn", pretrained=True)
    assert list(dict.fromkeys(server.paths())) == [f"/zoo/{CONVERTED}", f"/zoo/{ORIGINAL}"]
    assert sha256_file(cache.home() / CONVERTED) == sha256_file(mirror / CONVERTED)  # converted here, the same bytes


def test_all_that_failed_is_told(mirror: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for name in (ORIGINAL, CONVERTED):
        server.serve(f"/zoo/{name}", Reply(status=404))
    with lockfile.used(mirror / "videozoo.lock"), pytest.raises(Exception, match="410"):
        cache.obtain(get_weights(NAME))
    assert f"/zoo/{CONVERTED}" in caplog.text


def test_a_mirror_on_a_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", str(folder))
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    assert cache.plan(get_weights(NAME)).path == folder / ORIGINAL
    with lockfile.used(folder / "videozoo.lock"):
        assert cache.obtain(get_weights(NAME)) == cache.Plan("converted", folder / CONVERTED)
        create_model("test_tsn", pretrained=True)


# A converted file in the user's own folder


def locked(folder: Path, tmp_path: Path, **changes: object) -> Path:
    """A lock file that knows the mirror's files, but for ``changes`` of the converted one."""
    line = lockfile.read(folder / "videozoo.lock")[NAME]
    assert line.converted is not None
    converted = dataclasses.replace(line.converted, **changes)  # type: ignore[arg-type]
    lockfile.add(tmp_path / "own.lock", NAME, dataclasses.replace(line, converted=converted))
    return tmp_path / "own.lock"


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("renamed.safetensors", {}, "converted"),
        (f"{NAME}.safetensors", {}, "converted"),
        (f"{NAME}.safetensors", {"sha256": "0" * 64}, f"its sha256 is .*not the known {'0' * 64}"),
        (f"{NAME}.safetensors", {"size_bytes": 1}, "bytes, not 1$"),
        (f"{NAME}.safetensors", {"converter": "videozoo 0"}, "no digest of the converted file is known"),
        ("renamed.safetensors", {"sha256": "0" * 64}, "nothing"),
    ],
)
def test_a_converted_file_in_a_folder(
    name: str, changes: dict[str, object], expected: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(folder / CONVERTED, own / name)
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", str(own))
    with lockfile.used(locked(folder, tmp_path, **changes)):
        plan = cache.plan(get_weights(NAME))
    if expected == "converted":
        assert (plan.kind, plan.path) == ("converted", own / name)
        return
    assert plan.kind == "download"
    if expected == "nothing":
        assert plan.refused == ()
    else:
        (reason,) = plan.refused
        assert re.search(expected, reason)


def test_what_a_file_says_about_itself_proves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(folder / CONVERTED, own / f"{NAME}.safetensors")
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", str(own))
    plan = cache.plan(get_weights(NAME))
    assert plan.kind == "download" and "videozoo import" in plan.refused[0]


# The lock of conversions


def test_the_first_conversion_is_locked_and_the_next_is_held_against_it(tmp_path: Path) -> None:
    create_model("test_tsn", pretrained=True)
    path = cache.home() / CONVERTED
    line = lockfile.read(cache.lock_path())[NAME]
    assert line.converted == LockedConversion(sha256_file(path), path.stat().st_size, lockfile.CONVERTER)
    path.unlink()
    wrong = dataclasses.replace(line.converted, sha256="0" * 64)
    lockfile.put(cache.lock_path(), NAME, dataclasses.replace(line, converted=wrong))
    with pytest.raises(DigestMismatch, match="remove `converted` of that line"):
        create_model("test_tsn", pretrained=True)
    assert not path.exists()


def test_another_converter_takes_the_place_of_the_former(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model("test_tsn", pretrained=True)
    former = lockfile.read(cache.lock_path())[NAME]
    other = dataclasses.replace(former, converted=LockedConversion("0" * 64, 1, "videozoo 0"))
    lockfile.put(cache.lock_path(), NAME, other)
    (cache.home() / CONVERTED).unlink()
    create_model("test_tsn", pretrained=True)
    assert lockfile.read(cache.lock_path())[NAME] == former


@pytest.mark.parametrize("change", [{"sha256": "abc"}, {"size_bytes": -1}, {"converter": 1}, {"more": 1}])
def test_a_damaged_line_is_an_error(change: dict[str, object], tmp_path: Path) -> None:
    line = dataclasses.asdict(Locked("0" * 64, 1, "s", LockedConversion("0" * 64, 1, "c")))
    line["converted"].update(change)
    (tmp_path / "lock").write_text(json.dumps({"version": 1, "weights": {NAME: line}}))
    with pytest.raises(Exception, match="is not a videozoo lock file"):
        lockfile.read(tmp_path / "lock")


@pytest.mark.parametrize("way", ["create_model", "load_recognizer", "predict"])
def test_a_project_names_its_lock(way: str, tmp_path: Path) -> None:
    lock = tmp_path / "project.lock"
    if way == "create_model":
        create_model("test_tsn", pretrained=True, lock=lock)
    elif way == "load_recognizer":
        load_recognizer("test_tsn", lock=str(lock))
    else:
        video = tmp_path / "video.mp4"
        write_video(video, draw_clip(0))
        assert run(["predict", str(video), "--model", "test_tsn", "--lock", str(lock)]) == 0
    assert set(lockfile.read(lock)) == {NAME} and not (cache.home() / "videozoo.lock").exists()
    lockfile.put(lock, NAME, Locked("0" * 64, 1, "elsewhere"))
    with pytest.raises(DigestMismatch, match="remove that line"):
        create_model("test_tsn", pretrained=True, lock=lock)


def test_a_model_folder_is_in_no_lock(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="leave out lock"):
        create_model(f"local-dir:{tmp_path}", lock=tmp_path / "project.lock")


# The first use of a file that a caller has read


def test_record_first_use(edit_manifest: Callable[..., None], tmp_path: Path) -> None:
    digest = sha256_file(EMBEDDED)
    edit_manifest(NAME, sha256=None, size_bytes=None)
    entry = get_weights(NAME)
    cache.record_first_use(entry, EMBEDDED, digest)
    assert lockfile.read(cache.lock_path()) == {NAME: Locked(digest, EMBEDDED.stat().st_size, str(EMBEDDED))}
    assert planning.wanted(entry).sha256 == digest
    cache.record_first_use(entry, EMBEDDED, digest)
    with pytest.raises(DigestMismatch, match=f"is not the file of {NAME}"):
        cache.record_first_use(entry, EMBEDDED, "0" * 64)
