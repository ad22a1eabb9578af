"""Where weights may lie: the cache, the package, the user's folders, mirrors, repositories, published addresses."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videozoo import lockfile
from videozoo.manifest import Entry

Kind = Literal["converted", "original"]

PACKAGE_WEIGHTS = Path(__file__).parent.parent / "weights"
"""Where the files of embedded rows lie."""

_HUB = "hf-hub:"


@dataclass(frozen=True, slots=True)
class Address:
    """Where one file of a row is asked for."""

    kind: Kind
    url: str


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
    """``VIDEOZOO_MIRROR``: base addresses, separated by spaces, of places that ``videozoo mirror`` wrote."""
    return tuple(os.environ.get("VIDEOZOO_MIRROR", "").split())


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
    """
    file = entry.file
    if file is None:
        return ()
    places = [*mirrors(), *([] if file.huggingface_repo is None else [f"{_HUB}{file.huggingface_repo}"])]
    kinds: tuple[Kind, ...] = ("converted", "original")
    both = [Address(kind, _below(place, layout(entry, kind))) for place in places for kind in kinds]
    return (*both, *(Address("original", url) for url in file.urls))


def _below(place: str, path: str) -> str:
    """The address of a file at a base address, or in a Hugging Face repository ``hf-hub:org/name@revision``."""
    if not place.startswith(_HUB):
        return f"{place.rstrip('/')}/{path}"
    repository, _, revision = place.removeprefix(_HUB).partition("@")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{revision or 'main'}/{path}"
