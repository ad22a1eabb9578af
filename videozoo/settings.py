"""Settings: frozen dataclasses read from the tables of a TOML or JSON file, and written back as such tables.

A field's annotation says what its key may hold: ``int``, ``float`` (an int will do), ``bool``, ``str``, a ``Literal``
of texts or numbers, ``tuple[X, ...]`` or ``tuple[X, Y]`` from an array, another dataclass from a table, ``X | None``,
and ``A | B`` of dataclasses that the table's ``kind`` tells apart. TOML has no null: a key that is left out keeps its
default, and ``false`` is None where None is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from videozoo.errors import InvalidArgument

T = TypeVar("T")

Table = dict[str, Any]
"""What a TOML parser gives: texts, numbers, truth values, arrays and tables."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def from_table(settings: type[T], table: object, where: str) -> T:
    """Settings of a type, from a table.

    A dataclass refuses values outside their range in ``__post_init__`` with an InvalidArgument whose message begins
    with the field's name; the message then gets the name of the table before it.

    Args:
        settings: a dataclass.
        table: its fields by name; those with a default may be left out.
        where: name of the table, for messages.

    Raises:
        InvalidArgument: a key that no field has, with the nearest one that there is; a field without value; a value of
            another type or outside its range.
    """
    if not isinstance(table, Mapping):
        raise InvalidArgument(f"{where} must be a table of settings, got {table!r}")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(settings)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise InvalidArgument(f"{where}.{key} is no setting{_nearest(str(key), list(known))}")
    needed = [name for name, field in known.items() if field.default is field.default_factory is MISSING]
    missing = [name for name in needed if name not in table]
    if missing:
        raise InvalidArgument(f"{where}.{missing[0]} is missing; {where} needs {', '.join(needed)}")
    hints = get_type_hints(settings)
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in table.items()}
    try:
        return settings(**values)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}.{error}") from None


def to_table(settings: object) -> Table:
    """The table that `from_table` makes equal settings from; fields that are None are left out."""
    values = ((field.name, getattr(settings, field.name)) for field in fields(settings))  # type: ignore[arg-type]
    return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: object) -> object:
    if is_dataclass(value):
        return to_table(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def _value(hint: Any, value: object, where: str) -> object:
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(choices, value, where)
    if origin is tuple:
        return _items(choices, value, where)
    if origin is Literal:
        if value not in choices or isinstance(value, bool):
            near = _nearest(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
            raise InvalidArgument(
                f"{where} must be {' or '.join(map(repr, choices))}, got {value!r}{near if '?' in near else ''}"
            )
        return value
    if is_dataclass(hint):
        return from_table(hint, value, where)  # type: ignore[arg-type]
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # an instance of a subclass, such as True, is not meant as a number
        raise InvalidArgument(f"{where} must be {_WORDS[hint]}, got {value!r}")
    return value


def _one_of(choices: Sequence[Any], value: object, where: str) -> object:
    if NoneType in choices:
        choices = [choice for choice in choices if choice is not NoneType]
        if value is None or value is False:
            return None
    if len(choices) == 1:
        return _value(choices[0], value, where)
    kinds = {next(field.default for field in fields(choice) if field.name == "kind"): choice for choice in choices}
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidArgument(f"{where}.kind must be {' or '.join(map(repr, kinds))}, got {kind!r}")
    return from_table(kinds[kind], value, where)


def _items(choices: Sequence[Any], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidArgument(f"{where} must be an array, got {value!r}")
    hints = [choices[0]] * len(value) if choices[-1] is Ellipsis else choices
    if len(hints) != len(value):
        raise InvalidArgument(f"{where} must be an array of {len(hints)}, got {value!r}")
    return tuple(_value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))
