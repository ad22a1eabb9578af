"""Model folders and Hugging Face repositories, the latter through huggingface_hub and an endpoint on loopback."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hf_server
import pytest
import torch
from conftest import REPOSITORY, random_model

import videozoo
from videozoo import manifest
from videozoo.cli.main import run
from videozoo.errors import (
    CheckpointError,
    DigestMismatch,
    FetchError,
    InvalidArgument,
    OutputError,
    UnknownModel,
    VideoZooError,
)
from videozoo.huggingface import Repository, parse_repository
from videozoo.predict import protocol_of
from videozoo.video.views import ViewTransform

COLOURS = ("red", "green", 'a "quoted" colour: #1')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded ``test_ircsn`` as a model folder."""
    return videozoo.save_to_dir(videozoo.create_model("test_ircsn", True), tmp_path / "model")


def change(folder: Path, **changes: Any) -> None:
    """Put other values into config.json; None takes a key away."""
    path = folder / "config.json"
    record = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


# Folders


@pytest.mark.parametrize("name", ["test_ircsn", "test_tpn", "test_tsn"])
def test_a_row_comes_back_whole(name: str, tmp_path: Path) -> None:
    model = videozoo.create_model(name, True)
    path = videozoo.save_to_dir(model, tmp_path / "model")
    assert {file.name for file in path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = videozoo.load_recognizer(f"local-dir:{path}", optimize=False)
    assert same_tensors(again.model, model)
    assert protocol_of(again.model) == videozoo.get_weights(name).protocol
    assert again.labels == videozoo.load_recognizer(name).labels
    assert again.model.pretrained_cfg["tag"] == "motion8"


def test_a_fine_tuned_network_keeps_its_labels_transform_and_arguments(tmp_path: Path) -> None:
    model = videozoo.create_model("test_tpn", num_classes=3, in_chans=3, drop_rate=0.125, aux_head=True)
    given = videozoo.create_transform(model)
    views = replace(given.views, num_clips=4, num_frames=16, crop="three")
    transform = ViewTransform(views, replace(given.input, mean=(1.1, 2.2, 3.3)))
    path = videozoo.save_to_dir(model, tmp_path / "m", labels=COLOURS, transform=transform, license="cc-by-4.0")
    again = videozoo.load_recognizer(f"local-dir:{path}", optimize=False)
    assert same_tensors(again.model, model)
    assert again.labels == COLOURS
    assert (again.transform.views, again.transform.input) == (views, transform.input)
    assert again.model.drop_rate == 0.125
    center = videozoo.create_transform(again.model, "center").views
    assert (center.num_clips, center.crop) == (1, "center")


def test_a_folder_is_saved_the_same_twice_and_not_over_another(folder: Path, tmp_path: Path) -> None:
    again = videozoo.save_to_dir(videozoo.create_model(f"local-dir:{folder}"), tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(OutputError, match=r"has a model\.safetensors already"):
        videozoo.save_to_dir(videozoo.create_model("test_ircsn", True), folder)


def test_another_number_of_classes_is_a_new_head_without_the_old_labels(folder: Path) -> None:
    recognizer = videozoo.load_recognizer(f"local-dir:{folder}", num_classes=5, optimize=False)
    assert recognizer.labels == tuple(f"class {number}" for number in range(5))


def test_a_folder_of_someone_else_loads_from_its_configuration_alone(tmp_path: Path) -> None:
    """No protocol, no tag, no digest: the architecture's views, with the mean and std of timm's words."""
    from safetensors.torch import save_file

    model = random_model("test_ircsn", 3)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    cfg = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 224, 224], "crop_pct": 0.9}
    config = {"architecture": "test_ircsn", "num_classes": 3, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recognizer = videozoo.load_recognizer(f"local-dir:{tmp_path}", optimize=False)
    assert same_tensors(recognizer.model, model)
    assert recognizer.labels == ("class 0", "class 1", "class 2")
    assert recognizer.transform.views == manifest.load().architectures["test_ircsn"].protocol.full
    assert recognizer.transform.input.mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"architecture": "resnet50"}, UnknownModel, "resnet50"),
        ({"architecture": "../../etc/passwd"}, UnknownModel, "passwd"),
        ({"architecture": ["test_ircsn"]}, CheckpointError, "not a str"),
        ({"architecture": "test_tsn"}, CheckpointError, "test_ircsn, not test_tsn"),
        ({"num_classes": "8"}, CheckpointError, "'8', not a whole number"),
        ({"num_classes": True}, CheckpointError, "True, not a whole number"),
        ({"num_classes": 10**30}, CheckpointError, "a long int"),
        ({"num_classes": 7, "label_names": ["x"] * 7}, CheckpointError, "has 8 classes, its config.json says 7"),
        ({"label_names": ["x"]}, CheckpointError, "1 names for 8 classes"),
        ({"label_names": ["\x1b[2J"] * 8}, CheckpointError, "printable"),
        ({"label_names": "abcdefgh"}, CheckpointError, "no list of printable names"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, CheckpointError, "is not known"),
        ({"model_args": {"backbone": "resnet18"}}, CheckpointError, "no argument backbone"),
        ({"model_args": {"drop_rate": "much"}}, CheckpointError, "not a number"),
        ({"model_args": {"drop_rate": 7.0}}, InvalidArgument, "drop_rate=7.0"),
        ({"model_args": []}, None, ""),
        ({"pretrained_cfg": "x"}, CheckpointError, "not an object"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}, CheckpointError, "three values"),
        ({"pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, CheckpointError, "std above 0"),
        ({"pretrained_cfg": {"mean": [float("nan")] * 3}}, CheckpointError, "not a number"),
        ({"pretrained_cfg": {"protocol": {"input": {}}}}, CheckpointError, "mean is missing"),
        ({"weights": {"sha256": "0" * 64}}, DigestMismatch, "is not the file of its config.json"),
    ],
)
def test_a_hostile_configuration_is_one_line(
    changes: dict[str, Any], error: type[VideoZooError] | None, says: str, folder: Path
) -> None:
    change(folder, **changes)
    if error is None:
        assert videozoo.create_model(f"local-dir:{folder}").num_classes == 8
        return
    with pytest.raises(error) as caught:
        videozoo.create_model(f"local-dir:{folder}")
    assert says in str(caught.value).splitlines()[0]
    assert len(str(caught.value).splitlines()[0]) < 700


