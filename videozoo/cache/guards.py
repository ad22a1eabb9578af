"""Who may write: one process at a time to a row of the cache, and to a lock file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videozoo.cache.places import home, own_lock


@contextmanager
def guard(name: str) -> Iterator[None]:
    """Keep other processes out of a row, or of what else has this name; the system frees the lock of one that dies.

    Raises:
        OSError: the lock file cannot be written.
    """
    from filelock import FileLock  # comes with torch, which requires it

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


@contextmanager
def lock_guard(lock: Path) -> Iterator[None]:
    """Keep all other writers out of a lock file, whatever their cache, while it is read and written.

    The folder of the file is locked, so that nothing is left in it, and nothing else has to be writable. Where a folder
    cannot be locked (Windows, some network file systems), those that share this cache are kept out.

    Raises:
        OSError: there is no such folder.
    """
    if lock == own_lock():
        lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock_folder(lock.parent)
    if descriptor is None:
        with guard("videozoo"):
            yield
        return
    try:
        yield
    finally:
        os.close(descriptor)  # which frees the lock, too


def _lock_folder(folder: Path) -> int | None:
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            return None
        raise
    return descriptor


def is_guarded(name: str) -> bool:
    """Whether a living process holds this `guard`."""
    from filelock import FileLock, Timeout

    path = home() / "locks" / f"{name}.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True
