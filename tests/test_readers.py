"""Legitimate files of every form give bit-exact tensors; what is no checkpoint is refused in one line."""

from __future__ import annotations

import io
import json
import mmap
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from foreign_files import (
    FORMS,
    Foreign,
    array_tensors,
    bits,
    model_tensors,
    same_bits,
    save_legacy,
    save_zip,
    state_dict,
    training_checkpoint,
)

from videozoo.checkpoints import readers, safetensors_file
from videozoo.checkpoints.paddle import SixteenBit
from videozoo.checkpoints.readers import Opaque, read
from videozoo.checkpoints.tensors import as_arrays, as_tensor
from videozoo.errors import InvalidArgument, UnreadableCheckpoint


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_bit_exact(form: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    expected = FORMS[form](path)
    checkpoint = read(path)
    assert same_bits(state_dict(checkpoint), expected)
    assert checkpoint.format == {"zip": "torch_zip", "legacy": "torch_legacy"}.get(form.split("_")[0], "pickle")


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_things_beside_the_model_are_plain_or_inert(save: Callable[[Path, object], None], tmp_path: Path) -> None:
    save(tmp_path / "a.pth", training_checkpoint(model_tensors()))
    content = read(tmp_path / "a.pth").content
    assert isinstance(content, dict)
    assert content["meta"] == {"epoch": 3, "best": 0.5, "seed": 1, "config": "model = dict()\n", "flag": True}
    assert isinstance(content["message_hub"]["log_scalars"]["loss"], Opaque)
    assert content["message_hub"]["log_scalars"]["loss"].name == "foreign_files.Foreign"
    assert as_tensor(content["message_hub"]["array"]).tolist() == [0, 1, 2, 3]
    assert content["param_schedulers"] == [{"milestones": {32: 1, 48: 1}, "values": (1, 2.5, None, {1, 2}, b"raw")}]
    assert as_tensor(content["optimizer"]["state"][0]["momentum_buffer"]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", [None, "state_dict", "model", "blobs"])
def test_model_is_found(key: str | None, tmp_path: Path) -> None:
    tensors = model_tensors()
    save_zip(tmp_path / "a.pth", tensors if key is None else {key: tensors, "epoch": 1})
    assert same_bits(state_dict(read(tmp_path / "a.pth")), tensors)


def test_module_prefix_goes_only_if_all_have_it(tmp_path: Path) -> None:
    a, b = torch.ones(1), torch.zeros(2)
    save_zip(tmp_path / "all.pth", {"module.a": a, "module.b": b})
    save_zip(tmp_path / "some.pth", {"module.a": a, "b": b})
    assert list(state_dict(read(tmp_path / "all.pth"))) == ["a", "b"]
    assert list(state_dict(read(tmp_path / "some.pth"))) == ["module.a", "b"]


def test_mmcv_second_set(tmp_path: Path) -> None:
    model = {"conv.weight": torch.ones(2), "bn.running_mean": torch.zeros(3), "ema_conv_weight": torch.full((2,), 5.0)}
    save_zip(tmp_path / "a.pth", {"state_dict": model})
    assert {name: value[0].item() for name, value in state_dict(read(tmp_path / "a.pth")).items()} == {
        "conv.weight": 1,
        "bn.running_mean": 0,
    }
    assert {name: value[0].item() for name, value in state_dict(read(tmp_path / "a.pth"), ema=True).items()} == {
        "conv.weight": 5,
        "bn.running_mean": 0,
    }


def test_mmengine_second_set(tmp_path: Path) -> None:
    second = {"steps": torch.tensor(9), "module.conv.weight": torch.full((2,), 5.0)}
    save_zip(tmp_path / "a.pth", {"state_dict": {"conv.weight": torch.ones(2)}, "ema_state_dict": second})
    assert state_dict(read(tmp_path / "a.pth"))["conv.weight"].tolist() == [1, 1]
    found = state_dict(read(tmp_path / "a.pth"), ema=True)
    assert list(found) == ["conv.weight"]
    assert found["conv.weight"].tolist() == [5, 5]


@pytest.mark.parametrize("extra", [{}, {"ema_other": torch.ones(1)}])
def test_absent_second_set_is_refused(extra: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_zip(tmp_path / "a.pth", {"conv.weight": torch.ones(1)} | extra)
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: holds no averaged weights"):
        state_dict(read(tmp_path / "a.pth"), ema=True)


def test_foreign_object_in_place_of_a_tensor_is_named(tmp_path: Path) -> None:
    save_zip(tmp_path / "a.pth", {"state_dict": {"w": torch.ones(1), "b": np.datetime64("2020-01-01")}})
    with pytest.raises(UnreadableCheckpoint, match=r"a\.pth: tensor 'b' needs numpy\."):
        state_dict(read(tmp_path / "a.pth"))


def test_no_tensors_names_what_was_found(tmp_path: Path) -> None:
    save_zip(tmp_path / "a.pth", {"epoch": 1, "name": "x"})
    with pytest.raises(UnreadableCheckpoint, match=r"at its top level: 'epoch' is of type int, 'name' is of type str"):
        state_dict(read(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"w": {"deep": torch.ones(1)}}, "'w' holds tensors in a dict of its own"),
        ({"w": [(0, torch.ones(1))]}, "'w' holds tensors in a list of its own"),
        ({"w": ("linear_0.w_0", Foreign())}, r"tensor 'w' needs foreign_files\.Foreign"),
        ({3: torch.ones(1)}, "tensor 3 is under a key that is no name"),
        ({"w": np.array(["a"])}, "tensor 'w' is a numpy array of 'U1', which is not read"),
        ({"w": np.array([None])}, "tensor 'w' is a numpy array of 'O8', which is not read"),
        ({"w": torch.ones(1, dtype=torch.complex64)}, r"tensor 'w' needs torch\.ComplexFloatStorage"),
    ],
)
def test_no_tensor_of_a_model_is_dropped_in_silence(
    entries: dict[object, object], message: str, tmp_path: Path
) -> None:
    save_zip(tmp_path / "a.pth", {"state_dict": {"conv.weight": torch.ones(2), **entries}})
    with pytest.raises(UnreadableCheckpoint, match=message):
        state_dict(read(tmp_path / "a.pth"))
    save_zip(tmp_path / "b.pth", {"state_dict": {"conv.weight": torch.ones(2)}, "beside": entries})
    assert list(state_dict(read(tmp_path / "b.pth"))) == ["conv.weight"]


def test_tensors_outlive_the_file_and_do_not_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_zip(path, {"w": torch.ones(100)})
    before = path.read_bytes()
    tensor = state_dict(read(path))["w"]
    tensor.add_(1)
    assert path.read_bytes() == before
    path.unlink()
    assert tensor.sum() == 200


def test_big_endian_and_fortran_arrays(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"big": values.astype(">f4"), "fortran": np.asfortranarray(values), "big_int": np.array([1, 258], ">i2")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, 4))
    found = state_dict(read(tmp_path / "a.pkl"))
    assert bits(found["big"]) == bits(found["fortran"]) == values.tobytes()
    assert found["big_int"].tolist() == [1, 258]


