"""Between the arrays of files and torch's tensors; all of ``checkpoints`` that imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from videozoo.checkpoints.arrays import BITS, Array
from videozoo.errors import InvalidArgument

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
_BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


def as_tensor(array: Array) -> Tensor:
    """The same numbers, contiguous: a window on the same memory where that is fit for torch, else a copy."""
    bits = array.contiguous().bits
    if not (bits.flags.aligned and bits.flags.writeable):
        bits = bits.copy()
    return torch.from_numpy(bits).view(DTYPES[array.dtype])


def as_array(tensor: Tensor) -> Array:
    """The same numbers: a window on the tensor's memory where it is contiguous and on the CPU, else a copy.

    Raises:
        InvalidArgument: sparse, or of a dtype that safetensors has not.
    """
    dtype = dtype_name(tensor)
    flat = tensor.detach().cpu().contiguous().view(-1).view(_BITS[tensor.dtype.itemsize])
    return Array(dtype, flat.numpy().view(BITS[tensor.dtype.itemsize]).reshape(tensor.shape))


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """`as_array` of each.

    Raises:
        InvalidArgument: one of them cannot be held.
    """
    try:
        return {name: as_array(tensor) for name, tensor in tensors.items()}
    except InvalidArgument:
        name, tensor = next((name, tensor) for name, tensor in tensors.items() if not _is_plain(tensor))
        raise InvalidArgument(f"tensor {name!r} of {tensor.dtype}: safetensors cannot hold it") from None


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Digest of the tensors' names, dtypes, shapes and bits, in whatever order they come."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def dtype_name(tensor: Tensor) -> str:
    """The name of the tensor's dtype in safetensors.

    Raises:
        InvalidArgument: sparse, or of a dtype that safetensors has not.
    """
    if not _is_plain(tensor):
        raise InvalidArgument(f"a tensor of {tensor.dtype}: safetensors cannot hold it")
    return _NAMES[tensor.dtype]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype in _NAMES and tensor.layout is torch.strided