@pytest.mark.parametrize("key", ["num_frames", "num_clips", "frame_stride", "crop_size", "sampling", "twice_sample"])
@pytest.mark.parametrize("value", [10**9, -1, None, "x", [], 1.5])
def test_impossible_views_are_refused(key: str, value: object, folder: Path) -> None:
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    cfg["protocol"]["full"][key] = value
    change(folder, pretrained_cfg=cfg)
    with pytest.raises(CheckpointError, match=rf"protocol\.full\.{key} is"):
        videozoo.create_model(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff\xfe", b"[" * 200_000, b"{" + b" " * (5 << 20) + b"}"],
    ids=["empty", "list", "cut", "not-utf8", "nested", "huge"],
)
def test_a_configuration_that_is_none_is_refused(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        videozoo.create_model(f"local-dir:{folder}")


def test_only_safetensors_are_read(folder: Path, foreign_file: Callable[..., Path]) -> None:
    change(folder, weights=None)
    (folder / "model.safetensors").write_bytes(foreign_file("test_ircsn").read_bytes())
    with pytest.raises(CheckpointError, match="is no safetensors file; if you trust it"):
        videozoo.create_model(f"local-dir:{folder}")
    (folder / "model.safetensors").write_bytes(pickle.dumps({"conv1.weight": print}))
    with pytest.raises(CheckpointError):
        videozoo.create_model(f"local-dir:{folder}")


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FetchError, match=r"there is no file model\.safetensors"):
        videozoo.create_model(f"local-dir:{folder}")
    with pytest.raises(FetchError, match=r"nowhere: there is no file config\.json"):
        videozoo.create_model(f"local-dir:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    "name", ["hf-hub:", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/b@", "hf-hub:a/b@../../x", "local-dir:"]
)
def test_a_name_of_no_repository_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        videozoo.create_model(name)


def test_names_of_repositories() -> None:
    assert parse_repository("hf-hub:lab/csn") == Repository("lab/csn", "main")
    assert str(parse_repository("hf-hub:lab/csn@refs/pr/1")) == "hf-hub:lab/csn@refs/pr/1"


def test_weights_of_a_folder_are_its_own(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="its own weights"):
        videozoo.create_model(f"local-dir:{folder}", checkpoint_path="x.pth")


