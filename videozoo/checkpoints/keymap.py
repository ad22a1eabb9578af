"""From foreign tensor names to ours, proven to be a bijection.

A `Table` is two aligned columns of names and a list of names to leave out, with reasons. In a pattern, ``{letter}``
stands for a number, ``{*}`` for the last part of a name and ``{block}`` for one residual block, which is ``layer1.0``
here and what `Table.block_name` says there; in our names, ``~`` stands for the prefix that the trunk has in the network
at hand. Several lines may name the same foreign tensor: the first whose target exists counts.

A tensor that is stored in another form has the mark of the form behind our name: ``fc.weight | transposed`` for a
matrix with rows and columns exchanged, ``fc.weight | squeezed`` for one that may have axes of length 1 behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from videozoo.checkpoints.arrays import Array, is_floating, zeros
from videozoo.errors import CheckpointMismatch, printable

TRUNK_PREFIXES = ("", "backbone.", "trunk.", "trunk.backbone.")
_PLACEHOLDER = re.compile(r"\{(\w|\*|block)\}")
_OUR_BLOCK = r"layer\d+\.\d+"
_THEIR_BLOCK = r"[^._]+"
_MARK = " | "

BlockName = Callable[[int, int, int, int], str]
"""(number in the whole network from 0, stage from 1, number in the stage from 0, blocks of the stage) to a name without
dots and underscores."""


@dataclass(frozen=True)
class Table:
    """The names that a layout has for the tensors of one family of networks."""

    renames: Sequence[tuple[str, str]]
    """(their name, our name); empty where the names are ours already."""
    ignored: Sequence[tuple[str, str]] = ()
    """(their name, why it is left out)."""
    absent: Sequence[tuple[str, str]] = ()
    """(end of our name, why such a tensor may be missing); it is filled with zeros."""
    last_parts: Mapping[str, str] = field(default_factory=dict)
    """Their last part of a name -> ours, for ``{*}``; others are the same."""
    block_name: BlockName | None = None
    """Their ``{block}``."""


@dataclass(frozen=True)
class Layout:
    """How one framework names tensors."""

    name: str
    first_convs: Sequence[str]
    """Names of the convolution that sees the pixels; a file of this layout has one of them, and is known by it."""
    classifier: str | None
    """Pattern of the last layer's weight, (num_classes, features) unless marked; None where there is a trunk alone."""
    tables: Mapping[str, Table]
    """By family of networks, as the manifest names families."""
    scope_end: str | None = None
    """What stands behind the scope, such as a device, that comes before a name and is no part of it."""

    def bare(self, tensors: Mapping[str, Array]) -> Mapping[str, Array] | None:
        """The tensors without scopes; None where they are not of this layout.

        Raises:
            CheckpointMismatch: two tensors differ in their scope alone.
        """
        names = {name: name if self.scope_end is None else name.rpartition(self.scope_end)[2] for name in tensors}
        if not set(self.first_convs) & set(names.values()):
            return None
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        if twice:
            raise CheckpointMismatch(
                f"{len(twice)} tensors are there in several scopes, first {printable(twice[0])}: "
                "keep those of one device"
            )
        return {names[name]: tensor for name, tensor in tensors.items()}

    def num_classes(self, tensors: Mapping[str, Array]) -> int | None:
        """Classes of the last layer, 0 for a trunk alone; None where the last layer is no matrix."""
        pattern, _, mark = (self.classifier or "").partition(_MARK)
        last = _compile(pattern)
        weight = next((tensors[name] for name in tensors if last.fullmatch(name)), None)
        if weight is None:
            return 0
        return weight.shape[1 if mark == "transposed" else 0] if len(weight.shape) > 1 else None


@dataclass(frozen=True, slots=True)
class Place:
    """What a network needs under one name."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a network needs, by name, in the order of its state dict."""

    places: Mapping[str, Place]
    on_request: Mapping[str, Place]
    """Of a part that it was built without; a file has all of them, or none."""


