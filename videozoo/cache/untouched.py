"""Which converted files need not be hashed again: those that nobody touched since they were, as the system saw it.

A file that was read whole and found right leaves size, inode, device and both times of the last change in its record.
The time of change, unlike that of modification, cannot be set by a program: an unchanged one says that no program has
called write() on this file since. That costs microseconds, against 60 to 100 ms for 120 MB. It proves nothing about

- writes through a shared memory map: the time changes when a page is first dirtied, not at the later writes into it;
- a file server whose clock lags behind ours: a file that has just changed looks settled, and a later change can get the
  same time;
- a disk that decays, and whoever writes past the file system, or sets the system's clock back;
- whoever may write the cache, and forges the record as well.

It is for accidents, not against attacks. The whole file is read again

- by ``videozoo cache verify``, ``videozoo verify`` and ``videozoo mirror``,
- at every use where a lock file was named, whose digests are to hold against the cache, too,
- at every use on Windows, which keeps no time of change, and in a cache that cannot be written.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from videozoo import lockfile
from videozoo.cache import records
from videozoo.errors import OutputError

SETTLED_NS = 2_000_000_000
"""A younger change may share its time, of which some file systems keep even seconds, with a later one."""
_KEY = "untouched"


def state(path: Path) -> dict[str, int] | None:
    """What changes with a file; None where that cannot be told, or not yet."""
    status = path.lstat()
    if os.name == "nt" or time.time_ns() - status.st_ctime_ns < SETTLED_NS:  # st_ctime is another time on Windows
        return None
    return {
        "size": status.st_size,
        "inode": status.st_ino,
        "device": status.st_dev,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def is_untouched(path: Path) -> bool:
    """Whether a converted file is as it was when it was last hashed, and that may be relied on."""
    if lockfile.chosen() is not None:
        return False
    record = records.read(path)
    try:
        now = state(path)
    except OSError:
        return False
    return now is not None and record is not None and record.get(_KEY) == now


def remember(path: Path, before: dict[str, int] | None) -> None:
    """Keep the state of a converted file that was right, if it is still what it was ``before`` the file was read.

    The caller holds the row's guard, so that the record is that of this file.
    """
    with suppress(OSError, OutputError, RecursionError):  # where the cache cannot be written, every use hashes
        record = records.read(path)
        if record is None or before is None or before != state(path) or record.get(_KEY) == before:
            return
        records.write(path, record | {_KEY: before})
