"""Entry -> verified file: sources in order, digests, faults of servers and disks, atomic placement."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from http_server import Reply, Server, running

from videozoo import cache, lockfile
from videozoo.cache import places, planning, records, untouched
from videozoo.download import limits
from videozoo.errors import DigestMismatch, FetchError, InvalidArgument, NoSource, OutputError, VideoZooError
from videozoo.files import place, sha256_file
from videozoo.manifest import Entry, Figures, File, Input, License, Manifest, Protocol, Source, Views

BODY = bytes(range(256)) * 40
DIGEST = hashlib.sha256(BODY).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"
OTHER = b"x" + BODY[1:]
OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()


def row(*urls: str, tag: str = "k400", published: bool = True, **changes: object) -> Entry:
    """An invented row whose file is BODY, known by its prefix alone unless ``changes`` of the File say otherwise."""
    file = File(
        name=NAME,
        urls=urls,
        sha256=None,
        sha256_prefix=DIGEST[:8],
        size_bytes=None,
        format="torch",
        layout="mmaction2",
        huggingface_repo=None,
        embedded=False,
    )
    views = Views("clips", 8, 8, 1, False, 256, "center", 224, "prob")
    return Entry(
        architecture="net",
        tag=tag,
        default=True,
        pretraining=None,
        dataset="kinetics400",
        num_classes=400,
        file=dataclasses.replace(file, **changes) if published else None,  # type: ignore[arg-type]
        protocol=Protocol(Input((0.0,) * 3, (1.0,) * 3), views, views),
        figures=Figures(*(None,) * 8),
        source=Source("zoo", "page", *(None,) * 10),
        license=License("Apache-2.0", None, None),
        notes=(),
    )


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own, empty cache, no other source, no proxy, and no pause between retries."""
    for name in ("VIDEOZOO_WEIGHTS_DIR", "VIDEOZOO_MIRROR", "VIDEOZOO_LOCK", "VIDEOZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)
    return tmp_path / "home"


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of weights."""
    path = tmp_path / "mine"
    path.mkdir()
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", os.pathsep.join([str(tmp_path / "missing"), str(path)]))
    return path


def stored(home: Path) -> list[str]:
    """Everything in the cache but the empty lock files, as relative names."""
    files = sorted(path for path in home.rglob("*") if not path.is_dir() and path.suffix != ".lock")
    return [path.relative_to(home).as_posix() for path in files]


def one_line(error: pytest.ExceptionInfo[VideoZooError]) -> str:
    text = str(error.value)
    assert "\n" not in text and "object at 0x" not in text
    return text


# Folders


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"HOME": "/u"}, "/u/.cache/videozoo"),
        ("linux", {"HOME": "/u", "XDG_CACHE_HOME": "/x"}, "/x/videozoo"),
        ("darwin", {"HOME": "/u"}, "/u/Library/Caches/videozoo"),
        ("win32", {"HOME": "/u", "LOCALAPPDATA": "/local"}, "/local/videozoo"),
        ("linux", {"HOME": "/u", "VIDEOZOO_HOME": "/z"}, "/z"),
        ("linux", {"HOME": "/u", "VIDEOZOO_HOME": "~/z"}, "/u/z"),
        ("linux", {"HOME": "/u", "VIDEOZOO_HOME": ""}, "/u/.cache/videozoo"),
    ],
)
def test_home(platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "VIDEOZOO_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache.home() == Path(expected)


def test_weights_dirs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.weights_dirs() == ()
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", os.pathsep.join(["/a", "", "/b c"]))
    assert cache.weights_dirs() == (Path("/a"), Path("/b c"))


# Download


@pytest.mark.parametrize("known", [{}, {"sha256": DIGEST, "size_bytes": len(BODY)}], ids=["prefix", "full"])
@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
def test_download_then_reuse(
    known: dict[str, object], length: bool, server: Server, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = row(server.serve("/f", Reply(BODY, length=length)), **known)
    assert cache.plan(entry) == cache.Plan("download", home / "originals/net.k400" / NAME, entry.file.urls)
    assert not home.exists()  # a plan changes nothing

    path = cache.fetch(entry)

    assert path.read_bytes() == BODY
    assert stored(home) == [f"originals/net.k400/{NAME}"]
    assert server.requests[0][1]["Accept-Encoding"] == "identity"
    assert cache.plan(entry) == cache.Plan("original", path)
    assert cache.fetch(entry) == path
    assert len(server.requests) == 1
    assert capfd.readouterr().err == ""  # no bar where nobody sees it


@pytest.mark.parametrize("progress", [True, False])
def test_progress_on_a_terminal(progress: bool, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    cache.fetch(row(server.serve("/f", Reply(BODY))), progress=progress)
    assert (NAME in terminal.getvalue()) is progress


PAGE = Reply(b"<html>gone</html>", headers={"Content-Type": "text/html; charset=utf-8"})
FAULTS = {
    "other bytes": (Reply(OTHER), DigestMismatch, [OTHER_DIGEST, DIGEST[:8], "prefix"]),
    "web page": (PAGE, DigestMismatch, [hashlib.sha256(PAGE.body).hexdigest(), DIGEST[:8], "web page"]),
    "empty": (Reply(b""), DigestMismatch, [hashlib.sha256(b"").hexdigest()]),
    "gzip": (Reply(b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"}), DigestMismatch, [DIGEST[:8]]),
    "cut at 0": (Reply(BODY, cut=0), FetchError, []),
    "cut at 99 %": (Reply(BODY, cut=len(BODY) * 99 // 100), FetchError, []),
    "cut, no length": (Reply(BODY, cut=99, length=False), DigestMismatch, [DIGEST[:8]]),
    "missing": (Reply(status=404), FetchError, ["404"]),
    "forbidden": (Reply(status=403), FetchError, ["403"]),
    "partial": (Reply(BODY, status=206), FetchError, ["206"]),
    "to plain http": (Reply(status=302, headers={"Location": "http://192.0.2.1/f"}), FetchError, ["not https"]),
    "to a file": (Reply(status=302, headers={"Location": "file:///etc/passwd"}), FetchError, ["not https"]),
    "to nonsense": (Reply(status=302, headers={"Location": "http://[::1"}), FetchError, ["redirected to"]),
    "to nowhere": (Reply(status=302), FetchError, ["302"]),
    "in a circle": (Reply(status=302, headers={"Location": "/f"}), FetchError, ["redirects"]),
}


@pytest.mark.parametrize(("fault", "kind", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_fault(fault: Reply, kind: type[FetchError], words: list[str], server: Server, home: Path) -> None:
    url = server.serve("/f", fault)
    with pytest.raises(FetchError) as error:
        cache.fetch(row(url))
    assert type(error.value) is kind
    text = one_line(error)
    assert all(word in text for word in [url, "net.k400", "VIDEOZOO_WEIGHTS_DIR", *words])
    assert stored(home) == []


@pytest.mark.parametrize("fault", [fault for fault, _, _ in FAULTS.values()], ids=FAULTS.keys())
def test_second_url_after_a_fault(fault: Reply, server: Server, home: Path) -> None:
    entry = row(server.serve("/f", fault), server.serve("/g", Reply(BODY)), server.serve("/h", Reply(BODY)))
    assert cache.fetch(entry).read_bytes() == BODY
    assert set(server.paths()) == {"/f", "/g"}
    assert stored(home) == [f"originals/net.k400/{NAME}"]


def test_reasons_of_all_urls(server: Server) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    urls = (
        server.serve("/f", Reply(OTHER)),
        server.serve("/g", Reply(status=404)),
        f"http://127.0.0.1:{closed.getsockname()[1]}/f",
    )
    closed.close()
    with pytest.raises(FetchError) as error:
        cache.fetch(row(*urls))
    assert not isinstance(error.value, DigestMismatch)
    text = one_line(error)
    assert all(word in text for word in [*urls, OTHER_DIGEST, "404", "refused"])


def test_full_digest_is_named_in_full(server: Server) -> None:
    with pytest.raises(DigestMismatch) as error:
        cache.fetch(row(server.serve("/f", Reply(OTHER)), sha256=DIGEST))
    assert OTHER_DIGEST in one_line(error) and DIGEST in str(error.value) and "prefix" not in str(error.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_server_that_recovers(status: int, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PAUSE_SECONDS", 0.0)
    busy = Reply(status=status, headers={"Retry-After": "3600"})
    assert cache.fetch(row(server.serve("/f", busy, busy, Reply(BODY)))).read_bytes() == BODY
    assert len(server.requests) == 3


def test_server_that_stays_down_is_left_after_bounded_retries(server: Server, home: Path) -> None:
    with pytest.raises(FetchError, match="503"):
        cache.fetch(row(server.serve("/f", Reply(status=503))))
    assert len(server.requests) == 1 + limits.MAX_RETRIES
    assert stored(home) == []


def test_stalled_body(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.2)
    gate = threading.Event()
    with pytest.raises(FetchError, match="timed out"):
        cache.fetch(row(server.serve("/f", Reply(BODY, gate=gate))))
    gate.set()
    assert stored(home) == []


@pytest.mark.parametrize(("length", "verb"), [(True, "announces"), (False, "sent")])
def test_endless_body_is_left(length: bool, verb: str, server: Server, home: Path) -> None:
    with pytest.raises(FetchError, match=f"{verb} .* bytes, more than the file has"):
        cache.fetch(row(server.serve("/f", Reply(bytes(2 << 20), length=length)), size_bytes=len(BODY)))
    assert stored(home) == []


def test_size_is_checked_beside_a_prefix(server: Server, home: Path) -> None:
    with pytest.raises(FetchError, match=f"it has {len(BODY)} bytes, not 9"):
        cache.fetch(row(server.serve("/f", Reply(BODY)), size_bytes=9))
    assert stored(home) == []


def test_redirect_to_the_file(server: Server) -> None:
    server.serve("/g", Reply(BODY))
    assert cache.fetch(row(server.serve("/f", Reply(status=301, headers={"Location": "g"})))).read_bytes() == BODY


@pytest.mark.parametrize(
    ("address", "words"),
    [("http://192.0.2.1/f", "http://192.0.2.1"), ("ftp://127.0.0.1/f", "ftp:"), ("file:///etc/passwd", "file:")],
)
@pytest.mark.usefixtures("no_socket")
def test_address_that_is_not_https(address: str, words: str) -> None:
    with pytest.raises(FetchError, match="not https") as error:
        cache.fetch(row(address))
    assert words in one_line(error)


def test_https_never_steps_down_to_http(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = server.serve("/f", Reply(BODY))
    asked: list[str] = []

    def answer(self: requests.Session, url: str, **options: object) -> requests.Response:
        asked.append(url)
        response = requests.Response()
        response.status_code = 302
        response.raw = io.BytesIO()
        response.headers["Location"] = plain
        return response

    monkeypatch.setattr(requests.Session, "get", answer)
    with pytest.raises(FetchError, match="not https"):
        cache.fetch(row("https://host.invalid/f"))
    assert asked == ["https://host.invalid/f"]


FETCH_IN_A_PROCESS = """
import pickle, sys
from pathlib import Path
import filelock, requests
from videozoo.cache import fetch
entry = pickle.loads(Path(sys.argv[1]).read_bytes())
print("started", flush=True)
print(fetch(entry))
"""


def start_fetching(entry: Entry, tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that fetches ``entry``; returns when it is just about to."""
    (tmp_path / "entry.pickle").write_bytes(pickle.dumps(entry))
    root = Path(cache.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH_IN_A_PROCESS, str(tmp_path / "entry.pickle")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_two_processes_download_once(server: Server, home: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    entry = row(server.serve("/f", Reply(BODY, gate=gate)))
    with start_fetching(entry, tmp_path) as first, start_fetching(entry, tmp_path) as second:
        assert server.wait_for(1, timeout=20)
        twice = server.wait_for(2, timeout=0.5)
        gate.set()
        outputs = [process.communicate(timeout=20)[0].strip() for process in (first, second)]
    assert not twice
    assert outputs == [str(home / "originals/net.k400" / NAME)] * 2
    assert len(server.requests) == 1
    assert stored(home) == [f"originals/net.k400/{NAME}"]


def test_killed_process_is_succeeded(server: Server, home: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    entry = row(server.serve("/f", Reply(BODY, gate=gate), Reply(BODY)))
    with start_fetching(entry, tmp_path) as process:
        assert server.wait_for(1, timeout=20)
        process.kill()
    gate.set()
    assert cache.fetch(entry).read_bytes() == BODY
    assert stored(home) == [f"originals/net.k400/{NAME}"]


def test_interrupt_leaves_nothing(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    entry = row(server.serve("/f", Reply(BODY)))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "fsync", interrupt)
        cache.fetch(entry)
    assert stored(home) == []
    assert cache.fetch(entry).read_bytes() == BODY  # the lock is free again


# Sources other than a URL


@pytest.mark.parametrize("variable", ["VIDEOZOO_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
@pytest.mark.usefixtures("no_socket")
def test_offline(variable: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    for act in (cache.plan, cache.fetch):
        with pytest.raises(NoSource, match="OFFLINE") as error:
            act(row("https://host.invalid/f"))
        assert NAME in one_line(error)
    assert not home.exists()


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_not_offline(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_OFFLINE", value)
    assert cache.plan(row("https://host.invalid/f")).kind == "download"


def test_offline_serves_the_cache(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = row(server.serve("/f", Reply(BODY)))
    path = cache.fetch(entry)
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    assert cache.fetch(entry) == path
    path.write_bytes(OTHER)
    with pytest.raises(NoSource) as error:
        cache.fetch(entry)
    assert OTHER_DIGEST in one_line(error)


@pytest.mark.parametrize("damage", [OTHER, BODY[:-1], b""], ids=["flipped", "cut", "empty"])
def test_damaged_download_is_set_aside(
    damage: bytes, server: Server, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = row(server.serve("/f", Reply(BODY)))
    path = cache.fetch(entry)
    path.write_bytes(damage)
    assert cache.plan(entry).kind == "download"
    assert cache.fetch(entry).read_bytes() == BODY
    assert stored(home) == [f"originals/net.k400/{NAME}", f"originals/net.k400/{NAME}.damaged"]
    reason = hashlib.sha256(damage).hexdigest() if len(damage) == len(BODY) else f"it has {len(damage)} bytes"
    assert str(path) in caplog.text and reason in caplog.text


@pytest.mark.usefixtures("no_socket")
def test_row_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = (row(tag="announced", published=False), row(tag="k400"), row(tag="sthv1"))
    monkeypatch.setattr(planning, "load", lambda: Manifest({}, {}, {}, entries))
    for act in (cache.plan, cache.fetch):
        with pytest.raises(NoSource, match=r"never published.*net.k400, net.sthv1$") as error:
            act(entries[0])
        assert one_line(error).startswith("net.announced: ")


@pytest.mark.usefixtures("no_socket")
def test_row_without_a_digest(folder: Path) -> None:
    (folder / NAME).write_bytes(BODY)
    with pytest.raises(NoSource, match=r"no digest .* is known.*checkpoint_path="):
        cache.fetch(row("https://host.invalid/f", sha256_prefix=None))


@pytest.mark.usefixtures("no_socket")
def test_embedded(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PACKAGE_WEIGHTS", tmp_path)
    entry = row(embedded=True, sha256=DIGEST)
    with pytest.raises(NoSource, match="missing from the installation"):
        cache.fetch(entry)
    (tmp_path / NAME).write_bytes(OTHER)
    with pytest.raises(DigestMismatch, match=f"damaged.*{OTHER_DIGEST}.*{DIGEST}"):
        cache.fetch(entry)
    (tmp_path / NAME).write_bytes(BODY)
    assert cache.plan(entry) == cache.Plan("original", tmp_path / NAME)
    assert cache.fetch(entry) == tmp_path / NAME
    assert not home.exists()


@pytest.mark.parametrize("name", [NAME, f"copy-of-{DIGEST[:8]}.bin", "renamed.pth", "renamed.pkl"])
@pytest.mark.usefixtures("no_socket")
def test_own_folder(name: str, folder: Path, home: Path) -> None:
    (folder / "a-other.pth").write_bytes(OTHER)
    (folder / name).write_bytes(BODY)
    entry = row("https://host.invalid/f")
    assert cache.plan(entry).path == folder / name
    assert cache.fetch(entry) == folder / name
    assert stored(home) == []


def test_own_folder_with_many_files_is_searched_by_name(folder: Path) -> None:
    for number in range(planning.MAX_FILES_HASHED):
        (folder / f"{number}.pth").write_bytes(OTHER)
    (folder / "renamed.pth").write_bytes(BODY)
    assert cache.plan(row("https://host.invalid/f")).kind == "download"
    (folder / NAME).write_bytes(BODY)
    assert cache.plan(row("https://host.invalid/f")).path == folder / NAME


def test_own_file_with_another_digest(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / NAME).write_bytes(OTHER)
    entry = row(server.serve("/f", Reply(BODY)))
    assert OTHER_DIGEST in cache.plan(entry).refused[1]
    with monkeypatch.context() as offline, pytest.raises(NoSource) as error:
        offline.setenv("VIDEOZOO_OFFLINE", "1")
        cache.fetch(entry)
    text = one_line(error)
    assert all(word in text for word in [str(folder / NAME), OTHER_DIGEST, f"prefix {DIGEST[:8]}", "not a folder"])
    assert cache.fetch(entry).read_bytes() == BODY
    assert OTHER_DIGEST in caplog.text
    assert (folder / NAME).read_bytes() == OTHER  # the user's files are never touched


def test_own_file_of_another_size_is_not_hashed(folder: Path) -> None:
    (folder / NAME).write_bytes(BODY + b"x")
    refused = cache.plan(row("https://host.invalid/f", size_bytes=len(BODY))).refused
    assert f"it has {len(BODY) + 1} bytes, not {len(BODY)}" in refused[1]


# Mirrors


def test_mirrors_come_before_the_urls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = row(server.serve("/f", Reply(BODY)), huggingface_repo="org/name")
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/hub")
    monkeypatch.setenv("VIDEOZOO_MIRROR", f"{server.address}/a/ hf-hub:lab/zoo@v1")
    assert cache.fetch(entry).read_bytes() == BODY
    layout = f"originals/net.k400/{NAME}"
    expected = [f"/a/{layout}", f"/hub/lab/zoo/resolve/v1/{layout}", f"/hub/org/name/resolve/main/{layout}", "/f"]
    assert server.paths() == expected
    assert [address.url for address in cache.remote_addresses(entry)] == [server.address + path for path in expected]


# A cache that cannot be written


def test_home_below_a_file(tmp_path: Path, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path / "file" / "home"))
    entry = row(server.serve("/f", Reply(BODY)))
    for act in (lambda: cache.fetch(entry), lambda: cache.store_converted(entry, lambda path: None)):
        with pytest.raises(OutputError, match="set VIDEOZOO_HOME") as error:
            act()
        one_line(error)
    assert server.requests == []
    assert cache.converted(entry) is None
    (folder / NAME).write_bytes(BODY)
    assert cache.fetch(entry) == folder / NAME  # which needs no cache


def test_disk_full(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*VIDEOZOO_HOME") as error:
        cache.fetch(row(server.serve("/f", Reply(BODY))))
    one_line(error)
    assert stored(home) == []


# Converted files


def write_body(path: Path) -> None:
    path.write_bytes(BODY)


def test_converted(home: Path) -> None:
    entry = row("https://host.invalid/f")
    assert cache.converted(entry) is None
    path = cache.store_converted(entry, write_body)
    assert path == home / "converted/net.k400.safetensors"
    assert cache.converted(entry) == path
    assert cache.plan(entry) == cache.Plan("converted", path)
    stamp = json.loads((home / "converted/net.k400.safetensors.json").read_text())
    assert (stamp["size_bytes"], stamp["sha256"]) == (len(BODY), DIGEST)
    assert cache.store_converted(entry, write_body) == path  # again, over the first
    assert stored(home) == ["converted/net.k400.safetensors", "converted/net.k400.safetensors.json"]


def flip(path: Path) -> None:
    path.write_bytes(OTHER)


def cut(path: Path) -> None:
    path.write_bytes(BODY[:-1])


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def lose_the_record(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


def break_the_record(path: Path) -> None:
    path.with_name(path.name + ".json").write_text("[]")


def forge_a_deep_record(path: Path) -> None:
    path.with_name(path.name + ".json").write_text("[" * 30_000)


def forge_an_empty_digest(path: Path) -> None:
    record = path.with_name(path.name + ".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": ""}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, OTHER_DIGEST),
        (cut, f"it has {len(BODY) - 1} bytes"),
        (link, "not a regular file"),
        (lose_the_record, "missing or damaged"),
        (break_the_record, "missing or damaged"),
        (forge_a_deep_record, "missing or damaged"),
        (forge_an_empty_digest, "missing or damaged"),
    ],
)
def test_damaged_converted_file_is_set_aside(
    damage: Callable[[Path], None], reason: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = row("https://host.invalid/f")
    path = cache.store_converted(entry, write_body)
    damage(path)
    before = stored(home)
    assert cache.plan(entry).kind == "download"
    assert stored(home) == before
    assert cache.converted(entry) is None
    assert not os.path.lexists(path) and os.path.lexists(f"{path}.damaged")
    assert str(path) in caplog.text and reason in caplog.text
    assert cache.converted(entry) is None and len(caplog.records) == 1
    assert cache.store_converted(entry, write_body) == cache.converted(entry)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read to be hashed; every file counts as long settled."""
    read: list[Path] = []

    def record(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(planning, "sha256_file", record)
    monkeypatch.setattr(untouched, "SETTLED_NS", 0)
    return read


def test_converted_file_that_nobody_touched_is_hashed_once(hashed: list[Path]) -> None:
    path = cache.store_converted(row(), write_body)
    for _ in range(3):
        assert cache.converted(row()) == path
    assert hashed == [path]
    assert cache.plan(row()).path == path  # says what is true of the file, not what a record says
    assert hashed == [path, path]


def write_and_set_back_the_clock(path: Path) -> None:
    before = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_it(path: Path) -> None:
    before = path.stat()
    path.with_name("new").write_bytes(OTHER)
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("new").replace(path)


@pytest.mark.skipif(os.name == "nt", reason="no time of change: every use hashes")
@pytest.mark.parametrize("touch", [flip, write_and_set_back_the_clock, replace_it])
def test_converted_file_that_somebody_touched_is_hashed_again(
    touch: Callable[[Path], None], hashed: list[Path]
) -> None:
    path = cache.store_converted(row(), write_body)
    assert cache.converted(row()) == cache.converted(row()) == path
    touch(path)
    assert cache.converted(row()) is None
    assert len(hashed) > 1


def test_young_file_is_hashed_until_its_time_of_change_tells(
    hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untouched, "SETTLED_NS", 1 << 60)
    path = cache.store_converted(row(), write_body)
    assert cache.converted(row()) == cache.converted(row()) == path
    assert hashed == [path, path]


def test_named_lock_has_every_use_hashed(hashed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can write the cache can forge its records; a lock of the project's own is to hold against that."""
    path = cache.store_converted(row(), write_body)
    assert cache.converted(row()) == cache.converted(row()) == path
    line = lockfile.Locked(DIGEST, len(BODY), "file")
    lockfile.add(tmp_path / "own.lock", row().name, line)
    monkeypatch.setenv("VIDEOZOO_LOCK", str(tmp_path / "own.lock"))
    path = cache.store_converted(row(), write_body)
    assert cache.converted(row()) == cache.converted(row()) == path
    assert hashed == [path] * 3


def test_record_that_cannot_be_written_has_every_use_hashed(
    hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache.store_converted(row(), write_body)

    def refuse(*args: object, **options: object) -> None:
        raise OutputError("read-only")

    monkeypatch.setattr(records, "place", refuse)
    assert cache.converted(row()) == cache.converted(row()) == path
    assert hashed == [path, path]


def another_original(monkeypatch: pytest.MonkeyPatch) -> Entry:
    return row(sha256=OTHER_DIGEST)


def another_release(monkeypatch: pytest.MonkeyPatch) -> Entry:
    monkeypatch.setattr(planning, "CONVERTER", "videozoo 2")
    return row()


@pytest.mark.parametrize("change", [another_original, another_release])
def test_outdated_conversion_is_replaced_without_ceremony(
    change: Callable[[pytest.MonkeyPatch], Entry], home: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache.store_converted(row(sha256=DIGEST) if change is another_original else row(), write_body)
    before = stored(home)
    entry = change(monkeypatch)
    assert cache.converted(entry) is None
    assert stored(home) == before and caplog.records == []
    path = cache.store_converted(entry, lambda path: path.write_bytes(OTHER) and None)
    assert cache.converted(entry) == path and path.read_bytes() == OTHER
    assert stored(home) == before


def test_no_file_of_the_cache_is_ever_without_a_record(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands there when a process is killed at any rename: a file that is right, or none."""
    seen: list[tuple[bool, bool]] = []
    replace = os.replace
    path = places.cached(row(), "converted")

    def look(*names: object) -> None:
        replace(*names)  # type: ignore[arg-type]
        seen.append((path.exists(), places.record_of(path).exists()))

    monkeypatch.setattr(os, "replace", look)
    cache.store_converted(row(), write_body)
    assert seen == [(False, True), (True, True)]


def test_failed_conversion_keeps_the_former(home: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(OTHER)
        raise NoSource("stop")

    path = cache.store_converted(row(), write_body)
    before = stored(home)
    with pytest.raises(NoSource, match="stop"):
        cache.store_converted(row(), fail)
    assert stored(home) == before
    assert cache.converted(row()) == path


# Placement


@pytest.mark.parametrize("overwrite", [False, True])
def test_place(overwrite: bool, tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    place(target, write_body, overwrite=overwrite)
    assert target.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [target]


def test_place_with_force_replaces(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(OTHER)
    place(target, write_body, overwrite=True)
    assert target.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "overwrite", "words"),
    [
        ("old.bin", False, "old.bin exists; pass --force"),
        ("dangling", False, "dangling exists; pass --force"),
        ("folder", False, "it is a folder"),
        ("folder", True, "it is a folder"),
        ("missing/new.bin", False, "there is no folder"),
        ("old.bin/new.bin", True, "there is no folder"),
        pytest.param("pipe", True, "not a regular file", marks=pytest.mark.skipif(os.name == "nt", reason="POSIX")),
        ("x" * 300, False, "cannot write"),
    ],
)
def test_place_refuses(name: str, overwrite: bool, words: str, tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(OTHER)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=words) as error:
        place(tmp_path / name, write_body, overwrite=overwrite)
    one_line(error)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old.bin").read_bytes() == OTHER


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(28, "No space left on device"), OutputError),
        (ValueError("no"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["OSError", "ValueError", "KeyboardInterrupt"],
)
def test_place_leaves_nothing_when_writing_fails(
    raised: BaseException, expected: type[BaseException], overwrite: bool, tmp_path: Path
) -> None:
    def write(path: Path) -> None:
        path.write_bytes(BODY)
        raise raised

    (tmp_path / "old.bin").write_bytes(OTHER)
    target = tmp_path / ("old.bin" if overwrite else "new.bin")
    with pytest.raises(expected):
        place(target, write, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["old.bin"]
    assert (tmp_path / "old.bin").read_bytes() == OTHER


def test_place_keeps_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(BODY)
        (tmp_path / "out.bin").write_bytes(OTHER)

    with pytest.raises(OutputError, match="exists"):
        place(tmp_path / "out.bin", write, overwrite=False)
    assert (tmp_path / "out.bin").read_bytes() == OTHER
    assert len(list(tmp_path.iterdir())) == 1


def test_place_replaces_a_link_and_keeps_its_end(tmp_path: Path) -> None:
    (tmp_path / "end").write_bytes(OTHER)
    (tmp_path / "link").symlink_to("end")
    place(tmp_path / "link", write_body, overwrite=True)
    assert (tmp_path / "end").read_bytes() == OTHER
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_place_respects_the_umask(umask: int, tmp_path: Path) -> None:
    def replace_by_private_file(path: Path) -> None:
        path.unlink()
        path.write_bytes(BODY)
        path.chmod(0o600)

    former = os.umask(umask)
    try:
        place(tmp_path / "out.bin", replace_by_private_file, overwrite=False)
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "out.bin").stat().st_mode) == 0o666 & ~umask


# What the user sets


@pytest.mark.parametrize(
    "place",
    [
        "ftp://host/zoo", "host/zoo", "/srv/zoo", "https://", "https://[::1", "hf-hub:", "hf-hub:a/b/c", "hf-hub:a/..",
        "hf-hub:a/b@", "hf-hub:a/b@../c", "https://host/\x1b[2J", "htp://me:secret@host",
    ],
)  # fmt: skip
def test_a_mirror_that_is_none_is_one_line(place: str, monkeypatch: pytest.MonkeyPatch, no_socket: None) -> None:
    monkeypatch.setenv("VIDEOZOO_MIRROR", f"https://host.invalid/fine {place}")
    with pytest.raises(InvalidArgument) as error:
        cache.obtain(row("https://host.invalid/f"))
    assert one_line(error).isprintable() and "secret" not in one_line(error)


def test_a_branch_with_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_MIRROR", "hf-hub:lab/zoo@refs/pr/1")
    assert places.addresses(row())[1].url.startswith("https://huggingface.co/lab/zoo/resolve/refs%2Fpr%2F1/originals/")


@pytest.mark.parametrize("name", [NAME, f"originals/net.k400/{NAME}"])
def test_a_file_without_a_digest_is_taken_by_name_where_the_user_says_so(
    name: str, folder: Path, no_socket: None
) -> None:
    entry = row("https://host.invalid/f", sha256_prefix=None)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(BODY)
    (folder / "a.pth").write_bytes(OTHER)
    with pytest.raises(NoSource, match="trust-first-use` takes a file of this name from a folder of VIDEOZOO_WEIGHTS"):
        cache.fetch(entry)
    assert cache.fetch(entry, trust_first_use=True) == folder / name
    assert lockfile.read(cache.lock_path())[entry.name] == lockfile.Locked(DIGEST, len(BODY), str(folder / name))
    (folder / name).rename(folder / "renamed.pth")
    assert cache.fetch(entry) == folder / "renamed.pth"  # by the digest that is locked now