@dataclass(frozen=True)
class Renaming:
    """A proven conversion."""

    tensors: dict[str, Array]
    """Under our names, in the order of the network's own state dict."""
    ignored: dict[str, str]
    """Foreign name -> reason."""
    filled: dict[str, str]
    """Our name -> reason."""


def rename(table: Table, source: Mapping[str, Array], needed: Inventory) -> Renaming:
    """Give every tensor of ``source`` its name in the network, and prove that nothing is left over or missing.

    Args:
        table: the names of the file's layout.
        source: tensors under their foreign names.
        needed: what the network needs.

    Raises:
        CheckpointMismatch: tensors that are missing, unexpected, given twice, or of another shape or kind.
    """
    inventory = {**needed.places, **needed.on_request}
    found, unexpected, ignored = _match(table, source, inventory)
    wanted = list(inventory if any(name in found for name in needed.on_request) else needed.places)
    filled = {
        name: reason
        for name in wanted
        for ending, reason in table.absent
        if name not in found and name.endswith(ending)
    }
    missing = [name for name in wanted if name not in found and name not in filled]
    tensors = {ours: _in_our_form(source[foreign], mark) for ours, (foreign, mark) in found.items()}
    misshaped = [
        f"{foreign} {tuple(source[foreign].shape)} {source[foreign].dtype}, "
        f"not {tuple(inventory[ours].shape)} {inventory[ours].dtype}{f' {mark}' if mark else ''}"
        for ours, (foreign, mark) in found.items()
        if not _fits(tensors[ours], inventory[ours])
    ]
    if missing or unexpected or misshaped:
        raise mismatch(missing, unexpected, misshaped)
    tensors |= {name: zeros(inventory[name].dtype, inventory[name].shape) for name in filled}
    return Renaming({name: tensors[name] for name in wanted}, ignored, filled)


def foreign_names(table: Table, inventory: Collection[str]) -> dict[str, str]:
    """Our name -> the name that the layout has for it: `rename` the other way round.

    Raises:
        CheckpointMismatch: tensors that the layout has no name for.
    """
    names: dict[str, str] = {}
    rules = _rules(table, inventory)
    for rule in rules:
        for name in inventory:
            candidate = rule.foreign_name(name)
            if candidate and name not in names and _our_name(candidate, rules, inventory) == (name, rule.mark):
                names[name] = candidate
    missing = [name for name in inventory if name not in names]
    if missing:
        raise mismatch(missing, (), ())
    return {name: names[name] for name in inventory}


def mismatch(missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]) -> CheckpointMismatch:
    """One error that lists everything: its first line counts and names the first, an indented line each names all."""
    parts = [
        (what, [printable(name) for name in names])
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", misshaped))
    ]
    counts = "; ".join(f"{len(names)} {what}, first {names[0]}" for what, names in parts if names)
    return CheckpointMismatch("\n".join([counts, *(f"  {what}: {name}" for what, names in parts for name in names)]))


@dataclass(frozen=True)
class _Words:
    """What placeholders stand for on both sides, where it is not the same."""

    blocks: Mapping[str, str]
    last_parts: Mapping[str, str]

    def turned(self) -> _Words:
        return _Words(*({ours: theirs for theirs, ours in side.items()} for side in (self.blocks, self.last_parts)))

    def fill(self, pattern: str, match: re.Match[str]) -> str:
        """``pattern`` with what ``match`` found on the other side; "" for a block that the network has not."""
        words = match.groupdict()
        if "n_" in words:
            words["n_"] = self.last_parts.get(words["n_"], words["n_"])
        if "n_block" in words:
            words["n_block"] = self.blocks.get(words["n_block"], "")
            if not words["n_block"]:
                return ""
        return _PLACEHOLDER.sub(lambda place: words.get("n_" + place[1].strip("*"), ""), pattern)


