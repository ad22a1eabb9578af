"""Entry -> verified file: ``plan`` decides and changes nothing, ``fetch`` acts.

    source, in this order                                     verified by
    <home>/converted/<row>.safetensors (+ .json)              size and sha256 that were recorded when it was written
    videozoo/weights/<file>                inside the package the row's digest
    <home>/originals/<row>/<file>          downloaded before  the lock's digest, else the row's, or its 8-digit prefix
    a folder of VIDEOZOO_WEIGHTS_DIR       the user's own     the same
    the mirrors of VIDEOZOO_MIRROR         in their order     the same, while it streams in
    the row's Hugging Face repository, its URLs in their order, the same

Nothing is used before its digest is checked; ``videozoo.lock`` (see `videozoo.lockfile`) keeps the full one from the
first use on. A row without any digest is had only with ``trust_first_use``, or when the lock has it. Every use reads
the file once to hash it: 0.1 s for 130 MB on a processor with SHA instructions. A damaged file of the cache is set
aside as ``<file>.damaged``. ``<home>/locks/<row>.lock``, empty and kept, makes sure that two processes never download
one row at once. A cache that cannot be written still serves what it holds.

Environment: ``VIDEOZOO_HOME``, ``VIDEOZOO_LOCK``, ``VIDEOZOO_WEIGHTS_DIR``, ``VIDEOZOO_MIRROR``, ``VIDEOZOO_OFFLINE``
and ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from videozoo import lockfile
from videozoo.download import download
from videozoo.errors import DigestMismatch, NoSource, OutputError
from videozoo.files import TEMPORARY_PREFIX, digest_problem, place, sha256_file
from videozoo.huggingface import is_offline
from videozoo.manifest import Entry, File, load

PACKAGE_WEIGHTS = Path(__file__).parent / "weights"
"""Where the files of embedded rows lie."""
CONVERTED_FORMAT = 1
"""Part of every stamp; to be raised when our tensor names change, so that older conversions are made again."""
MAX_FILES_HASHED = 32
"""A folder with more files than this is searched by name alone."""
EXTENSIONS = frozenset({".pth", ".pt", ".pkl", ".pdparams"})
"""Of originals, in a folder that is searched by digest."""

_HUB = "hf-hub:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the weights of a row come from, as the file system is now."""

    kind: Literal["converted", "original", "download"]
    path: Path
    """The verified file; for a download, where it will lie."""
    urls: tuple[str, ...] = ()
    """For a download: what is tried, in this order."""
    refused: tuple[str, ...] = ()
    """Files and folders on this machine that should have served, and why they do not."""
    sha256: str | None = field(default=None, compare=False)
    """All 64 digits of an original that is here."""


