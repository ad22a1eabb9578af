"""What lies in the cache: every file with its row and what is known of it, and the files that nobody needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from videozoo import registry
from videozoo.cache import places, planning
from videozoo.cache.guards import guard, is_guarded, lock_guard
from videozoo.cache.storing import DAMAGED, OUTDATED
from videozoo.download import PART
from videozoo.errors import InvalidArgument, OutputError, VideoZooError
from videozoo.files import TEMPORARY_PREFIX
from videozoo.manifest import Entry, load

CachedKind = Literal[
    "original", "converted", "record", "partial", "temporary", "damaged", "outdated", "lock file", "guard", "unknown"
]


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of the cache."""

    path: Path
    row: str | None
    """The row that its place names, whether the manifest has it or not."""
    kind: CachedKind
    size_bytes: int
    digest: Literal["sha256", "prefix", "none"] | None
    """What the content can be compared with: all 64 digits, the published first 8, or nothing; None where nothing has
    to be compared."""
    problem: str | None
    """Why it is not used; None where nothing is wrong as far as was looked."""


def contents(*, hashed: bool = False) -> list[CachedFile]:
    """Every file of the cache, by name. Without ``hashed`` only sizes and records are looked at.

    Raises:
        InvalidArgument: the lock file cannot be read.
        OutputError: ``VIDEOZOO_HOME`` is a file.
    """
    found = []
    for path in _paths(places.home()):
        with suppress(FileNotFoundError):  # another process has just finished with it
            found.append(_look(path, hashed))
    return sorted(found, key=lambda file: file.path)


def _paths(folder: Path) -> Iterator[Path]:
    """Every file below; of links to folders, those are followed that the cache itself looks into, the others named."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)
        for link in (Path(parent) / name for name in folders if os.path.islink(Path(parent) / name)):
            depth = link.relative_to(places.home()).parts
            if depth[0] in ("originals", "converted", "locks") and len(depth) <= (2 if depth[0] == "originals" else 1):
                yield from _paths(link)
            else:
                yield link


def _look(path: Path, hashed: bool) -> CachedFile:
    kind, row = _kind(path)
    size = path.lstat().st_size
    if kind not in ("original", "converted"):
        return CachedFile(path, row, kind, size, None, None)
    entry = next((entry for entry in load().entries if entry.name == row), None)
    if entry is None or path != places.cached(entry, kind):
        return CachedFile(path, row, "unknown", size, None, None)
    if kind == "converted":
        problem = planning.converted_problem(entry, hashed=hashed)
        if problem == planning.OUTDATED:
            return CachedFile(path, row, "outdated", size, None, problem)
        return CachedFile(path, row, kind, size, "sha256" if places.record_of(path).exists() else "none", problem)
    digest, problem = _original(entry, path, size, hashed)
    return CachedFile(path, row, kind, size, digest, problem)


def _kind(path: Path) -> tuple[CachedKind, str | None]:
    """What a file is, by its place and its name alone."""
    folder, *rest = path.relative_to(places.home()).parts
    row = None
    if folder == "originals" and len(rest) == 2:
        row = rest[0]
    elif folder == "converted" and len(rest) == 1 and not rest[0].startswith(TEMPORARY_PREFIX):
        row = rest[0].partition(".safetensors")[0]
    if path.name.startswith(TEMPORARY_PREFIX):
        return "temporary", row
    if path.name.endswith(DAMAGED):
        return "damaged", row
    if path.name.endswith(OUTDATED):
        return "outdated", row
    if row is not None and path.name.endswith((PART, f"{PART}.json")):
        return "partial", row
    if row is not None and folder == "converted":
        return ("record" if path.name.endswith(".json") else "converted"), row
    if row is not None:
        return "original", row
    if path == places.home() / "videozoo.lock":
        return "lock file", None
    return ("guard" if folder == "locks" and path.suffix == ".lock" else "unknown"), None


def _original(
    entry: Entry, path: Path, size: int, hashed: bool
) -> tuple[Literal["sha256", "prefix", "none"], str | None]:
    try:
        file = planning.wanted(entry)
    except InvalidArgument:
        raise
    except VideoZooError as error:  # the lock contradicts the manifest
        return "none", str(error)
    digest: Literal["sha256", "prefix", "none"] = (
        "sha256" if file.sha256 is not None else "prefix" if file.sha256_prefix is not None else "none"
    )
    if hashed or digest == "none":
        return digest, planning.look_at_cached(entry, file).problem
    if path.is_symlink():
        return digest, "it is not a regular file"
    wrong = file.size_bytes not in (None, size)
    return digest, f"it has {size} bytes, not {file.size_bytes}" if wrong else None


def stale(patterns: Sequence[str] = (), *, partial: bool = False) -> list[CachedFile]:
    """The files that `remove` may be given: nobody needs them, or ``patterns`` of row names ask for them.

    Nobody needs what was set aside as damaged, what processes that have ended left unfinished, conversions of another
    release or of another original, and records without a file.

    Args:
        patterns: all files of the rows that match these wildcards, too.
        partial: downloads that can be taken up again, too.

    Raises:
        UnknownWeights: a pattern that means no row, neither of the manifest nor of the cache.
        InvalidArgument, OutputError: as `contents`.
    """
    files = contents()  # before any guard is looked at: what a process begins later is not in this list
    patterns = _patterns(patterns, {file.row for file in files if file.row is not None})
    busy = {file.path.stem for file in files if file.kind == "guard" and is_guarded(file.path.stem)}
    return [file for file in files if not _in_use(file, busy) and _is_stale(file, patterns, partial)]


def _patterns(patterns: Sequence[str], cached: set[str]) -> list[str]:
    """The same; one that matches nothing is a name, such as an architecture for its default row, or a mistake."""
    rows = cached | {entry.name for entry in load().entries}
    return [
        pattern if any(fnmatchcase(row, pattern) for row in rows) else registry.get_weights(pattern).name
        for pattern in patterns
    ]


def _in_use(file: CachedFile, busy: set[str]) -> bool:
    if file.kind == "temporary" and file.row is None:
        return bool(busy)  # its name does not say whose it is
    return file.row in busy


def _is_stale(file: CachedFile, patterns: Sequence[str], partial: bool) -> bool:
    if file.row is not None and any(fnmatchcase(file.row, pattern) for pattern in patterns):
        return True
    if file.kind == "record":
        return not os.path.lexists(file.path.with_suffix(""))
    useless = file.kind == "converted" and file.problem is not None
    return useless or file.kind in ("damaged", "outdated", "temporary") or (partial and file.kind == "partial")


def remove(file: CachedFile) -> None:
    """Delete a file of the cache, and the record of a converted one.

    Raises:
        OutputError: the cache cannot be written.
    """
    try:
        with guard(file.row) if file.row is not None else lock_guard(places.own_lock()):
            if file.path.suffix == ".safetensors" and file.kind in ("converted", "outdated"):
                places.record_of(file.path).unlink(missing_ok=True)
            file.path.unlink(missing_ok=True)
            with suppress(OSError):  # only an empty folder goes
                if file.path.parent.parent == places.home() / "originals":
                    file.path.parent.rmdir()
    except OSError as error:
        raise OutputError(f"cannot remove {file.path}: {error.strerror or error}") from error
