"""Exported networks: what is written answers as the network does and says what it is; what cannot be is refused."""

from __future__ import annotations

import dataclasses
import json
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_model
from synthetic_frames import make_frames

from videozoo import create_model, export_model, get_weights, load_recognizer
from videozoo import export as exporting
from videozoo.artefacts import exported
from videozoo.artefacts.exported import ExportedModel, load_exported
from videozoo.artefacts.form import format_of, is_artefact, parse_form
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.cli.main import run
from videozoo.errors import InvalidArgument, OutputError, UnreadableCheckpoint, VideoZooError
from videozoo.export import TOLERANCE
from videozoo.predict import protocol_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

VIDEO = make_frames(40, 32, 48)
SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
SEEDS = (
    *("ircsn_r50", "ircsn_r152", "ipcsn_r152", "r2plus1d_34", "slowonly_r50"),
    *("tpn_slowonly_r50", "tpn_tsm_r50", "tsm_r50", "tsn_r50"),
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``written(format)``: test_ircsn with any batch in this format, written once; never change it."""
    folder = tmp_path_factory.mktemp("exported")

    def write(format: str) -> Path:
        path = folder / f"net{SUFFIX[format]}"
        if not path.exists():
            export_model(create_model("test_ircsn", True), path, format=format, dynamic=("batch",), fused=True)
        return path

    return write


# Round trips


@pytest.mark.parametrize("format", ["torch-export", "onnx", "openvino"])
def test_the_artefact_recognises_as_the_network_does(format: str, written: Callable[[str], Path]) -> None:
    path = written(format)
    expected = load_recognizer("test_ircsn")(VIDEO)
    recognizer = load_recognizer(str(path), trust_artefact=True)
    found = recognizer(VIDEO)
    assert found.labels == expected.labels
    assert found.frame_indices.tolist() == expected.frame_indices.tolist()
    assert torch.allclose(found.view_logits, expected.view_logits, atol=1e-4 * float(expected.view_logits.abs().max()))
    assert isinstance(recognizer.model, ExportedModel)
    assert recognizer.transform.input == get_weights("test_ircsn").protocol.input
    assert recognizer.model.pretrained_cfg["architecture"] == "test_ircsn"
    assert recognizer.model.pretrained_cfg["tag"] == get_weights("test_ircsn").tag


@pytest.mark.parametrize(
    ("model", "suffix", "dynamic", "dtype", "fused", "shape"),
    [
        ("test_tsn", ".xml", ("batch", "frames", "size"), "float32", False, (3, 3, 5, 64, 48)),
        pytest.param(*("test_tpn", ".pt2", ("frames",), "float32", True, (1, 3, 24, 32, 32)), marks=pytest.mark.slow),
        ("test_tsn", ".onnx", (), "float16", False, (3, 3, 8, 32, 32)),  # a fixed batch of 1, one after another
    ],
)
def test_dynamic_axes_take_other_sizes(
    model: str, suffix: str, dynamic: tuple[str, ...], dtype: str, fused: bool, shape: tuple[int, ...], tmp_path: Path
) -> None:
    network = random_model(model)
    done = export_model(network, tmp_path / f"net{suffix}", dynamic=dynamic, dtype=dtype, fused=fused)
    assert len(done.agreement) == 3
    assert (len({one.shape for one in done.agreement}) == 3) is bool(dynamic)
    assert done.difference <= done.tolerance == TOLERANCE[done.dtype]
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = network(clips).detach()
    found = load_exported(tmp_path / f"net{suffix}", trusted=True)(clips)
    assert float((found - expected).abs().max()) <= done.tolerance * float(expected.abs().max())
    assert sorted(map(str, tmp_path.iterdir())) == sorted(done.files)
    assert {Path(file).stat().st_size for file in done.files} == set(done.files.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", SEEDS)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".xml"])
def test_every_seed_architecture_is_exported(model: str, suffix: str, tmp_path: Path) -> None:
    done = export_model(random_model(model), tmp_path / f"net{suffix}", mode="center")
    assert done.difference <= 1e-4


@pytest.mark.slow
def test_a_compiled_package(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    export_model(create_model("test_ircsn", True), path, format="aot", dynamic=("batch",))
    expected = load_recognizer("test_ircsn")(VIDEO).view_logits
    found = load_recognizer(str(path), trust_artefact=True)(VIDEO).view_logits
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


# What an artefact says, and what it is not


def test_labels_preprocessing_and_provenance_are_in_the_metadata(written: Callable[[str], Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(written("onnx")), providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["videozoo"])
    entry = get_weights("test_ircsn")
    assert record["pretrained_cfg"]["protocol"]["full"]["num_frames"] == entry.protocol.full.num_frames
    assert record["label_names"][0] == load_recognizer("test_ircsn").labels[0]
    found = record["provenance"]
    assert (found["weights"], found["trained_from"]) == (entry.name, None)
    assert entry.file is not None
    assert found["file"] == {"name": entry.file.name, "sha256": entry.file.sha256, "sha256_prefix": None}
    assert found["weights_sha256"] == sha256_tensors(create_model("test_ircsn", True).state_dict())
    assert record["export"]["dynamic"] == ["batch"]


def test_a_network_of_ones_own_says_what_it_comes_from(tmp_path: Path) -> None:
    network = create_model("test_ircsn", True)
    with torch.no_grad():
        network.get_classifier().weight.mul_(1.5)
    protocol = protocol_of(network)
    network.pretrained_cfg["protocol"] = dataclasses.replace(
        protocol, full=dataclasses.replace(protocol.full, crop_size=24)
    )
    export_model(network, tmp_path / "net.onnx")
    text, _ = exported.open_artefact(tmp_path / "net.onnx", trusted=False)
    found = json.loads(text)["provenance"]
    assert (found["weights"], found["trained_from"]) == (None, get_weights("test_ircsn").name)
    assert found["weights_sha256"] == sha256_tensors(network.state_dict())
    # Fixed at the size of the full protocol, it has no use for one view in the centre.
    assert load_recognizer(str(tmp_path / "net.onnx")).transform.views.crop_size == 24
    with pytest.raises(InvalidArgument, match="export it with --dynamic size or --views center; it was") as hint:
        load_recognizer(str(tmp_path / "net.onnx"), mode="center")
    assert str(hint.value).endswith("exported with --views full")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"format": "tflite"}, {"format": ["onnx"]}, {"dtype": "int4"}, {"dtype": 3}, {"fused": "yes"}, {"fused": 1}),
        *({"dynamic": ["time"]}, {"dynamic": 1}, {"clip": [1, 3, 8, 32]}, {"least": [0, 1, 1, 1, 1]}),
    ],
)
def test_a_form_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    record = {
        "format": "onnx", "dtype": "float32", "fused": True, "clip": [1, 3, 8, 32, 32], "dynamic": ["batch"],
        "least": [1, 1, 1, 1, 1], "smallest_clip": [1, 1, 1],
    }  # fmt: skip
    assert parse_form(record, "net.onnx").dynamic == ("batch",)
    with pytest.raises(UnreadableCheckpoint, match="it does not say what clips it takes"):
        parse_form(record | wrong, "net.onnx")


def test_a_measurement_leaves_the_lines_of_others(repository: Path) -> None:
    with_row = runpy.run_path(str(repository / "benchmarks" / "export.py"))["with_row"]
    rows = [{"model": model, "format": "onnx", "fused": "no", "difference": "1"} for model in ("a", "b")]
    assert with_row(rows, rows[0] | {"difference": "2"}) == [rows[0] | {"difference": "2"}, rows[1]]
    assert with_row(rows, rows[1] | {"fused": "yes"}) == [*rows, rows[1] | {"fused": "yes"}]


def test_a_program_is_opened_only_on_trust(written: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidArgument, match="--trust-artefact"):
        load_recognizer(str(written("torch-export")))


def test_a_foreign_program_is_not_run_even_on_trust(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/data/weights/weights_config.json", "{}")
    with pytest.raises(UnreadableCheckpoint, match="no description"):
        load_exported(tmp_path / "net.pt2", trusted=True)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.pt2"])
@pytest.mark.parametrize("content", [None, b"", b"no model at all"])
def test_what_is_no_artefact_is_one_error(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableCheckpoint) as caught:
        load_exported(tmp_path / name, trusted=True)
    assert "\n" not in str(caught.value)


def test_an_exported_network_cannot_do_what_is_not_in_its_graph(written: Callable[[str], Path]) -> None:
    model = load_exported(written("onnx"))
    for wrong in (torch.zeros(1, 3, 9, 32, 32), torch.zeros(1, 3, 8, 32, 48), torch.zeros(1, 2, 8, 32, 32)):
        with pytest.raises(InvalidArgument):
            model(wrong)
    for cannot in (lambda: model.forward_features(torch.zeros(1, 3, 8, 32, 32)), lambda: model.train()):
        with pytest.raises(InvalidArgument):
            cannot()
    with pytest.raises(InvalidArgument, match="frames is fixed at 8"):
        load_recognizer(str(written("onnx")), crop_size=32, num_segments=None).model(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(InvalidArgument, match="--dynamic size"):
        load_recognizer(str(written("onnx")), crop_size=24)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 9), np.float32), np.float32(0), np.zeros((1, 8)), IndexError("odd\nly")]
)
def test_a_graph_that_is_not_as_described_is_one_error(wrong: object, written: Callable[[str], Path]) -> None:
    model = load_exported(written("onnx"))

    def graph(clips: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong  # type: ignore[return-value]

    model._run = graph
    with pytest.raises(UnreadableCheckpoint, match="its graph") as caught:
        model(torch.zeros(1, 3, 8, 32, 32))
    assert "\n" not in str(caught.value)


def test_a_graph_is_tried_when_it_is_opened(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = exported.open_artefact(written("onnx"), trusted=False)
    monkeypatch.setattr(exported, "open_artefact", lambda path, *, trusted: (text, lambda clips: clips))
    with pytest.raises(UnreadableCheckpoint, match="not logits of 8 classes"):
        load_exported(written("onnx"))


# Refusals


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("net.onnx", {"dynamic": ("time",)}, "dynamic axis 'time': there are batch, frames, size"),
        ("net.onnx", {"dtype": "int8"}, "dtype 'int8'"),
        ("net.onnx", {"format": "openvino"}, r"called \*.xml"),
        ("net.onnx", {"format": "tflite"}, "there are torch-export, onnx, openvino, aot"),
        ("net.bin", {}, "ends in .pt2, .onnx or .xml"),
        ("nowhere/net.onnx", {}, "there is no folder"),
        ("taken.xml", {}, "exists; pass --force"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, object], says: str, tmp_path: Path) -> None:
    (tmp_path / "taken.bin").touch()
    with pytest.raises(VideoZooError, match=says):
        export_model(create_model("test_tsn"), tmp_path / name, **arguments)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["taken.bin"]


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match=r'onnx is not installed: pip install "videozoo\[export\]"'):
        exporting.request(tmp_path / "net.onnx")


def test_frames_of_shifted_networks_are_fixed(tmp_path: Path, capsys: Capture) -> None:
    status = run(["export", "tpn_tsm_r50", "-o", str(tmp_path / "net.onnx"), "--dynamic", "frames"])
    assert status == 2  # and nothing was fetched
    assert "shifts 8 segments among each other" in capsys.readouterr().err


@pytest.mark.parametrize("error", [0.001, float("nan")])
def test_an_artefact_that_disagrees_is_not_placed(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path, *, trusted: bool) -> ExportedModel:
        model = load_exported(path, trusted=trusted)
        inner = model._run
        model._run = lambda clips: np.asarray(inner(clips) * np.float32(1 + error))
        return model

    monkeypatch.setattr(exporting, "load_exported", wrong)
    (tmp_path / "net.pt2").write_bytes(b"before")
    with pytest.raises(OutputError, match="was not written: on clips"):
        export_model(random_model("test_tsn"), tmp_path / "net.pt2", overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network = random_model("test_tsn").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_model(network, tmp_path / "net.pt2", dtype="float16")
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# The command line


def test_the_command_exports_and_predicts(written: Callable[[str], Path], tmp_path: Path, capsys: Capture) -> None:
    from videozoo.demo import write_video

    write_video(tmp_path / "video.mp4", VIDEO)
    out = tmp_path / "net.xml"
    assert run(["export", "test_tsn", "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["files"]) == [str(out.with_suffix(".bin")), str(out)]
    assert report["difference"] <= report["tolerance"]
    assert run(["predict", str(tmp_path / "video.mp4"), "--model", str(out), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert run(["predict", str(tmp_path / "video.mp4"), "--model", "test_tsn", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in found["topk"]] == [row["label"] for row in expected["topk"]]
    assert run(["predict", str(tmp_path / "video.mp4"), "--model", str(out), "--pretrained", "x"]) == 2
    assert run(["predict", str(tmp_path / "video.mp4"), "--model", str(tmp_path / "none.onnx")]) == 3
    assert run(["export", "test_tsn", "-o", str(out)]) == 6


@pytest.mark.parametrize(("name", "expected"), [("a/b.ONNX", True), ("x.pt2", True), ("ircsn_r50.k400", False)])
def test_names_of_artefacts(name: str, expected: bool) -> None:
    assert is_artefact(name) is expected


def test_formats_by_suffix() -> None:
    assert [format_of(Path(f"net{suffix}"), None) for suffix in SUFFIX.values()] == list(SUFFIX)
    assert format_of(Path("net.pt2"), "aot") == "aot"


def test_every_form_survives_its_metadata(written: Callable[[str], Path]) -> None:
    form = load_exported(written("onnx")).form
    assert dataclasses.astuple(form)[:3] == ("onnx", "float32", True)
    assert form.in_words() == "batch x 3 x 8 x 32 x 32"