# Cards


def test_the_card_has_figures_only_of_the_rows_own_tensors(tmp_path: Path) -> None:
    model = videozoo.create_model("test_ircsn", True)
    own = videozoo.push_to_hub(model, "lab/x", dry_run=True)
    assert "| top-1 | 100 % |" in own.card
    assert "bit for bit" in own.card
    with torch.no_grad():
        model.fc.bias.add_(1)
    tuned = videozoo.push_to_hub(model, "lab/x", dry_run=True)
    assert "None are stated." in tuned.card
    assert "Trained on from `test_ircsn.motion8`" in tuned.card


@pytest.mark.parametrize("claim", ["converted file", "folder"])
def test_what_a_file_says_of_itself_is_no_provenance(claim: str, tmp_path: Path) -> None:
    if claim == "folder":
        videozoo.save_to_dir(videozoo.create_model("test_ircsn", True), tmp_path / "model")
        model = videozoo.create_model(f"local-dir:{tmp_path / 'model'}")
    else:
        original = videozoo.cache.fetch(videozoo.get_weights("test_ircsn"))
        converted = videozoo.convert_checkpoint(original, tmp_path / "x.safetensors").output
        model = videozoo.create_model("test_ircsn", checkpoint_path=converted)
    assert model.pretrained_cfg["tag"] == "motion8"
    assert "bit for bit" in videozoo.push_to_hub(model, "lab/x", dry_run=True).card  # the tensors prove that
    with torch.no_grad():
        model.fc.bias.add_(1)
    card = videozoo.push_to_hub(model, "lab/x", dry_run=True).card
    assert "Trained on from" not in card and "knows no published weights behind it" in card


def test_the_front_matter_is_yaml_whatever_the_names_are() -> None:
    yaml = pytest.importorskip("yaml")
    model = random_model("test_ircsn", 3)
    card = videozoo.push_to_hub(model, "lab/x", labels=COLOURS, dataset='odd: "name" #', dry_run=True).card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "video-classification"
    assert front["datasets"] == ['odd: "name" #']
    assert front["license"] == "unknown"
    assert "hf-hub:lab/x" in card


@pytest.mark.parametrize("labels", [None, ["a"], ["a", "b", "c\n"], "abc"])
def test_labels_that_do_not_belong_are_refused(labels: Any) -> None:
    with pytest.raises(InvalidArgument):
        videozoo.push_to_hub(random_model("test_ircsn", 3), "lab/x", labels=labels, dry_run=True)