def test_paddle_forms(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32)
    chunks = {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}}
    chunked = {"w@@.0": weight[:4], "w@@.1": weight[4:], "UnpackBigParamInfor@@": chunks}
    nested = {"state_dict": {"w": ("linear_0.w_0", weight.reshape(2, 3))}, "epoch": 3}
    for content in (chunked, nested):
        (tmp_path / "a.pdparams").write_bytes(pickle.dumps(content, 2))
        assert state_dict(read(tmp_path / "a.pdparams"))["w"].tolist() == weight.reshape(2, 3).tolist()
    del chunked["w@@.1"]
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(chunked, 2))
    with pytest.raises(UnreadableCheckpoint, match="a chunk of 'w' is missing"):
        state_dict(read(tmp_path / "a.pdparams"))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("told", [None, "bfloat16", "uint16"])
def test_paddle_bfloat16_is_listed_or_told(told: SixteenBit | None, listed: bool, nested: bool, tmp_path: Path) -> None:
    expected = torch.randn(3, 2).bfloat16()
    table = {"StructuredToParameterName@@": {"w": "eager_tmp_0"}} if listed else {}
    content = {"w": expected.view(torch.uint16).numpy(), **table}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"state_dict": content} if nested else content, 4))
    found = state_dict(read(tmp_path / "a.pdparams"), sixteen_bit=told)["w"]
    is_bfloat16 = listed if told is None else told == "bfloat16"
    assert found.dtype == (torch.bfloat16 if is_bfloat16 else torch.uint16)
    assert bits(found) == bits(expected)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_dtypes_without_a_storage_type(dtype: str, save: Callable[[Path, object], None], tmp_path: Path) -> None:
    base = torch.arange(1, 25).view(4, 6).to(getattr(torch, dtype))
    expected = {"whole": base, "part": base[1:3, 2:], "one": base[3, 5]}
    save(tmp_path / "a.pth", expected)
    found = state_dict(read(tmp_path / "a.pth"))
    assert same_bits(found, expected)
    safetensors_file.write(tmp_path / "a.safetensors", as_arrays(found), {})
    assert same_bits(dict(sorted(state_dict(read(tmp_path / "a.safetensors")).items())), dict(sorted(expected.items())))


def test_verified_writing_notices_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = as_arrays({"a": torch.arange(5.0), "b": torch.tensor([float("nan")])})
    assert safetensors_file.write_verified(tmp_path / "good", tensors, {}) is None
    written = safetensors_file.write

    def damaging(target: Path, *arguments: object, **options: object) -> None:
        written(target, *arguments, **options)  # type: ignore[arg-type]
        data = bytearray(target.read_bytes())
        data[-1] ^= 1
        target.write_bytes(data)

    monkeypatch.setattr(safetensors_file, "write", damaging)
    assert safetensors_file.write_verified(tmp_path / "bad", tensors, {}) == "b"


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no such call here")
def test_writing_sparingly_keeps_the_values_of_the_source(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3_000_000), "b": torch.randn(7)}
    save_zip(tmp_path / "a.pth", tensors)
    held = readers.state_dict(read(tmp_path / "a.pth"))
    for _ in range(2):
        assert safetensors_file.write_verified(tmp_path / "a.safetensors", held, {}) is None
    assert same_bits({name: as_tensor(array) for name, array in held.items()}, tensors)


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return stream.getvalue()


