"""What a foreign file may turn into besides plain values: records that do nothing, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from videozoo.errors import UnreadableCheckpoint

ALLOCATION_MULTIPLE = 4
"""How many times the file's size the values read from it may take; tensors that share a storage count each."""
ALLOCATION_FLOOR_BYTES = 1 << 25
"""What even a tiny file may take: empty containers cost far more memory than their one byte in the file."""

MAX_NESTING = 100
"""Of tuples, lists and dicts."""

_PLAIN_KEYS = (str, bytes, bool, float, type(None))


class Opaque:
    """What stands for anything a file asks for outside the closed list: a name. It is never imported nor called."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        """``module.name`` as the file gives it."""

    def __repr__(self) -> str:
        return f"Opaque({self.name!r})"


class Known(Opaque):
    """A global of the closed list: its name, and our own function that makes the value it stands for."""

    __slots__ = ("build",)

    def __init__(self, name: str, build: Callable[[tuple[object, ...]], object]) -> None:
        super().__init__(name)
        self.build = build


class Budget:
    """Bytes that may still be allocated for one file."""

    def __init__(self, file_bytes: int) -> None:
        self._left = ALLOCATION_FLOOR_BYTES + ALLOCATION_MULTIPLE * file_bytes

    def spend(self, size_bytes: int) -> None:
        """Ask before allocating.

        Raises:
            UnreadableCheckpoint: the file wants more than its size justifies.
        """
        self._left -= size_bytes
        if self._left < 0:
            raise UnreadableCheckpoint(f"its values need more than {ALLOCATION_MULTIPLE} times the memory of the file")


def dict_key(key: object) -> object:
    """``key`` if it is a plain value, else a record in its stead.

    Only plain keys are hashed: the hash of nested tuples recurses without a limit, and one can choose tuples and long
    integers whose hashes all collide. No checkpoint finds its tensors by such a key.
    """
    if isinstance(key, _PLAIN_KEYS) or (isinstance(key, int) and -(1 << 63) <= key < 1 << 63):
        return key
    return key if isinstance(key, Opaque) else Opaque(f"key of type {type(key).__name__}")


def quoted(text: object) -> str:
    """A name from a file, fit for a one-line message: ASCII, escaped, at most 80 characters."""
    shown = ascii(text if isinstance(text, str | bytes | int | float) else type(text).__name__)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def count(value: object, what: str) -> int:
    """``value`` as a number of things.

    Raises:
        UnreadableCheckpoint: not an integer from 0 to 2**48.
    """
    if type(value) is not int or not 0 <= value <= 1 << 48:
        raise UnreadableCheckpoint(f"{what} is {quoted(value)}, not a number of things")
    return value


def elements(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor of this shape has.

    Raises:
        UnreadableCheckpoint: no tensor has such a shape, even if one of its sizes is 0.
    """
    if prod([max(size, 1) for size in shape]) > 1 << 48:
        raise UnreadableCheckpoint(f"has a tensor of the impossible shape {shape}")
    return prod(shape)


def counts(values: object, what: str) -> tuple[int, ...]:
    """A shape or strides: at most 32 numbers.

    Raises:
        UnreadableCheckpoint: anything else.
    """
    if not isinstance(values, tuple | list) or len(values) > 32:
        raise UnreadableCheckpoint(f"{what} is not a tuple of at most 32 numbers")
    return tuple(count(value, what) for value in values)


def check_nesting(root: object) -> None:
    """Walk tuples, lists and dicts once, without recursion.

    Raises:
        UnreadableCheckpoint: something contains itself, or the longest path is over `MAX_NESTING`.
    """
    heights: dict[int, int] = {}
    path: list[tuple[int, Iterator[object]]] = [(id(root), _children(root))]
    on_path = {id(root)}
    highest = [0]
    while path:
        child = next(path[-1][1], None)
        if child is None:
            identity, _ = path.pop()
            on_path.discard(identity)
            heights[identity] = height = highest.pop() + 1
            if highest:
                highest[-1] = max(highest[-1], height)
        elif id(child) in on_path:
            raise UnreadableCheckpoint("holds a value that contains itself")
        elif (known := heights.get(id(child))) is not None:
            highest[-1] = max(highest[-1], known)
        else:
            path.append((id(child), _children(child)))
            on_path.add(id(child))
            highest.append(0)
        if len(path) + max(highest[-1:], default=0) > MAX_NESTING:
            raise UnreadableCheckpoint(f"nested deeper than {MAX_NESTING} levels")


def _children(value: object) -> Iterator[object]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return (item for item in items if isinstance(item, dict | list | tuple))
