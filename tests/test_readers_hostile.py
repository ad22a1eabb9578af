"""No file can harm: hostile ones are refused, or read without doing what they ask, fast and without a trace."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import FORMS, model_tensors, same_bits, save_legacy, state_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.inert import ALLOCATION_FLOOR_BYTES, ALLOCATION_MULTIPLE, MAX_NESTING
from videozoo.checkpoints.pickles import MAX_OPCODES
from videozoo.checkpoints.readers import MAX_TENSORS, read
from videozoo.checkpoints.tensors import as_arrays
from videozoo.errors import UnreadableCheckpoint

SECONDS = 1.0
"""Of processor time. The longest take half of it; a machine that is shared may take twice as long now and then."""
CANARY = "canary"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(module: str, name: str, argument: bytes = b"X\x06\x00\x00\x00canary") -> bytes:
    """A pickle that calls ``module.name`` of one argument."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + argument + b"\x85R."


def refused(path: Path) -> str:
    """Read the file and its tensors: that must end in our error, soon and without a trace; the message comes back."""
    before, files = set(sys.modules), set(path.parent.iterdir())
    for _ in range(3):
        started = time.process_time()
        with pytest.raises(UnreadableCheckpoint) as caught:
            state_dict(read(path))
        seconds = time.process_time() - started
        if seconds < SECONDS:
            break
    assert seconds < SECONDS
    assert set(sys.modules) == before
    assert set(path.parent.iterdir()) == files
    assert not Path(CANARY).exists()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


