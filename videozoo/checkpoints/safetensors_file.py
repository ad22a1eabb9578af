"""The safetensors format: header length, JSON header, tensors without gaps. Written the same for the same tensors."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from videozoo.checkpoints.arrays import ITEM_BYTES, Array, empty, window
from videozoo.checkpoints.file_map import FileMap, release
from videozoo.checkpoints.inert import counts, elements, quoted
from videozoo.errors import InvalidArgument, UnreadableCheckpoint

MAX_HEADER_BYTES = 1 << 20
"""Ten times what a network of a thousand tensors needs; parsed, a header may take thirty times its size."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_CHUNK_BYTES = 1 << 22


def looks_like(data: memoryview) -> bool:
    """Whether the first bytes are the length of a header that fits into the file and the brace that opens it."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    return len(data) > _LENGTH_BYTES and data[_LENGTH_BYTES] == ord("{") and length <= len(data) - _LENGTH_BYTES


def read(file: FileMap) -> tuple[dict[str, Array], dict[str, str]]:
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
    tensors = dict.fromkeys(header, empty("U8"))
    for begin, end, dtype, shape, name in sorted(placed, key=lambda entry: entry[:2]):
        if begin != reached or start + end > len(file.data):
            raise UnreadableCheckpoint(
                f"safetensors tensor {quoted(name)} lies outside the file, which may be cut off, or not behind the last"
            )
        reached = end
        tensors[name] = window(file.data, dtype, shape, start + begin)
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


def _entry(name: str, entry: object) -> tuple[int, int, str, tuple[int, ...]]:
    """Begin, end, dtype and shape of one tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnreadableCheckpoint(
            f"safetensors tensor {quoted(name)} is not described by dtype, shape and data_offsets"
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in ITEM_BYTES:
        raise UnreadableCheckpoint(f"safetensors tensor {quoted(name)} has the unknown dtype {quoted(entry['dtype'])}")
    shown = quoted(name)
    dtype, shape = entry["dtype"], counts(entry["shape"], f"the shape of {shown}")
    offsets = counts(entry["data_offsets"], f"data_offsets of {shown}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != elements(shape) * ITEM_BYTES[dtype]:
        raise UnreadableCheckpoint(f"safetensors tensor {shown} of shape {shape} has data_offsets {offsets}")
    return offsets[0], offsets[1], dtype, shape


def write(
    target: str | os.PathLike[str] | BinaryIO,
    tensors: Mapping[str, Array],
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
        InvalidArgument: a tensor with a name that the format does not have, or a header that `read` would refuse.
        OSError: ``target`` cannot be written.
    """
    for name, tensor in tensors.items():
        if name == _METADATA:
            raise InvalidArgument(f"tensor {quoted(name)} of {tensor.dtype}: safetensors cannot hold it")
    ordered = sorted(tensors.items(), key=lambda item: -ITEM_BYTES[item[1].dtype])
    header = _header(ordered, metadata)
    if not isinstance(target, str | os.PathLike):
        _write(target, header, ordered, sparing)
        return
    with open(target, "wb") as stream:
        _write(stream, header, ordered, sparing)


def write_verified(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]
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


def _identical(one: Array, other: Array) -> bool:
    """Bit for bit, so that NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    for part, counterpart in zip(_parts(one), _parts(other), strict=True):
        if not np.array_equal(part, counterpart):
            return False
        release(part)
        release(counterpart)
    return True


def _parts(tensor: Array) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a tensor in row-major order, a few megabytes at a time."""
    raw = tensor.contiguous().bits.reshape(-1).view(np.uint8)
    return (raw[start : start + _CHUNK_BYTES] for start in range(0, len(raw), _CHUNK_BYTES))


def _header(ordered: list[tuple[str, Array]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {_METADATA: dict(sorted({**metadata, "format": "pt"}.items()))}
    begin = 0
    for name, tensor in ordered:
        end = begin + tensor.size_bytes
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("a name or metadata with a lone surrogate: safetensors cannot hold it") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidArgument(
            f"names and metadata make a safetensors header of {len(text)} bytes; {MAX_HEADER_BYTES} is the most"
        )
    return text


def _write(stream: BinaryIO, header: bytes, ordered: list[tuple[str, Array]], sparing: bool) -> None:
    stream.write(len(header).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(header)
    for _, tensor in ordered:
        for part in _parts(tensor):
            stream.write(part.data)
            if sparing:
                release(part)
