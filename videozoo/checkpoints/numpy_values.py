"""What numpy's globals build here: arrays become ours, scalars become Python numbers."""

from __future__ import annotations

import struct

from videozoo.checkpoints.arrays import ITEM_BYTES, Array, empty, unread, window
from videozoo.checkpoints.inert import Budget, Known, Opaque, count, counts, elements, quoted
from videozoo.errors import UnreadableCheckpoint

DTYPES = {
    "f2": ("F16", "e"),
    "f4": ("F32", "f"),
    "f8": ("F64", "d"),
    "i1": ("I8", "b"),
    "i2": ("I16", "h"),
    "i4": ("I32", "i"),
    "i8": ("I64", "q"),
    "u1": ("U8", "B"),
    "u2": ("U16", "H"),
    "u4": ("U32", "I"),
    "u8": ("U64", "Q"),
    "b1": ("BOOL", "?"),
}
"""numpy's code -> our dtype and the `struct` code of one number."""


class NumpyDtype(Opaque):
    """A numpy dtype under construction: its code and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        super().__init__("numpy.dtype")
        self.code = code
        self.order = "<"


class NumpyValues:
    """Builds arrays and scalars; remembers the arrays that still wait for their state."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._arrays: dict[int, Array] = {}

    def dtype(self, arguments: tuple[object, ...]) -> object:
        """``numpy.dtype(code, align, copy)``."""
        if not arguments or not isinstance(arguments[0], str) or len(arguments[0]) > 16:
            return Opaque("numpy.dtype")
        return NumpyDtype(arguments[0])

    def reconstruct(self, arguments: tuple[object, ...]) -> object:
        """``_reconstruct(numpy.ndarray, (0,), b"b")``: an empty array that BUILD will fill."""
        if not arguments or not isinstance(arguments[0], Known) or arguments[0].name != "numpy.ndarray":
            return arguments[0] if arguments and isinstance(arguments[0], Opaque) else Opaque("numpy array")
        self._budget.spend(1024)
        array = empty("U8")
        self._arrays[id(array)] = array
        return array

    def is_array(self, target: object) -> bool:
        """Whether BUILD may set the state of ``target``."""
        return id(target) in self._arrays

    def set_array(self, target: object, state: object) -> None:
        """Fill an array: ``(version, shape, dtype, is_fortran, data)``."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnreadableCheckpoint("damaged numpy array: its state is not that of an array")
        _, shape, dtype, is_fortran, data = state
        # The array may already be in a tuple, so it is filled in place.
        filled = self._array(
            data, dtype, shape, is_fortran is True or (isinstance(is_fortran, int) and is_fortran != 0)
        )
        array = self._arrays[id(target)]
        array.dtype, array.bits = filled.dtype, filled.bits

    def set_dtype(self, target: NumpyDtype, state: object) -> None:
        """Take the byte order: ``(version, order, subdtype, names, fields, itemsize, alignment, flags ...)``."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise UnreadableCheckpoint("damaged numpy dtype")
        if any(part is not None for part in state[2:5]):
            target.code = "structured"
        target.order = str(state[1])

    def frombuffer(self, arguments: tuple[object, ...]) -> object:
        """``_frombuffer(data, dtype, shape, order)``, as protocol 5 writes arrays."""
        data, dtype, shape, order = arguments
        if order not in ("C", "F"):
            raise UnreadableCheckpoint(f"numpy array in order {quoted(order)}")
        self._budget.spend(1024)
        return self._array(data, dtype, shape, order == "F")

    def scalar(self, arguments: tuple[object, ...]) -> object:
        """``scalar(dtype, data)``."""
        dtype, data = arguments
        if not isinstance(dtype, NumpyDtype):
            raise UnreadableCheckpoint("numpy scalar without a dtype")
        if dtype.code not in DTYPES or not isinstance(data, bytes | str):
            return Opaque(f"numpy.{dtype.code}")
        raw = data.encode("latin-1") if isinstance(data, str) else data
        order = ">" if dtype.order == ">" else "<"
        return struct.unpack(order + DTYPES[dtype.code][1], raw)[0]

    def _array(self, data: object, dtype: object, shape: object, is_fortran: bool) -> Array:
        if not isinstance(dtype, NumpyDtype):
            raise UnreadableCheckpoint(f"numpy array of {quoted(dtype)}")
        if dtype.code not in DTYPES:
            return unread(f"numpy array of {quoted(dtype.code)}")
        kind, _ = DTYPES[dtype.code]
        sizes = counts(shape if isinstance(shape, tuple) else (count(shape, "a length"),), "the shape of a numpy array")
        if not isinstance(data, bytes | bytearray | memoryview | str):
            raise UnreadableCheckpoint("numpy array without data")
        if elements(sizes) * ITEM_BYTES[kind] != len(data):
            raise UnreadableCheckpoint(f"numpy array of shape {sizes}, {dtype.code}, with {len(data)} bytes of data")
        values = window(self._raw(data), kind, sizes[::-1] if is_fortran else sizes)
        if dtype.order == ">":
            self._budget.spend(len(data))
            values.bits = values.bits.byteswap()
        return Array(kind, values.bits.T) if is_fortran else values

    def _raw(self, data: bytes | bytearray | memoryview | str) -> memoryview:
        """The bytes: those of the file or the pickle where they are bytes."""
        if isinstance(data, str):
            self._budget.spend(len(data))
            return memoryview(data.encode("latin-1"))
        return memoryview(data)
