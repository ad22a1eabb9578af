"""Open a weight file of any known format without running anything in it.

Reads ``.pth`` (zip archive and the older row of pickles), ``.pkl`` and ``.pdparams`` (bare pickles, Python 2 included)
and ``.safetensors``; which one it is, the content tells. It happens in this process: a damaged or hostile file ends in
`UnreadableCheckpoint`, within a second or so, and in at most 4 times the file's size of memory plus 32 MiB (plus what
up to a million small values take). Arrays are windows on the file, which must not shrink while they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videozoo.checkpoints import paddle, safetensors_file
from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.containers import read_pickles, read_torch_zip
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.inert import Budget, Opaque, quoted
from videozoo.checkpoints.paddle import SixteenBit
from videozoo.errors import UnreadableCheckpoint

__all__ = ["Checkpoint", "Format", "Opaque", "read", "state_dict"]

Format = Literal["torch_zip", "torch_legacy", "pickle", "safetensors"]

MAX_TENSORS = 20_000
"""Ten times what a large network has, its optimizer's included."""
_MODEL_KEYS = ("state_dict", "model", "blobs")
"""Where MMAction2 and mmengine, others, and VMZ keep the model."""
_EMA_KEY = "ema_state_dict"
_TRAINING_KEYS = ("meta", "optimizer", "message_hub", "param_schedulers", _EMA_KEY)
_EMA_PREFIX = "ema_"
_WRAPPER = "module."
_SIGNS = {
    b"\x1f\x8b": "a gzip file; unpack it",
    b"\x89HDF": "an HDF5 file",
    b"Rar!": "a rar archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"PK\x05\x06": "an empty zip archive",
    b"\x7fELF": "a program",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds."""

    path: Path
    file: FileMap
    format: Format
    content: object
    """A finite tree of dict, list, tuple, set, str, int, float, bool, None, bytes (long ones: a memoryview),
    `Array` (for torch's tensors and for numpy's arrays) and `Opaque` records; parts of it may be shared."""
    metadata: Mapping[str, str]
    """Of safetensors; empty elsewhere."""


def read(path: Path) -> Checkpoint:
    """Read a file of any known format; its extension does not matter.

    Raises:
        UnreadableCheckpoint: missing, not a checkpoint, damaged, or refused as unsafe; one line that names the file.
    """
    try:
        file = FileMap(path)
        head = bytes(file.data[:1024])
        if head.startswith(b"PK\x03\x04"):
            return Checkpoint(path, file, "torch_zip", read_torch_zip(file), {})
        if safetensors_file.looks_like(file.data):
            tensors, metadata = safetensors_file.read(file)
            return Checkpoint(path, file, "safetensors", tensors, metadata)
        if head[:1] != b"\x80" and (other := _other_format(head, len(file.data))):
            raise UnreadableCheckpoint(f"not a checkpoint: {other}")
        format_, content = _read_pickles(file, head)
        return Checkpoint(path, file, format_, content, {})
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from None
    except MemoryError:
        raise UnreadableCheckpoint(f"{path}: there is not enough memory to read it") from None


def state_dict(checkpoint: Checkpoint, *, ema: bool = False, sixteen_bit: SixteenBit | None = None) -> dict[str, Array]:
    """The model's tensors, contiguous, by the names that the file uses, without a ``module.`` prefix that all share.

    The model is the dict under ``state_dict``, ``model`` or ``blobs``, else the whole content. Optimizer states, logs
    and other things beside it do not matter, whatever they are.

    Args:
        checkpoint: a file as `read` returns it.
        ema: take the second set of weights that an EMA hook stores: mmengine's ``ema_state_dict``, or mmcv's ``ema_*``
            buffers in place of the parameters they belong to. (Both hooks swap the sets before an epoch's end is
            saved: there the averaged weights are the model's, and this is the set that was trained.)
        sixteen_bit: what unsigned 16-bit integers in a pickle of arrays are. PaddlePaddle, which has no such integers,
            stores bfloat16 so, without a mark. None takes those for bfloat16 that Paddle's name table lists.

    Raises:
        UnreadableCheckpoint: no tensors, no such second set, a tensor made by something outside the closed list, one
            that lies in something else than the model's dict, or more of them than the file's size justifies.
    """
    told = sixteen_bit if checkpoint.format == "pickle" else "uint16"
    try:
        return _state_dict(checkpoint.content, ema, told, Budget(len(checkpoint.file.data)))
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{checkpoint.path}: {error}") from None
    except MemoryError:
        raise UnreadableCheckpoint(f"{checkpoint.path}: there is not enough memory to read it") from None


def _read_pickles(file: FileMap, head: bytes) -> tuple[Format, object]:
    try:
        return read_pickles(file)
    except UnreadableCheckpoint as error:
        if head[:1] == b"\x80":
            raise
        # Pickles older than protocol 2 have no mark at their beginning, so that this may be anything at all.
        kind = "text" if head.isascii() and b"\0" not in head else "data"
        raise UnreadableCheckpoint(
            f"not a checkpoint: {len(file.data)} bytes of {kind}; as a pickle: {error}"
        ) from None


def _state_dict(content: object, ema: bool, sixteen_bit: SixteenBit | None, budget: Budget) -> dict[str, Array]:
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(
            f"its content is {_described(content)}, no dict of tensors: save a model's state_dict()"
        )
    if ema and _EMA_KEY in content:
        averaged = _tensors(content[_EMA_KEY], content, sixteen_bit, budget)
        wrapped = {name: tensor for name, tensor in averaged.items() if name.startswith(_WRAPPER)}
        return _unwrapped(wrapped or averaged)
    nested = next((content[key] for key in _MODEL_KEYS if _is_model(content.get(key))), None)
    model = content if nested is None else nested
    tensors = _unwrapped(_tensors(model, content, sixteen_bit, budget))
    copies = {name: tensor for name, tensor in tensors.items() if name.startswith(_EMA_PREFIX) and "." not in name}
    model_tensors = {name: tensor for name, tensor in tensors.items() if name not in copies}
    if not model_tensors:
        model_tensors, copies = tensors, {}
    if not ema:
        return model_tensors
    return _averaged(model_tensors, copies)


def _averaged(tensors: dict[str, Array], copies: dict[str, Array]) -> dict[str, Array]:
    """``tensors`` with mmcv's copies in their places; running statistics have no copy and stay."""
    sources = {name: _EMA_PREFIX + name.replace(".", "_") for name in tensors}
    if not copies or (unknown := copies.keys() - sources.values()):
        reason = (
            f"{quoted(min(unknown))} belongs to no parameter" if copies else "nothing under ema_state_dict or ema_*"
        )
        raise UnreadableCheckpoint(f"holds no averaged weights: {reason}")
    return {name: copies.get(sources[name], tensor) for name, tensor in tensors.items()}


def _is_model(value: object) -> bool:
    return isinstance(value, dict | Opaque) and value != {}


def _tensors(
    model: object, content: dict[object, object], sixteen_bit: SixteenBit | None, budget: Budget
) -> dict[str, Array]:
    if not isinstance(model, dict):
        raise UnreadableCheckpoint(f"its model is {_described(model)}, which is not made here")
    found: dict[str, Array] = {}
    for name, value in paddle.plain(model, budget, sixteen_bit=sixteen_bit).items():
        if model is content and name in _TRAINING_KEYS:
            continue
        if isinstance(value, Array) and not (value.is_read and isinstance(name, str)):
            what = "is under a key that is no name" if value.is_read else f"is a {value.dtype}, which is not read"
            raise UnreadableCheckpoint(f"tensor {quoted(name)} {what}")
        if isinstance(value, Array):
            budget.spend(value.size_bytes)  # of a copy, or of the output: names may share what the file holds once
            found[str(name)] = value.contiguous()
        elif isinstance(value, Opaque):
            raise UnreadableCheckpoint(f"tensor {quoted(name)} needs {value.name}, which is not made here")
        elif _holds_tensors(value):
            raise UnreadableCheckpoint(
                f"{quoted(name)} holds tensors in a {type(value).__name__} of its own: save a model's state_dict()"
            )
    if len(found) > MAX_TENSORS:
        raise UnreadableCheckpoint(f"holds {len(found)} tensors; {MAX_TENSORS} are read at most")
    if not found:
        top = ", ".join(f"{quoted(key)} is {_described(value)}" for key, value in list(content.items())[:5])
        raise UnreadableCheckpoint(f"holds no tensors; at its top level: {top or 'nothing'}")
    return found


def _holds_tensors(value: object) -> bool:
    """Whether a dict, list or tuple holds an array, however deep."""
    seen: set[int] = set()
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Array):
            return True
        if isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)
    return False


def _unwrapped(tensors: dict[str, Array]) -> dict[str, Array]:
    if all(name.startswith(_WRAPPER) for name in tensors):
        return {name.removeprefix(_WRAPPER): tensor for name, tensor in tensors.items()}
    return tensors


def _described(value: object) -> str:
    if isinstance(value, Opaque | Array):
        return value.name if isinstance(value, Opaque) else "one tensor"
    return "nothing" if value is None else f"of type {type(value).__name__}"


def _other_format(head: bytes, size_bytes: int) -> str | None:
    """What the first bytes say the file is, if that is not a checkpoint."""
    for sign, what in _SIGNS.items():
        if head.startswith(sign):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for the file; run `git lfs pull` where it was cloned"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page, such as a server sends in place of a file; fetch it again"
    if start.startswith((b"# ", b"{\n", b'{"')):
        return f"text of {size_bytes} bytes"
    return None
