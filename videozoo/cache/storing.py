"""What changes the cache: download, store, lock, set aside."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from videozoo import lockfile
from videozoo.cache import places, planning, records, untouched
from videozoo.cache.guards import guard, lock_guard
from videozoo.cache.places import home, lock_path, record_of
from videozoo.cache.planning import Plan, converted_problem, plan_original, wanted
from videozoo.download import download
from videozoo.errors import DigestMismatch, FetchError, OutputError, printable
from videozoo.files import TEMPORARY_PREFIX, digest_problem, place, sha256_file
from videozoo.lockfile import CONVERTER, Locked, LockedConversion
from videozoo.manifest import Entry, File

DAMAGED = ".damaged"
"""How the name of a file ends that was set aside."""
OUTDATED = ".outdated"
"""The same of a conversion that was right, for another original or another release."""

_log = logging.getLogger(__name__)


def fetch(entry: Entry, *, progress: bool = True, trust_first_use: bool = False) -> Path:
    """The verified original file of a row, downloaded if it is not on this machine.

    Args:
        entry: the row.
        progress: whether to draw a bar on stderr while downloading, if that is a terminal.
        trust_first_use: whether a file of which no digest is known may be downloaded; the lock keeps its digest.

    Raises:
        NoSource, DigestMismatch, InvalidArgument: as `plan`.
        DigestMismatch: every URL gave other bytes.
        FetchError: no URL gave the file.
        OutputError: the cache cannot be written.
    """
    chosen = plan_original(entry, trust_first_use=trust_first_use)
    return _carry_out(entry, chosen, progress=progress, trust_first_use=trust_first_use).path


def obtain(entry: Entry, *, progress: bool = True, trust_first_use: bool = False) -> Plan:
    """The verified file that the row is loaded from, downloaded if need be: converted where it can be had so.

    Args, Raises: as `fetch`.

    Returns:
        A plan whose kind is ``converted`` or ``original``.
    """
    stored = converted(entry)
    if stored is not None:
        return Plan("converted", stored)
    chosen = planning.plan(entry, trust_first_use=trust_first_use)
    return _carry_out(entry, chosen, progress=progress, trust_first_use=trust_first_use)


def _carry_out(entry: Entry, chosen: Plan, *, progress: bool, trust_first_use: bool) -> Plan:
    for reason in chosen.refused:
        _log.warning("%s: not used: %s", entry.name, printable(reason))
    if chosen.kind == "original":
        _remember(entry, chosen.path, chosen.sha256, None)
    if chosen.kind != "download":
        return chosen
    with _writable_home(), guard(entry.name):
        file = wanted(entry)  # read again: another process may have locked it while this one waited
        if chosen.converted_urls and os.path.lexists(places.cached(entry, "converted")):
            problem = converted_problem(entry)
            if problem is None:
                return Plan("converted", places.cached(entry, "converted"))
            _set_aside(places.cached(entry, "converted"), outdated=problem == planning.OUTDATED)
        if os.path.lexists(chosen.path):
            found = planning.look_at_cached(entry, file)
            if found.problem is None:
                return Plan("original", chosen.path, sha256=found.sha256)
            _set_aside(chosen.path)
        return _download(entry, file, chosen, progress, trust_first_use)


def _download(entry: Entry, file: File, chosen: Plan, progress: bool, trust_first_use: bool) -> Plan:
    """Ask the addresses in their order; the caller holds the row's guard."""
    failures: list[FetchError] = []
    for is_converted, group in groupby(chosen.urls, chosen.converted_urls.__contains__):
        urls = tuple(group)
        try:
            if is_converted:
                return _download_converted(entry, urls, progress)
            return _download_original(entry, file, urls, chosen.path, progress, trust_first_use)
        except FetchError as failure:
            failures.append(failure)
    *earlier, last = failures
    for error in earlier:
        _log.warning("%s", error)
    raise last


def _download_converted(entry: Entry, urls: tuple[str, ...], progress: bool) -> Plan:
    path = places.cached(entry, "converted")
    known = planning.known_conversion(entry)
    if known is None:  # another process changed the lock meanwhile
        raise FetchError(f"{entry.name}: the lock file {lock_path()} knows no converted file any more")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_record(entry, path, known)  # before there is a file: one without a record would be lost
    try:
        download(urls, path, digest=known.sha256, size_bytes=known.size_bytes, what=entry.name, progress=progress)
    except BaseException:
        record_of(path).unlink(missing_ok=True)
        raise
    return Plan("converted", path)


def _download_original(
    entry: Entry, file: File, urls: tuple[str, ...], path: Path, progress: bool, trust_first_use: bool
) -> Plan:
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f"{TEMPORARY_PREFIX}*"):
        stale.unlink()  # of a process that was killed: only the holder of the lock writes here
    digest = planning.require_digest(entry, file, trust_first_use)
    placed = download(urls, path, digest=digest, size_bytes=file.size_bytes, what=entry.name, progress=progress)
    try:
        _remember(entry, path, placed.sha256, placed.url)
    except OutputError:
        if file.sha256 is None and file.sha256_prefix is None:
            path.unlink()  # trusted for a lock that could not be written
        raise
    return Plan("original", path, sha256=placed.sha256)


