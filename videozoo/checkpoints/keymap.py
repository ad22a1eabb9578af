"""From foreign tensor names to ours, proven to be a bijection.

A `Table` is two aligned columns of names and a list of names to leave out, with reasons. In a pattern, ``{letter}``
stands for a number and ``{*}`` for the last part of a name; in our names, ``~`` stands for the prefix that the trunk
has in the network at hand. Several lines may name the same foreign tensor: the first whose target exists counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videozoo.errors import CheckpointMismatch

TRUNK_PREFIXES = ("", "backbone.", "trunk.", "trunk.backbone.")
_PLACEHOLDER = re.compile(r"\\\{(\w|\\\*)\\\}")


@dataclass(frozen=True)
class Table:
    """The names that a layout has for the tensors of one family of networks."""

    renames: Sequence[tuple[str, str]]
    """(their name, our name); empty where the names are ours already."""
    ignored: Sequence[tuple[str, str]] = ()
    """(their name, why it is left out)."""
    absent: Sequence[tuple[str, str]] = ()
    """(end of our name, why such a tensor may be missing); it is filled with zeros."""


@dataclass(frozen=True)
class Layout:
    """How one framework names tensors."""

    name: str
    first_convs: Sequence[str]
    """Names of the convolution that sees the pixels; a file of this layout has one of them, and is known by it."""
    classifier: str
    """The name of the last layer's weight, (num_classes, features)."""
    tables: Mapping[str, Table]
    """By family of networks, as the manifest names families."""


@dataclass(frozen=True)
class Renaming:
    """A proven conversion."""

    tensors: dict[str, Tensor]
    """Under our names, in the order of the network's own state dict."""
    ignored: dict[str, str]
    """Foreign name -> reason."""
    filled: dict[str, str]
    """Our name -> reason."""


def rename(
    table: Table, source: Mapping[str, Tensor], target: Mapping[str, Tensor], on_request: Mapping[str, Tensor]
) -> Renaming:
    """Give every tensor of ``source`` its name in the network, and prove that nothing is left over or missing.

    Args:
        table: the names of the file's layout.
        source: tensors under their foreign names.
        target: the network's state dict; only names, shapes and kinds are read, so meta tensors do.
        on_request: tensors of a part that the network was built without; the file has all of them, or none.

    Raises:
        CheckpointMismatch: tensors that are missing, unexpected, given twice, or of another shape or kind.
    """
    inventory = {**target, **on_request}
    found, unexpected, ignored = _match(table, source, inventory)
    wanted = list(inventory if any(name in found for name in on_request) else target)
    filled = {
        name: reason
        for name in wanted
        for ending, reason in table.absent
        if name not in found and name.endswith(ending)
    }
    missing = [name for name in wanted if name not in found and name not in filled]
    misshaped = [
        f"{foreign} {tuple(source[foreign].shape)} {source[foreign].dtype}, "
        f"not {tuple(inventory[ours].shape)} {inventory[ours].dtype}"
        for ours, foreign in found.items()
        if not _fits(source[foreign], inventory[ours])
    ]
    if missing or unexpected or misshaped:
        raise mismatch(missing, unexpected, misshaped)
    return Renaming(
        {name: source[found[name]] if name in found else _zeros(inventory[name]) for name in wanted}, ignored, filled
    )


def foreign_names(table: Table, inventory: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name -> the name that the layout has for it: `rename` the other way round.

    Raises:
        CheckpointMismatch: tensors that the layout has no name for.
    """
    names: dict[str, str] = {}
    rules = _rules(table, inventory)
    for foreign, ours in table.renames:
        pattern = _compile(_in_network(ours, inventory))
        for name in inventory:
            match = pattern.fullmatch(name)
            candidate = _fill(foreign, match) if match else ""
            if match and name not in names and _our_name(candidate, rules, inventory) == name:
                names[name] = candidate
    missing = [name for name in inventory if name not in names]
    if missing:
        raise mismatch(missing, (), ())
    return {name: names[name] for name in inventory}


def mismatch(missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]) -> CheckpointMismatch:
    """One error that lists everything: its first line counts and names the first, an indented line each names all."""
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", misshaped))
    counts = "; ".join(f"{len(names)} {what}, first {names[0]}" for what, names in parts if names)
    return CheckpointMismatch("\n".join([counts, *(f"  {what}: {name}" for what, names in parts for name in names)]))


def _match(
    table: Table, source: Mapping[str, Tensor], inventory: Mapping[str, Tensor]
) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Our name -> foreign name; foreign names without a place, or with one that is taken; ignored names and why."""
    rules = _rules(table, inventory)
    skips = [(_compile(foreign), reason) for foreign, reason in table.ignored]
    found: dict[str, str] = {}
    unexpected: list[str] = []
    ignored: dict[str, str] = {}
    for name in source:
        reason = next((why for pattern, why in skips if pattern.fullmatch(name)), None)
        ours = _our_name(name, rules, inventory) if table.renames else name
        if reason is not None:
            ignored[name] = reason
        elif ours not in inventory or ours in found:
            unexpected.append(name)
        else:
            found[ours] = name
    return found, unexpected, ignored


def _rules(table: Table, inventory: Mapping[str, Tensor]) -> list[tuple[re.Pattern[str], str]]:
    return [(_compile(foreign), _in_network(ours, inventory)) for foreign, ours in table.renames]


def _in_network(ours: str, inventory: Mapping[str, Tensor]) -> str:
    """Our pattern with the prefix that the trunk has in this network."""
    return ours.replace("~", next((p for p in TRUNK_PREFIXES if f"{p}conv1.weight" in inventory), ""))


def _compile(pattern: str) -> re.Pattern[str]:
    """``layer{L}.{B}.bn.{*}`` as an expression whose groups are named n_L, n_B and n_."""

    def group(placeholder: re.Match[str]) -> str:
        return "(?P<n_>[^.]+)" if placeholder[1] == r"\*" else rf"(?P<n_{placeholder[1]}>\d+)"

    return re.compile(_PLACEHOLDER.sub(group, re.escape(pattern)))


def _our_name(name: str, rules: Sequence[tuple[re.Pattern[str], str]], inventory: Mapping[str, Tensor]) -> str:
    """The first target of ``name`` that exists, or "" where there is none."""
    for pattern, ours in rules:
        match = pattern.fullmatch(name)
        if match:
            target = _fill(ours, match)
            if target in inventory:
                return target
    return ""


def _fill(pattern: str, match: re.Match[str]) -> str:
    """``pattern`` with the numbers and the last part that ``match`` found."""
    return re.sub(r"\{(.)\}", lambda place: match["n_" + place[1].strip("*")], pattern)


def _fits(tensor: Tensor, place: Tensor) -> bool:
    return tensor.shape == place.shape and tensor.is_floating_point() == place.is_floating_point()


def _zeros(place: Tensor) -> Tensor:
    return torch.zeros(place.shape, dtype=place.dtype)