def home() -> Path:
    """The cache: ``VIDEOZOO_HOME``, or ``videozoo`` in the platform's cache folder. It need not exist yet."""
    chosen = os.environ.get("VIDEOZOO_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        parent = os.environ.get("XDG_CACHE_HOME") or "~/Library/Caches"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser().absolute() / "videozoo"


def weights_dirs() -> tuple[Path, ...]:
    """The user's own folders of weights: ``VIDEOZOO_WEIGHTS_DIR``, separated like ``PATH``."""
    folders = os.environ.get("VIDEOZOO_WEIGHTS_DIR", "").split(os.pathsep)
    return tuple(Path(folder).expanduser().absolute() for folder in folders if folder)


def mirrors() -> tuple[str, ...]:
    """``VIDEOZOO_MIRROR``: base addresses, separated by spaces, of servers laid out as the cache is."""
    return tuple(os.environ.get("VIDEOZOO_MIRROR", "").split())


def remote_urls(entry: Entry) -> tuple[str, ...]:
    """Where the row's original file is asked for, in this order: mirrors, Hugging Face repository, published URLs."""
    file = entry.file
    if file is None:
        return ()
    layout = f"originals/{entry.name}/{file.name}"
    places = [*mirrors(), *([] if file.huggingface_repo is None else [f"{_HUB}{file.huggingface_repo}"])]
    return (*(_below(place, layout) for place in places), *file.urls)


def _below(place: str, layout: str) -> str:
    """The address of a file at a base address, or in a Hugging Face repository ``hf-hub:org/name@revision``."""
    if not place.startswith(_HUB):
        return f"{place.rstrip('/')}/{layout}"
    repository, _, revision = place.removeprefix(_HUB).partition("@")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{revision or 'main'}/{layout}"


def lock_path() -> Path:
    """The lock file that is obeyed now: the one that was named, or the cache's own."""
    return lockfile.chosen() or home() / "videozoo.lock"


def plan(entry: Entry, *, trust_first_use: bool = False) -> Plan:
    """Decide where the weights come from. Reads files and the environment, changes nothing, opens no socket.

    Raises:
        NoSource: no file was published, no digest is known, or a download would be needed while offline.
        DigestMismatch: an embedded file is damaged, or the lock contradicts the manifest.
        InvalidArgument: the lock file cannot be read.
    """
    path = _converted_path(entry)
    if path.is_file() and _converted_problem(entry) is None:
        return Plan("converted", path)
    return _plan_original(entry, trust_first_use)


def fetch(entry: Entry, *, progress: bool = True, trust_first_use: bool = False) -> Path:
    """The verified original file of a row, downloaded if it is not on this machine.

    Args:
        entry: the row.
        progress: whether to draw a bar on stderr while downloading, if that is a terminal.
        trust_first_use: whether a file of which no digest is known may be downloaded; the lock keeps its digest.

    Raises:
        NoSource, DigestMismatch, InvalidArgument: as ``plan``.
        DigestMismatch: every URL gave other bytes.
        FetchError: no URL gave the file.
        OutputError: the cache cannot be written.
    """
    chosen = _plan_original(entry, trust_first_use)
    for reason in chosen.refused:
        _log.warning("%s: not used: %s", entry.name, reason)
    if chosen.kind == "original":
        _remember(entry, chosen.path, chosen.sha256, None)
        return chosen.path
    with _writable_home(), _lock(entry):
        file = _wanted(entry)  # read again: another process may have locked it while this one waited
        if os.path.lexists(chosen.path):
            found = _look(chosen.path, file)
            if found.problem is None:
                return chosen.path
            _set_aside(chosen.path)
        chosen.path.parent.mkdir(parents=True, exist_ok=True)
        for stale in chosen.path.parent.glob(f"{TEMPORARY_PREFIX}*"):
            stale.unlink()  # of a process that was killed: only the holder of the lock writes here
        placed = download(
            chosen.urls,
            chosen.path,
            digest=_digest(entry, file, trust_first_use),
            size_bytes=file.size_bytes,
            what=entry.name,
            progress=progress,
        )
        try:
            _remember(entry, chosen.path, placed.sha256, placed.url)
        except OutputError:
            if file.sha256 is None and file.sha256_prefix is None:
                chosen.path.unlink()  # trusted for a lock that could not be written
            raise
    return chosen.path


def converted(entry: Entry) -> Path | None:
    """The converted file of a row in the cache, read and found to be what was stored.

    A damaged one is set aside; None then, and where there is none.
    """
    path = _converted_path(entry)
    if not os.path.lexists(path):
        return None
    if lockfile.chosen() is not None and entry.name not in lockfile.read(lock_path()):
        return None  # the original has to be looked at, so that the named lock gets its line
    if _converted_problem(entry) is None:
        return path
    # A cache that cannot be written keeps its damaged file, which is not used either way.
    with suppress(OSError), _lock(entry):
        problem = _converted_problem(entry)  # under the lock: the stamp may just have been on its way
        if problem is None:
            return path
        _log.warning("%s: %s is set aside: %s", entry.name, path, problem)
        _set_aside(path)
    return None


def store_converted(entry: Entry, write: Callable[[Path], None]) -> Path:
    """Place the safetensors file that ``write`` makes in the cache, with its size and digest beside it.

    Args:
        entry: the row that was converted.
        write: called with the path of an empty file to fill.

    Raises:
        OutputError: the cache cannot be written.
    """
    path = _converted_path(entry)
    stamp: dict[str, object] = {}

    def write_and_stamp(temporary: Path) -> None:
        write(temporary)
        stamp.update(_expected_stamp(entry), size_bytes=temporary.stat().st_size, sha256=sha256_file(temporary))

    def write_stamp(temporary: Path) -> None:
        temporary.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")

    with _writable_home(), _lock(entry):
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, write_and_stamp, overwrite=True)
        place(_stamp_path(path), write_stamp, overwrite=True)
    return path


