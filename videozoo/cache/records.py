"""The record beside a converted file of the cache: JSON that says what it was made from, and its size and digest.

Whoever may write the cache may write anything into a record, so that none is believed to be well formed.
"""

from __future__ import annotations

import json
from pathlib import Path

from videozoo.cache.places import record_of
from videozoo.files import place

_MAX_BYTES = 1 << 16
"""Ours have some hundred."""


def read(path: Path) -> dict[str, object] | None:
    """What the record beside the converted file ``path`` says; None where there is none, or no JSON object in it."""
    try:
        with open(record_of(path), "rb") as stream:
            record = json.loads(stream.read(_MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write(path: Path, record: dict[str, object]) -> None:
    """Place the record beside the converted file ``path``; the caller holds the row's guard.

    Raises:
        OutputError: it cannot be written.
    """
    text = json.dumps(record, indent=2) + "\n"

    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    place(record_of(path), fill, overwrite=True)
