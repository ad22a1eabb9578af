"""The cache in folders that are read-only or shared by many processes, and with links in it; for real if we may."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Reply, Server, running
from test_cache import BODY, NAME, row, start_fetching, stored

from videozoo import cache
from videozoo.download import limits
from videozoo.errors import NoSource
from videozoo.manifest import Entry

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX disks, users and signals")


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)


OBTAIN = """
import os, pickle, sys
from pathlib import Path
import filelock
from videozoo import cache
from videozoo.errors import VideoZooError
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for entry in pickle.loads(Path(sys.argv[1]).read_bytes()):
    try:
        print(cache.obtain(entry).kind)
    except VideoZooError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="videozoo-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)


def as_somebody(entries: list[Entry], folder: Path) -> list[str]:
    """What another process, of a user without the rights of root, gets for each row; one line each."""
    (folder / "entries").write_bytes(pickle.dumps(entries))
    root = Path(cache.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", OBTAIN, str(folder / "entries")], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_read_only_cache(open_folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    home = open_folder / "home"
    monkeypatch.setenv("VIDEOZOO_HOME", str(home))
    original, converted = row(server.serve("/f", Reply(BODY))), row("https://host.invalid/f", tag="c", name="c.pth")
    cache.fetch(original)
    cache.store_converted(converted, lambda temporary: temporary.write_bytes(BODY) and None)
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = stored(home)
    missing = row(server.serve("/g", Reply(BODY)), tag="missing", name="missing.pth")
    first, second, third = as_somebody([original, converted, missing], open_folder)
    assert (first, second) == ("original", "converted")
    assert third.startswith("OutputError cannot write the cache") and "set VIDEOZOO_HOME" in third
    assert stored(home) == before and server.paths() == ["/f"]


@pytest.mark.parametrize("target", ["outside", "gone"])
def test_an_original_replaced_by_a_link(
    target: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = row(server.serve("/f", Reply(BODY)))
    path = cache.fetch(entry)
    path.unlink()
    (tmp_path / "outside").write_bytes(BODY)  # right today; whoever owns it can change it after it was checked
    path.symlink_to(tmp_path / target)
    with monkeypatch.context() as offline, pytest.raises(NoSource, match="not a regular file"):
        offline.setenv("VIDEOZOO_OFFLINE", "1")
        cache.fetch(entry)
    assert cache.fetch(entry) == path
    assert path.read_bytes() == BODY and not path.is_symlink()
    assert path.with_name(f"{NAME}.damaged").is_symlink() and (tmp_path / "outside").read_bytes() == BODY
    assert "not a regular file" in caplog.text


@pytest.mark.slow
def test_eight_processes_and_the_one_that_downloads_is_killed(server: Server, tmp_path: Path) -> None:
    gate = threading.Event()
    entry = row(server.serve("/f", Reply(BODY, gate=gate), Reply(BODY)))
    with start_fetching(entry, tmp_path) as first:
        assert server.wait_for(1, timeout=20)
        others = [start_fetching(entry, tmp_path) for _ in range(7)]
        assert len(server.requests) == 1
        first.kill()
    gate.set()
    outputs = [process.communicate(timeout=60)[0].strip() for process in others]
    expected = cache.home() / "originals" / entry.name / NAME
    assert outputs == [str(expected)] * 7 and expected.read_bytes() == BODY
    assert len(server.requests) == 2
    assert stored(cache.home()) == [f"originals/net.k400/{NAME}"]


def test_offline_opens_no_socket_for_what_is_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    original, converted = row(server.serve("/f", Reply(BODY))), row("https://host.invalid/f", tag="c", name="c.pth")
    path = cache.fetch(original)
    cache.store_converted(converted, lambda temporary: temporary.write_bytes(BODY) and None)

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    with monkeypatch.context() as closed:
        closed.setattr(socket, "socket", refuse)
        closed.setattr(socket, "getaddrinfo", refuse)
        assert cache.obtain(original).path == path
        assert cache.obtain(converted).kind == "converted"
        path.write_bytes(BODY[:-1])
        with pytest.raises(NoSource, match=f"it has {len(BODY) - 1} bytes"):
            cache.obtain(original)
