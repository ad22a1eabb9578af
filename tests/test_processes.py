"""Downloads by several processes, by one that is killed, and onto disks that are full or may not be written."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from http_server import Reply, Server, running
from test_cache import row, stored

from videozoo import cache
from videozoo.download import limits
from videozoo.errors import OutputError
from videozoo.manifest import Entry
from videozoo.registry import get_weights

BODY = hashlib.shake_256(b"weights").digest(4 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()
FETCH = """
import pickle, sys
from pathlib import Path
from videozoo.cache import fetch
from videozoo.download import limits
from videozoo.errors import VideoZooError
limits.BACKOFF_SECONDS, limits.MAX_PAUSE_SECONDS = 0.01, 0.05
for entry in pickle.loads(Path(sys.argv[1]).read_bytes()):
    try:
        print(fetch(entry), flush=True)
    except VideoZooError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as started:
        yield started


def large(url: str, tag: str = "k400") -> Entry:
    return row(url, tag=tag, sha256=DIGEST, sha256_prefix=None)


def start(folder: Path, *entries: Entry, first: str = "") -> subprocess.Popen[str]:
    """A process that fetches these rows in turn, and prints a path or an error for each."""
    task = folder / f"task-{time.monotonic_ns()}"
    task.write_bytes(pickle.dumps(entries))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", first + FETCH, str(task)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_eight_processes_download_once(server: Server, home: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    entry = large(server.serve("/f", Reply(BODY, gate=gate)))
    children = [start(tmp_path, entry) for _ in range(8)]
    assert server.wait_for(1, timeout=60)
    gate.set()
    said = {child.communicate(timeout=60)[0].strip() for child in children}
    assert said == {str(cache.fetch(entry))}
    assert server.paths() == ["/f"]
    assert stored(home) == [f"originals/net.k400/{entry.file.name}"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_a_killed_process_had_received_is_kept(server: Server, home: Path, tmp_path: Path) -> None:
    gate = threading.Event()
    named = {"ETag": '"1"', "Accept-Ranges": "bytes"}
    entry = large(server.serve("/f", Reply(BODY, headers=named, gate=gate)))
    part = home / "originals/net.k400" / f"{entry.file.name}.part"
    with start(tmp_path, entry) as child:
        assert server.wait_for(1, timeout=60)
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= limits.CHUNK_BYTES) and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        child.kill()
    assert child.returncode == -9
    gate.set()
    kept = part.stat().st_size
    assert 0 < kept < len(BODY)
    rest = {"Content-Range": f"bytes {kept}-{len(BODY) - 1}/{len(BODY)}", **named}
    server.serve("/f", Reply(BODY[kept:], status=206, headers=rest))
    assert cache.fetch(entry).read_bytes() == BODY
    assert [headers.get("Range") for _, headers in server.requests] == [None, f"bytes={kept}-"]
    assert stored(home) == [f"originals/net.k400/{entry.file.name}"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_does_not_wait_for_a_slow_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = get_weights("ircsn_r50.ig65m_k400")
    assert entry.file is not None
    url = server.serve(f"/originals/{entry.name}/{entry.file.name}", Reply(BODY, gate=threading.Event()))
    monkeypatch.setenv("VIDEOZOO_MIRROR", url.partition("/originals")[0])
    command = [sys.executable, "-m", "videozoo", "fetch", entry.name, "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert server.wait_for(1, timeout=60)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20)[1] == "videozoo: interrupted\n"
    assert child.returncode == 130


# Disks


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """The cache on a file system of 6 MiB."""
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(home)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield home
    finally:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.parametrize("etag", ["", '"1"'], ids=["no ETag", "ETag"])
def test_a_full_disk(etag: str, small_disk: Path, server: Server) -> None:
    url = server.serve("/f", Reply(BODY, headers={"ETag": etag}))
    first, second = large(url), large(url, "sthv1")
    path = cache.fetch(first)
    before = stored(small_disk)
    with pytest.raises(OutputError, match="No space left on device; set VIDEOZOO_HOME to a folder") as error:
        cache.fetch(second)
    assert "\n" not in str(error.value)
    assert stored(small_disk) == before
    assert cache.fetch(first) == path  # what is there still serves


def test_a_cache_that_may_only_be_read(small_disk: Path, server: Server) -> None:
    url = server.serve("/f", Reply(BODY))
    first, second = large(url), large(url, "sthv1")
    path = cache.fetch(first)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.fetch(first) == path
    with pytest.raises(OutputError, match="Read-only file system; set VIDEOZOO_HOME to a folder"):
        cache.fetch(second)
    assert server.paths() == ["/f"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_quota(server: Server, home: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))\n"
    child = start(tmp_path, large(server.serve("/f", Reply(BODY, headers={"ETag": '"1"'}))), first=limit)
    said = child.communicate(timeout=60)[0].strip()
    assert said.startswith("OutputError: ") and said.endswith(
        "File too large; set VIDEOZOO_HOME to a folder that can be written"
    )
    assert "\n" not in said
    assert stored(home) == []


# Soak


class Faulty(Server):
    """Fails a third of all requests, in ways that a seed draws."""

    def __init__(self, address: str, bodies: dict[str, bytes]) -> None:
        super().__init__(address)
        self.faults: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self._bodies, self._random, self._turn = bodies, random.Random(4), threading.Lock()

    def answer(self, path: str, headers: dict[str, str]) -> Reply:
        body = self._bodies[path]
        start = int(headers["Range"][6:-1]) if "Range" in headers else 0
        named = {"ETag": f'"{path}"', "Accept-Ranges": "bytes"}
        if start:
            named["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        good = Reply(body[start:], status=206 if start else 200, headers=named)
        page = Reply(b"<html>sorry</html>", headers={"Content-Type": "text/html"})
        with self._turn:
            self.requests.append((path, headers))
            if self._random.random() >= 1 / 3:
                self.whole[path] += 1
                return good
            self.faults[path] += 1
            rest = len(body) - start
            return self._random.choice([
                *(Reply(good.body, good.status, named, cut=rest * share // 100) for share in (0, 1, 50, 99)),
                Reply(good.body, good.status, named, length=False, cut=rest // 2),
                *(Reply(status=status) for status in (500, 502, 503, 403, 404)),
                Reply(status=429, headers={"Retry-After": "1"}),
                page,
                Reply(bytes([body[0] ^ 1]) + body[1:], headers={"ETag": f'"{path}"'}),
                Reply(status=302, headers={"Location": path}),
                Reply(status=302, headers={"Location": "http://192.0.2.1/f"}),
            ])  # fmt: skip


@pytest.mark.slow
def test_soak(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 fetches of 100 files, each wanted by two of 8 processes; what is refused is fetched again."""
    bodies = {f"/{number}": hashlib.shake_256(b"%d" % number).digest(25_000 * (number + 1)) for number in range(100)}
    with running(kind=lambda address: Faulty(address, bodies)) as server:
        assert isinstance(server, Faulty)
        entries = [
            row(server.address + path, tag=f"t{path[1:]}", sha256=hashlib.sha256(body).hexdigest(), sha256_prefix=None)
            for path, body in bodies.items()
        ]
        shuffled = random.Random(4).sample(2 * entries, 200)
        wanted = [shuffled[number::8] for number in range(8)]
        rounds, refused, began = 0, 0, time.monotonic()
        while any(wanted):
            children = [start(tmp_path, *left) for left in wanted]
            for number, child in enumerate(children):
                lines = child.communicate(timeout=500)[0].splitlines()
                assert all(line.startswith((str(home), "FetchError: ", "DigestMismatch: ")) for line in lines)
                answered = zip(wanted[number], lines, strict=True)
                wanted[number] = [entry for entry, line in answered if not line.startswith(str(home))]
                refused += len(wanted[number])
            rounds += 1
        seconds = time.monotonic() - began
    files = {f"originals/net.t{path[1:]}/{entries[0].file.name}": body for path, body in bodies.items()}
    assert stored(home) == sorted(files)
    assert all((home / name).read_bytes() == body for name, body in files.items())
    assert all(server.whole[path] == 1 for path in bodies)  # nothing was asked for after it had come
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(server.requests)} requests, {server.faults.total()} failed; {refused} fetches refused and "
            f"repeated, in {rounds} rounds, {seconds:.0f} s\n"
        )
