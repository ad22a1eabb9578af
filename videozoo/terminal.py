"""What may be shown on a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Text of others, such as a file's name, with every character that a terminal might obey written as its escape.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(text)
    )
