"""What is here of a row, and where the rest would come from. Nothing in this module changes anything."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from videozoo import lockfile
from videozoo.cache import places, records
from videozoo.cache.places import Address, Kind
from videozoo.errors import DigestMismatch, NoSource
from videozoo.files import digest_problem, sha256_file
from videozoo.huggingface import is_offline
from videozoo.lockfile import CONVERTER, Locked, LockedConversion
from videozoo.manifest import Entry, File, load

MAX_FILES_HASHED = 32
"""A folder of the user's with more files than this is searched by name alone: each one would have to be hashed."""
OUTDATED = "it was made from another file or by another release"
"""The `converted_problem` of a file that was not damaged: the next conversion takes its place."""
EXTENSIONS = {"original": frozenset({".pth", ".pt", ".pkl", ".pdparams"}), "converted": frozenset({".safetensors"})}
"""Of files in a folder that is searched by digest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the weights of a row come from, as the file system is now."""

    kind: Literal["converted", "original", "download"]
    path: Path
    """The verified file; for a download, where the original will lie."""
    urls: tuple[str, ...] = ()
    """For a download: what is tried, in this order."""
    converted_urls: frozenset[str] = frozenset()
    """Those of ``urls`` that give the converted file."""
    refused: tuple[str, ...] = ()
    """Files and folders on this machine that should have served, and why they do not."""
    sha256: str | None = field(default=None, compare=False)
    """All 64 digits of an original that is here."""


def plan(entry: Entry, *, trust_first_use: bool = False) -> Plan:
    """Decide where the weights come from, converted or not. Reads files and the environment and opens no socket.

    Raises:
        NoSource: no file was published, no digest is known, or a download would be needed while offline.
        DigestMismatch: an embedded file is damaged, or the lock contradicts the manifest.
        InvalidArgument: the lock file cannot be read.
    """
    path = places.cached(entry, "converted")
    if awaits_lock(entry):
        usable = line_to_adopt(entry) is not None
    else:
        usable = path.is_file() and converted_problem(entry) is None
    if usable:
        return Plan("converted", path)
    return _plan(entry, trust_first_use, known_conversion(entry))


def plan_original(entry: Entry, *, trust_first_use: bool = False) -> Plan:
    """As `plan`, of the original file alone."""
    return _plan(entry, trust_first_use, None, original_only=True)


def _plan(
    entry: Entry, trust_first_use: bool, conversion: LockedConversion | None, *, original_only: bool = False
) -> Plan:
    file = wanted(entry)
    if file.embedded:
        return _embedded(entry, file)
    require_digest(entry, file, trust_first_use)
    original, refused = places.cached(entry, "original"), list[str]()
    if os.path.lexists(original):
        found = look_at_cached(entry, file)
        if found.problem is None:
            return Plan("original", original, sha256=found.sha256)
        refused.append(f"{original}: {found.problem}")
    for folder in places.weights_dirs():
        if not original_only and (path := _converted_in(folder, entry, conversion, refused)) is not None:
            return Plan("converted", path, refused=tuple(refused))
        for candidate, named in _candidates(folder, entry, "original", file.sha256 or file.sha256_prefix):
            found = look(candidate, file, by_name=named and trust_first_use)
            if found.problem is None:
                return Plan("original", candidate, refused=tuple(refused), sha256=found.sha256)
            if named:
                refused.append(f"{candidate}: {found.problem}")
        if not folder.is_dir():
            refused.append(f"VIDEOZOO_WEIGHTS_DIR names {folder}, which is not a folder")
    wished = [address for address in remote_addresses(entry) if not (original_only and address.kind == "converted")]
    if wished and not is_offline():
        converted_urls = frozenset(address.url for address in wished if address.kind == "converted")
        return Plan("download", original, tuple(address.url for address in wished), converted_urls, tuple(refused))
    raise NoSource(_nowhere(entry, file, refused))


def remote_addresses(entry: Entry) -> tuple[Address, ...]:
    """The addresses that a row would be asked for at, in order: converted files only where their digest is known."""
    known = known_conversion(entry) is not None
    return tuple(address for address in places.addresses(entry) if known or address.kind == "original")