def test_push_on_the_command_line_without_a_connection(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert run(["push", "test_ircsn", "lab/x", "--dry-run", "--json"]) == 0
    by_name = json.loads(capsys.readouterr().out)
    assert run(["push", str(folder), "lab/x", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == by_name
    assert run(["push", str(folder / "model.safetensors"), "lab/x", "--dry-run"]) == 0
    assert by_name["weights_sha256"] in capsys.readouterr().out
    assert run(["push", "test_ircsn", "no name", "--dry-run"]) == 2


# Repositories


@pytest.fixture
def hub() -> Iterator[hf_server.Hub]:
    with hf_server.running() as hub:
        yield hub


@pytest.fixture
def client(hub: hf_server.Hub, tmp_path: Path) -> Callable[..., list[str]]:
    """Run Python with huggingface_hub set to the endpoint, as it reads its settings on import; returns the lines."""

    def python(code: str, **settings: str) -> list[str]:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "hf_x",
            "NO_PROXY": "*",
            "PYTHONPATH": str(REPOSITORY),
            **settings,
        }
        command = [sys.executable, "-c", f"import videozoo\n{code}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return python


LOAD = """
def load(name):
    try:
        recognizer = videozoo.load_recognizer(name)
    except videozoo.VideoZooError as error:
        return f"{type(error).__name__}: {error}"
    return f"{recognizer.labels[0]} {float(recognizer.model.fc.bias[0]):.3f}"
"""


def test_push_and_load_again(hub: hf_server.Hub, client: Callable[..., list[str]]) -> None:
    lines = client("""
import torch
model = videozoo.create_model("test_ircsn", True)
pushed = videozoo.push_to_hub(model, "lab/csn", private=True)
again = videozoo.load_recognizer("hf-hub:lab/csn", optimize=False)
same = all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in model.state_dict().items())
print(pushed.commit, same, again.labels[0], again.model.pretrained_cfg["url"])
branch = videozoo.push_to_hub(model, "lab/csn", revision="tuned", labels=list("abcdefgh"))
print(branch.commit, videozoo.load_recognizer("hf-hub:lab/csn@tuned").labels[0])
print(videozoo.load_recognizer(f"hf-hub:lab/csn@{pushed.commit}").labels[0])
""")
    repository = hub.repositories["lab/csn"]
    assert repository.private
    commit = repository.branches["main"]
    assert lines == [
        f"{commit} True left hf-hub:lab/csn@{commit}",
        f"{repository.branches['tuned']} a",
        "left",
    ]
    assert set(repository.commits[commit]) == {"README.md", "config.json", "model.safetensors"}


def test_revisions_offline_and_damage(
    hub: hf_server.Hub, client: Callable[..., list[str]], folder: Path, tmp_path: Path
) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    first = hub.add("lab/csn", files)
    labels = [f"new {number}" for number in range(8)]
    change(folder, label_names=labels)
    hub.add("lab/csn", {"config.json": (folder / "config.json").read_bytes()})
    online = client(f"""{LOAD}
print(load("hf-hub:lab/csn@{first}"))
print(load("hf-hub:lab/csn"))
for name in ("lab/none", "lab/csn@none", "lab/empty"):
    print(load("hf-hub:" + name))
""")
    assert online[0].startswith("left ")
    assert online[1].startswith("new 0 ")
    assert online[2].startswith("FetchError: hf-hub:lab/none@main: config.json: no such repository")
    assert online[3].startswith("FetchError: hf-hub:lab/csn@none: config.json: the repository has no such revision")
    requests = len(hub.requests)
    both = f"print(load('hf-hub:lab/csn@{first}'), load('hf-hub:lab/csn'))\nprint(load('hf-hub:lab/new'))"
    found = f"{online[0]} {online[1]}"
    missing = "NoSource: hf-hub:lab/new@main: config.json: not in the cache"
    lines = client(f"{LOAD}\n{both}", HF_HUB_OFFLINE="1")
    assert lines[0] == found
    assert lines[1].startswith(missing)
    assert len(hub.requests) == requests
    (link,) = (tmp_path / "hf").rglob(f"snapshots/{first}/model.safetensors")
    lines = client(
        f"""{LOAD}
{both}
import os, pathlib
blob = pathlib.Path({str(link.resolve())!r})
content = blob.read_bytes()
blob.unlink()
blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
print(load('hf-hub:lab/csn@{first}'))
os.environ["VIDEOZOO_OFFLINE"] = "0"
print(load('hf-hub:lab/csn@{first}'))
""",
        VIDEOZOO_OFFLINE="1",
    )
    assert lines[0] == found
    assert lines[1].startswith(missing)
    assert lines[2].startswith(f"DigestMismatch: hf-hub:lab/csn@{first}: model.safetensors is damaged")
    assert lines[3] == online[0]
    asked = [request for request in hub.requests[requests:] if request.startswith("GET")]
    assert asked == [f"GET /lab/csn/resolve/{first}/model.safetensors"]


def test_what_a_repository_may_lack_or_send(hub: hf_server.Hub, client: Callable[..., list[str]], folder: Path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub.add("lab/empty", {"README.md": b"nothing"})
    hub.add("lab/pickle", {"config.json": files["config.json"], "pytorch_model.bin": b"\x80\x02."})
    hub.add("lab/huge", {"config.json": b" " * (5 << 20)})
    hub.add("lab/damaged", files)
    hub.damaged.add("model.safetensors")
    names = ("empty", "pickle", "huge", "damaged")
    empty, only_pickle, huge, damaged = client(f"{LOAD}\nfor name in {names}: print(load('hf-hub:lab/' + name))")
    assert "hf-hub:lab/empty@main: config.json: the repository has no such file" in empty
    assert "model.safetensors: the repository has no such file" in only_pickle
    assert "has 5242880 bytes, and at most 4194304 are read" in huge
    assert damaged.startswith("DigestMismatch: hf-hub:lab/damaged@")
    asked = [request for request in hub.requests if request.startswith("GET")]
    assert not [request for request in asked if "pytorch_model.bin" in request or "huge" in request]
