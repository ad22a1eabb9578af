"""Resuming: within a call, across calls, and only pieces of one and the same file."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from videozoo.download import Downloaded, download, limits, without_credentials
from videozoo.errors import DigestMismatch, FetchError, OutputError

BODY = hashlib.shake_256(b"weights").digest(3 << 20)
OTHER = b"x" + BODY[1:]
DIGEST = hashlib.sha256(BODY).hexdigest()


class Ranged:
    """What a server that knows Range does next; ``cuts`` are how many bytes each answer may have, None for all."""

    def __init__(self, cuts: list[int | None]) -> None:
        self.cuts, self.body, self.etag, self.ranges, self.length = cuts, BODY, '"1"', True, True
        self.lies = False
        self.asked: list[tuple[str | None, str | None]] = []
        self.url = ""


@contextmanager
def serving(*cuts: int | None) -> Iterator[Ranged]:
    state = Ranged(list(cuts))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, condition = self.headers["Range"], self.headers["If-Range"]
            state.asked.append((wanted, condition))
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if condition not in (None, state.etag) and not state.lies:
                start = 0
            if start >= len(state.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.length:
                self.send_header("Content-Length", str(len(state.body) - start))
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else None
            self.wfile.write(state.body[start:][:cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{web.server_address[1]}/f"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)


def get(state: Ranged, folder: Path, digest: str | None = DIGEST, size_bytes: int | None = None) -> Downloaded:
    return download([state.url], folder / "f", digest=digest, size_bytes=size_bytes, what="net", progress=False)


@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize("share", [0, 1, 50, 99])
def test_a_cut_body_is_resumed(share: int, known: bool, length: bool, tmp_path: Path) -> None:
    cut = len(BODY) * share // 100
    with serving(cut) as state:
        state.length = length
        found = get(state, tmp_path, size_bytes=len(BODY) if known else None)
    assert found == Downloaded(state.url, DIGEST, len(BODY))
    assert (tmp_path / "f").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert state.asked == [(None, None), (f"bytes={cut}-", '"1"') if cut else (None, None)]


def stop_in_the_middle(folder: Path) -> None:
    """Leave what a call leaves whose connection never comes back."""
    cuts = [2 << 20, *[0] * (limits.MAX_RETRIES + 1)]
    with serving(*cuts) as state, pytest.raises(FetchError, match="the connection ended"):
        get(state, folder)
    (folder / "f.part.json").write_text(json.dumps({"url": "later", "etag": '"1"'}))
    assert sorted(path.name for path in folder.iterdir()) == ["f.part", "f.part.json"]
    assert (folder / "f.part").stat().st_size == 2 << 20


@pytest.mark.parametrize(
    ("etag", "ranges", "lies"),
    [('"1"', True, False), ('"2"', True, False), ('"1"', False, False), ('"2"', True, True)],
    ids=["the same file", "another ETag", "Range ignored", "another ETag, If-Range ignored"],
)
def test_a_later_call(etag: str, ranges: bool, lies: bool, tmp_path: Path) -> None:
    stop_in_the_middle(tmp_path)
    with serving() as state:
        state.etag, state.ranges, state.lies = etag, ranges, lies
        (tmp_path / "f.part.json").write_text(json.dumps({"url": state.url, "etag": '"1"'}))
        get(state, tmp_path)
    assert state.asked[0] == (f"bytes={2 << 20}-", '"1"')
    assert (tmp_path / "f").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("record", ["{", "[]", '{"url": "http://other/f", "etag": "1"}'])
def test_a_part_of_unknown_origin_is_not_resumed(record: str, tmp_path: Path) -> None:
    stop_in_the_middle(tmp_path)
    (tmp_path / "f.part.json").write_text(record)
    with serving() as state:
        get(state, tmp_path)
    assert state.asked == [(None, None)]


@pytest.mark.parametrize("etag", ["", 'W/"1"'], ids=["none", "weak"])
def test_nothing_is_left_without_a_strong_etag(etag: str, tmp_path: Path) -> None:
    with serving(2 << 20, 0, 0, 0, 0) as state, pytest.raises(FetchError):
        state.etag = etag
        get(state, tmp_path)
    assert state.asked[1] == (f"bytes={2 << 20}-", None)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_needs_no_request(tmp_path: Path) -> None:
    with serving() as state:
        (tmp_path / "f.part").write_bytes(BODY)
        (tmp_path / "f.part.json").write_text(json.dumps({"url": state.url, "etag": '"1"'}))
        assert get(state, tmp_path).sha256 == DIGEST
    assert state.asked == []


def test_a_part_that_lost_bytes_is_fetched_anew(tmp_path: Path) -> None:
    with serving() as state:
        (tmp_path / "f.part").write_bytes(bytes(1 << 20))
        (tmp_path / "f.part.json").write_text(json.dumps({"url": state.url, "etag": '"1"'}))
        get(state, tmp_path)
    assert state.asked == [(f"bytes={1 << 20}-", '"1"'), (None, None)]
    assert (tmp_path / "f").read_bytes() == BODY


@pytest.mark.parametrize("length", [True, False])
def test_other_bytes_end_at_once(length: bool, tmp_path: Path) -> None:
    with serving() as state, pytest.raises(DigestMismatch, match=DIGEST):
        state.body, state.length = OTHER, length
        get(state, tmp_path)
    assert len(state.asked) <= 2 and list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_beside_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of such a failure once, and a later flush of the same file succeeds."""
    flushed: list[int] = []

    def flush(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(limits, "FLUSH_BYTES", 1 << 20)
    monkeypatch.setattr(os, "fsync", flush)
    with serving() as state, pytest.raises(OutputError, match="Input/output error"):
        get(state, tmp_path)
    assert flushed and list(tmp_path.iterdir()) == []


def test_without_a_digest(tmp_path: Path) -> None:
    with serving(100) as state:
        assert get(state, tmp_path, digest=None).sha256 == DIGEST


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host/a@b", "https://host/a@b"),
        ("https://host/f", "https://host/f"),
        ("nonsense", "nonsense"),
    ],
)
def test_credentials_are_not_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