def converted(entry: Entry) -> Path | None:
    """The converted file of a row in the cache, found to be what was stored.

    It is read for that, unless nobody touched it since it was read last; see `videozoo.cache.untouched`. A damaged one
    is set aside; None then, and where there is none, or only one of another original or release. A named lock without
    a line of the row takes over that of the cache's own lock, if the file is what that one says.

    Raises:
        OutputError: the named lock cannot be written.
    """
    path = places.cached(entry, "converted")
    if not os.path.lexists(path):
        return None
    if planning.awaits_lock(entry):
        line = planning.line_to_adopt(entry)
        if line is not None:
            _lock_line(entry, line, needed=True)
        return None if line is None else path
    if untouched.is_untouched(path) and converted_problem(entry, hashed=False) is None:
        return path
    before = untouched.state(path)
    if converted_problem(entry) is None:
        with suppress(OSError), guard(entry.name):  # the record is this file's as long as nobody else stores one
            untouched.remember(path, before)
        return path
    if converted_problem(entry, hashed=False) == planning.OUTDATED:
        return None
    # A cache that cannot be written keeps its damaged file, which is not used either way.
    with suppress(OSError), guard(entry.name):
        problem = converted_problem(entry)  # under the lock: the record may just have been on its way
        if problem is None:
            return path
        if problem == planning.OUTDATED:
            return None
        _log.warning("%s: %s is set aside: %s", entry.name, path, problem)
        _set_aside(path)
    return None


def store_converted(entry: Entry, write: Callable[[Path], None]) -> Path:
    """Place the safetensors file that ``write`` makes in the cache, with a record beside it and its digest in the lock.

    Args:
        entry: the row that was converted.
        write: called with the path of an empty file to fill.

    Raises:
        DigestMismatch: the lock has another digest for what this converter makes.
        OutputError: the cache cannot be written.
    """
    path = places.cached(entry, "converted")
    made: list[LockedConversion] = []

    def write_and_check(temporary: Path) -> None:
        write(temporary)
        made.append(LockedConversion(sha256_file(temporary), temporary.stat().st_size, CONVERTER))
        known = planning.known_conversion(entry)
        if known is not None and known != made[0]:
            raise DigestMismatch(
                f"{entry.name}: converted to sha256 {made[0].sha256}, but {lock_path()} has {known.sha256} for "
                f"{CONVERTER}; remove `converted` of that line if it is wrong"
            )
        # Before the file has its name: whenever this process is killed, no file is without a record.
        if planning.converted_problem(entry, hashed=False) is not None:
            path.unlink(missing_ok=True)  # the new record is not to be read as that of an outdated file
        _remember_converted(entry, made[0])
        _write_record(entry, path, made[0])

    with _writable_home(), guard(entry.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, write_and_check, overwrite=True)
    return path


def record_first_use(entry: Entry, path: Path, sha256: str) -> None:
    """Lock the digest of a row's original file that is used for the first time; an embedded row's is in the manifest.

    Args:
        entry: the row.
        path: the file, which the caller has read; the lock keeps its size and where it lies.
        sha256: all 64 digits of its digest.

    Raises:
        NoSource: the row has no file.
        DigestMismatch: the manifest, or the lock, has another digest for the row.
        OutputError: a lock file that was named, or one that a row without any digest needs, cannot be written.
    """
    file = wanted(entry)
    expected = file.sha256 or file.sha256_prefix
    problem = None if expected is None else digest_problem(sha256, expected)
    if problem is not None:
        raise DigestMismatch(f"{path} is not the file of {entry.name}: {problem}")
    _remember(entry, path, sha256, str(path.absolute()))


def _remember(entry: Entry, path: Path, sha256: str | None, source: str | None) -> None:
    """Lock what was used first; the cache's own lock is left as it is where it cannot be written.

    Raises:
        OutputError: a lock file that was named, or one that a row without any digest needs, cannot be written.
    """
    file, lock = planning.published(entry), lock_path()
    named = lockfile.chosen() is not None
    if sha256 is None or (file.embedded and not named) or entry.name in lockfile.read(lock):
        return
    needed = named or (file.sha256 is None and file.sha256_prefix is None)
    _lock_line(entry, Locked(sha256, path.stat().st_size, source or str(path)), needed=needed)


def _lock_line(entry: Entry, line: Locked, *, needed: bool) -> None:
    lock = lock_path()
    try:
        with lock_guard(lock):
            lockfile.add(lock, entry.name, line)
    except (OSError, OutputError) as error:
        if needed:
            raise OutputError(f"{entry.name}: the lock file {lock} cannot be written: {error}") from error
        _log.info("%s: not locked: %s", entry.name, error)


def _remember_converted(entry: Entry, made: LockedConversion) -> None:
    """Lock the first conversion. It follows from the original, so that a lock which cannot be written does no harm."""
    lock = lock_path()
    if entry.name not in lockfile.read(lock):
        return
    try:
        with lock_guard(lock):
            line = lockfile.read(lock).get(entry.name)
            if line is not None and line.converted != made:
                lockfile.put(lock, entry.name, replace(line, converted=made))
    except (OSError, OutputError) as error:
        _log.info("%s: the conversion is not locked: %s", entry.name, error)


def _write_record(entry: Entry, path: Path, made: LockedConversion) -> None:
    record = {**planning.expected_record(entry), "size_bytes": made.size_bytes, "sha256": made.sha256}
    records.write(path, record)


def _set_aside(path: Path, *, outdated: bool = False) -> None:
    os.replace(path, path.with_name(path.name + (OUTDATED if outdated else DAMAGED)))


@contextmanager
def _writable_home() -> Iterator[None]:
    """Say of every failure to write what to do about it."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}; set VIDEOZOO_HOME to a folder that can be written") from error
    except OSError as error:
        raise OutputError(
            f"cannot write the cache {home()}: {error.strerror or error}; "
            "set VIDEOZOO_HOME to a folder that can be written"
        ) from error
