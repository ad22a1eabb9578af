"""The weights inside the package: really trained, small, converted like any foreign file, and shown by the demo."""

from __future__ import annotations

import hashlib
import json
import socket
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from videozoo import cache as weights_cache
from videozoo import convert_checkpoint, create_model, create_transform, get_weights, load_recognizer
from videozoo.cli.main import run
from videozoo.errors import DigestMismatch
from videozoo.layers.video_model import VideoModel
from videozoo.synthetic import MOTIONS, Frames, draw_clip
from videozoo.training.plan import HELD_OUT_SEED

TEMPORAL = ["test_ircsn", "test_tpn"]
EMBEDDED = [*TEMPORAL, "test_tsn"]
FIRST_SEED = HELD_OUT_SEED + 8_000  # of clips that the training command does not measure on either


@cache
def videos() -> list[Frames]:
    """400 videos, 50 of each motion."""
    return [draw_clip(seed) for seed in range(FIRST_SEED, FIRST_SEED + 400)]


def held_out(architecture: str) -> tuple[Tensor, Tensor]:
    """The videos as the network sees them, and their classes."""
    transform = create_transform(get_weights(architecture), "center")
    return torch.cat([transform(video) for video in videos()]), torch.arange(400) % len(MOTIONS)


def predicted_classes(model: VideoModel, clips: Tensor) -> Tensor:
    """Most likely class of each clip: (M, C, T, H, W) to int64 (M,)."""
    with torch.inference_mode():
        return torch.cat([model.eval()(batch).argmax(dim=1) for batch in clips.split(64)])


@cache
def accuracy(architecture: str) -> float:
    clips, classes = held_out(architecture)
    found = predicted_classes(create_model(architecture, pretrained=True), clips)
    return (found == classes).float().mean().item()


@pytest.mark.parametrize("architecture", TEMPORAL)
def test_networks_that_see_time_tell_the_motions_apart(architecture: str) -> None:
    assert accuracy(architecture) >= 0.95


def test_a_network_that_sees_no_order_is_visibly_worse() -> None:
    # it can tell kinds of motion apart, but not left from right, or growing from shrinking: chance is one half of that
    assert 0.2 < accuracy("test_tsn") < 0.75
    assert accuracy("test_tsn") < min(accuracy(name) for name in TEMPORAL) - 0.2


def test_order_is_what_makes_the_difference() -> None:
    clips, classes = held_out("test_ircsn")
    lefts = clips[classes == MOTIONS.index("left")]
    backwards = lefts.flip(2)
    model = create_model("test_ircsn", pretrained=True)
    right = (predicted_classes(model, backwards) == MOTIONS.index("right")).float().mean().item()
    assert right >= 0.8
    blind = create_model("test_tsn", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(blind(lefts), blind(backwards))


@pytest.mark.parametrize("architecture", EMBEDDED)
def test_embedded_files_are_small_and_known_by_digest(architecture: str) -> None:
    file = get_weights(architecture).file
    assert file is not None
    path = weights_cache.places.PACKAGE_WEIGHTS / file.name
    data = path.read_bytes()
    assert len(data) < 400_000
    assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert weights_cache.fetch(get_weights(architecture)) == path


@pytest.mark.parametrize("architecture", EMBEDDED)
def test_the_conversion_recognises_the_embedded_file(architecture: str, tmp_path: Path) -> None:
    original = weights_cache.fetch(get_weights(architecture))
    report = convert_checkpoint(original, tmp_path / "out.safetensors")
    assert (report.architecture, report.weights) == (architecture, f"{architecture}.motion8")
    assert (report.source_layout, report.digest_is_prefix) == ("mmaction2", False)
    converted = create_model(architecture, checkpoint_path=report.output)
    published = create_model(architecture, pretrained=True)
    assert converted.pretrained_cfg == published.pretrained_cfg
    assert published.pretrained_cfg["tag"] == "motion8"
    for name, tensor in published.state_dict().items():
        assert torch.equal(tensor, converted.state_dict()[name])


def test_the_conversion_is_kept_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = get_weights("test_ircsn")
    assert weights_cache.plan(entry).kind == "original"
    first = create_model("test_ircsn", pretrained=True).state_dict()
    assert weights_cache.plan(entry).kind == "converted"
    monkeypatch.setattr(weights_cache.planning, "plan", lambda *_, **__: pytest.fail("converted twice"))
    for name in ("motion8", "test_ircsn.motion8"):
        again = create_model("test_ircsn", pretrained=name).state_dict()
        assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())


def test_a_damaged_embedded_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(weights_cache.fetch(get_weights("test_tsn")).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "test_tsn.pth").write_bytes(data)
    monkeypatch.setattr(weights_cache.places, "PACKAGE_WEIGHTS", tmp_path)
    with pytest.raises(DigestMismatch, match="install videozoo again"):
        create_model("test_tsn", pretrained=True)


def test_pretrained_weights_take_another_head_and_other_channels() -> None:
    model = create_model("test_ircsn", pretrained=True, num_classes=3, in_chans=1).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 1, 8, 32, 32)).shape == (2, 3)
    grey = create_model("test_ircsn", pretrained=True, in_chans=1).eval()
    colour = create_model("test_ircsn", pretrained=True).eval()
    clip = torch.randn(1, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_recognizer_needs_nothing_but_a_name() -> None:
    prediction = load_recognizer("test_ircsn")(draw_clip(HELD_OUT_SEED + 3))
    assert prediction.labels == MOTIONS
    assert prediction.topk(1)[0][0] == MOTIONS[3]


def test_the_demo_runs_offline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        pytest.fail("the demo opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert run(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert "test_ircsn.motion8" in lines[0]
    assert all(any(line.startswith(motion.replace(" ", "_") + ".mp4") for line in lines) for motion in MOTIONS)
    correct, of, total = lines[-1].split()[:3]
    assert (of, total) == ("of", "8")
    assert int(correct) >= 7


def test_the_demo_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["weights"] == "test_ircsn.motion8"
    assert [video["truth"] for video in summary["videos"]] == list(MOTIONS)
    assert all(len(video["topk"]) == 3 for video in summary["videos"])
    assert summary["correct"] == sum(video["topk"][0][0] == video["truth"] for video in summary["videos"])