def _zip(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            archive.writestr(f"a/{name.replace('_', '.')}", text)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a checkpoint: 0 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "not a checkpoint: an HTML page"),
        (b"\n <html>sign in</html>", "not a checkpoint: an HTML page"),
        (b'{"error": "not found"}', "not a checkpoint: text"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "not a checkpoint: a Git LFS pointer",
        ),
        (b"Once upon a time\nthere was\n", "not a checkpoint: 27 bytes of text"),
        (_tar(), "not a checkpoint: a tar archive"),
        (b"\x1f\x8b\x08\x00rest", "not a checkpoint: a gzip file"),
        (bytes(range(200, 256)) * 4, "not a checkpoint: "),
        (bytes(1000), "not a checkpoint: "),
        (_zip(readme_txt="x"), "not of torch"),
        (_zip(constants_pkl="x", data_pkl="x"), "a TorchScript program"),
        (b"PK\x03\x04", "truncated zip archive"),
        (b"\x80\x04N", "damaged pickle"),
    ],
)
def test_not_a_checkpoint(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCheckpoint, match=r"absent\.pth: cannot be read: No such file"):
        read(tmp_path / "absent.pth")
    with pytest.raises(UnreadableCheckpoint, match="not a checkpoint: a folder"):
        read(tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy", "arrays_2", "arrays_4", "python2"])
def test_every_truncation_is_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    FORMS[form](path)
    data = path.read_bytes()
    for kept in {1, 2, 10, len(data) // 3, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:kept])
        with pytest.raises(UnreadableCheckpoint):
            read(path)


@pytest.mark.parametrize("form", ["zip", "zip_training"])
def test_flipped_bytes_of_tensors_are_noticed(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    expected = FORMS[form](path)["conv1.weight"]
    data = bytearray(path.read_bytes())
    data[data.index(bits(expected)) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableCheckpoint, match=r"checksum of .*data/0' does not match"):
        read(path)


def test_reading_imports_nothing(tmp_path: Path) -> None:
    save_zip(tmp_path / "a.pth", training_checkpoint(model_tensors()))
    read(tmp_path / "a.pth")
    before = set(sys.modules)
    read(tmp_path / "a.pth")
    assert set(sys.modules) == before


def test_written_safetensors_are_read_by_the_library_and_by_us(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model_tensors().items()}
    safetensors_file.write(tmp_path / "a.safetensors", as_arrays(tensors), {"b": "2", "a": "1"})
    library = safetensors.torch.load_file(tmp_path / "a.safetensors")
    checkpoint = read(tmp_path / "a.safetensors")
    assert checkpoint.format == "safetensors"
    assert checkpoint.metadata == {"a": "1", "b": "2", "format": "pt"}
    for found in (library, state_dict(checkpoint)):
        assert same_bits(dict(sorted(found.items())), dict(sorted(tensors.items())))


def test_library_safetensors_are_read(tmp_path: Path) -> None:
    tensors = array_tensors()
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"k": "v"})
    checkpoint = read(tmp_path / "a.safetensors")
    assert checkpoint.metadata == {"k": "v"}
    assert same_bits(dict(sorted(state_dict(checkpoint).items())), dict(sorted(tensors.items())))


def test_written_bytes_depend_on_the_arguments_alone(tmp_path: Path) -> None:
    tensors = model_tensors()
    first, second = io.BytesIO(), io.BytesIO()
    safetensors_file.write(first, as_arrays(tensors), {"b": "2", "a": "1"})
    safetensors_file.write(second, as_arrays(tensors), {"a": "1", "b": "2"})
    assert first.getvalue() == second.getvalue()
    length = int.from_bytes(first.getvalue()[:8], "little")
    header = json.loads(first.getvalue()[8 : 8 + length])
    assert length % 8 == 0
    assert list(header["__metadata__"]) == ["a", "b", "format"]
    assert all(header[name]["data_offsets"][0] % tensor.dtype.itemsize == 0 for name, tensor in tensors.items())


@pytest.mark.parametrize("bad", [{"c": torch.zeros(1, dtype=torch.complex64)}, {"__metadata__": torch.zeros(1)}])
def test_writer_refuses_what_the_format_lacks(bad: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InvalidArgument, match="safetensors cannot hold it"):
        safetensors_file.write(io.BytesIO(), as_arrays(bad), {})


def test_writer_refuses_what_the_reader_would() -> None:
    with pytest.raises(InvalidArgument, match=f"header of .* bytes; {safetensors_file.MAX_HEADER_BYTES} is the most"):
        safetensors_file.write(io.BytesIO(), {}, {"a": "a" * safetensors_file.MAX_HEADER_BYTES})