class _Rule:
    """One line of a table for one network."""

    def __init__(self, foreign: str, ours: str, words: _Words) -> None:
        self._foreign = foreign
        self._ours, _, self.mark = ours.partition(_MARK)
        self._words = words
        self._foreign_pattern = _compile(foreign)
        self._our_pattern = _compile(self._ours, _OUR_BLOCK)

    def our_name(self, foreign: str) -> str:
        """Our name of a foreign tensor; "" where this line is not about it."""
        match = self._foreign_pattern.fullmatch(foreign)
        return self._words.fill(self._ours, match) if match else ""

    def foreign_name(self, ours: str) -> str:
        """The other way round."""
        match = self._our_pattern.fullmatch(ours)
        return self._words.turned().fill(self._foreign, match) if match else ""


def _match(
    table: Table, source: Iterable[str], inventory: Mapping[str, Place]
) -> tuple[dict[str, tuple[str, str]], list[str], dict[str, str]]:
    """Our name -> foreign name and mark; foreign names without a place, or one that is taken; ignored ones and why."""
    rules = _rules(table, inventory)
    skips = [(_compile(foreign), reason) for foreign, reason in table.ignored]
    found: dict[str, tuple[str, str]] = {}
    unexpected: list[str] = []
    ignored: dict[str, str] = {}
    for name in source:
        reason = next((why for pattern, why in skips if pattern.fullmatch(name)), None)
        ours, mark = _our_name(name, rules, inventory) if table.renames else (name, "")
        if reason is not None:
            ignored[name] = reason
        elif ours not in inventory or ours in found:
            unexpected.append(name)
        else:
            found[ours] = (name, mark)
    return found, unexpected, ignored


def _rules(table: Table, inventory: Iterable[str]) -> list[_Rule]:
    names = set(inventory)
    prefix = next((p for p in TRUNK_PREFIXES if f"{p}conv1.weight" in names), "")
    words = _Words(_blocks(table.block_name, prefix, inventory), table.last_parts)
    return [_Rule(foreign, ours.replace("~", prefix), words) for foreign, ours in table.renames]


def _blocks(block_name: BlockName | None, prefix: str, inventory: Iterable[str]) -> dict[str, str]:
    """Their name of every residual block -> ours, ``layer1.0``."""
    if block_name is None:
        return {}
    pattern = re.compile(re.escape(prefix) + r"layer(\d+)\.(\d+)\..+")
    matches = (pattern.fullmatch(name) for name in inventory)
    places = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    depths = Counter(stage for stage, _ in places)
    return {
        block_name(number, stage, position, depths[stage]): f"layer{stage}.{position}"
        for number, (stage, position) in enumerate(places)
    }


def _compile(pattern: str, block: str = _THEIR_BLOCK) -> re.Pattern[str]:
    """``layer{L}.{B}.bn.{*}`` as an expression whose groups are named n_L, n_B and n_."""
    groups = {"*": "(?P<n_>[^.]+)", "block": f"(?P<n_block>{block})"}
    parts = _PLACEHOLDER.split(pattern)  # text and placeholders by turns
    return re.compile(
        "".join(
            groups.get(part, rf"(?P<n_{part}>\d+)") if turn % 2 else re.escape(part) for turn, part in enumerate(parts)
        )
    )


def _our_name(name: str, rules: Sequence[_Rule], inventory: Collection[str]) -> tuple[str, str]:
    """The first target of ``name`` that exists, and the mark of its line; two "" where there is none."""
    for rule in rules:
        target = rule.our_name(name)
        if target in inventory:
            return target, rule.mark
    return "", ""


def _in_our_form(tensor: Array, mark: str) -> Array:
    """The tensor, rid of the form that the mark stands for, or as it is if it has not that form."""
    if mark == "transposed" and len(tensor.shape) == 2:
        return Array(tensor.dtype, np.ascontiguousarray(tensor.bits.T))
    if mark == "squeezed" and len(tensor.shape) > 2 and all(size == 1 for size in tensor.shape[2:]):
        return Array(tensor.dtype, tensor.bits.reshape(tensor.shape[:2]))
    return tensor


def _fits(tensor: Array, place: Place) -> bool:
    return tensor.shape == place.shape and is_floating(tensor.dtype) == is_floating(place.dtype)
