"""Our own reader of pickles, protocols 0 to 5: opcodes in, inert values out. Nothing is imported and nothing is called.

A global is a pair of names, looked up in a closed list that the caller provides; all others become `Opaque` records
that swallow their arguments and state. No step recurses; the number of steps and the nesting of the result are bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from videozoo.checkpoints import texts
from videozoo.checkpoints.inert import Budget, Known, Opaque, check_nesting, dict_key, quoted
from videozoo.errors import UnreadableCheckpoint

MAX_OPCODES = 1_000_000
"""Twenty times what a ResNet-152's training checkpoint has; about half a second."""
MAX_LONG_BYTES = 1024
MAX_LINE_BYTES = 512
"""Of numbers and names written as text."""
WINDOW_BYTES = 1 << 16
"""Bytes and Python-2 strings of this size are data, never names: they stay where they are in the file."""

_OBJECT_BYTES = 72
_SET_BYTES = 224


class Constructors(Protocol):
    """What the reader may make besides plain values."""

    def find(self, module: str, name: str) -> Opaque:
        """The record for a global: `Known` if it is on the closed list."""

    def set_state(self, target: object, state: object) -> None:
        """Do what BUILD asks, or refuse."""

    def persistent(self, identifier: object) -> object:
        """The value for a persistent id, or refuse."""


