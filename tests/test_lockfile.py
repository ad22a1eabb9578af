"""videozoo.lock: written on first use, obeyed from then on, never taken for an empty one when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from http_server import Reply, Server, running
from test_cache import BODY, DIGEST, OTHER, OTHER_DIGEST, row

from videozoo import cache, lockfile
from videozoo.errors import DigestMismatch, InvalidArgument, NoSource, OutputError
from videozoo.lockfile import Locked
from videozoo.manifest import Entry

LINE = Locked(DIGEST, len(BODY), "https://host.invalid/f")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("VIDEOZOO_LOCK", raising=False)
    monkeypatch.delenv("VIDEOZOO_MIRROR", raising=False)


@pytest.fixture
def server() -> object:
    with running() as started:
        yield started


def test_written_on_first_use_and_kept(server: Server) -> None:
    url = server.serve("/f", Reply(BODY))
    cache.fetch(row(url))
    assert lockfile.read(cache.home() / "videozoo.lock") == {"net.k400": Locked(DIGEST, len(BODY), url)}
    cache.fetch(row("https://elsewhere.invalid/f"))
    assert lockfile.read(cache.lock_path())["net.k400"].source == url


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_a_named_lock_is_written_and_obeyed(
    way: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "project.lock"
    entry = row(server.serve("/f", Reply(BODY)))
    if way == "variable":
        monkeypatch.setenv("VIDEOZOO_LOCK", str(lock))
    with lockfile.used(lock if way == "argument" else None):
        path = cache.fetch(entry)
        assert set(lockfile.read(lock)) == {"net.k400"}
        assert not (cache.home() / "videozoo.lock").exists()
        path.write_bytes(OTHER)
        assert cache.fetch(entry).read_bytes() == BODY


def test_the_lock_decides_where_no_digest_is_known(server: Server) -> None:
    entry = row(server.serve("/f", Reply(OTHER)), sha256_prefix=None)
    with pytest.raises(NoSource, match="--trust-first-use"):
        cache.fetch(entry)
    lock = cache.lock_path()
    lock.parent.mkdir(exist_ok=True)
    lockfile.add(lock, "net.k400", LINE)
    with pytest.raises(DigestMismatch, match=f"{OTHER_DIGEST}.*{DIGEST}"):
        cache.fetch(entry)
    server.serve("/f", Reply(BODY))
    assert cache.fetch(entry).read_bytes() == BODY


def test_trust_on_first_use_is_for_the_first_use(server: Server) -> None:
    entry = row(server.serve("/f", Reply(BODY)), sha256_prefix=None)
    path = cache.fetch(entry, trust_first_use=True)
    assert cache.fetch(entry) == path
    path.unlink()
    server.serve("/f", Reply(OTHER))
    with pytest.raises(DigestMismatch):
        cache.fetch(entry, trust_first_use=True)


def test_a_lock_against_the_manifest(tmp_path: Path) -> None:
    lockfile.add(tmp_path / "l", "net.k400", Locked(OTHER_DIGEST, len(BODY), "there"))
    with lockfile.used(tmp_path / "l"), pytest.raises(DigestMismatch, match="remove that line"):
        cache.fetch(row("https://host.invalid/f"))


def test_a_lock_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    with lockfile.used(tmp_path / "missing" / "l"), pytest.raises(OutputError, match=r"lock file .* cannot be written"):
        cache.fetch(row(server.serve("/f", Reply(BODY))))


def test_a_conversion_of_another_original_than_the_locked_one(tmp_path: Path) -> None:
    entry = row("https://host.invalid/f")
    cache.store_converted(entry, lambda path: None)
    lockfile.add(tmp_path / "l", "net.k400", LINE)
    with lockfile.used(tmp_path / "l"):
        assert cache.converted(entry) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 2, "weights": {}}', '{"version": 1, "weights": []}', "\xff"]
    + [
        json.dumps({"version": 1, "weights": {"n": {"sha256": DIGEST, "size_bytes": 1, "source": "s"} | change}})
        for change in (
            {"sha256": "abc"},
            {"size_bytes": -1},
            {"size_bytes": True},
            {"source": None},
            {"more": 1},
            {"\x1b[2J": 1},
        )
    ],
)
def test_a_damaged_lock_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "l").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match="lock file") as error:
        lockfile.read(tmp_path / "l")
    assert str(error.value).isprintable()


def test_lines_are_sorted_and_kept(tmp_path: Path) -> None:
    for name in ("b", "a"):
        lockfile.add(tmp_path / "l", name, LINE)
    lockfile.add(tmp_path / "l", "a", Locked(OTHER_DIGEST, 1, "elsewhere"))
    assert list(lockfile.read(tmp_path / "l").items()) == [("a", LINE), ("b", LINE)]


# A lock that is new to a cache


def write_converted(path: Path) -> None:
    path.write_bytes(OTHER)


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A row of which the cache has the converted file and the line, and nothing has the original."""
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    entry = row("https://host.invalid/f")
    cache.home().mkdir(exist_ok=True)
    lockfile.add(cache.lock_path(), entry.name, LINE)
    cache.store_converted(entry, write_converted)
    return entry


def test_a_new_lock_takes_over_what_the_cache_knows(imported: Entry, tmp_path: Path) -> None:
    own = lockfile.read(cache.lock_path())[imported.name]
    with lockfile.used(tmp_path / "new.lock"):
        assert cache.plan(imported).kind == "converted" and not (tmp_path / "new.lock").exists()
        for _ in range(2):
            assert cache.obtain(imported) == cache.Plan("converted", cache.home() / "converted/net.k400.safetensors")
    assert lockfile.read(tmp_path / "new.lock") == {imported.name: own}
    assert own.converted is not None and own.converted.sha256 == OTHER_DIGEST


@pytest.mark.parametrize("fault", ["file", "conversion", "manifest", "no line"])
def test_a_new_lock_takes_over_nothing_that_does_not_fit(fault: str, imported: Entry, tmp_path: Path) -> None:
    if fault == "file":
        (cache.home() / "converted" / "net.k400.safetensors").write_bytes(BODY)
    elif fault == "conversion":
        lockfile.put(cache.lock_path(), imported.name, LINE)
    elif fault == "manifest":
        imported = row("https://host.invalid/f", sha256=OTHER_DIGEST)
    else:
        cache.lock_path().unlink()
    with lockfile.used(tmp_path / "new.lock"), pytest.raises(NoSource):
        cache.obtain(imported)
    assert not (tmp_path / "new.lock").exists()


ADD = """
import sys
from pathlib import Path
from videozoo import cache, lockfile
from videozoo.cache.guards import lock_guard
lock = cache.lock_path()
print(flush=True)
sys.stdin.readline()
for number in range(20):
    with lock_guard(lock):
        lockfile.add(lock, f"{sys.argv[1]}-{number}", lockfile.Locked("0" * 64, 1, ""))
"""


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_processes_with_caches_of_their_own_share_a_lock(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "file").touch()
    processes = []
    for number in range(4):
        home = tmp_path / (f"home{number}" if number else "file") / "home"  # the first one cannot be written
        names = {"VIDEOZOO_HOME": str(home), "VIDEOZOO_LOCK": str(tmp_path / "project" / "videozoo.lock")}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", ADD, str(number)], env=os.environ | names, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(lockfile.read(tmp_path / "project" / "videozoo.lock")) == 80
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["videozoo.lock"]
