"""``videozoo.lock``: the full digest, size and source of every weight file that was ever used, enforced from then on.

    {"version": 1, "weights": {"ircsn_r152.ig65m_k400": {
        "sha256": "...", "size_bytes": 134000000, "source": "https://...",
        "converted": {"sha256": "...", "size_bytes": 119000000, "converter": "videozoo 1"}}}}

The first use of a row adds its line; its first conversion adds the digest of the converted file, ``null`` until then
(the same source gives the same bytes for one converter). Every later use must meet both. A project that commits its own
lock file gets the same bytes everywhere, also for rows of which the manifest knows an 8-digit prefix or no digest at
all. Which file it is: the one that `used` names (``lock=``, ``--lock``), else ``VIDEOZOO_LOCK``, else ``videozoo.lock``
in the cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videozoo.errors import InvalidArgument, printable
from videozoo.files import place

VERSION = 1
CONVERTER = "videozoo 1"
"""What makes our converted files; to be raised when our tensor names change, or the same source gives other bytes."""

_chosen: ContextVar[Path | None] = ContextVar("videozoo_lock", default=None)


@dataclass(frozen=True, slots=True)
class LockedConversion:
    """What the lock says of the file that a row's original was converted to."""

    sha256: str
    """All 64 digits."""
    size_bytes: int
    converter: str
    """What made it: another one may make other bytes from the same source."""


@dataclass(frozen=True, slots=True)
class Locked:
    """What the lock says of one row's original file."""

    sha256: str
    """All 64 digits."""
    size_bytes: int
    source: str
    """Where the file came from on first use: a URL without credentials, or a path."""
    converted: LockedConversion | None = None
    """None before the first conversion."""


@contextmanager
def used(lock: str | os.PathLike[str] | None) -> Iterator[None]:
    """Within the block, every fetch of this thread obeys the lock file ``lock``; None leaves the choice as it is."""
    if lock is None:
        yield
        return
    token = _chosen.set(Path(lock).expanduser().absolute())
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> Path | None:
    """The lock file that the caller or ``VIDEOZOO_LOCK`` named; None where the cache's own is meant."""
    named = _chosen.get()
    if named is not None:
        return named
    variable = os.environ.get("VIDEOZOO_LOCK")
    return Path(variable).expanduser().absolute() if variable else None


def read(path: Path) -> Mapping[str, Locked]:
    """The lines of a lock file by the name of the weights; none where the file does not exist.

    Raises:
        InvalidArgument: the file is not a lock file, or cannot be read. It is never taken for an empty one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the lock file {path} cannot be read: {error}") from error
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}, not {VERSION}")
        return {str(name): _locked(line) for name, line in data["weights"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = printable(f"{type(error).__name__} {error}")[:200]
        raise InvalidArgument(
            f"{path} is not a videozoo lock file ({reason}); restore it, or remove it to lock anew"
        ) from error


def add(path: Path, name: str, line: Locked) -> None:
    """Add one line; the caller keeps other writers out. A line that exists is kept as it is.

    Raises:
        InvalidArgument: as `read`.
        OutputError: the file cannot be written.
    """
    _write(path, {name: line} | dict(read(path)))


def put(path: Path, name: str, line: Locked) -> None:
    """As `add`, in place of a line that exists."""
    _write(path, {**read(path), name: line})


def _write(path: Path, lines: Mapping[str, Locked]) -> None:
    data = {"version": VERSION, "weights": {key: asdict(lines[key]) for key in sorted(lines)}}
    text = json.dumps(data, indent=2) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    place(path, write, overwrite=True)


def _locked(line: Mapping[str, Any]) -> Locked:
    given = line.get("converted")
    locked = Locked(**{**line, "converted": None if given is None else LockedConversion(**given)})
    _check(locked)
    if not isinstance(locked.source, str):
        raise ValueError("source is not a text")
    if locked.converted is not None:
        _check(locked.converted)
        if not isinstance(locked.converted.converter, str):
            raise ValueError("converter is not a text")
    return locked


def _check(line: Locked | LockedConversion) -> None:
    if not isinstance(line.sha256, str) or re.fullmatch(r"[0-9a-f]{64}", line.sha256) is None:
        raise ValueError(f"sha256 {line.sha256!r} has not 64 hexadecimal digits")
    if type(line.size_bytes) is not int or line.size_bytes < 0:
        raise ValueError(f"size_bytes {line.size_bytes!r} is not a size")
