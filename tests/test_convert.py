"""A file of unknown make to safetensors under our names: what is found, proven, written and refused."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from videozoo import cache, conversion, convert_checkpoint, create_model, lockfile
from videozoo.cli.main import run_convert
from videozoo.errors import (
    CheckpointError,
    CheckpointMismatch,
    OutputError,
    UnknownLayout,
    UnknownModel,
    UnreadableCheckpoint,
)

ForeignFile = Callable[..., Path]
State = dict[str, Tensor]
CLIP = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
TEST_MODELS = ["test_ircsn", "test_tpn", "test_tsn"]
CLASSIFIER = "cls_head.fc_cls.weight"


def logits(architecture: str, path: Path, **options: int) -> Tensor:
    model = create_model(architecture, checkpoint_path=path, **options)  # type: ignore[arg-type]
    with torch.inference_mode():
        return model.eval()(CLIP)


def tensors(architecture: str, path: Path) -> dict[str, list[object]]:
    """What the network holds, for an exact comparison."""
    return {
        name: tensor.tolist() for name, tensor in create_model(architecture, checkpoint_path=path).state_dict().items()
    }


def state_of(path: Path) -> State:
    return dict(torch.load(path, weights_only=True)["state_dict"])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def saved(path: Path, state: State, **more: object) -> Path:
    torch.save({"meta": {}, "state_dict": OrderedDict(state), **more}, path)
    return path


# What comes out


@pytest.mark.parametrize("architecture", TEST_MODELS)
def test_a_foreign_file_and_its_conversion_give_equal_logits(
    architecture: str, foreign_file: ForeignFile, tmp_path: Path
) -> None:
    source = foreign_file(architecture)
    report = convert_checkpoint(source, tmp_path / "out.safetensors")
    assert (report.architecture, report.num_classes, report.weights) == (architecture, 8, None)
    assert (report.source_layout, report.ignored, report.filled) == ("mmaction2", {}, {})
    assert tensors(architecture, source) == tensors(architecture, report.output)
    foreign, converted = logits(architecture, source), logits(architecture, report.output)
    assert foreign.std() > 0.05
    # the same weights at other addresses: kernels for aligned and unaligned memory differ in the last bit
    torch.testing.assert_close(foreign, converted, rtol=1e-5, atol=1e-5)
    assert report.num_tensors == len(load_file(report.output)) == len(state_of(source))


def test_a_file_without_a_published_digest_is_recorded_at_its_first_use(
    edit_manifest: Callable[..., None], foreign_file: ForeignFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = "test_tsn.motion8"
    edit_manifest(row, embedded=False, name="published.pth", sha256=None, size_bytes=None)
    for name, architecture in (("mine.pth", "test_tsn"), ("published.pth", "test_tpn")):
        (tmp_path / name).write_bytes(foreign_file(architecture).read_bytes())
        assert convert_checkpoint(tmp_path / name, tmp_path / "out", overwrite=True).recorded_as is None
    assert lockfile.read(cache.lock_path()) == {}

    source = tmp_path / "published.pth"
    source.write_bytes(foreign_file("test_tsn").read_bytes())
    assert run_convert([str(source)]) == 0
    assert "test_tsn.motion8, by name and structure; no digest was published" in capsys.readouterr().out
    line = lockfile.read(cache.lock_path())[row]
    assert (line.sha256, line.size_bytes, line.source) == (digest(source), source.stat().st_size, str(source))


def test_another_file_than_the_recorded_one_converts_with_a_warning(
    edit_manifest: Callable[..., None], foreign_file: ForeignFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_manifest("test_tsn.motion8", embedded=False, name="published.pth", sha256=None, size_bytes=None)
    source = saved(tmp_path / "published.pth", state_of(foreign_file("test_tsn")))
    assert convert_checkpoint(source, tmp_path / "1").recorded_as == "test_tsn.motion8"
    saved(source, {name: 2 * tensor for name, tensor in state_of(source).items()})
    assert convert_checkpoint(source, tmp_path / "2").recorded_as is None
    assert "is not the file of test_tsn.motion8" in caplog.text


@pytest.mark.parametrize("claim", ["86d33018" + 56 * "0", "86d33018", "nonsense", ""])
def test_what_a_file_says_of_its_source_proves_nothing(claim: str, tmp_path: Path) -> None:
    source = tmp_path / "forged.safetensors"
    claims = {"videozoo.architecture": "ircsn_r50", "videozoo.source_sha256": claim}
    save_file(create_model("ircsn_r50").state_dict(), source, claims | {"videozoo.weights": "ircsn_r50.ig65m_k400"})
    report = convert_checkpoint(source, tmp_path / "out")
    assert (report.source_sha256, report.weights) == (digest(source), None)
    with safe_open(report.output, framework="pt") as file:
        assert file.metadata()["videozoo.source_sha256"] == digest(source)
        assert "videozoo.weights" not in file.metadata()


def test_the_digest_is_that_of_the_bytes_that_were_read(
    foreign_file: ForeignFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = tmp_path / "a.pth", tmp_path / "b.pth"
    source.write_bytes(foreign_file("test_tsn").read_bytes())
    other.write_bytes(foreign_file("test_tpn").read_bytes())
    expected, fitted = digest(source), conversion.fit

    def swapping(*arguments: Any) -> Any:
        if other.exists():
            other.replace(source)
        return fitted(*arguments)

    monkeypatch.setattr(conversion, "fit", swapping)
    assert convert_checkpoint(source, tmp_path / "out").source_sha256 == expected


@pytest.mark.skipif(os.name == "nt", reason="bytes in names")
def test_a_name_that_is_no_text(foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pth"))
    source.write_bytes(foreign_file("test_tsn").read_bytes())
    with safe_open(convert_checkpoint(source, tmp_path / "out").output, framework="pt") as file:
        assert file.metadata()["videozoo.source"] == "caf?.pth"


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_that_was_loaded_may_be_saved_over(
    save: Callable[..., None], foreign_file: ForeignFile, tmp_path: Path
) -> None:
    path = tmp_path / "last.pth"
    path.write_bytes(foreign_file("test_tpn").read_bytes())
    network = create_model("test_tpn", checkpoint_path=path)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path.write_bytes(b"")  # as opening it for writing does
    save(network.state_dict(), path)
    again = create_model("test_tpn", checkpoint_path=path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


def test_tensors_that_a_file_shares_are_not_shared_by_the_network(foreign_file: ForeignFile, tmp_path: Path) -> None:
    state = state_of(foreign_file("test_tsn"))
    means = [name for name in state if name.endswith("running_mean") and state[name].shape == (8,)]
    path = saved(tmp_path / "a.pth", {name: state[means[0]] if name in means else state[name] for name in state})
    buffers = [b for name, b in create_model("test_tsn", checkpoint_path=path).named_buffers() if b.shape == (8,)]
    assert len(means) > 1
    assert len({buffer.data_ptr() for buffer in buffers}) == len(buffers)


def test_no_torch_is_needed(foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = foreign_file("test_tpn")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm')))\n"
        "from videozoo.convert import convert_checkpoint, convert_tensors\n"
        "print(convert_checkpoint(sys.argv[1], sys.argv[2]).architecture)\n"
        "print(convert_tensors(sys.argv[1], sys.argv[3]).num_tensors)\n"
    )
    outputs = [str(tmp_path / name) for name in ("named", "bare")]
    done = subprocess.run([sys.executable, "-c", code, str(source), *outputs], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["test_tpn", str(len(state_of(source)))], "")
    assert Path(outputs[0]).read_bytes() == convert_checkpoint(source, tmp_path / "again").output.read_bytes()


@pytest.mark.parametrize(("architecture", "family"), [("tsm_r50", "tsn_r50"), ("tsn_r50", "tsm_r50")])
def test_tsm_and_tsn_are_told_apart(architecture: str, family: str, foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = foreign_file(architecture)
    assert convert_checkpoint(source, tmp_path / "out.safetensors").architecture == architecture
    with pytest.raises(CheckpointMismatch, match=f"does not fit {family}"):
        convert_checkpoint(source, tmp_path / "other.safetensors", architecture=family)


def test_the_file_says_where_it_comes_from(foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = foreign_file("test_ircsn")
    report = convert_checkpoint(source, tmp_path / "out.safetensors")
    with safe_open(report.output, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.pop("videozoo.converter").startswith("videozoo ")
    assert metadata == {
        "format": "pt",
        "videozoo.architecture": "test_ircsn",
        "videozoo.num_classes": "8",
        "videozoo.source": source.name,
        "videozoo.source_sha256": digest(source),
        "videozoo.source_layout": "mmaction2",
    }
    assert (report.source, report.source_sha256) == (source, digest(source))
    assert report.output_sha256 == digest(report.output)


@pytest.mark.parametrize(
    ("known", "is_prefix"), [({"sha256": 64}, False), ({"sha256_prefix": 8, "sha256": None}, True)]
)
def test_a_published_file_is_recognised_by_its_digest(
    known: dict[str, int | None],
    is_prefix: bool,
    foreign_file: ForeignFile,
    edit_manifest: Callable[..., None],
    tmp_path: Path,
) -> None:
    source = foreign_file("test_ircsn")
    edit_manifest("test_ircsn.motion8", **{key: size and digest(source)[:size] for key, size in known.items()})
    report = convert_checkpoint(source, tmp_path / "out.safetensors")
    assert (report.weights, report.digest_is_prefix) == ("test_ircsn.motion8", is_prefix)
    with safe_open(report.output, framework="pt") as file:
        assert file.metadata()["videozoo.weights"] == "test_ircsn.motion8"
    assert create_model("test_ircsn", checkpoint_path=report.output).pretrained_cfg["tag"] == "motion8"


def test_the_same_bytes_on_every_run(foreign_file: ForeignFile, repository: Path, tmp_path: Path) -> None:
    source = foreign_file("test_tpn")
    here = convert_checkpoint(source, tmp_path / "here.safetensors").output
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(repository),
        "PYTHONHASHSEED": "77",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run(
        [sys.executable, "-m", "videozoo", "convert", os.path.relpath(source, elsewhere),
         "-o", "there.safetensors", "--arch", "test_tpn"],
        cwd=elsewhere, env=environment, umask=0o077, check=True, capture_output=True,
    )  # fmt: skip
    assert here.read_bytes() == (elsewhere / "there.safetensors").read_bytes()


def test_the_output_lies_beside_the_source(foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = tmp_path / "mine.v2.pth"
    source.write_bytes(foreign_file("test_tsn").read_bytes())
    assert convert_checkpoint(str(source)).output == tmp_path / "mine.v2.safetensors"


def test_a_converted_file_converts_again(foreign_file: ForeignFile, tmp_path: Path) -> None:
    source = foreign_file("test_tpn")
    once = convert_checkpoint(source, tmp_path / "once.safetensors")
    twice = convert_checkpoint(once.output, tmp_path / "twice.safetensors")
    assert (twice.architecture, twice.source_layout) == ("test_tpn", "videozoo")
    first, second = load_file(once.output), load_file(twice.output)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(CheckpointMismatch, match="holds test_tpn, not test_tsn"):
        convert_checkpoint(once.output, tmp_path / "no.safetensors", architecture="test_tsn")


# What goes in


def _zip(state: State, path: Path) -> None:
    saved(path, state)


def _legacy(state: State, path: Path) -> None:
    torch.save({"meta": {}, "state_dict": OrderedDict(state)}, path, _use_new_zipfile_serialization=False)


def _bare(state: State, path: Path) -> None:
    torch.save(state, path)


def _raw_epoch(state: State, path: Path) -> None:
    """As a training run leaves it: optimizer state, objects of other packages, a numpy scalar."""
    moments = {number: {"exp_avg": tensor.clone()} for number, tensor in enumerate(state.values())}
    saved(
        path,
        state,
        meta={"epoch": 3, "lr": np.float64(0.01), "time": datetime.timedelta(1), "dir": pathlib.PurePosixPath("/work")},
        optimizer={"state": moments, "param_groups": [{"lr": 0.01, "params": list(moments)}]},
        message_hub={"log_scalars": OrderedDict(), "loss": np.arange(3.0)},
        param_schedulers=[{"last_step": 3}],
    )


def _data_parallel(state: State, path: Path) -> None:
    saved(path, {f"module.{name}": tensor for name, tensor in state.items()})


def _shared_storage(state: State, path: Path) -> None:
    """Two tensors as windows on one storage, one of them not contiguous."""
    weight = state[CLASSIFIER]
    both = torch.cat([weight, state["cls_head.fc_cls.bias"][:, None]], dim=1)
    saved(path, state | {CLASSIFIER: both[:, :-1], "cls_head.fc_cls.bias": both[:, -1]})


@pytest.mark.parametrize("write", [_zip, _legacy, _bare, _raw_epoch, _data_parallel, _shared_storage])
def test_every_way_of_saving_gives_the_same_tensors(
    write: Callable[[State, Path], None], foreign_file: ForeignFile, tmp_path: Path
) -> None:
    source = foreign_file("test_ircsn")
    write(state_of(source), tmp_path / "written.pth")
    expected = convert_checkpoint(source, tmp_path / "expected.safetensors", architecture="test_ircsn").output
    found = convert_checkpoint(tmp_path / "written.pth", architecture="test_ircsn").output
    assert {name: tensor.tolist() for name, tensor in load_file(found).items()} == {
        name: tensor.tolist() for name, tensor in load_file(expected).items()
    }
    assert tensors("test_ircsn", tmp_path / "written.pth") == tensors("test_ircsn", expected)


def test_stale_and_missing_tensors_have_named_rules(foreign_file: ForeignFile, tmp_path: Path) -> None:
    state = state_of(foreign_file("test_ircsn"))
    counters = [name for name in state if name.endswith(".num_batches_tracked")]
    changed = {name: tensor for name, tensor in state.items() if name not in counters}
    changed["cls_head.new_cls.weight"] = torch.zeros(8, 4, 1, 1, 1)
    changed["data_preprocessor.mean"] = torch.zeros(3, 1, 1)
    report = convert_checkpoint(saved(tmp_path / "old.pth", changed))
    assert set(report.ignored) == {"cls_head.new_cls.weight", "data_preprocessor.mean"}
    assert len(report.filled) == len(counters) > 0
    assert all(report.ignored.values())
    assert all(report.filled.values())
    assert tensors("test_ircsn", report.output) == tensors("test_ircsn", foreign_file("test_ircsn"))


# Class counts


def test_another_class_count_is_loaded_only_when_asked(
    foreign_file: ForeignFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = foreign_file("test_ircsn", 10)
    report = convert_checkpoint(source, tmp_path / "ten.safetensors")
    assert (report.architecture, report.num_classes) == ("test_ircsn", 10)
    for path in (source, report.output):
        with pytest.raises(CheckpointMismatch, match="has 10 classes, test_ircsn has 8: pass num_classes=10"):
            create_model("test_ircsn", checkpoint_path=path)
        assert logits("test_ircsn", path, num_classes=10).shape == (2, 10)
    kept = create_model("test_ircsn", checkpoint_path=source, num_classes=10)
    assert kept.get_classifier().weight.tolist() == state_of(source)[CLASSIFIER].tolist()
    assert not caplog.records
    replaced = create_model("test_ircsn", checkpoint_path=source, num_classes=5)
    assert replaced.num_classes == replaced.get_classifier().out_features == replaced.pretrained_cfg["num_classes"] == 5
    assert not any(tensor.is_meta for tensor in replaced.state_dict().values())
    (record,) = caplog.records
    assert "10 classes was replaced by a new, untrained one for 5" in record.getMessage()


@pytest.mark.parametrize("kind", ["foreign", "converted"])
def test_training_does_not_touch_the_file(kind: str, foreign_file: ForeignFile, tmp_path: Path) -> None:
    path = foreign_file("test_ircsn")
    if kind == "converted":
        path = convert_checkpoint(path, tmp_path / "out.safetensors", architecture="test_ircsn").output
    before = path.read_bytes()
    model = create_model("test_ircsn", checkpoint_path=path).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(CLIP).sum().backward()
    optimizer.step()
    assert not torch.equal(
        model.get_classifier().bias, create_model("test_ircsn", checkpoint_path=path).get_classifier().bias
    )
    assert path.read_bytes() == before


def test_a_classifier_can_be_left_out(foreign_file: ForeignFile) -> None:
    assert logits("test_ircsn", foreign_file("test_ircsn"), num_classes=0).shape == (
        2,
        create_model("test_ircsn").num_features,
    )


# What is refused


def _without(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "backbone.layer2.0.conv3.conv.weight"}


def _with_another(state: State) -> State:
    return state | {"backbone.layer9.0.conv3.conv.weight": torch.zeros(1)}


def _misshaped(state: State) -> State:
    return state | {"backbone.layer2.0.conv3.conv.weight": torch.zeros(3, 3, 1, 1, 1)}


def _of_integers(state: State) -> State:
    name = "backbone.layer2.0.conv3.conv.weight"
    return state | {name: state[name].to(torch.int64)}


FAULTS = [
    (_without, "1 missing", "missing: layer2.0.conv3.weight"),
    (_with_another, "1 unexpected", "unexpected: backbone.layer9.0.conv3.conv.weight"),
    (_misshaped, "1 of another shape or kind", "backbone.layer2.0.conv3.conv.weight (3, 3, 1, 1, 1)"),
    (_of_integers, "1 of another shape or kind", "I64, not"),
]


@pytest.mark.parametrize(("edit", "first_line", "listed"), FAULTS)
def test_one_wrong_tensor_is_refused_and_named(
    edit: Callable[[State], State], first_line: str, listed: str, foreign_file: ForeignFile, tmp_path: Path
) -> None:
    wrong = saved(tmp_path / "wrong.pth", edit(state_of(foreign_file("test_ircsn"))))
    with pytest.raises(CheckpointMismatch) as caught:
        convert_checkpoint(wrong, architecture="test_ircsn")
    message = str(caught.value)
    assert f"{wrong} does not fit test_ircsn: {first_line}" in message.splitlines()[0]
    assert listed in message
    with pytest.raises(CheckpointMismatch, match="does not fit test_ircsn"):
        create_model("test_ircsn", checkpoint_path=wrong)
    with pytest.raises(UnknownLayout, match=rf"fits no architecture; the nearest is test_ircsn \({first_line}"):
        convert_checkpoint(wrong)
    assert list(tmp_path.iterdir()) == [wrong]


def test_a_report_lists_everything_at_once(foreign_file: ForeignFile, tmp_path: Path) -> None:
    state = _with_another(_without(state_of(foreign_file("test_ircsn"))))
    with pytest.raises(CheckpointMismatch) as caught:
        convert_checkpoint(saved(tmp_path / "wrong.pth", state), architecture="test_ircsn")
    first, *rest = str(caught.value).splitlines()
    assert "1 missing, first layer2.0.conv3.weight; 1 unexpected, first backbone.layer9" in first
    assert len(rest) == 2


def _text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


def _empty(path: Path) -> None:
    path.touch()


def _truncated_zip(path: Path) -> None:
    torch.save({"state_dict": {"backbone.conv1.conv.weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:3000])


def _truncated_legacy(path: Path) -> None:
    _legacy({"backbone.conv1.conv.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def _truncated_safetensors(path: Path) -> None:
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(60))


def _no_tensors(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def _other_names(path: Path) -> None:
    torch.save({"state_dict": {"embedding.weight": torch.zeros(3)}}, path)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (_text, UnreadableCheckpoint),
        (_empty, UnreadableCheckpoint),
        (_truncated_zip, UnreadableCheckpoint),
        (_truncated_legacy, UnreadableCheckpoint),
        (_html, UnreadableCheckpoint),
        (_truncated_safetensors, UnreadableCheckpoint),
        (_no_tensors, CheckpointError),
        (_other_names, UnknownLayout),
    ],
)
@pytest.mark.parametrize("name", ["file.pth", "file.safetensors.bak"])
def test_no_checkpoint_is_refused_in_one_line(
    write: Callable[[Path], None], error: type[CheckpointError], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    for attempt in (
        lambda: convert_checkpoint(path, tmp_path / "out.safetensors"),
        lambda: create_model("test_ircsn", checkpoint_path=path),
    ):
        with pytest.raises(error) as caught:
            attempt()
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_a_folder_are_no_checkpoints(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(UnreadableCheckpoint, match=str(path)):
            convert_checkpoint(path, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_unknown_architecture_is_refused(foreign_file: ForeignFile, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="the nearest are test_ircsn"):
        convert_checkpoint(foreign_file("test_ircsn"), tmp_path / "out.safetensors", architecture="test_ircns")
    assert not list(tmp_path.iterdir())


# Where it goes


def test_an_existing_output_is_kept_unless_told(foreign_file: ForeignFile, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        convert_checkpoint(foreign_file("test_tsn"), output, architecture="test_tsn")
    assert output.read_text() == "mine"
    report = convert_checkpoint(foreign_file("test_tsn"), output, architecture="test_tsn", overwrite=True)
    assert digest(output) == report.output_sha256
    assert list(tmp_path.iterdir()) == [output]


def test_a_converted_file_is_not_written_over_itself(foreign_file: ForeignFile, tmp_path: Path) -> None:
    once = convert_checkpoint(foreign_file("test_tsn"), tmp_path / "once.safetensors", architecture="test_tsn").output
    before = once.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        convert_checkpoint(once)
    assert once.read_bytes() == before


@pytest.mark.parametrize("place", ["missing/out.safetensors", ".", "file/out.safetensors"])
def test_an_output_that_cannot_be_is_refused(place: str, foreign_file: ForeignFile, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        convert_checkpoint(foreign_file("test_tsn"), tmp_path / place, architecture="test_tsn")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_reads_back_differently_is_not_kept(
    foreign_file: ForeignFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videozoo import conversion

    def damaging(path: Path, tensors: State, metadata: dict[str, str], *, sparing: bool) -> None:
        write(path, tensors, metadata, sparing=sparing)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    write = conversion.safetensors_file.write
    monkeypatch.setattr(conversion.safetensors_file, "write", damaging)
    with pytest.raises(OutputError, match="read back differently"):
        convert_checkpoint(foreign_file("test_tsn"), tmp_path / "out.safetensors", architecture="test_tsn")
    assert not list(tmp_path.iterdir())


def test_a_report_is_plain_data(foreign_file: ForeignFile, tmp_path: Path) -> None:
    report = convert_checkpoint(foreign_file("test_tsn"), tmp_path / "out.safetensors", architecture="test_tsn")
    assert json.loads(json.dumps(dataclasses.asdict(report), default=str))["num_classes"] == 8


def test_a_backbone_saved_alone_is_a_trunk(foreign_file: ForeignFile, tmp_path: Path) -> None:
    state = state_of(foreign_file("test_ircsn"))
    trunk = {name.removeprefix("backbone."): tensor for name, tensor in state.items() if name.startswith("backbone.")}
    path = saved(tmp_path / "trunk.pth", trunk)
    with pytest.raises(CheckpointMismatch, match="has no classifier for test_ircsn: pass num_classes=8"):
        create_model("test_ircsn", checkpoint_path=path)
    whole = create_model("test_ircsn", checkpoint_path=foreign_file("test_ircsn")).state_dict()
    model = create_model("test_ircsn", checkpoint_path=path, num_classes=5)
    assert model.num_classes == 5
    for name, tensor in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, whole[name]), name
