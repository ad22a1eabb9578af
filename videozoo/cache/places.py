"""Where weights may lie: the cache, the package, the user's folders, mirrors, repositories, published addresses."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from videozoo import huggingface, lockfile
from videozoo.credentials import huggingface_endpoint, without_credentials
from videozoo.errors import InvalidArgument, OutputError
from videozoo.manifest import Entry

Kind = Literal["converted", "original"]

PACKAGE_WEIGHTS = Path(__file__).parent.parent / "weights"
"""Where the files of embedded rows lie."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where one file of a row is asked for."""

    kind: Kind
    url: str


def home() -> Path:
    """The cache: ``VIDEOZOO_HOME``, or ``videozoo`` in the platform's cache folder. It need not exist yet.

    Raises:
        OutputError: ``VIDEOZOO_HOME`` is a file.
    """
    chosen = os.environ.get("VIDEOZOO_HOME")
    if chosen:
        path = Path(chosen).expanduser().absolute()
        if path.is_file():
            raise OutputError(f"VIDEOZOO_HOME={path} is a file; set it to a folder that can be written")
        return path
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        parent = os.environ.get("XDG_CACHE_HOME") or "~/Library/Caches"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser().absolute() / "videozoo"


def lock_path() -> Path:
    """The lock file that is obeyed now: the one that was named, or the cache's own."""
    return lockfile.chosen() or own_lock()


def own_lock() -> Path:
    """The cache's own lock file."""
    return home() / "videozoo.lock"


def weights_dirs() -> tuple[Path, ...]:
    """The user's own folders of weights: ``VIDEOZOO_WEIGHTS_DIR``, separated like ``PATH``."""
    folders = os.environ.get("VIDEOZOO_WEIGHTS_DIR", "").split(os.pathsep)
    return tuple(Path(folder).expanduser().absolute() for folder in folders if folder)


def mirrors() -> tuple[str, ...]:
    """``VIDEOZOO_MIRROR``: base addresses, separated by spaces, of places that ``videozoo mirror`` wrote.

    Raises:
        InvalidArgument: one is neither a URL of http or https nor ``hf-hub:org/name@revision``.
    """
    named = tuple(os.environ.get("VIDEOZOO_MIRROR", "").split())
    for place in named:
        if place.startswith(huggingface.PREFIX):
            huggingface.parse_repository(place)
        elif not _is_web_address(place):
            raise InvalidArgument(
                f"VIDEOZOO_MIRROR: {without_credentials(place)[:200]!r} is neither an address https://HOST/PATH nor "
                "hf-hub:org/name@revision"
            )
    return named


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable()
    except ValueError:  # such as a bracket that is not closed
        return False


def layout(entry: Entry, kind: Kind) -> str:
    """Path of a row's file below the cache, a mirror or a repository, with slashes; the row has a file."""
    if kind == "converted" or entry.file is None:
        return f"converted/{entry.name}.safetensors"
    return f"originals/{entry.name}/{entry.file.name}"


def cached(entry: Entry, kind: Kind) -> Path:
    """Where a row's file lies in the cache, if it does."""
    return home() / layout(entry, kind)


def record_of(path: Path) -> Path:
    """The record beside a converted file of the cache."""
    return path.with_name(path.name + ".json")


def addresses(entry: Entry) -> tuple[Address, ...]:
    """Where a row is asked for, in this order: mirrors, Hugging Face repository, published URLs.

    A mirror and a repository are asked for the converted file first, the published URLs for the original alone.

    Raises:
        InvalidArgument: as `mirrors`.
    """
    file = entry.file
    if file is None:
        return ()
    places = [*mirrors(), *([] if file.huggingface_repo is None else [f"{huggingface.PREFIX}{file.huggingface_repo}"])]
    kinds: tuple[Kind, ...] = ("converted", "original")
    both = [Address(kind, _below(place, layout(entry, kind))) for place in places for kind in kinds]
    return (*both, *(Address("original", url) for url in file.urls))


def _below(place: str, path: str) -> str:
    """The address of a file at a base address, or in a Hugging Face repository ``hf-hub:org/name@revision``."""
    if not place.startswith(huggingface.PREFIX):
        return f"{place.rstrip('/')}/{path}"
    repository = huggingface.parse_repository(place)
    revision = quote(repository.revision, safe="")
    return f"{huggingface_endpoint()}/{repository.name}/resolve/{revision}/{path}"