def refused_within_memory(path: Path) -> None:
    """The same with the memory watched, which is much slower."""
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableCheckpoint):
            state_dict(read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Besides what is accounted for: the reader's stack and memo, 8 to 100 bytes for an opcode.
    assert peak < ALLOCATION_FLOOR_BYTES + ALLOCATION_MULTIPLE * path.stat().st_size + 30 * MAX_OPCODES


CALLS = {
    "os": called("os", "mkdir"),
    "posix": called("posix", "mkdir"),
    "nt": called("nt", "mkdir"),
    "builtins_open": b"\x80\x04\x8c\x08builtins\x8c\x04open\x93\x8c\x06canary\x8c\x01w\x86R.",
    "eval": called("builtins", "eval", text("open('canary', 'w')")),
    "exec_python2": called("__builtin__", "exec", text("open('canary', 'w')")),
    "getattr": b"\x80\x02cbuiltins\ngetattr\ncos\npath\n" + text("exists") + b"\x86R.",
    "operator": b"\x80\x02coperator\nattrgetter\n" + text("mkdir") + b"\x85Rcos\npath\n\x85R.",
    "partial": b"\x80\x02cfunctools\npartial\ncos\nmkdir\n" + text(CANARY) + b"\x86R)R.",
    "importlib": called("importlib", "import_module", text("this")),
    "resolve_name": called("pkgutil", "resolve_name", text("os:mkdir")),
    "torch_load": called("torch.serialization", "load"),
    "numpy_load": called("numpy", "load"),
    "inst": b"(" + text(CANARY) + b"ios\nmkdir\n.",
    "obj": b"(cos\nmkdir\n" + text(CANARY) + b"o.",
    "newobj": b"\x80\x02cos\nmkdir\n" + text(CANARY) + b"\x85\x81.",
    "newobj_ex": b"\x80\x04cos\nmkdir\n" + text(CANARY) + b"\x85}\x92.",
    "memo_confusion": b"\x80\x02cos\nmkdir\nq\x000ccollections\nOrderedDict\nq\x010h\x00" + text(CANARY) + b"\x85R.",
    "build_on_result": b"\x80\x02cos\nmkdir\n)R}" + text("__dict__") + b"}sb.",
}


NAMES = ("mkdir", "open", "eval", "exec", "getattr", "attrgetter", "partial", "import_module", "resolve_name", "load")


@pytest.mark.parametrize("case", CALLS)
def test_calls_are_never_made(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(CALLS[case])
    message = refused(tmp_path / "a.pth")
    assert any(name in message for name in NAMES)


@pytest.mark.parametrize("case", CALLS)
def test_a_call_in_place_of_a_tensor_is_named_and_beside_the_model_it_is_dropped(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    body = CALLS[case].removesuffix(b".")
    body = body[2:] if body[:1] == b"\x80" else body
    array = pickle.dumps(torch.ones(2).numpy(), 2)[2:-1]
    (tmp_path / "a.pth").write_bytes(b"\x80\x04}(" + text("w") + body + b"u.")
    assert "tensor 'w' needs " in refused(tmp_path / "a.pth")
    beside = b"\x80\x04}(" + text("meta") + body + text("state_dict") + b"}" + text("w") + array + b"su."
    (tmp_path / "b.pth").write_bytes(beside)
    assert state_dict(read(tmp_path / "b.pth"))["w"].tolist() == [1, 1]
    assert not Path(CANARY).exists()


ORDERED_DICT = b"ccollections\nOrderedDict\n"
STORAGE = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
PICKLES = {
    "dotted_name": b"\x80\x04\x8c\x02os\x8c\x09path.join\x93.",
    "dotted_name_of_a_known_module": b"\x80\x04\x8c\x05torch\x8c\x18serialization.os.system.\x93.",
    "module_is_no_name": b"\x80\x02cos;x\nmkdir\n.",
    "empty_name": b"\x80\x04\x8c\x02os\x8c\x00\x93.",
    "name_is_no_text": b"\x80\x04\x8c\x02osK\x01\x93.",
    "long_name": b"c" + b"a" * 10_000 + b"\nb\n.",
    "extension_1": b"\x80\x02\x82\x01.",
    "extension_2": b"\x80\x02\x83\x01\x00.",
    "extension_4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "persistent_text": b"\x80\x02Pos\n.",
    "persistent": b"\x80\x02" + text("x") + b"Q.",
    "persistent_storage_outside_torch": b"\x80\x02(" + STORAGE + b"K\x01tQ.",
    "build_on_class": b"\x80\x02" + ORDERED_DICT + b"}" + text("__init__") + b"Nsb.",
    "build_on_list": b"\x80\x02]}b.",
    "build_on_text": b"\x80\x02" + text("x") + b"}b.",
    "call_text": b"\x80\x02" + text("print") + b")R.",
    "call_dict": b"\x80\x02})R.",
    "keywords_for_known": b"\x80\x04" + ORDERED_DICT + b")}" + text("a") + b"K\x01s\x92.",
    "encode_as_other_codec": b"\x80\x02c_codecs\nencode\n" + text("x") + text("rot13") + b"\x86R.",
    "out_of_band_buffer": b"\x80\x05\x97.",
    "data_after_stop": b"\x80\x02}.N.",
    "left_over": b"\x80\x02NN.",
    "open_mark": b"\x80\x02(N.",
    "pop_below_mark": b"\x80\x02N(R.",
    "append_to_number": b"\x80\x02K\x01Na.",
    "set_item_of_tuple": b"\x80\x02)NNs.",
    "odd_items": b"\x80\x02}(Nu.",
    "missing_memo": b"\x80\x02h\x07.",
    "protocol_6": b"\x80\x06N.",
    "unknown_opcode": b"\x80\x02\xff.",
    "frame_beyond_the_end": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "object_array": pickle.dumps(torch.ones(2).numpy().astype(object), 4),
    "text_array": pickle.dumps(torch.ones(2).numpy().astype(str), 4),
    "cycle": b"\x80\x02]q\x00h\x00a.",
    "bad_utf8": b"\x80\x04\x8c\x01\xff.",
    "bad_number": b"Ix\n.",
    "bad_escape": b"S'\\q'\n.",
    "pickle_inside_bytes": b"\x80\x04" + b"C" + bytes([len(CALLS["os"])]) + CALLS["os"] + b".",
}


@pytest.mark.parametrize("case", PICKLES)
def test_forbidden_pickles(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(PICKLES[case])
    refused(tmp_path / "a.pkl")
    refused_within_memory(tmp_path / "a.pkl")


def array_state(shape: bytes, data: bytes) -> bytes:
    """A pickle of one array of floats with this state."""
    order = b"R(K\x03" + text("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    dtype = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87" + order
    born = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x04" + born + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb."


LARGE = b"J\x00\x00\x00\x40"
BOMBS: dict[str, Callable[[], bytes]] = {
    "bytearray": lambda: b"\x80\x02cbuiltins\nbytearray\n" + LARGE + b"\x85R.",
    "bytes": lambda: b"\x80\x02cbuiltins\nbytes\n" + LARGE + b"\x85R.",
    "long_4": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 100,
    "long_1000000": lambda: b"\x80\x02\x8b" + struct.pack("<I", 1_000_000) + b"\xff" * 1_000_000 + b".",
    "decimal": lambda: b"L" + b"9" * 1_000_000 + b"L\n.",
    "announced_text": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62),
    "announced_bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40),
    "memo_index": lambda: b"\x80\x02Nr\xff\xff\xff\xff" + b"h\x00.",
    "array_shape": lambda: array_state(LARGE + LARGE + b"\x86", b"C\x04abcd"),
    "array_shape_overflow": lambda: array_state(LARGE * 3 + b"\x87", b"C\x04abcd"),
    "array_zero_times_huge": lambda: array_state(b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86", b"C\x00"),
    "array_negative": lambda: array_state(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"C\x04abcd"),
    "nested_tuples": lambda: b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "nested_lists": lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested_top_down": lambda: b"\x80\x02]q\x00q\x01" + b"h\x01]q\x01a0" * 100_000 + b".",
    "marks": lambda: b"\x80\x02" + b"(" * 500_000 + b".",
    "opcodes": lambda: b"\x80\x02" + b"N0" * MAX_OPCODES,
    "sets": lambda: b"\x80\x04(" + b"\x8f" * 900_000 + b"t.",
    "dicts": lambda: b"\x80\x04(" + b"}" * 900_000 + b"t.",
    "copies": lambda: (
        b"\x80\x02]q\x00(" + b"N" * 20_000 + b"e0cbuiltins\nlist\nq\x01(" + b"h\x01h\x00\x85R" * 20_000 + b"t."
    ),
    "hash_collisions": lambda: (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0c" + (index * ((1 << 61) - 1)).to_bytes(12, "little") + b"N" for index in range(1, 60_000))
        + b"u."
    ),
    "shared_references": lambda: b"\x80\x02]" + b"q\x00h\x00\x86" * 90 + b".",
}


SLOW_TO_WATCH = ("opcodes", "nested_tuples", "nested_lists", "nested_top_down")
"""Many steps, but no more memory than others."""


@pytest.mark.parametrize("case", BOMBS)
def test_bombs(case: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(BOMBS[case]())
    refused(tmp_path / "a.pkl")
    if case not in SLOW_TO_WATCH:
        refused_within_memory(tmp_path / "a.pkl")


def tensor_pickle(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, length: int = 4) -> bytes:
    """A pickle with one tensor ``w`` of the storage ``0`` of ``length`` floats."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x09" + value.to_bytes(9, "little", signed=True) for value in values) + b"t"

    storage = b"(" + STORAGE + b"\x8a\x09" + length.to_bytes(9, "little", signed=True) + b"tQ"
    place = numbers((offset,))[1:-1] + numbers(shape) + numbers(strides)
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"\x89" + ORDERED_DICT + b")RtR"
    return b"\x80\x02}" + text("w") + rebuilt + b"s."


def torch_zip(data: bytes, storage: bytes = bytes(16), **more: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/byteorder", b"little")
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", b"3\n")
        for name, content in more.items():
            archive.writestr(name, content)
    return stream.getvalue()


TENSORS = {
    "stride_0": tensor_pickle((1 << 40,), (0,)),
    "stride_0_matrix": tensor_pickle((1 << 20, 1 << 20), (0, 0)),
    "longer_than_its_storage": tensor_pickle((5,), (1,)),
    "offset_beyond": tensor_pickle((2,), (1,), offset=3),
    "offset_far_beyond": tensor_pickle((0,), (1,), offset=1 << 40),
    "stride_beyond": tensor_pickle((2,), (4,)),
    "overlapping": tensor_pickle((3, 3), (1, 0)),
    "negative_size": tensor_pickle((-1,), (1,)),
    "negative_stride": tensor_pickle((2,), (-1,)),
    "negative_offset": tensor_pickle((2,), (1,), offset=-1),
    "zero_times_huge": tensor_pickle((0, 1 << 48, 1 << 48), (1, 1, 1)),
    "sizes_without_strides": tensor_pickle((2, 2), (1,)),
    "storage_larger_than_the_member": tensor_pickle((2,), (1,), length=1 << 40),
    "storage_smaller_than_the_member": tensor_pickle((2,), (1,), length=2),
    "negative_storage": tensor_pickle((2,), (1,), length=-4),
    "many_dimensions": tensor_pickle((1,) * 40, (1,) * 40),
    "storage_key_is_a_path": tensor_pickle((2,), (1,)).replace(text("0"), text("../../0")),
    "storage_of_no_dtype": tensor_pickle((2,), (1,)).replace(b"FloatStorage", b"os"),
    "conjugated": tensor_pickle((2,), (1,)).replace(b")RtR", b")R}" + text("conj") + b"\x88stR"),
    "tensors_over_the_budget": tensor_pickle((4,), (1,))
    .replace(b"_v2\n", b"_v2\nq\x00")
    .replace(b")RtR", b")Rtq\x01R")
    .replace(b"s.", b"s" + text("x") + b"(" + b"h\x00h\x01R" * 50_000 + b"ts."),
    "data_after_stop": tensor_pickle((4,), (1,)) + b"N.",
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_lie_inside_their_storage(case: str, tmp_path: Path) -> None:
    (tmp_path / "good.pth").write_bytes(torch_zip(tensor_pickle((2, 2), (1, 2))))
    assert state_dict(read(tmp_path / "good.pth"))["w"].shape == (2, 2)
    (tmp_path / "a.pth").write_bytes(torch_zip(TENSORS[case]))
    refused(tmp_path / "a.pth")
    refused_within_memory(tmp_path / "a.pth")


GOOD = tensor_pickle((4,), (1,))


def patched(offset: int, value: bytes, *, directory: bool) -> bytes:
    """A good archive with a changed field in the first header, or in the first entry of the directory."""
    data = bytearray(torch_zip(GOOD))
    start = data.index(b"PK\x01\x02") if directory else 0
    data[start + offset : start + offset + len(value)] = value
    return bytes(data)


def compressed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", GOOD)
        archive.writestr("a/data/0", bytes(50_000_000))
    return stream.getvalue()


def duplicated(second: str) -> bytes:
    """Two members of one name; the library warns, so the second is renamed in the bytes."""
    return torch_zip(GOOD, **{"a/dAta.pkl": b"N."}).replace(b"a/dAta.pkl", second.encode())


def many_members() -> bytes:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    directory = entry * 65_534
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_534, 65_534, len(directory), len(local), 0)
    return local + directory + end


def fortran_array() -> bytes:
    """A pickle of a matrix of 256 kB in columns, without its head and its end."""
    return pickle.dumps(np.asfortranarray(np.ones((256, 256), np.float32)), 4)[11:-1]


def chunks(slices: Callable[[int], list[str]]) -> bytes:
    """One array, and a table that makes others of it by the hundred; ``slices`` names the parts of the n-th."""
    count = 400
    parts = {f"c{n}": {"OriginShape": (65536,), "slices": slices(n)} for n in range(count)}
    return pickle.dumps({"a": np.ones(65536, np.float32), "UnpackBigParamInfor@@": parts}, 4)


AMPLIFIED: dict[str, Callable[[], bytes]] = {
    "one_array_under_many_names": lambda: (
        b"\x80\x04}(" + text("w") + fortran_array() + b"r\x00\x01\x00\x00"
        + b"".join(text(f"w{n}") + b"j\x00\x01\x00\x00" for n in range(1500)) + b"u."
    ),
    "many_storages_transposed": lambda: torch_saved({f"w{n}": BASE.t() for n in range(1500)}),
    "many_names_for_a_storage": lambda: torch_saved({f"w{n}": BASE for n in range(1500)}),
    "chunks_of_one_another": lambda: chunks(lambda n: [f"c{n - 1}" if n else "a"]),
    "the_same_chunk_again": lambda: chunks(lambda _: ["a"] * 4),
}  # fmt: skip
BASE = torch.zeros(256, 256)


def torch_saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("case", AMPLIFIED)
def test_no_file_is_amplified(case: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(AMPLIFIED[case]())
    refused(tmp_path / "a")
    refused_within_memory(tmp_path / "a")


WIDE = "\N{GRINNING FACE}"
COSTLY: dict[str, Callable[[], bytes]] = {
    "escapes": lambda: b"(dS'state_dict'\n(dS'x'\nS'" + rb"\x41" * 2_000_000 + b"'\nss.",
    "one_wide_character": lambda: b"\x80\x04" + text(WIDE + "a" * 16_000_000) + b".",
    "header_of_lists": lambda: safetensors('{"a":[' + "[]," * 340_000 + "[]]}", b""),
    "memo_of_the_first_pickle": lambda: b"\x80\x02" + b"]0" * 400_000 + b"N.",
}
"""Files of some megabytes that want far more memory than other files of their size."""


@pytest.mark.parametrize("case", COSTLY)
def test_costly_texts_stay_within_memory(case: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(COSTLY[case]())
    refused_within_memory(tmp_path / "a")


def test_too_many_tensors(tmp_path: Path) -> None:
    names = b"".join(text(f"w{n}") + b"h\x00" for n in range(MAX_TENSORS))
    array = pickle.dumps(torch.ones(2).numpy(), 4)[11:-1]
    (tmp_path / "a").write_bytes(b"\x80\x04}(" + text("w") + array + b"q\x00" + names + b"u.")
    assert "holds 20001 tensors; 20000 are read at most" in refused(tmp_path / "a")


ZIPS: dict[str, Callable[[], bytes]] = {
    "slipping": lambda: torch_zip(GOOD, **{"a/../../canary": b"x"}),
    "absolute": lambda: torch_zip(GOOD, **{"/canary": b"x"}),
    "two_folders": lambda: torch_zip(GOOD, **{"b/data": b"x"}),
    "backslash": lambda: torch_zip(GOOD, **{"a/x?canary": b"x"}).replace(b"a/x?canary", b"a/x\\canary"),
    "drive": lambda: torch_zip(GOOD, **{"a/C:x": b"x"}),
    "no_folder": lambda: torch_zip(GOOD, canary=b"x"),
    "duplicate": lambda: duplicated("a/data.pkl"),
    "duplicate_but_for_case": lambda: duplicated("a/DATA.pkl"),
    "compressed": compressed,
    "many_members": many_members,
    "encrypted": lambda: patched(8, b"\x01\x00", directory=True),
    "encrypted_in_its_own_header": lambda: patched(6, b"\x01\x00", directory=False),
    "strong_encryption": lambda: patched(8, b"\x40\x00", directory=True),
    "other_name_in_its_own_header": lambda: patched(30, b"b", directory=False),
    "size_of_a_member": lambda: patched(20, struct.pack("<LL", 1 << 31, 1 << 31), directory=True),
    "size_64": lambda: patched(20, b"\xff" * 8, directory=True),
    "unequal_sizes": lambda: patched(24, struct.pack("<L", 1 << 20), directory=True),
    "place_of_a_member": lambda: patched(42, struct.pack("<L", 1 << 31), directory=True),
    "checksum_of_the_pickle": lambda: patched(16, b"\0\0\0\0", directory=True),
    "bytes_of_a_storage": lambda: torch_zip(GOOD, b"\1" * 16).replace(b"\1" * 16, b"\1" * 15 + b"\2"),
    "polyglot_before": lambda: b"GIF89a" + torch_zip(GOOD),
    "polyglot_after": lambda: torch_zip(GOOD) + b"<html>",
    "polyglot_inside": lambda: b"PK\x03\x04" + torch_zip(GOOD),
    "comment": lambda: torch_zip(GOOD)[:-2] + b"\x06\x00<html>",
    "big_endian": lambda: (
        torch_zip(GOOD)
        .replace(b"little", b"biggie")
        .replace(struct.pack("<L", zlib.crc32(b"little")), struct.pack("<L", zlib.crc32(b"biggie")))
    ),
    "torch_script": lambda: torch_zip(GOOD, **{"a/code/__torch__.py": b"x", "a/constants.pkl": b"N."}),
    "without_pickle": lambda: torch_zip(GOOD).replace(b"a/data.pkl", b"a/date.pkl"),
    "without_storage": lambda: torch_zip(GOOD).replace(b"a/data/0", b"a/data/1"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zips(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(ZIPS[case]())
    refused(tmp_path / "a.pth")
    refused_within_memory(tmp_path / "a.pth")


def legacy(path: Path) -> bytearray:
    save_legacy(path, OrderedDict(w=torch.tensor([1.0, 2.0])))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (-16, b"\x03"),
        (-16, b"\xff" * 8),
        (-16, b"\0" * 7 + b"\x7f"),
        (15, b"\x80\x02M\x00\x00."),
        (0, b"\x80\x02K\x01."),
    ],
)
def test_legacy_container(position: int, value: bytes, tmp_path: Path) -> None:
    data = legacy(tmp_path / "a.pth")
    assert state_dict(read(tmp_path / "a.pth"))["w"].tolist() == [1, 2]
    end = position + len(value)
    data[position : end if end else None] = value
    (tmp_path / "a.pth").write_bytes(data)
    refused(tmp_path / "a.pth")


def test_legacy_with_data_at_its_end(tmp_path: Path) -> None:
    data = legacy(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(data + b"x")
    assert "after its last storage" in refused(tmp_path / "a.pth")


def safetensors(header: str | Mapping[str, object], data: bytes = bytes(8), length: int | None = None) -> bytes:
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(begin: int = 0, end: int = 8, dtype: object = "F32", shape: object = (2,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "duplicate_keys": safetensors('{"w":%s,"w":%s}' % ((json.dumps(entry()),) * 2)),
    "duplicate_fields": safetensors('{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "beyond_the_end": safetensors({"w": entry(0, 12, shape=(3,))}),
    "overlap": safetensors({"w": entry(), "x": entry(4, 12)}, bytes(12)),
    "gap": safetensors({"w": entry(4, 12)}, bytes(12)),
    "not_all_covered": safetensors({"w": entry()}, bytes(9)),
    "shape_and_size": safetensors({"w": entry(shape=(3,))}),
    "negative_shape": safetensors({"w": entry(shape=(-2, -1))}),
    "boolean_shape": safetensors({"w": entry(0, 4, shape=(True,))}, bytes(4)),
    "huge_shape": safetensors({"w": entry(shape=(1 << 62, 1 << 62))}),
    "zero_times_huge": safetensors({"w": entry(0, 0, shape=(0, 1 << 48, 1 << 48))}, b""),
    "huge_number": safetensors('{"w":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % ("9" * 5000)),
    "backward": safetensors({"w": entry(8, 0)}),
    "unknown_dtype": safetensors({"w": entry(dtype="F31")}),
    "dtype_is_a_list": safetensors({"w": entry(dtype=["F32"])}),
    "missing_field": safetensors({"w": {"dtype": "F32", "shape": [2]}}),
    "extra_field": safetensors({"w": entry() | {"x": 1}}),
    "entry_is_a_number": safetensors({"w": 1}),
    "metadata_is_no_text": safetensors({"__metadata__": {"a": 1}, "w": entry()}),
    "metadata_is_a_list": safetensors({"__metadata__": [], "w": entry()}),
    "not_json": safetensors("{w"),
    "nan": safetensors('{"w":NaN}'),
    "nested": safetensors('{"w":' + "[" * 200_000 + "}"),
    "no_tensors": safetensors({}, b""),
    "header_cut_off": safetensors({"w": entry()}, length=30),
    "header_longer_than_the_file": safetensors({"w": entry()}, length=1 << 40),
    "header_too_long": safetensors("{" + " " * (safetensors_file.MAX_HEADER_BYTES + 1) + "}"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(case: str, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(safetensors({"w": entry()}))
    assert state_dict(read(tmp_path / "good"))["w"].tolist() == [0, 0]
    (tmp_path / "a.safetensors").write_bytes(SAFETENSORS[case])
    refused(tmp_path / "a.safetensors")
    refused_within_memory(tmp_path / "a.safetensors")


def test_nesting_as_deep_as_stated_is_read(tmp_path: Path) -> None:
    array = pickle.dumps(torch.ones(2).numpy(), 4)[2:-1]
    inside = b"\x80\x04}(" + text("w") + array[9:] + text("meta")
    for levels, accepted in ((MAX_NESTING - 2, True), (MAX_NESTING, False)):
        (tmp_path / "a.pkl").write_bytes(inside + b"]" + b"\x85" * levels + b"u.")
        if accepted:
            assert list(state_dict(read(tmp_path / "a.pkl"))) == ["w"]
        else:
            assert "nested deeper" in refused(tmp_path / "a.pkl")


def _originals() -> dict[str, tuple[bytes, Mapping[str, Tensor]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        written = {}
        for form, write in FORMS.items():
            expected = write(path)
            written[form] = path.read_bytes(), expected
        tensors = {name: tensor.contiguous() for name, tensor in model_tensors().items()}
        safetensors_file.write(path, as_arrays(tensors), {"a": "1"})
        written["safetensors"] = path.read_bytes(), state_dict(read(path))
        return written


ORIGINALS = _originals()
CHECKED = ("zip", "zip_training")
"""Forms with checksums, in which no changed byte of a tensor goes unnoticed."""

mutations = st.lists(
    st.tuples(st.sampled_from(("set", "cut", "insert", "copy")), st.floats(0, 1), st.integers(0, 255), st.floats(0, 1)),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, steps: list[tuple[str, float, int, float]]) -> bytes:
    out = bytearray(data)
    for kind, where, value, other in steps:
        # The square makes the beginning, where pickles and headers lie, likelier than the tensors behind it.
        at = int(where * where * (len(out) - 1)) if out else 0
        if kind == "set" and out:
            out[at] = value
        elif kind == "cut":
            del out[at : at + value]
        elif kind == "insert":
            out[at:at] = bytes([value])
        else:
            start = int(other * len(out))
            out[at : at + value] = out[start : start + value]
    return bytes(out)


def check_mutation(form: str, steps: list[tuple[str, float, int, float]]) -> None:
    data, expected = ORIGINALS[form]
    changed = mutated(data, steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(changed)
        try:
            found = state_dict(read(path))
        except UnreadableCheckpoint as error:
            assert str(error).isprintable()
            return
        for tensor in found.values():
            tensor.clone()  # reads every byte
        if changed == data:
            assert same_bits(found, expected)
        if form in CHECKED:
            assert same_bits({name: found[name] for name in expected if name in found}, found)


@given(st.sampled_from(sorted(ORIGINALS)), mutations)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_mutated_files_are_read_or_refused(form: str, steps: list[tuple[str, float, int, float]]) -> None:
    check_mutation(form, steps)


@pytest.mark.slow
@given(st.sampled_from(sorted(ORIGINALS)), mutations)
@settings(max_examples=50_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_many_mutated_files_are_read_or_refused(form: str, steps: list[tuple[str, float, int, float]]) -> None:
    check_mutation(form, steps)