def _plan_original(entry: Entry, trust_first_use: bool) -> Plan:
    file = _wanted(entry)
    if file.embedded:
        return _embedded(entry, file)
    _digest(entry, file, trust_first_use)
    refused: list[str] = []
    cached = home() / "originals" / entry.name / file.name
    if os.path.lexists(cached):
        found = _look(cached, file)
        if found.problem is None:
            return Plan("original", cached, sha256=found.sha256)
        refused.append(f"{cached}: {found.problem}")
    for folder in weights_dirs():
        for candidate, named in _candidates(folder, file):
            found = _look(candidate, file)
            if found.problem is None:
                return Plan("original", candidate, refused=tuple(refused), sha256=found.sha256)
            if named:
                refused.append(f"{candidate}: {found.problem}")
        if not folder.is_dir():
            refused.append(f"VIDEOZOO_WEIGHTS_DIR names {folder}, which is not a folder")
    urls = remote_urls(entry)
    if urls and not is_offline():
        return Plan("download", cached, urls, tuple(refused))
    raise NoSource(_nowhere(entry, file, refused))


def _wanted(entry: Entry) -> File:
    """The row's file, with the digest and the size that the lock knows beyond the manifest.

    Raises:
        DigestMismatch: the two contradict each other.
    """
    file, path = _published(entry), lock_path()
    line = lockfile.read(path).get(entry.name)
    if line is None:
        return file
    known = file.sha256 or file.sha256_prefix or ""
    if not line.sha256.startswith(known) or file.size_bytes not in (None, line.size_bytes):
        raise DigestMismatch(
            f"{entry.name}: {path} records sha256 {line.sha256} of {line.size_bytes} bytes, the manifest says {known} "
            f"of {file.size_bytes or 'unknown'} bytes; remove that line of the lock if the manifest is right"
        )
    return replace(file, sha256=line.sha256, size_bytes=line.size_bytes)


def _remember(entry: Entry, path: Path, sha256: str | None, url: str | None) -> None:
    """Lock what was used first; the cache's own lock is left as it is where it cannot be written.

    Raises:
        OutputError: a lock file that was named, or one that a row without any digest needs, cannot be written.
    """
    file, lock = _published(entry), lock_path()
    named = lockfile.chosen() is not None
    if sha256 is None or (file.embedded and not named) or entry.name in lockfile.read(lock):
        return
    needed = named or (file.sha256 is None and file.sha256_prefix is None)
    line = lockfile.Locked(sha256, path.stat().st_size, url or str(path))
    try:
        with _guard("videozoo"):
            lockfile.add(lock, entry.name, line)
    except (OSError, OutputError) as error:
        if needed:
            raise OutputError(f"{entry.name}: the lock file {lock} cannot be written: {error}") from error
        _log.info("%s: not locked: %s", entry.name, error)


def _nowhere(entry: Entry, file: File, refused: list[str]) -> str:
    why = "VIDEOZOO_OFFLINE or HF_HUB_OFFLINE forbids a download" if file.urls else "no URL is known"
    looked = f" (not used: {'; '.join(refused)})" if refused else ""
    return (
        f"{entry.name}: {file.name} is not on this machine{looked} and {why}; "
        "put it into a folder that VIDEOZOO_WEIGHTS_DIR names, or pass checkpoint_path="
    )


def _published(entry: Entry) -> File:
    if entry.file is not None:
        return entry.file
    others = [row.name for row in load().entries if row.architecture == entry.architecture and row.file is not None]
    raise NoSource(
        f"{entry.name}: its page announces a file that was never published; "
        f"weights of {entry.architecture} with a file: {', '.join(others) or 'none'}"
    )


