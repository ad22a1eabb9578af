"""The texts of pickles: what they cost in memory, and Python 2's way to write any bytes as text."""

from __future__ import annotations

import codecs
import re

from videozoo.checkpoints.inert import Budget

_WIDE = re.compile(rb"[\xc4-\xff]")
"""Begins a character beyond latin-1, for which Python takes up to four bytes for every character of the text."""
_ESCAPED = re.compile(rb"(?:[^\\]++|\\(?:x[0-9a-fA-F]{2}|[0-7]{1,2}(?![0-7])|[0-3][0-7]{2}|[nrtabfv\\'\"]))*+")
"""Text without any escape that Python 2 does not write."""


def utf8(window: memoryview, budget: Budget) -> str:
    """The text.

    Raises:
        ValueError: it is none.
        UnreadableCheckpoint: it needs more memory than the budget has.
    """
    budget.spend(len(window) * (4 if _WIDE.search(window) else 1))
    return str(window, "utf-8", "surrogatepass")


def raw_unicode(line: bytes, budget: Budget) -> str:
    r"""Text with ``\u`` escapes, as protocol 0 writes it.

    Raises:
        ValueError: it is none.
        UnreadableCheckpoint: it needs more memory than the budget has.
    """
    budget.spend(len(line) * (4 if b"\\u" in line or b"\\U" in line else 1))
    return line.decode("raw-unicode-escape")


def python2(line: bytes, budget: Budget) -> str:
    r"""Bytes in quotes, with escapes such as ``\n`` and ``\x7f``, as latin-1.

    Raises:
        ValueError: there are no quotes around it, or an escape is none.
        UnreadableCheckpoint: it needs more memory than the budget has.
    """
    budget.spend(len(line))
    inside = line[1:-1]
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or not _ESCAPED.fullmatch(inside):
        raise ValueError
    raw, _ = codecs.escape_decode(inside)
    return bytes(raw).decode("latin-1")
