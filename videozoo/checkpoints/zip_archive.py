"""The zip archives that torch writes, and no others: where each member's bytes lie, after strict checks."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from videozoo.checkpoints.inert import quoted
from videozoo.errors import UnreadableCheckpoint

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ALLOWED_FLAGS = 0x0808
"""Sizes follow the data; names are UTF-8. Not: encrypted (1), patched, strong encryption, masked headers."""
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


def members(data: memoryview) -> tuple[str, dict[str, Member]]:
    """The archive's only top folder, and its members by their names inside that folder.

    The archive is the whole file: it starts with its first member and ends with its directory, without a comment.
    Members are stored, not compressed, do not overlap, and have unique names, also where case is ignored.

    Raises:
        UnreadableCheckpoint: damaged, or not such an archive.
    """
    directory, end, entries = _find_directory(data)
    listed = _entries(data, directory, end, entries)
    found: dict[str, Member] = {}
    seen: set[str] = set()
    top = listed[0][0].split("/", 1)[0] if listed else ""
    reached = 0
    for name, header, size, crc in sorted(listed, key=lambda entry: entry[1]):
        _check_name(name, top)
        if name.casefold() in seen:
            raise UnreadableCheckpoint(f"zip archive with two members called {quoted(name)}")
        seen.add(name.casefold())
        if header < reached:
            raise UnreadableCheckpoint(f"zip archive in which {quoted(name)} overlaps another member")
        start = _data_start(data, name, header)
        reached = start + size
        found[name[len(top) + 1 :]] = Member(name, start, reached, crc)
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


def _entries(data: memoryview, at: int, end: int, entries: int) -> list[tuple[str, int, int, int]]:
    """Of every member: name, offset of its header, size, checksum."""
    listed = []
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
        if flags & ~_ALLOWED_FLAGS:
            raise UnreadableCheckpoint(f"zip member {quoted(name)} is encrypted or has unknown flags ({flags:#06x})")
        if method or packed != size:
            raise UnreadableCheckpoint(f"zip member {quoted(name)} is compressed, which torch never does")
        listed.append((name, header, size, crc))
        at += _CENTRAL.size + name_length + extra + comment
    if at != end:
        raise UnreadableCheckpoint("damaged zip archive: its directory has another length")
    return listed


def _data_start(data: memoryview, name: str, header: int) -> int:
    """Where a member's bytes begin; its own header must agree with the directory about its name."""
    if header + _LOCAL.size > len(data):
        raise UnreadableCheckpoint(f"damaged zip archive: {quoted(name)} lies outside the file")
    signature, _, flags, method, _, _, _, _, _, name_length, extra = _LOCAL.unpack_from(data, header)
    at = header + _LOCAL.size
    if signature != b"PK\x03\x04" or flags & ~_ALLOWED_FLAGS or method or _name(data, at, name_length) != name:
        raise UnreadableCheckpoint(f"damaged zip archive: two different headers of {quoted(name)}")
    return at + int(name_length) + int(extra)


def _name(data: memoryview, at: int, length: int) -> str:
    return str(data[at : at + length], "utf-8", "backslashreplace")


def _check_name(name: str, top: str) -> None:
    parts = name.split("/")
    if parts[0] != top or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise UnreadableCheckpoint(f"zip member {quoted(name)} does not lie in the archive's one folder")
    if any(character in "\\:" or ord(character) < 32 for character in name):
        raise UnreadableCheckpoint(f"zip member {quoted(name)} has a name that torch does not write")
