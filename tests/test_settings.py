"""Settings from tables: what a key may hold, what a table becomes again, and every way to misspell one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from videozoo.errors import InvalidArgument
from videozoo.settings import from_table, to_table


@dataclass(frozen=True)
class Round:
    radius: float
    kind: Literal["round"] = "round"


@dataclass(frozen=True)
class Square:
    side: int = 1
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Piece:
    name: str
    size: int
    shape: Round | Square = Square()
    hole: Round | None = Round(0.5)
    places: tuple[tuple[int, int], ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    count: Literal[5, 13] = 5
    glossy: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidArgument(f"size must be at least 1, got {self.size}")


NEEDED = {"name": "a", "size": 2}


@pytest.mark.parametrize(
    ("table", "piece"),
    [
        ({}, Piece("a", 2)),
        ({"shape": {"kind": "round", "radius": 2}}, Piece("a", 2, shape=Round(2.0))),
        ({"shape": {"kind": "square"}, "hole": False}, Piece("a", 2, hole=None)),
        ({"hole": {"radius": 1.5}, "count": 13, "glossy": True}, Piece("a", 2, hole=Round(1.5), count=13, glossy=True)),
        ({"places": [[1, 2], [3, 4]], "span": [0, 0.5]}, Piece("a", 2, places=((1, 2), (3, 4)), span=(0.0, 0.5))),
    ],
)
def test_tables_and_back(table: dict[str, object], piece: Piece) -> None:
    assert from_table(Piece, NEEDED | table, "piece") == piece
    written = to_table(piece)
    assert None not in written.values()
    if piece.hole is not None:  # what is None is left out, and has its default again
        assert from_table(Piece, written, "piece") == piece


def test_an_int_becomes_the_float_that_is_asked_for() -> None:
    assert type(from_table(Round, {"radius": 2}, "round").radius) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"nmae": "a"}, "piece.nmae is no setting; did you mean name?"),
        ({"zzz": 1}, "piece.zzz is no setting; there are name, size, shape, hole, places, span, count, glossy"),
        ({"name": "a"}, "piece.size is missing; piece needs name, size"),
        ("round", "piece must be a table of settings, got 'round'"),
        (NEEDED | {"size": "2"}, "piece.size must be a whole number, got '2'"),
        (NEEDED | {"size": 2.0}, "piece.size must be a whole number, got 2.0"),
        (NEEDED | {"size": True}, "piece.size must be a whole number, got True"),
        (NEEDED | {"size": 0}, "piece.size must be at least 1, got 0"),
        (NEEDED | {"name": 1}, "piece.name must be a text, got 1"),
        (NEEDED | {"glossy": 1}, "piece.glossy must be true or false, got 1"),
        (NEEDED | {"count": 7}, "piece.count must be 5 or 13, got 7"),
        (NEEDED | {"span": [1]}, "piece.span must be an array of 2, got [1]"),
        (NEEDED | {"span": [0, "x"]}, "piece.span[1] must be a number, got 'x'"),
        (NEEDED | {"span": 3}, "piece.span must be an array, got 3"),
        (NEEDED | {"places": [[1, 2], [3]]}, "piece.places[1] must be an array of 2, got [3]"),
        (NEEDED | {"shape": {"kind": "rond"}}, "piece.shape.kind must be 'round' or 'square', got 'rond'"),
        (NEEDED | {"shape": {"side": 3}}, "piece.shape.kind must be 'round' or 'square', got None"),
        (NEEDED | {"shape": {"kind": [1]}}, "piece.shape.kind must be 'round' or 'square', got [1]"),
        (NEEDED | {"shape": 3}, "piece.shape.kind must be 'round' or 'square', got None"),
        (NEEDED | {"shape": {"kind": "square", "sid": 3}}, "piece.shape.sid is no setting; did you mean side?"),
        (NEEDED | {"hole": {"radios": 3}}, "piece.hole.radios is no setting; did you mean radius?"),
        (NEEDED | {"hole": True}, "piece.hole must be a table of settings, got True"),
    ],
)
def test_bad_tables_are_one_line(table: object, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_table(Piece, table, "piece")
    assert str(caught.value) == message
