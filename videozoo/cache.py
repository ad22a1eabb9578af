"""Entry -> verified file: ``plan`` decides and changes nothing, ``fetch`` acts.

    source, in this order                                     verified by
    <home>/converted/<row>.safetensors (+ .json)              size and sha256 that were recorded when it was written
    videozoo/weights/<file>                inside the package the row's digest
    a folder of VIDEOZOO_WEIGHTS_DIR       the user's own     the row's digest, or its published 8-digit prefix
    <home>/originals/<row>/<file>          downloaded before  the same, again at every use
    the row's URLs                         in their order     the same, while it streams in

Nothing is used before its digest is checked, so a row without any digest has no source here. Every use reads the file
once to hash it: 0.1 s for 130 MB on a processor with SHA instructions. A damaged file of the cache is set aside as
``<file>.damaged``. ``<home>/locks/<row>.lock``, empty and kept, makes sure that two processes never download one row at
once. A cache that cannot be written still serves what it holds.

Environment: ``VIDEOZOO_HOME``, ``VIDEOZOO_WEIGHTS_DIR``, ``VIDEOZOO_OFFLINE`` and ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videozoo.download import download
from videozoo.errors import DigestMismatch, NoSource, OutputError
from videozoo.files import TEMPORARY_PREFIX, digest_problem, place, sha256_file
from videozoo.manifest import Entry, File, load

PACKAGE_WEIGHTS = Path(__file__).parent / "weights"
"""Where the files of embedded rows lie."""
CONVERTED_FORMAT = 1
"""Part of every stamp; to be raised when our tensor names change, so that older conversions are made again."""
MAX_FILES_HASHED = 32
"""A folder with more files than this is searched by name alone."""
EXTENSIONS = frozenset({".pth", ".pt", ".pkl", ".pdparams"})
"""Of originals, in a folder that is searched by digest."""

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


def plan(entry: Entry) -> Plan:
    """Decide where the weights come from. Reads files and the environment, changes nothing, opens no socket.

    Raises:
        NoSource: no file was published, no digest is known, or a download would be needed while offline.
        DigestMismatch: an embedded file is damaged.
    """
    path = _converted_path(entry)
    if path.is_file() and _converted_problem(entry) is None:
        return Plan("converted", path)
    return _plan_original(entry)


def fetch(entry: Entry, *, progress: bool = True) -> Path:
    """The verified original file of a row, downloaded if it is not on this machine.

    Args:
        entry: the row.
        progress: whether to draw a bar on stderr while downloading, if that is a terminal.

    Raises:
        NoSource, DigestMismatch: as ``plan``.
        DigestMismatch: every URL gave other bytes.
        FetchError: no URL gave the file.
        OutputError: the cache cannot be written.
    """
    chosen = _plan_original(entry)
    for reason in chosen.refused:
        _log.warning("%s: not used: %s", entry.name, reason)
    if chosen.kind == "original":
        return chosen.path
    file = _published(entry)
    with _writable_home(), _lock(entry):
        if os.path.lexists(chosen.path):
            if _problem(chosen.path, file) is None:  # another process fetched it while this one waited
                return chosen.path
            _set_aside(chosen.path)
        chosen.path.parent.mkdir(parents=True, exist_ok=True)
        for stale in chosen.path.parent.glob(f"{TEMPORARY_PREFIX}*"):
            stale.unlink()  # of a process that was killed: only the holder of the lock writes here
        download(
            chosen.urls,
            chosen.path,
            digest=_digest(entry, file),
            size_bytes=file.size_bytes,
            what=entry.name,
            progress=progress,
        )
    return chosen.path


def converted(entry: Entry) -> Path | None:
    """The converted file of a row in the cache, read and found to be what was stored.

    A damaged one is set aside; None then, and where there is none.
    """
    path = _converted_path(entry)
    if not os.path.lexists(path):
        return None
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


def _plan_original(entry: Entry) -> Plan:
    file = _published(entry)
    if file.embedded:
        return Plan("original", _embedded(entry, file))
    _digest(entry, file)
    refused: list[str] = []
    for folder in weights_dirs():
        for candidate, named in _candidates(folder, file):
            problem = _problem(candidate, file)
            if problem is None:
                return Plan("original", candidate, refused=tuple(refused))
            if named:
                refused.append(f"{candidate}: {problem}")
        if not folder.is_dir():
            refused.append(f"VIDEOZOO_WEIGHTS_DIR names {folder}, which is not a folder")
    cached = home() / "originals" / entry.name / file.name
    if os.path.lexists(cached):
        problem = _problem(cached, file)
        if problem is None:
            return Plan("original", cached, refused=tuple(refused))
        refused.append(f"{cached}: {problem}")
    if file.urls and not _is_offline():
        return Plan("download", cached, file.urls, tuple(refused))
    raise NoSource(_nowhere(entry, file, refused))


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


def _digest(entry: Entry, file: File) -> str:
    """All that is known of the row's digest: 64 digits, or the first 8."""
    digest = file.sha256 or file.sha256_prefix
    if digest is None:
        raise NoSource(
            f"{entry.name}: no digest of {file.name} is known, so nothing can be verified; "
            "pass a file that you trust as checkpoint_path="
        )
    return digest


def _embedded(entry: Entry, file: File) -> Path:
    path = PACKAGE_WEIGHTS / file.name
    if not path.is_file():
        raise NoSource(f"{entry.name}: {path} is missing from the installation; install videozoo again")
    problem = _problem(path, file)
    if problem is not None:
        raise DigestMismatch(f"{entry.name}: {path} is damaged: {problem}; install videozoo again")
    return path


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


def _problem(path: Path, file: File) -> str | None:
    """Why the file at ``path`` is not ``file``; None when its digest says that it is."""
    expected = file.sha256 or file.sha256_prefix
    if expected is None:
        return "no digest is known"
    try:
        size = path.stat().st_size
        if file.size_bytes is not None and size != file.size_bytes:
            return f"it has {size} bytes, not {file.size_bytes}"
        return digest_problem(sha256_file(path), expected)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _converted_path(entry: Entry) -> Path:
    return home() / "converted" / f"{entry.name}.safetensors"


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _expected_stamp(entry: Entry) -> dict[str, object]:
    """What ties a conversion to this release's tensor names and to the file that its row names now."""
    file = entry.file
    return {"format": CONVERTED_FORMAT, "original": None if file is None else file.sha256 or file.sha256_prefix}


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


def _is_offline() -> bool:
    names = ("VIDEOZOO_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() not in {"", "0", "false", "no", "off"} for name in names)


@contextmanager
def _lock(entry: Entry) -> Iterator[None]:
    """Keep other processes out of this row; the system frees the lock of a process that dies.

    Raises:
        OSError: the lock file cannot be written.
    """
    from filelock import FileLock  # comes with torch, which requires it

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{entry.name}.lock"):
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