def _digest(entry: Entry, file: File, trust_first_use: bool) -> str | None:
    """All that is known of the row's digest: 64 digits, or the first 8; None only where the user trusts the file."""
    digest = file.sha256 or file.sha256_prefix
    if digest is None and not trust_first_use:
        raise NoSource(
            f"{entry.name}: no digest of {file.name} is known, so nothing can be verified; "
            f"`videozoo fetch {entry.name} --trust-first-use` takes what its source sends and locks it, "
            "or pass a file that you trust as checkpoint_path="
        )
    return digest


def _embedded(entry: Entry, file: File) -> Plan:
    path = PACKAGE_WEIGHTS / file.name
    if not path.is_file():
        raise NoSource(f"{entry.name}: {path} is missing from the installation; install videozoo again")
    found = _look(path, file)
    if found.problem is not None:
        raise DigestMismatch(f"{entry.name}: {path} is damaged: {found.problem}; install videozoo again")
    return Plan("original", path, sha256=found.sha256)


def _candidates(folder: Path, file: File) -> Iterator[tuple[Path, bool]]:
    """Files of a folder that may be ``file``, and whether their names say so; the likelier ones first."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return
    prefix = (file.sha256 or file.sha256_prefix or "")[:8]
    named = [path for path in paths if path.name == file.name]
    named += [path for path in paths if path not in named and prefix in path.name]
    for path in named:
        yield path, True
    if len(paths) <= MAX_FILES_HASHED:
        for path in paths:
            if path.suffix in EXTENSIONS and path not in named:
                yield path, False


@dataclass(frozen=True, slots=True)
class _Look:
    """What a file turned out to be."""

    sha256: str | None
    problem: str | None
    """Why it is not the wanted file; None when its digest says that it is."""


def _look(path: Path, file: File) -> _Look:
    expected = file.sha256 or file.sha256_prefix
    if expected is None:
        return _Look(None, "no digest is known")
    try:
        size = path.stat().st_size
        if file.size_bytes is not None and size != file.size_bytes:
            return _Look(None, f"it has {size} bytes, not {file.size_bytes}")
        found = sha256_file(path)
    except OSError as error:
        return _Look(None, f"it cannot be read: {error.strerror or error}")
    return _Look(found, digest_problem(found, expected))


def _converted_path(entry: Entry) -> Path:
    return home() / "converted" / f"{entry.name}.safetensors"


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _expected_stamp(entry: Entry) -> dict[str, object]:
    """What ties a conversion to this release's tensor names and to the file that its row names now."""
    file = entry.file
    stamp: dict[str, object] = {
        "format": CONVERTED_FORMAT,
        "original": None if file is None else file.sha256 or file.sha256_prefix,
    }
    line = lockfile.read(lock_path()).get(entry.name)
    return stamp if line is None else stamp | {"original_sha256": line.sha256}


def _converted_problem(entry: Entry) -> str | None:
    """Why the converted file is not the one that was stored; None when it is, or when there is none."""
    path = _converted_path(entry)
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"  # what a link shows can change after it was checked
    try:
        stamp = json.loads(_stamp_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"its record {_stamp_path(path).name} is missing or damaged"
    expected = _expected_stamp(entry)
    if not isinstance(stamp, dict) or {key: stamp.get(key) for key in expected} != expected:
        return "it was made from another file or by another release"
    if stamp.get("size_bytes") != status.st_size:
        return f"it has {status.st_size} bytes, not the recorded {stamp.get('size_bytes')}"
    try:
        return digest_problem(sha256_file(path), str(stamp.get("sha256")))
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _set_aside(path: Path) -> None:
    os.replace(path, path.with_name(path.name + ".damaged"))


@contextmanager
def _lock(entry: Entry) -> Iterator[None]:
    """Keep other processes out of this row; the system frees the lock of a process that dies.

    Raises:
        OSError: the lock file cannot be written.
    """
    with _guard(entry.name):
        yield


@contextmanager
def _guard(name: str) -> Iterator[None]:
    from filelock import FileLock  # comes with torch, which requires it

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


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
