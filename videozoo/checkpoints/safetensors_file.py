"""The safetensors format: header length, JSON header, tensors without gaps. Written the same for the same tensors."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from videozoo.checkpoints.file_map import FileMap, release
from videozoo.checkpoints.inert import count, counts, quoted
from videozoo.errors import InvalidArgument, UnreadableCheckpoint

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 1 << 23
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_CHUNK_BYTES = 1 << 22


def looks_like(data: memoryview) -> bool:
    """Whether the first bytes are the length of a header that fits into the file and the brace that opens it."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    return len(data) > _LENGTH_BYTES and data[_LENGTH_BYTES] == ord("{") and length <= len(data) - _LENGTH_BYTES


def read(file: FileMap) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, as windows on the file, and the metadata.

    Raises:
        UnreadableCheckpoint: the header is damaged, repeats a name, or does not describe exactly the bytes behind it.
    """
    length = int.from_bytes(file.data[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise UnreadableCheckpoint(f"safetensors header of {length} bytes; {MAX_HEADER_BYTES} is the most that is read")
    start = _LENGTH_BYTES + length
    header = _parse(bytes(file.data[_LENGTH_BYTES:start]))
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableCheckpoint("safetensors metadata that is not text")
    placed = [(*_entry(name, entry), name) for name, entry in header.items()]
    reached = 0
    tensors: dict[str, Tensor] = dict.fromkeys(header, torch.empty(0))
    for begin, end, dtype, shape, name in sorted(placed, key=lambda entry: entry[:2]):
        if begin != reached or start + end > len(file.data):
            raise UnreadableCheckpoint(
                f"safetensors tensor {quoted(name)} lies outside the file, or not behind the last"
            )
        reached = end
        storage = file.storage(start + begin, start + end, dtype.itemsize)
        tensors[name] = torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]
    if start + reached != len(file.data):
        raise UnreadableCheckpoint(
            f"safetensors file with {len(file.data) - start - reached} bytes that are no tensor's"
        )
    return tensors, metadata


def _parse(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"damaged safetensors header ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise UnreadableCheckpoint("damaged safetensors header: not an object")
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise UnreadableCheckpoint(f"safetensors header with two entries called {quoted(twice)}")
    return found


def _no_constant(name: str) -> NoReturn:
    raise UnreadableCheckpoint(f"safetensors header with {quoted(name)}")


def _entry(name: str, entry: object) -> tuple[int, int, torch.dtype, tuple[int, ...]]:
    """Begin, end, dtype and shape of one tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnreadableCheckpoint(
            f"safetensors tensor {quoted(name)} is not described by dtype, shape and data_offsets"
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise UnreadableCheckpoint(f"safetensors tensor {quoted(name)} has the unknown dtype {quoted(entry['dtype'])}")
    shown = quoted(name)
    dtype, shape = DTYPES[entry["dtype"]], counts(entry["shape"], f"the shape of {shown}")
    offsets = counts(entry["data_offsets"], f"data_offsets of {shown}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != count(prod(shape), "a size") * dtype.itemsize:
        raise UnreadableCheckpoint(f"safetensors tensor {shown} of shape {shape} has data_offsets {offsets}")
    if prod([max(size, 1) for size in shape]) > 1 << 48:
        raise UnreadableCheckpoint(f"safetensors tensor {shown} has the impossible shape {shape}")
    return offsets[0], offsets[1], dtype, shape


def write(
    target: str | os.PathLike[str] | BinaryIO,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    sparing: bool = False,
) -> None:
    """Write tensors one after the other, so that no second copy of them all is made.

    The bytes depend on the arguments alone. Wide dtypes come first, so that every tensor is aligned; otherwise the
    order is that of ``tensors``. Metadata is sorted; ``format: pt`` is added, by which other libraries know torch's.

    Args:
        target: a path, or a file that is open for writing.
        tensors: by name, in the order that ties are broken by.
        metadata: what the file says about itself.
        sparing: give back the memory of tensors that are windows on a file, which nobody may have changed.

    Raises:
        InvalidArgument: a tensor of a dtype or with a name that the format does not have.
        OSError: ``target`` cannot be written.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES or tensor.layout is not torch.strided or name == _METADATA:
            raise InvalidArgument(f"tensor {quoted(name)} of {tensor.dtype}: safetensors cannot hold it")
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header = _header(ordered, metadata)
    if not isinstance(target, str | os.PathLike):
        _write(target, header, ordered, sparing)
        return
    with open(target, "wb") as stream:
        _write(stream, header, ordered, sparing)


def write_verified(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str | None:
    """`write`, then read back and compare bit by bit. Memory is needed for a few megabytes only, not for the tensors.

    Args:
        path: the file to fill.
        tensors: windows on a file, which nobody changed, or any others that lie in memory already.
        metadata: what the file says about itself.

    Returns:
        None, or the name of a tensor that reads back differently; "" where the header does.

    Raises:
        InvalidArgument: see `write`.
        OSError: ``path`` cannot be written.
    """
    write(path, tensors, metadata, sparing=True)
    try:
        written, _ = read(FileMap(Path(path)))
    except UnreadableCheckpoint:
        return ""
    if written.keys() != tensors.keys():
        return ""
    return next((name for name, tensor in tensors.items() if not _identical(tensor, written[name])), None)


def _identical(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    for part, counterpart in zip(_parts(one), _parts(other), strict=True):
        if not np.array_equal(part.numpy(), counterpart.numpy()):  # ten times as fast as torch.equal of bytes
            return False
        release(part)
        release(counterpart)
    return True


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The bytes of a tensor in row-major order, a few megabytes at a time."""
    if tensor.numel():
        yield from tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).split(_CHUNK_BYTES)


def _header(ordered: list[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {_METADATA: dict(sorted({**metadata, "format": "pt"}.items()))}
    begin = 0
    for name, tensor in ordered:
        end = begin + tensor.numel() * tensor.dtype.itemsize
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("a name or metadata with a lone surrogate: safetensors cannot hold it") from None
    return text + b" " * (-len(text) % 8)


def _write(stream: BinaryIO, header: bytes, ordered: list[tuple[str, Tensor]], sparing: bool) -> None:
    stream.write(len(header).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(header)
    for _, tensor in ordered:
        for part in _parts(tensor):
            stream.write(part.numpy().data)
            if sparing:
                release(part)
