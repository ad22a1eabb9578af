"""The commands that fill the cache."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import Reply, running

from videozoo import cache, lockfile
from videozoo.cli import fetch, main
from videozoo.errors import InvalidArgument, UnknownWeights

BODY = b"weights"
DIGEST = hashlib.sha256(BODY).hexdigest()
NAME = "tpn_slowonly_r50.k400"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    fetch.add_arguments(parser)
    return fetch.run(parser.parse_args(arguments))


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_fetch(
    jobs: str, tmp_path: Path, edit_manifest: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("NO_PROXY", "*")
    with running() as server:
        url = server.serve("/w", Reply(BODY))
        edit_manifest(NAME, urls=[url], sha256=None, sha256_prefix=None, size_bytes=None)
        lock = tmp_path / "project.lock"
        assert run(NAME, "--lock", str(lock), "--jobs", jobs) == 4
        assert "--trust-first-use" in capsys.readouterr().err and server.requests == []
        assert run(NAME, "test_ircsn", "--trust-first-use", "--lock", str(lock), "--jobs", jobs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == NAME and len(lines) == 2
    assert Path(lines[0].split(maxsplit=1)[1]).read_bytes() == BODY
    assert lockfile.read(lock)[NAME].sha256 == DIGEST
    assert not (cache.home() / "videozoo.lock").exists()


def test_fetch_refuses_what_means_nothing() -> None:
    with pytest.raises(UnknownWeights, match="videozoo list"):
        run("nothing_*")
    with pytest.raises(InvalidArgument, match="--jobs 0"):
        run("test_ircsn", "--jobs", "0")


def test_info_prints_the_sources_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VIDEOZOO_WEIGHTS_DIR", "/mine")
    monkeypatch.setenv("VIDEOZOO_MIRROR", "https://me:secret@mirror.invalid/zoo")
    assert main.run(["info", NAME]) == 0
    text = capsys.readouterr().out
    places = [line.split()[1] for line in text.splitlines() if line.startswith("source ")]
    assert places[:2] == [str(cache.home()), "/mine"]
    assert places[2].startswith("https://mirror.invalid/zoo/originals/") and len(places) > 3
    assert "secret" not in text