def wanted(entry: Entry) -> File:
    """The row's file, with the digest and the size that the lock knows beyond the manifest.

    Raises:
        NoSource: it was never published.
        DigestMismatch: the two contradict each other.
    """
    file, path = published(entry), places.lock_path()
    line = lockfile.read(path).get(entry.name)
    if line is None:
        return file
    if _contradicts(line, file):
        known = file.sha256 or file.sha256_prefix or ""
        raise DigestMismatch(
            f"{entry.name}: {path} records sha256 {line.sha256} of {line.size_bytes} bytes, the manifest says {known} "
            f"of {file.size_bytes or 'unknown'} bytes; remove that line of the lock if the manifest is right"
        )
    return replace(file, sha256=line.sha256, size_bytes=line.size_bytes)


def _contradicts(line: Locked, file: File) -> bool:
    known = file.sha256 or file.sha256_prefix or ""
    return not line.sha256.startswith(known) or file.size_bytes not in (None, line.size_bytes)


def published(entry: Entry) -> File:
    """The row's file as the manifest has it.

    Raises:
        NoSource: it was never published.
    """
    if entry.file is not None:
        return entry.file
    others = [row.name for row in load().entries if row.architecture == entry.architecture and row.file is not None]
    raise NoSource(
        f"{entry.name}: its page announces a file that was never published; "
        f"weights of {entry.architecture} with a file: {', '.join(others) or 'none'}"
    )


def require_digest(entry: Entry, file: File, trust_first_use: bool) -> str | None:
    """All that is known of the row's digest: 64 digits, or the first 8; None only where the user trusts the file.

    Raises:
        NoSource: nothing is known, and the user did not say so.
    """
    digest = file.sha256 or file.sha256_prefix
    if digest is None and not trust_first_use:
        raise NoSource(
            f"{entry.name}: no digest of {file.name} is known, so nothing can be verified; "
            f"`videozoo fetch {entry.name} --trust-first-use` takes a file of this name from a folder of "
            "VIDEOZOO_WEIGHTS_DIR, else what its source sends, and locks it, "
            f"`videozoo import FILE --as {entry.name}` a file that you have; or pass one as checkpoint_path="
        )
    return digest


def known_conversion(entry: Entry) -> LockedConversion | None:
    """What the lock says of the row's converted file, if it was made as this release would make it."""
    return _conversion(lockfile.read(places.lock_path()).get(entry.name))


def _conversion(line: Locked | None) -> LockedConversion | None:
    found = None if line is None else line.converted
    return found if found is not None and found.converter == CONVERTER else None


def awaits_lock(entry: Entry) -> bool:
    """Whether a named lock has no line of the row yet, so that a file to make one from has to be looked at."""
    return lockfile.chosen() is not None and entry.name not in lockfile.read(places.lock_path())


def line_to_adopt(entry: Entry) -> Locked | None:
    """The line of the cache's own lock that a named lock without one may take over; else None.

    The line has to know both digests and not to contradict the manifest, and the converted file of the cache, which is
    read in full, has to be the one that it knows. So a row whose original is gone loads under a new lock.

    Raises:
        InvalidArgument: the cache's own lock cannot be read.
    """
    path, line = places.cached(entry, "converted"), lockfile.read(places.own_lock()).get(entry.name)
    if line is None or _conversion(line) is None or not path.is_file() or _contradicts(line, published(entry)):
        return None
    return line if _converted_problem(entry, line, hashed=True) is None else None


def expected_record(entry: Entry) -> dict[str, object]:
    """What ties a conversion to this release's tensor names and to the file that its row names now."""
    return _expected_record(entry, lockfile.read(places.lock_path()).get(entry.name))


def _expected_record(entry: Entry, line: Locked | None) -> dict[str, object]:
    file = entry.file
    record: dict[str, object] = {
        "converter": CONVERTER,
        "original": None if file is None else file.sha256 or file.sha256_prefix,
    }
    if line is not None:
        record["original_sha256"] = line.sha256
    conversion = _conversion(line)
    return record if conversion is None else record | {"sha256": conversion.sha256}


def converted_problem(entry: Entry, *, hashed: bool = True) -> str | None:
    """Why the converted file of the cache is not the one that was stored; None when it is, or when there is none.

    `OUTDATED` says that nothing is wrong with the file, but that it is not the one that is wanted now.

    Args:
        entry: the row.
        hashed: whether to read the whole file, or to look at its size and record alone.
    """
    return _converted_problem(entry, lockfile.read(places.lock_path()).get(entry.name), hashed=hashed)


