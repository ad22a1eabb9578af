"""The three containers of pickles: torch's zip archive, torch's older row of pickles, and a bare pickle."""

from __future__ import annotations

from typing import Literal

from videozoo.checkpoints import zip_archive
from videozoo.checkpoints.closed_list import ClosedList
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.inert import Budget, quoted
from videozoo.checkpoints.pickles import Pickle
from videozoo.checkpoints.torch_values import TorchValues
from videozoo.errors import UnreadableCheckpoint

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_SMALL_BYTES = 64
"""Of the members that hold one word."""


def read_torch_zip(file: FileMap) -> object:
    """What ``torch.save`` wrote since version 1.6: ``data.pkl`` and one member ``data/<key>`` for each storage.

    Raises:
        UnreadableCheckpoint: damaged or unsafe.
    """
    _, members = zip_archive.members(file.data)
    if "data.pkl" not in members:
        raise UnreadableCheckpoint("a zip archive, but not of torch: it has no data.pkl")
    for name, accepted in (
        ("byteorder", (b"little",)),
        ("version", tuple(b"%d" % version for version in range(1, 11))),
    ):
        if name in members and (word := _word(file, members[name])) not in accepted:
            raise UnreadableCheckpoint(f"its {name} is {quoted(word)}, which is not read")

    budget = Budget(len(file.data))
    tensors = TorchValues(budget)
    source = members["data.pkl"]
    source.check(file.data)
    pickle = Pickle(file.data[source.start : source.end], 0, ClosedList(budget, tensors), budget)
    content = pickle.load()
    if pickle.position != source.end - source.start:
        raise UnreadableCheckpoint("has data after the end of its pickle")

    def find(key: str) -> memoryview:
        member = members.get(f"data/{key}")
        if member is None or member.end - member.start != tensors.sizes[key]:
            found = "is missing" if member is None else f"has {member.end - member.start} bytes"
            raise UnreadableCheckpoint(f"storage {quoted(key)} of {tensors.sizes[key]} bytes {found}")
        member.check(file.data)
        file.release(member.start, member.end)
        return file.data[member.start : member.end]

    tensors.bind(find)
    return content


def read_pickles(file: FileMap) -> tuple[Literal["torch_legacy", "pickle"], object]:
    """A bare pickle; or, if its value is torch's magic number, the first in the row that ``torch.save`` once wrote.

    Raises:
        UnreadableCheckpoint: damaged or unsafe.
    """
    budget = Budget(len(file.data))
    pickle = Pickle(file.data, 0, ClosedList(budget, None), budget)
    content = pickle.load()
    if isinstance(content, int) and content == LEGACY_MAGIC:
        return "torch_legacy", _read_legacy(file, pickle.position, budget)
    if pickle.position != len(file.data):
        raise UnreadableCheckpoint("has data after the end of its pickle")
    return "pickle", content


def _read_legacy(file: FileMap, position: int, budget: Budget) -> object:
    """After the magic number: protocol, system, the object, the storages' keys; then every storage."""
    tensors = TorchValues(budget)
    values = []
    for constructors in (ClosedList(budget, None), ClosedList(budget, None), ClosedList(budget, tensors)):
        pickle = Pickle(file.data, position, constructors, budget)
        values.append(pickle.load())
        position = pickle.position
    protocol, system, content = values
    if not isinstance(protocol, int) or protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise UnreadableCheckpoint("a torch file of another protocol")
    if system.get("little_endian") is not True:
        raise UnreadableCheckpoint("a torch file of another byte order")
    pickle = Pickle(file.data, position, ClosedList(budget, None), budget)
    keys, position = pickle.load(), pickle.position
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnreadableCheckpoint("damaged torch file: no list of storages")
    if len(set(keys)) != len(keys) or set(keys) != tensors.sizes.keys():
        raise UnreadableCheckpoint("damaged torch file: its list of storages is not that of its tensors")
    where: dict[str, tuple[int, int]] = {}
    for key in keys:
        start, size = position + 8, tensors.sizes[key]
        position = start + size
        if position > len(file.data):
            raise UnreadableCheckpoint(f"truncated torch file: storage {quoted(key)} of {size} bytes is cut off")
        length = int.from_bytes(file.data[start - 8 : start], "little", signed=True)
        if length * tensors.itemsizes[key] != size:
            raise UnreadableCheckpoint(f"damaged torch file: storage {quoted(key)} of {size} bytes has length {length}")
        where[key] = start, position
    if position != len(file.data):
        raise UnreadableCheckpoint("has data after its last storage")
    tensors.bind(lambda key: file.data[slice(*where[key])])
    return content


def _word(file: FileMap, member: zip_archive.Member) -> bytes:
    member.check(file.data)
    return bytes(file.data[member.start : min(member.end, member.start + _SMALL_BYTES)]).strip()
