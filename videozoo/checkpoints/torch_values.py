"""What torch's globals build here: tensors, born empty and bound to their storage once the container has found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, UntypedStorage

from videozoo.checkpoints.inert import Budget, Opaque, count, counts, quoted
from videozoo.errors import UnreadableCheckpoint

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *STORAGES.values(),
        *(torch.uint16, torch.uint32, torch.uint64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    )
}
"""The dtypes that files may name; those without a storage of their own are stored as bytes."""
TENSOR_BYTES = 1024
"""What a tensor costs besides its values."""


class StorageType(Opaque):
    """The class of a storage: its dtype."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__(name)
        self.dtype = dtype


class DtypeName(Opaque):
    """A dtype that is named by itself, as newer versions of torch do for dtypes without a storage type."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__(name)
        self.dtype = dtype


class Storage(Opaque):
    """A storage, or a part of one, by the key under which the container holds its bytes."""

    __slots__ = ("dtype", "key", "length", "start")

    def __init__(self, key: str, dtype: torch.dtype, start: int, length: int) -> None:
        super().__init__("torch storage")
        self.key = key
        self.dtype = dtype
        self.start = start
        self.length = length
        """Elements, from ``start`` on."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a tensor lies in its storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchValues:
    """Builds tensors; ``sizes`` gives the bytes of every storage that was named, in the order of the file."""

    def __init__(self, budget: Budget) -> None:
        self.sizes: dict[str, int] = {}
        self.itemsizes: dict[str, int] = {}
        self.alignments: dict[str, int] = {}
        self._budget = budget
        self._tensors: list[tuple[Tensor, Layout]] = []

    def storage(self, identifier: object) -> Storage:
        """``("storage", type, key, location, length[, view])``, the only persistent id there is."""
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise UnreadableCheckpoint("has a persistent id that is not a storage")
        _, storage_type, key, _, length, *view = identifier
        if not isinstance(storage_type, StorageType) or not isinstance(key, str):
            raise UnreadableCheckpoint(f"has a storage of type {quoted(getattr(storage_type, 'name', storage_type))}")
        dtype, whole = storage_type.dtype, count(length, "the length of a storage")
        size_bytes = whole * dtype.itemsize
        if self.sizes.setdefault(key, size_bytes) != size_bytes:
            raise UnreadableCheckpoint(f"storage {quoted(key)} has two different sizes")
        self.itemsizes[key] = max(dtype.itemsize, self.itemsizes.get(key, 1))
        self.alignments[key] = max(dtype.itemsize, self.alignments.get(key, 1))
        start = 0
        if view and view[0] is not None:
            if not isinstance(view[0], tuple) or len(view[0]) != 3:
                raise UnreadableCheckpoint(f"storage {quoted(key)} has a damaged view")
            start, part = count(view[0][1], "the offset of a view"), count(view[0][2], "the length of a view")
            if start + part > whole:
                raise UnreadableCheckpoint(f"a view of storage {quoted(key)} is longer than the storage")
            whole = part
        return Storage(key, dtype, start, whole)

    def rebuild_tensor(self, arguments: tuple[object, ...]) -> Tensor:
        """``_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])``."""
        storage, *more = arguments
        if not isinstance(storage, Storage):
            raise UnreadableCheckpoint("has a tensor without a storage")
        return self._tensor(storage, *more)

    def rebuild_tensor_of_dtype(self, arguments: tuple[object, ...]) -> Tensor:
        """``_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])``."""
        storage, offset, shape, strides, grad, hooks, name, *metadata = arguments
        if not isinstance(storage, Storage) or not isinstance(name, DtypeName):
            raise UnreadableCheckpoint("has a tensor without a storage or a dtype")
        if storage.start or storage.length * storage.dtype.itemsize % name.dtype.itemsize:
            raise UnreadableCheckpoint(f"has a storage that is not one of {name.name}")
        length = storage.length * storage.dtype.itemsize // name.dtype.itemsize
        self.alignments[storage.key] = max(name.dtype.itemsize, self.alignments[storage.key])
        return self._tensor(Storage(storage.key, name.dtype, 0, length), offset, shape, strides, grad, hooks, *metadata)

    def _tensor(
        self,
        storage: Storage,
        offset: object,
        shape: object,
        strides: object,
        _grad: object,
        _hooks: object,
        *metadata: object,
    ) -> Tensor:
        if len(metadata) > 1 or (metadata and metadata[0] is not None and not _is_empty(metadata[0])):
            raise UnreadableCheckpoint("has a conjugated or negated view, which is not read")
        layout = Layout(storage, count(offset, "an offset"), counts(shape, "a shape"), counts(strides, "strides"))
        check_inside(layout)
        self._budget.spend(TENSOR_BYTES + prod(layout.shape) * storage.dtype.itemsize)
        tensor = torch.empty(0, dtype=storage.dtype)
        self._tensors.append((tensor, layout))
        return tensor

    def rebuild_parameter(self, arguments: tuple[object, ...]) -> object:
        """``_rebuild_parameter(data, requires_grad, hooks)``: the data."""
        data, _, _ = arguments
        if not isinstance(data, Tensor | Opaque):
            raise UnreadableCheckpoint("has a parameter without a tensor")
        return data

    def bind(self, find: Callable[[str], UntypedStorage]) -> None:
        """Give every tensor its values; ``find`` returns the bytes of a storage by its key."""
        found: dict[str, UntypedStorage] = {}
        for tensor, layout in self._tensors:
            storage = layout.storage
            if storage.key not in found:
                found[storage.key] = find(storage.key)
            tensor.set_(found[storage.key], storage.start + layout.offset, layout.shape, layout.strides)


def check_inside(layout: Layout) -> None:
    """Raises:
    UnreadableCheckpoint: the tensor reaches beyond its storage, or repeats elements of it.
    """
    shape, strides, length = layout.shape, layout.strides, layout.storage.length
    if len(shape) != len(strides):
        raise UnreadableCheckpoint(f"has a tensor of shape {shape} with {len(strides)} strides")
    elements: int = prod(shape)
    if prod([max(size, 1) for size in shape]) > 1 << 48:
        raise UnreadableCheckpoint(f"has a tensor of the impossible shape {shape}")
    last = layout.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if layout.offset > length or (elements and (last >= length or elements > length)):
        raise UnreadableCheckpoint(
            f"has a tensor of shape {shape} and strides {strides} that does not fit into a storage of {length}"
        )


def _is_empty(value: object) -> bool:
    return isinstance(value, dict) and not value
