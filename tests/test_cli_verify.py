"""``videozoo verify``: the file, the network and its answer to an input that is the same everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from videozoo import cache, manifest
from videozoo.cache import places, untouched
from videozoo.cli.main import run
from videozoo.files import sha256_file
from videozoo.manifest import Entry, Expectation
from videozoo.registry import get_weights
from videozoo.verification import fixed_input

INPUT_SHA256 = "f365af83ddc6b04840c96d38c26a7a791a85c1b4c1aff724978cb40fca809bc7"
EMBEDDED = ["test_ircsn", "test_tpn", "test_tsn"]

Expect = Callable[[Expectation | None], None]


@pytest.fixture
def expect(monkeypatch: pytest.MonkeyPatch) -> Expect:
    """``expect(expectation)``: for this test, test_tsn's row has this one."""

    def change(expectation: Expectation | None) -> None:
        entries = tuple(
            dataclasses.replace(entry, expectation=expectation) if entry.architecture == "test_tsn" else entry
            for entry in manifest.load().entries
        )
        changed = dataclasses.replace(manifest.load(), entries=entries)
        monkeypatch.setattr("videozoo.registry.load", lambda: changed)

    return change


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_weights_answer_as_stored(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    entry = get_weights(name)
    assert entry.expectation is not None and entry.file is not None
    assert found["weights"] == entry.name
    assert found["difference"] <= entry.expectation.tolerance <= 0.01
    assert list(found["files"].values()) == [entry.file.sha256]
    assert len(set(found["measured"]["logits"])) == 8  # an answer that could not be any network's
    assert run(["verify", name]) == 0
    out = capsys.readouterr().out
    converted = cache.home() / "converted" / f"{entry.name}.safetensors"
    assert "logits  as expected" in out and f"{converted}\n  sha256  {sha256_file(converted)}" in out


def test_the_input_is_the_same_everywhere() -> None:
    clip = fixed_input(get_weights("test_tsn").protocol)
    assert (clip.shape, clip.dtype) == ((1, 3, 8, 32, 32), torch.float32)
    levels = clip * 63.75 + 127.5
    assert torch.equal(levels, levels.round()) and levels.min() == 0 and levels.max() == 255
    assert hashlib.sha256(clip.numpy().tobytes()).hexdigest() == INPUT_SHA256


@pytest.mark.parametrize("logits", [(9.0,) * 8, (float("nan"),) * 8, (1.0,)])
def test_other_numbers_are_one_line(
    logits: tuple[float, ...], expect: Expect, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(Expectation(logits, 0.01))
    assert run(["verify", "test_tsn"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "test_tsn.motion8" in err


def test_what_can_be_contributed(expect: Expect, capsys: pytest.CaptureFixture[str]) -> None:
    stored = get_weights("test_tsn").expectation
    assert stored is not None
    expect(None)
    assert run(["verify", "test_tsn"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["weights"] == "test_tsn.motion8"
    assert line["expectation"]["tolerance"] == stored.tolerance
    assert line["expectation"]["logits"] == pytest.approx(stored.logits, abs=stored.tolerance)


def test_a_file_that_cannot_be_had(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    assert run(["verify", "tpn_tsm_r50"]) == 4
    assert capsys.readouterr().err.startswith("videozoo: error: tpn_tsm_r50.tsm_sthv1: ")
    assert run(["verify", "no_such_model"]) == 2


def test_a_damaged_original_beside_a_good_conversion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["verify", "test_tsn"]) == 0
    entry = get_weights("test_tsn")
    assert entry.file is not None
    published = dataclasses.replace(entry, file=dataclasses.replace(entry.file, embedded=False))
    entries = tuple(published if row == entry else row for row in manifest.load().entries)
    changed = dataclasses.replace(manifest.load(), entries=entries)
    monkeypatch.setattr("videozoo.registry.load", lambda: changed)
    original = places.cached(published, "original")
    original.parent.mkdir(parents=True)
    original.write_bytes(b"damaged")
    assert run(["verify", "test_tsn"]) == 4
    assert str(original) in capsys.readouterr().err


def test_a_converted_file_that_only_seems_untouched(
    expect: Expect, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untouched, "SETTLED_NS", 0)
    expect(None)
    assert run(["verify", "test_tsn"]) == 0
    path = places.cached(get_weights("test_tsn"), "converted")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    untouched.remember(path, untouched.state(path))
    capsys.readouterr()
    assert cache.converted(get_weights("test_tsn")) == path  # a load does not notice
    assert run(["verify", "test_tsn"]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{path}: its sha256 is" in err


@pytest.mark.parametrize(
    "entry", [entry for entry in manifest.load().entries if entry.expectation], ids=lambda e: e.name
)
def test_as_many_expected_logits_as_there_are(entry: Entry) -> None:
    assert entry.expectation is not None
    assert len(entry.expectation.logits) == min(8, entry.num_classes or 8)


def test_the_lock(tmp_path: Path) -> None:
    assert run(["verify", "test_tsn", "--lock", str(tmp_path / "lock")]) == 0
    assert "test_tsn.motion8" in (tmp_path / "lock").read_text()
