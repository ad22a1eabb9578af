"""Files of the user's own -> the cache: a file is told by its digest, or by what the user says, and converted there."""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videozoo import cache, lockfile, registry
from videozoo.cache.planning import wanted
from videozoo.convert import ConversionReport, convert_checkpoint, has_layout
from videozoo.errors import CheckpointMismatch, DigestMismatch, OutputError, UnknownWeights, UnreadableCheckpoint
from videozoo.files import digest_problem, sha256_file
from videozoo.manifest import Entry, load

_OURS = "videozoo"
"""The layout of files that were converted before."""
Known = Literal["sha256", "prefix", "lock", "name and structure", "--as and structure"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file was found to be, and where its conversion lies."""

    source: Path
    sha256: str
    size_bytes: int
    weights: str
    known_by: Known
    """``sha256`` and ``prefix``: the row's published digest; ``lock``: that of the lock file. Else the file's structure
    is the row's, and its name or the user says that it is the row's file: nothing was published to compare it with."""
    converted: Path


def import_file(path: Path, *, row: str | None = None) -> Imported:
    """Convert a file into the cache and record its digest in the lock, so that its row loads offline.

    The file is read in a child process with limits; nothing in it is run.

    Args:
        path: an original checkpoint, or a converted file whose digest the lock knows.
        row: the weights that the file is; needed where neither a digest nor the file's name tells.

    Raises:
        UnknownWeights: no row is known by the file's digest or name; or ``row`` is none.
        DigestMismatch: the file is not that of ``row``, by its digest.
        CheckpointError: the file is unreadable, or its structure is not the row's.
        NoSource: ``row`` never had a file.
        OutputError: the cache, or the lock file, cannot be written.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device may have no end
            raise UnreadableCheckpoint(f"{path}: it is not a regular file; name the checkpoint itself")
        sha256, size_bytes = sha256_file(path), status.st_size
    except OSError as error:
        raise UnreadableCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from None
    converted_row = _row_of_conversion(sha256)
    if converted_row is not None and row in (None, converted_row.name):
        target = cache.store_converted(converted_row, lambda temporary: _copy(path, temporary))
        return Imported(path, sha256, size_bytes, converted_row.name, "lock", target)
    entry, known_by = _identify(path, sha256, row)
    target = convert_into_cache(entry, path, sha256, by_structure=known_by.endswith("structure"))
    return Imported(path, sha256, size_bytes, entry.name, known_by, target)


def convert_into_cache(entry: Entry, path: Path, sha256: str, *, by_structure: bool = False) -> Path:
    """Convert a row's original, read in a child process; the cache keeps the result and the lock its digest.

    Args:
        entry: the row; its architecture and its classes have to be the file's.
        path: the original file.
        sha256: its digest, which was compared with whatever is known of the row's.
        by_structure: whether there was nothing to compare it with, so that its layout has to be the row's, too.

    Raises:
        CheckpointError: the file is unreadable, or its structure is not the row's.
        DigestMismatch: the file changed meanwhile, or the lock has another digest.
        OutputError: the cache, or the lock file, cannot be written.
    """

    def write(temporary: Path) -> None:
        report = convert_checkpoint(path, temporary, architecture=entry.architecture, overwrite=True, isolated=True)
        if report.source_layout == _OURS:
            raise CheckpointMismatch(
                f"{path} is a converted file whose digest the lock does not know: import the original of {entry.name}"
            )
        _check(entry, path, sha256, report, by_structure)
        _name_row(temporary, entry)
        cache.record_first_use(entry, path, sha256)  # not before it is known that the file fits

    return cache.store_converted(entry, write)


def _check(entry: Entry, path: Path, sha256: str, report: ConversionReport, by_structure: bool) -> None:
    problem = digest_problem(report.source_sha256, sha256)
    if problem is not None:
        raise DigestMismatch(f"{path}: {problem}: it changed while it was read")
    if report.num_classes != entry.num_classes:
        raise CheckpointMismatch(
            f"{path} has {report.num_classes} classes, {entry.name} has {entry.num_classes}: it is not that row's file"
        )
    layout = "" if entry.file is None else entry.file.layout
    if by_structure and not has_layout(report, entry):
        raise CheckpointMismatch(
            f"{path} has the layout {report.source_layout}, the file of {entry.name} has {layout}: it is another file"
        )


def _name_row(converted: Path, entry: Entry) -> None:
    """Write a converted file again with what it says where a digest tells the row, if it does not say so already."""
    from videozoo.checkpoints.safetensors_file import write_verified
    from videozoo.conversion import open_weights, row_metadata

    source = open_weights(converted)
    metadata = {**source.metadata, **row_metadata(entry)}
    if metadata == source.metadata:
        return
    again = converted.with_name(f"{converted.name}.again")
    try:
        if write_verified(again, source.tensors, metadata) is not None:
            raise OutputError(f"{again} read back differently from what was written: check the disk")
        again.replace(converted)
    finally:
        again.unlink(missing_ok=True)


def _copy(path: Path, temporary: Path) -> None:
    try:
        shutil.copyfile(path, temporary)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from None


def _row_of_conversion(sha256: str) -> Entry | None:
    """The row whose converted file the lock knows by this digest."""
    for name, line in lockfile.read(cache.lock_path()).items():
        if line.converted is not None and line.converted.sha256 == sha256:
            return _row(name)
    return None


def _row_of_original(sha256: str) -> tuple[Entry, Known] | None:
    """The row whose original the manifest, or else the lock, knows by this digest."""
    found = registry.find_by_digest(sha256)
    if found is not None:
        full = found.file is not None and found.file.sha256 is not None
        return found, "sha256" if full else "prefix"
    for name, line in lockfile.read(cache.lock_path()).items():
        entry = _row(name) if line.sha256 == sha256 else None
        if entry is not None:
            return entry, "lock"
    return None


def _row(name: str) -> Entry | None:
    return next((entry for entry in load().entries if entry.name == name), None)


def _identify(path: Path, sha256: str, row: str | None) -> tuple[Entry, Known]:
    asked = None if row is None else registry.get_weights(row)
    found = _row_of_original(sha256)
    if found is not None:
        if asked not in (None, found[0]):
            raise DigestMismatch(f"{path} is the file of {found[0].name} by its digest, not of {row}")
        return found
    named = asked or registry.find_by_file_name(path.name)
    if named is None:
        raise UnknownWeights(
            f"{path}: its sha256 {sha256} is that of no row; a file of a row without a published digest is named with "
            "--as ROW, and `videozoo convert` converts any other"
        )
    known = wanted(named)
    digest = known.sha256 or known.sha256_prefix
    if digest is not None:
        raise DigestMismatch(f"{path} is not the file of {named.name}: {digest_problem(sha256, digest)}")
    return named, "name and structure" if asked is None else "--as and structure"
