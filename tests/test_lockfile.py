"""videozoo.lock: written on first use, obeyed from then on, never taken for an empty one when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from http_server import Reply, Server, running
from test_cache import BODY, DIGEST, OTHER, OTHER_DIGEST, row

from videozoo import cache, lockfile
from videozoo.errors import DigestMismatch, InvalidArgument, NoSource, OutputError
from videozoo.lockfile import Locked

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
        for change in ({"sha256": "abc"}, {"size_bytes": -1}, {"size_bytes": True}, {"source": None}, {"more": 1})
    ],
)
def test_a_damaged_lock_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "l").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument, match="lock file") as error:
        lockfile.read(tmp_path / "l")
    assert "\n" not in str(error.value)


def test_lines_are_sorted_and_kept(tmp_path: Path) -> None:
    for name in ("b", "a"):
        lockfile.add(tmp_path / "l", name, LINE)
    lockfile.add(tmp_path / "l", "a", Locked(OTHER_DIGEST, 1, "elsewhere"))
    assert list(lockfile.read(tmp_path / "l").items()) == [("a", LINE), ("b", LINE)]
