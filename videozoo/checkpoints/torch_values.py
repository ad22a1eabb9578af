"""What torch's globals build here: arrays, born empty and bound to their storage once the container has found it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from videozoo.checkpoints.arrays import BITS, ITEM_BYTES, Array, empty
from videozoo.checkpoints.inert import Budget, Opaque, count, counts, elements, quoted
from videozoo.errors import UnreadableCheckpoint

STORAGES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "bool": "BOOL",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
}
"""The dtypes that files may name; those without a storage of their own are stored as bytes."""
TENSOR_BYTES = 1024
"""What a tensor costs besides its values."""


class StorageType(Opaque):
    """The class of a storage: its dtype."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(name)
        self.dtype = dtype


class DtypeName(Opaque):
    """A dtype that is named by itself, as newer versions of torch do for dtypes without a storage type."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(name)
        self.dtype = dtype


class Storage(Opaque):
    """A storage, or a part of one, by the key under which the container holds its bytes."""

    __slots__ = ("dtype", "key", "length", "start")

    def __init__(self, key: str, dtype: str, start: int, length: int) -> None:
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
        self._budget = budget
        self._tensors: list[tuple[Array, Layout]] = []

    def storage(self, identifier: object) -> Opaque:
        """``("storage", type, key, location, length[, view])``, the only persistent id there is.

        Returns:
            A `Storage`; of a type that is not read, such as complex numbers, a record that can be dropped.
        """
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise UnreadableCheckpoint("has a persistent id that is not a storage")
        _, storage_type, key, _, length, *view = identifier
        if not isinstance(storage_type, Opaque) or not isinstance(key, str):
            raise UnreadableCheckpoint(f"has a storage of type {quoted(storage_type)}")
        if not isinstance(storage_type, StorageType):
            return Opaque(storage_type.name)
        dtype, whole = storage_type.dtype, count(length, "the length of a storage")
        size_bytes = whole * ITEM_BYTES[dtype]
        if self.sizes.setdefault(key, size_bytes) != size_bytes:
            raise UnreadableCheckpoint(f"storage {quoted(key)} has two different sizes")
        self.itemsizes[key] = max(ITEM_BYTES[dtype], self.itemsizes.get(key, 1))
        start = 0
        if view and view[0] is not None:
            if not isinstance(view[0], tuple) or len(view[0]) != 3:
                raise UnreadableCheckpoint(f"storage {quoted(key)} has a damaged view")
            start, part = count(view[0][1], "the offset of a view"), count(view[0][2], "the length of a view")
            if start + part > whole:
                raise UnreadableCheckpoint(f"a view of storage {quoted(key)} is longer than the storage")
            whole = part
        return Storage(key, dtype, start, whole)

    def rebuild_tensor(self, arguments: tuple[object, ...]) -> Array | Opaque:
        """``_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata])``."""
        storage, *more = arguments
        if not isinstance(storage, Opaque):
            raise UnreadableCheckpoint("has a tensor without a storage")
        return self._tensor(storage, *more) if isinstance(storage, Storage) else Opaque(storage.name)

    def rebuild_tensor_of_dtype(self, arguments: tuple[object, ...]) -> Array:
        """``_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])``."""
        storage, offset, shape, strides, grad, hooks, name, *metadata = arguments
        if not isinstance(storage, Storage) or not isinstance(name, DtypeName):
            raise UnreadableCheckpoint("has a tensor without a storage or a dtype")
        size_bytes, item_bytes = storage.length * ITEM_BYTES[storage.dtype], ITEM_BYTES[name.dtype]
        if storage.start or size_bytes % item_bytes:
            raise UnreadableCheckpoint(f"has a storage that is not one of {name.name}")
        length = size_bytes // item_bytes
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
    ) -> Array:
        if len(metadata) > 1 or (metadata and metadata[0] is not None and not _is_empty(metadata[0])):
            raise UnreadableCheckpoint("has a conjugated or negated view, which is not read")
        layout = Layout(storage, count(offset, "an offset"), counts(shape, "a shape"), counts(strides, "strides"))
        check_inside(layout)
        self._budget.spend(TENSOR_BYTES + prod(layout.shape) * ITEM_BYTES[storage.dtype])
        tensor = empty(storage.dtype)
        self._tensors.append((tensor, layout))
        return tensor

    def rebuild_parameter(self, arguments: tuple[object, ...]) -> object:
        """``_rebuild_parameter(data, requires_grad, hooks)``: the data."""
        data, _, _ = arguments
        if not isinstance(data, Array | Opaque):
            raise UnreadableCheckpoint("has a parameter without a tensor")
        return data

    def bind(self, find: Callable[[str], memoryview]) -> None:
        """Give every tensor its values; ``find`` returns the bytes of a storage by its key."""
        found: dict[str, memoryview] = {}
        for tensor, layout in self._tensors:
            storage = layout.storage
            if storage.key not in found:
                found[storage.key] = find(storage.key)
            if prod(layout.shape) == 0:
                tensor.bits = tensor.bits.reshape(layout.shape)
                continue
            size = ITEM_BYTES[storage.dtype]
            strides = [size * stride for stride in layout.strides]
            start = size * (storage.start + layout.offset)
            tensor.bits = np.ndarray(layout.shape, BITS[size], found[storage.key], start, strides)


def check_inside(layout: Layout) -> None:
    """Raises:
    UnreadableCheckpoint: the tensor reaches beyond its storage, or repeats elements of it.
    """
    shape, strides, length = layout.shape, layout.strides, layout.storage.length
    if len(shape) != len(strides):
        raise UnreadableCheckpoint(f"has a tensor of shape {shape} with {len(strides)} strides")
    numbers = elements(shape)
    last = layout.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if layout.offset > length or (numbers and (last >= length or numbers > length)):
        raise UnreadableCheckpoint(
            f"has a tensor of shape {shape} and strides {strides} that does not fit into a storage of {length}"
        )


def _is_empty(value: object) -> bool:
    return isinstance(value, dict) and not value
