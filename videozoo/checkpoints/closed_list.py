"""The closed list: every global that a checkpoint may name and get more than an inert record for."""

from __future__ import annotations

from collections.abc import Callable

from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.inert import Budget, Known, Opaque, dict_key, quoted
from videozoo.checkpoints.numpy_values import NumpyDtype, NumpyValues
from videozoo.checkpoints.torch_values import DTYPES, STORAGES, DtypeName, StorageType, TorchValues
from videozoo.errors import UnreadableCheckpoint

_LATIN1 = ("latin1", "latin-1", "iso-8859-1")
_ENTRY_BYTES = 100
"""Of a dict or a set, at most."""


class ClosedList:
    """Our own constructors for one file. ``tensors`` holds what its container must bind; None outside torch's files."""

    def __init__(self, budget: Budget, tensors: TorchValues | None) -> None:
        self._budget = budget
        self._numpy = NumpyValues(budget)
        self._tensors = tensors
        numpy_builders = {
            ("numpy", "ndarray"): lambda _: Opaque("numpy.ndarray"),
            ("numpy", "dtype"): self._numpy.dtype,
        }
        for core in ("numpy.core", "numpy._core"):
            numpy_builders[f"{core}.multiarray", "_reconstruct"] = self._numpy.reconstruct
            numpy_builders[f"{core}.multiarray", "scalar"] = self._numpy.scalar
            numpy_builders[f"{core}.numeric", "_frombuffer"] = self._numpy.frombuffer
        builders = self._plain_builders() | numpy_builders
        if tensors is not None:
            builders["torch._utils", "_rebuild_tensor_v2"] = tensors.rebuild_tensor
            builders["torch._utils", "_rebuild_tensor_v3"] = tensors.rebuild_tensor_of_dtype
            builders["torch._utils", "_rebuild_parameter"] = tensors.rebuild_parameter
        self._records: dict[tuple[str, str], Opaque] = {
            (module, name): Known(f"{module}.{name}", build) for (module, name), build in builders.items()
        }
        if tensors is not None:
            for name, dtype in STORAGES.items():
                self._records["torch", name] = StorageType(f"torch.{name}", dtype)
            for name, dtype in DTYPES.items():
                self._records["torch", name] = DtypeName(f"torch.{name}", dtype)
            self._records["torch.storage", "UntypedStorage"] = self._records["torch", "UntypedStorage"]

    def _plain_builders(self) -> dict[tuple[str, str], Callable[[tuple[object, ...]], object]]:
        builders: dict[tuple[str, str], Callable[[tuple[object, ...]], object]] = {
            ("collections", "OrderedDict"): self._dict,
            ("collections", "Counter"): self._dict,
            ("collections", "defaultdict"): lambda arguments: self._dict(arguments[1:]),
            ("torch", "Size"): lambda arguments: tuple(self._items(arguments)),
            ("_codecs", "encode"): self._encode,
        }
        for module in ("builtins", "__builtin__"):
            builders |= {
                (module, "dict"): self._dict,
                (module, "tuple"): lambda arguments: tuple(self._items(arguments)),
                (module, "list"): lambda arguments: list(self._items(arguments)),
                (module, "set"): lambda arguments: set(map(dict_key, self._items(arguments))),
                (module, "frozenset"): lambda arguments: frozenset(map(dict_key, self._items(arguments))),
                (module, "bytes"): self._bytes,
                (module, "bytearray"): self._bytes,
                (module, "int"): lambda arguments: int(_number(arguments)),
                (module, "bool"): lambda arguments: bool(_number(arguments)),
                (module, "float"): lambda arguments: float(_number(arguments)),
                (module, "str"): _text,
            }
        return builders

    def find(self, module: str, name: str) -> Opaque:
        """The record for exactly this pair of names."""
        return self._records.get((module, name)) or Opaque(f"{module}.{name}")

    def set_state(self, target: object, state: object) -> None:
        """State belongs to arrays and dtypes; a dict's attributes and a record's state are dropped.

        Raises:
            UnreadableCheckpoint: anything else is given a state.
        """
        if isinstance(target, NumpyDtype):
            self._numpy.set_dtype(target, state)
        elif isinstance(target, Array) and self._numpy.is_array(target):
            self._numpy.set_array(target, state)
        elif isinstance(target, Known | StorageType) or not isinstance(target, dict | Opaque):
            raise UnreadableCheckpoint(f"sets the state of {getattr(target, 'name', type(target).__name__)}")

    def persistent(self, identifier: object) -> object:
        """Storages, inside torch's containers.

        Raises:
            UnreadableCheckpoint: anything else.
        """
        if self._tensors is None:
            raise UnreadableCheckpoint("has a persistent id outside torch's formats")
        return self._tensors.storage(identifier)

    def _items(self, arguments: tuple[object, ...]) -> tuple[object, ...]:
        """The items of the only argument, which is paid for as if it were to be a set."""
        if not arguments:
            return ()
        (items,) = arguments
        if not isinstance(items, tuple | list | set | frozenset):
            raise TypeError
        self._budget.spend(_ENTRY_BYTES * len(items))
        return tuple(items)

    def _dict(self, arguments: tuple[object, ...]) -> dict[object, object]:
        self._budget.spend(_ENTRY_BYTES)
        if arguments and isinstance(arguments[0], dict):
            self._budget.spend(_ENTRY_BYTES * len(arguments[0]))
            return dict(arguments[0])
        return {dict_key(key): value for key, value in map(_pair, self._items(arguments))}

    def _bytes(self, arguments: tuple[object, ...]) -> object:
        """Bytes from bytes or small integers in a list; never of a given length."""
        if arguments and isinstance(arguments[0], memoryview):
            return arguments[0]
        if arguments and isinstance(arguments[0], bytes):
            return arguments[0]
        if arguments and isinstance(arguments[0], int):
            raise UnreadableCheckpoint(f"asks for {quoted(arguments[0])} empty bytes")
        if len(arguments) == 2:
            return self._encode(arguments)
        return bytes(item for item in self._items(arguments) if isinstance(item, int))

    def _encode(self, arguments: tuple[object, ...]) -> bytes:
        text, encoding = arguments
        if not isinstance(text, str) or encoding not in _LATIN1:
            raise UnreadableCheckpoint("encodes something else than text as latin-1")
        self._budget.spend(len(text))
        return text.encode("latin-1")


def _pair(item: object) -> tuple[object, object]:
    if not isinstance(item, tuple | list):
        raise TypeError
    key, value = item
    return key, value


def _number(arguments: tuple[object, ...]) -> int | float:
    (value,) = arguments or (0,)
    if isinstance(value, str) and len(value) <= 64:
        return float(value)
    if not isinstance(value, int | float):
        raise TypeError
    return value


def _text(arguments: tuple[object, ...]) -> str:
    (value,) = arguments or ("",)
    if not isinstance(value, str):
        raise TypeError
    return value
