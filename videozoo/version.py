"""Which videozoo this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Of the installed distribution; of one that is not installed, that it is none."""
    try:
        return metadata.version("videozoo")
    except metadata.PackageNotFoundError:
        return "(source tree)"