class Pickle:
    """One pickle in ``data``, from ``position`` on; after `load`, ``position`` is behind its STOP.

    ``data`` is a view of the file itself: long bytes become windows on it, memoryviews, of which no copy is made.
    """

    def __init__(self, data: memoryview, position: int, constructors: Constructors, budget: Budget) -> None:
        self.position = position
        self._data = data
        self._constructors = constructors
        self._budget = budget
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """The value that the pickle describes: a finite tree without cycles (parts may be shared).

        Raises:
            UnreadableCheckpoint: damaged, beyond the bounds, or asking for what is never given.
        """
        steps, data = _STEPS, self._data
        try:
            for _ in range(MAX_OPCODES):
                opcode = data[self.position]
                self.position += 1
                if opcode == _STOP:
                    return self._result()
                steps[opcode](self)
        except (LookupError, ValueError, TypeError, RuntimeError, OverflowError, struct.error) as error:
            what = f"at byte {self.position}: {type(error).__name__}"
            raise UnreadableCheckpoint(f"damaged pickle {what}") from None
        raise UnreadableCheckpoint(f"a pickle of more than {MAX_OPCODES} opcodes")

    def _result(self) -> object:
        value = self._pop()
        if self._stack or self._marks:
            raise UnreadableCheckpoint("damaged pickle: values are left over at its end")
        check_nesting(value)
        return value

    # The bytes

    def _take(self, size: int) -> memoryview:
        start, end = self.position, self.position + size
        if end > len(self._data):
            raise UnreadableCheckpoint(f"truncated pickle: {size} bytes are announced at byte {start}")
        self.position = end
        return self._data[start:end]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self, limit: int | None = MAX_LINE_BYTES) -> bytes:
        start = at = self.position
        while at < len(self._data):
            chunk = bytes(self._data[at : at + 4096])
            found = chunk.find(b"\n")
            if found >= 0:
                self.position = at + found + 1
                return bytes(self._data[start : at + found])
            at += len(chunk)
            if limit is not None and at - start > limit:
                break
        raise UnreadableCheckpoint(f"damaged pickle at byte {start}: a line without an end")

    # The stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise UnreadableCheckpoint(f"damaged pickle at byte {self.position}: nothing on the stack")
        return self._stack.pop()

    def _pop_marked(self) -> list[object]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top(self) -> object:
        value = self._pop()
        self._stack.append(value)
        return value

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _drop_marked(self) -> None:
        self._pop_marked()

    def _new(self, value: object, size_bytes: int = _OBJECT_BYTES) -> None:
        self._budget.spend(size_bytes)
        self._stack.append(value)

    # The memo

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    # Numbers, text and bytes

    def _int_line(self) -> None:
        text = self._line()
        self._push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def _long(self, length_bytes: int) -> None:
        size = self._number(length_bytes)
        if size > MAX_LONG_BYTES:
            raise UnreadableCheckpoint(f"an integer of {size} bytes at byte {self.position}")
        self._push(int.from_bytes(self._take(size), "little", signed=True))

    def _text(self, length_bytes: int) -> None:
        self._push(texts.utf8(self._take(self._number(length_bytes)), self._budget))

    def _bytes(self, length_bytes: int) -> None:
        window = self._take(self._number(length_bytes))
        self._push(window if len(window) >= WINDOW_BYTES else bytes(window))

    def _python2_string(self, window: memoryview) -> None:
        self._push(window if len(window) >= WINDOW_BYTES else str(window, "latin-1"))

    # Containers

    def _tuple(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self._new(tuple(reversed(items)))

    def _extend(self, items: Iterable[object]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise UnreadableCheckpoint(f"damaged pickle: appends to a {type(target).__name__}")

    def _set_items(self, items: Sequence[object]) -> None:
        target = self._top()
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif not isinstance(target, Opaque):
            raise UnreadableCheckpoint(f"damaged pickle: sets an item of a {type(target).__name__}")

    def _add_items(self, items: Iterable[object]) -> None:
        target = self._top()
        if isinstance(target, set):
            target.update(map(dict_key, items))
        elif not isinstance(target, Opaque):
            raise UnreadableCheckpoint(f"damaged pickle: adds to a {type(target).__name__}")

    # Globals: looked up, built by us or kept as a name

    def _find(self, module: object, name: object) -> Opaque:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_LINE_BYTES:
            raise UnreadableCheckpoint("damaged pickle: a global without a name")
        if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise UnreadableCheckpoint(f"asks for {quoted(f'{module}.{name}')}, which is not a plain module and name")
        return self._constructors.find(module, name)

    def _global(self) -> None:
        module, name = self._line().decode(), self._line().decode()
        self._new(self._find(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._new(self._find(module, name))

    def _call(self, called: object, arguments: object) -> None:
        if not isinstance(called, Opaque) or not isinstance(arguments, tuple):
            raise UnreadableCheckpoint(f"damaged pickle: calls a {type(called).__name__}")
        self._push(called.build(arguments) if isinstance(called, Known) else called)

    def _reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        self._call(called, arguments)

    def _new_object_ex(self) -> None:
        keywords, arguments, called = self._pop(), self._pop(), self._pop()
        if isinstance(called, Known) and keywords != {}:
            raise UnreadableCheckpoint(f"passes keywords to {called.name}")
        self._call(called, arguments)

    def _instance(self) -> None:
        module, name = self._line().decode(), self._line().decode()
        self._call(self._find(module, name), tuple(self._pop_marked()))

    def _object(self) -> None:
        called, *arguments = self._pop_marked()
        self._call(called, tuple(arguments))

    def _build(self) -> None:
        state = self._pop()
        self._constructors.set_state(self._top(), state)

    def _persistent(self) -> None:
        self._push(self._constructors.persistent(self._pop()))

    # The pickle itself

    def _protocol(self) -> None:
        if (version := self._number(1)) > 5:
            raise UnreadableCheckpoint(f"pickle protocol {version}; 0 to 5 are known")

    def _frame(self) -> None:
        if (size := self._number(8)) > len(self._data) - self.position:
            raise UnreadableCheckpoint(f"truncated pickle: a frame of {size} bytes at byte {self.position}")

    def _refuse(self) -> None:
        opcode = self._data[self.position - 1]
        what = _REFUSED.get(opcode, f"holds no pickle opcode ({opcode:#04x})")
        raise UnreadableCheckpoint(f"{what} at byte {self.position - 1}")


def _pairs(items: Sequence[object]) -> Iterable[tuple[object, object]]:
    return zip(map(dict_key, items[::2]), items[1::2], strict=True)


_STOP = ord(".")
_REFUSED = {
    ord("P"): "has a persistent id as text",
    0x82: "uses the extension registry",
    0x83: "uses the extension registry",
    0x84: "uses the extension registry",
    0x97: "needs a buffer outside the file",
    0x98: "needs a buffer outside the file",
}


def _two(pickle: Pickle) -> tuple[object, object]:
    value, key = pickle._pop(), pickle._pop()
    return key, value


_BY_OPCODE: dict[bytes, Callable[[Pickle], None]] = {
    b"\x80": Pickle._protocol,
    b"\x95": Pickle._frame,
    b"(": Pickle._mark,
    b"0": Pickle._drop,
    b"1": Pickle._drop_marked,
    b"2": lambda pickle: pickle._push(pickle._top()),
    b"g": lambda pickle: pickle._get(int(pickle._line())),
    b"h": lambda pickle: pickle._get(pickle._number(1)),
    b"j": lambda pickle: pickle._get(pickle._number(4)),
    b"p": lambda pickle: pickle._put(int(pickle._line())),
    b"q": lambda pickle: pickle._put(pickle._number(1)),
    b"r": lambda pickle: pickle._put(pickle._number(4)),
    b"\x94": lambda pickle: pickle._put(len(pickle._memo)),
    b"N": lambda pickle: pickle._push(None),
    b"\x88": lambda pickle: pickle._push(True),
    b"\x89": lambda pickle: pickle._push(False),
    b"I": Pickle._int_line,
    b"J": lambda pickle: pickle._push(struct.unpack("<i", pickle._take(4))[0]),
    b"K": lambda pickle: pickle._push(pickle._number(1)),
    b"M": lambda pickle: pickle._push(pickle._number(2)),
    b"L": lambda pickle: pickle._push(int(pickle._line().removesuffix(b"L"))),
    b"\x8a": lambda pickle: pickle._long(1),
    b"\x8b": lambda pickle: pickle._long(4),
    b"F": lambda pickle: pickle._push(float(pickle._line())),
    b"G": lambda pickle: pickle._push(struct.unpack(">d", pickle._take(8))[0]),
    b"V": lambda pickle: pickle._push(texts.raw_unicode(pickle._line(None), pickle._budget)),
    b"X": lambda pickle: pickle._text(4),
    b"\x8c": lambda pickle: pickle._text(1),
    b"\x8d": lambda pickle: pickle._text(8),
    b"S": lambda pickle: pickle._push(texts.python2(pickle._line(None), pickle._budget)),
    b"T": lambda pickle: pickle._python2_string(pickle._take(pickle._number(4))),
    b"U": lambda pickle: pickle._python2_string(pickle._take(pickle._number(1))),
    b"B": lambda pickle: pickle._bytes(4),
    b"C": lambda pickle: pickle._bytes(1),
    b"\x8e": lambda pickle: pickle._bytes(8),
    b"\x96": lambda pickle: pickle._bytes(8),
    b"]": lambda pickle: pickle._new([]),
    b"l": lambda pickle: pickle._new(pickle._pop_marked()),
    b"a": lambda pickle: pickle._extend((pickle._pop(),)),
    b"e": lambda pickle: pickle._extend(pickle._pop_marked()),
    b")": lambda pickle: pickle._push(()),
    b"t": lambda pickle: pickle._new(tuple(pickle._pop_marked())),
    b"\x85": lambda pickle: pickle._tuple(1),
    b"\x86": lambda pickle: pickle._tuple(2),
    b"\x87": lambda pickle: pickle._tuple(3),
    b"}": lambda pickle: pickle._new({}),
    b"d": lambda pickle: pickle._new(dict(_pairs(pickle._pop_marked()))),
    b"s": lambda pickle: pickle._set_items(_two(pickle)),
    b"u": lambda pickle: pickle._set_items(pickle._pop_marked()),
    b"\x8f": lambda pickle: pickle._new(set(), _SET_BYTES),
    b"\x90": lambda pickle: pickle._add_items(pickle._pop_marked()),
    b"\x91": lambda pickle: pickle._new(frozenset(map(dict_key, pickle._pop_marked())), _SET_BYTES),
    b"c": Pickle._global,
    b"\x93": Pickle._stack_global,
    b"R": Pickle._reduce,
    b"\x81": Pickle._reduce,
    b"\x92": Pickle._new_object_ex,
    b"i": Pickle._instance,
    b"o": Pickle._object,
    b"b": Pickle._build,
    b"Q": Pickle._persistent,
}
_STEPS = [_BY_OPCODE.get(bytes([opcode]), Pickle._refuse) for opcode in range(256)]
