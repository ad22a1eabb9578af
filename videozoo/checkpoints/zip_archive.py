"""The zip archives that torch writes, and no others: where each member's bytes lie, after strict checks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from videozoo.checkpoints.inert import quoted
from videozoo.errors import UnreadableCheckpoint

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SIZES_FOLLOW = 0x0008
"""The member's own header has no sizes and no checksum, which come behind its data."""
_ALLOWED_FLAGS = _SIZES_FOLLOW | 0x0800
"""And: names are UTF-8. Not: encrypted (1), patched, strong encryption, masked headers."""
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its bytes are ``data[start:end]`` of the file."""

    name: str
    start: int
    end: int
    crc: int

    def check(self, data: memoryview) -> None:
        """Raises:
        UnreadableCheckpoint: the bytes are not those that were written.
        """
        crc = 0
        for at in range(self.start, self.end, _CHUNK_BYTES):
            crc = zlib.crc32(data[at : min(at + _CHUNK_BYTES, self.end)], crc)
        if crc != self.crc:
            raise UnreadableCheckpoint(f"damaged: the checksum of {quoted(self.name)} does not match")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the directory."""

    name: str
    header: int
    """Offset of the member's own header."""
    size: int
    packed: int
    """Size as it is stored."""
    crc: int
    flags: int
    method: int
    """Of compression; 0 for none."""


def members(data: memoryview) -> tuple[str, dict[str, Member]]:
    """The archive's only top folder, and its members by their names inside that folder.

    The archive is the whole file: it starts with its first member and ends with its directory, without a comment.
    Members are stored, not compressed, do not overlap, and have unique names, also where case is ignored. What a
    member's own header says of it is what the directory says, unless it leaves that to what follows the data.

    Raises:
        UnreadableCheckpoint: damaged, or not such an archive.
    """
    directory, end, entries = _find_directory(data)
    listed = _entries(data, directory, end, entries)
    found: dict[str, Member] = {}
    seen: set[str] = set()
    top = listed[0].name.split("/", 1)[0] if listed else ""
    reached = 0
    listed.sort(key=lambda entry: entry.header)
    if listed and listed[0].header:
        raise UnreadableCheckpoint(f"zip archive with {listed[0].header} bytes before its first member")
    for entry in listed:
        _check_name(entry.name, top)
        if entry.name.casefold() in seen:
            raise UnreadableCheckpoint(f"zip archive with two members called {quoted(entry.name)}")
        seen.add(entry.name.casefold())
        if entry.header < reached:
            raise UnreadableCheckpoint(f"zip archive in which {quoted(entry.name)} overlaps another member")
        start = _data_start(data, entry)
        reached = start + entry.size
        found[entry.name[len(top) + 1 :]] = Member(entry.name, start, reached, entry.crc)
    if reached > directory:
        raise UnreadableCheckpoint("truncated zip archive: a member reaches into the directory")
    return top, found


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    if len(data) < _END.size:
        raise UnreadableCheckpoint("truncated zip archive")
    end = len(data) - _END.size
    signature, disk, first_disk, here, entries, size, start, comment = _END.unpack_from(data, end)
    if signature != b"PK\x05\x06" or comment:
        raise UnreadableCheckpoint("truncated zip archive, or one with something after its end")
    if entries == 0xFFFF or start == 0xFFFFFFFF or size == 0xFFFFFFFF:
        raise UnreadableCheckpoint("zip archive of more than 4 GiB or 65534 members, which is not read")
    start, entries = int(start), int(entries)
    if start + size != end:
        end = _before_zip64_end(data, end, (here, entries, size, start))
    if disk or first_disk or here != entries or start + size != end or size < entries * _CENTRAL.size:
        raise UnreadableCheckpoint("damaged zip archive: its directory is not where it should be")
    return start, end, entries


def _before_zip64_end(data: memoryview, end: int, expected: tuple[int, int, int, int]) -> int:
    """Where the 64-bit end record begins, which torch writes besides the plain one; the two must agree."""
    record = end - _END64.size - _LOCATOR.size
    if record >= 0:
        signature, length, _, _, disk, first_disk, *directory = _END64.unpack_from(data, record)
        locator = _LOCATOR.unpack_from(data, end - _LOCATOR.size)
        header = (signature, length, disk, first_disk)
        if header == (b"PK\x06\x06", _END64.size - 12, 0, 0) and locator == (b"PK\x06\x07", 0, record, 1):
            return int(record) if tuple(directory) == expected else end
    return end


def _entries(data: memoryview, at: int, end: int, entries: int) -> list[_Entry]:
    listed: list[_Entry] = []
    for _ in range(entries):
        if at + _CENTRAL.size > end:
            raise UnreadableCheckpoint("damaged zip archive: its directory is cut off")
        fields = _CENTRAL.unpack_from(data, at)
        signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra, comment, disk, _, _, header = (
            fields
        )
        name = _name(data, at + _CENTRAL.size, name_length)
        if signature != b"PK\x01\x02" or disk:
            raise UnreadableCheckpoint("damaged zip archive: its directory is not one")
        listed.append(_Entry(name, header, size, packed, crc, flags, method))
        at += _CENTRAL.size + name_length + extra + comment
    if at != end:
        raise UnreadableCheckpoint("damaged zip archive: its directory has another length")
    _check_kind(listed)
    return listed


def _check_kind(listed: Sequence[_Entry]) -> None:
    """Members are such as torch writes. What is known to be something else is called by its name first."""
    inner = [entry.name.partition("/")[2] for entry in listed]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise UnreadableCheckpoint("a TorchScript program, not weights; save its state_dict() instead")
    if listed and all(entry.name.endswith(".npy") for entry in listed):
        raise UnreadableCheckpoint(
            "a NumPy archive (.npz), not a checkpoint; save its arrays with torch.save or as safetensors"
        )
    for entry in listed:
        shown = quoted(entry.name)
        if entry.flags & ~_ALLOWED_FLAGS:
            raise UnreadableCheckpoint(f"zip member {shown} is encrypted or has unknown flags ({entry.flags:#06x})")
        if entry.method or entry.packed != entry.size:
            raise UnreadableCheckpoint(f"zip member {shown} is compressed, which torch never does")


def _data_start(data: memoryview, entry: _Entry) -> int:
    """Where a member's bytes begin; its own header must agree with the directory."""
    if entry.header + _LOCAL.size > len(data):
        raise UnreadableCheckpoint(f"damaged zip archive: {quoted(entry.name)} lies outside the file")
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack_from(data, entry.header)
    at = entry.header + _LOCAL.size
    same = (flags, method, _name(data, at, name_length)) == (entry.flags, entry.method, entry.name)
    if not flags & _SIZES_FOLLOW:
        same = same and (crc, packed, size) == (entry.crc, entry.packed, entry.size)
    if signature != b"PK\x03\x04" or not same:
        raise UnreadableCheckpoint(f"damaged zip archive: two different headers of {quoted(entry.name)}")
    return at + int(name_length) + int(extra)


def _name(data: memoryview, at: int, length: int) -> str:
    return str(data[at : at + length], "utf-8", "backslashreplace")


def _check_name(name: str, top: str) -> None:
    parts = name.split("/")
    if parts[0] != top or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise UnreadableCheckpoint(f"zip member {quoted(name)} does not lie in the archive's one folder")
    inner = name[len(top) :]  # the folder has the name that the file had when torch wrote it
    if any(character in "\\:" or ord(character) < 32 for character in inner):
        raise UnreadableCheckpoint(f"zip member {quoted(name)} has a name that torch does not write")