def _converted_problem(entry: Entry, line: Locked | None, *, hashed: bool) -> str | None:
    path = places.cached(entry, "converted")
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"  # what a link shows can change after it was checked
    record = records.read(path)
    if record is None:
        return f"its record {places.record_of(path).name} is missing or damaged"
    expected = _expected_record(entry, line)
    if {key: record.get(key) for key in expected} != expected:
        return OUTDATED
    size, sha256 = record.get("size_bytes"), record.get("sha256")
    if type(size) is not int or not isinstance(sha256, str) or re.fullmatch("[0-9a-f]{64}", sha256) is None:
        return f"its record {places.record_of(path).name} is missing or damaged"
    if size != status.st_size:
        return f"it has {status.st_size} bytes, not the recorded {size}"
    if not hashed:
        return None
    try:
        return digest_problem(sha256_file(path), sha256)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


@dataclass(frozen=True, slots=True)
class Look:
    """What a file turned out to be."""

    sha256: str | None
    problem: str | None
    """Why it is not the wanted file; None when its digest says that it is."""


def look(path: Path, wanted: File | LockedConversion, *, by_name: bool = False) -> Look:
    """Compare a file's size, then its digest, with what is known of the wanted one.

    Args:
        path: the file.
        wanted: what is known.
        by_name: whether the user said that its name is enough where no digest is known.
    """
    expected = wanted.sha256 or (wanted.sha256_prefix if isinstance(wanted, File) else None)
    if expected is None and not by_name:
        return Look(None, "no digest is known")
    try:
        size = path.stat().st_size
        if wanted.size_bytes is not None and size != wanted.size_bytes:
            return Look(None, f"it has {size} bytes, not {wanted.size_bytes}")
        found = sha256_file(path)
    except OSError as error:
        return Look(None, f"it cannot be read: {error.strerror or error}")
    return Look(found, None if expected is None else digest_problem(found, expected))


def look_at_cached(entry: Entry, file: File) -> Look:
    """`look` at the original in the cache, which has to be a file itself."""
    path = places.cached(entry, "original")
    if path.is_symlink() or not path.is_file():
        return Look(None, "it is not a regular file")  # what a link shows can change after it was checked
    return look(path, file)


def _converted_in(folder: Path, entry: Entry, conversion: LockedConversion | None, refused: list[str]) -> Path | None:
    """A converted file in the user's folder whose digest the lock knows; what it says about itself proves nothing."""
    if conversion is None:
        named = folder / f"{entry.name}.safetensors"
        if named.is_file():
            refused.append(f"{named}: no digest of the converted file is known; `videozoo import` the original once")
        return None
    for candidate, named_so in _candidates(folder, entry, "converted", conversion.sha256):
        problem = look(candidate, conversion).problem
        if problem is None:
            return candidate
        if named_so:
            refused.append(f"{candidate}: {problem}")
    return None


def _candidates(folder: Path, entry: Entry, kind: Kind, digest: str | None) -> Iterator[tuple[Path, bool]]:
    """Files of a folder that may be the wanted one, and whether their names say so; the likelier ones first."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return
    mirrored = folder / places.layout(entry, kind)  # a mirror on a disk is such a folder, too
    named = [mirrored] if mirrored.is_file() else []
    named += [path for path in paths if path.name == mirrored.name]
    named += [path for path in paths if path not in named and digest is not None and digest[:8] in path.name]
    for path in named:
        yield path, True
    if len(paths) <= MAX_FILES_HASHED:
        for path in paths:
            if path.suffix in EXTENSIONS[kind] and path not in named:
                yield path, False


def _embedded(entry: Entry, file: File) -> Plan:
    path = places.PACKAGE_WEIGHTS / file.name
    if not path.is_file():
        raise NoSource(f"{entry.name}: {path} is missing from the installation; install videozoo again")
    found = look(path, file)
    if found.problem is not None:
        raise DigestMismatch(f"{entry.name}: {path} is damaged: {found.problem}; install videozoo again")
    return Plan("original", path, sha256=found.sha256)


def _nowhere(entry: Entry, file: File, refused: list[str]) -> str:
    why = "VIDEOZOO_OFFLINE or HF_HUB_OFFLINE forbids a download" if places.addresses(entry) else "no URL is known"
    looked = f" (not used: {'; '.join(refused)})" if refused else ""
    return (
        f"{entry.name}: {file.name} is not on this machine{looked} and {why}; "
        "put it into a folder that VIDEOZOO_WEIGHTS_DIR names, or pass checkpoint_path="
    )
