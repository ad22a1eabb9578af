"""What the words of a list mean: the class number of a label, the place of a video, a number of frames.

Nothing here opens a video, or imports torch. Words without a meaning raise ValueError, with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv",
}  # fmt: skip
"""What a file in a class folder, or one found by its id, has to end in to be taken for a video."""

_CUT = re.compile(r"(?P<id>.+)_\d{6}_\d{6}")
"""How the tools that fetch Kinetics name the file of a video: its id, then the seconds of begin and end."""


@dataclass(frozen=True)
class Classes:
    """The classes that labels may name."""

    num_classes: int | None
    """Numbers are below it; None allows any."""
    names: Sequence[str] | None
    """In class order; None allows numbers only."""

    def number(self, text: str) -> int:
        """The class that a number or a name means; digits are a number, whatever the classes are called.

        Raises:
            ValueError: a number out of range, or a name of no class.
        """
        return self._in_range(int(text)) if is_number(text) else self.number_of_name(text)

    def number_of_name(self, text: str) -> int:
        """The class of this name; where none is called exactly so, the one of this `plain` name.

        Raises:
            ValueError: a name of no class, or of several.
        """
        if self.names is None:
            raise ValueError(f"label {text!r} is not a number, and no class names are given to look it up")
        found = [self._exact[text]] if text in self._exact else self._plain.get(plain(text), [])
        if len(found) > 1:
            both = " and ".join(repr(self.names[number]) for number in found[:2])
            raise ValueError(f"the label {text!r} may mean {both}: write it as the class is called")
        if not found:
            near = get_close_matches(text, self.names, n=3)
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise ValueError(f"no class is called {text!r}{hint}")
        return self._in_range(found[0])

    def _in_range(self, number: int) -> int:
        if number < 0 or (self.num_classes is not None and number >= self.num_classes):
            last = "up" if self.num_classes is None else f"to {self.num_classes - 1}"
            raise ValueError(f"label {number} is out of range: labels go from 0 {last}")
        return number

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names or ())}

    @cached_property
    def _plain(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.names or ()):
            found.setdefault(plain(name), []).append(number)
        return found


@dataclass(frozen=True)
class Videos:
    """The files and folders below a root."""

    root: Path

    def path(self, name: str, *, by_id: bool) -> Path:
        """Where a video lies, or should lie: below the root, or ``by_id`` the one file of that name anywhere in it.

        Raises:
            ValueError: several files are of that name.
        """
        path = self.root / name
        if not by_id or os.path.exists(path):  # which takes what cannot be looked at for missing
            return path
        found = self._by_id.get(name, [])
        if len(found) > 1:
            raise ValueError(f"{len(found)} files are of this name: {found[0]} and {found[1]}")
        return found[0] if found else path

    @cached_property
    def _by_id(self) -> dict[str, list[Path]]:
        """Every video file by its name without the ending, and without the seconds that Kinetics adds."""
        found: dict[str, list[Path]] = {}
        for parent, folders, files in os.walk(self.root):
            folders.sort()
            for file in sorted(files):
                stem, suffix = os.path.splitext(file)
                if suffix.lower() in VIDEO_SUFFIXES:
                    cut = _CUT.fullmatch(stem)
                    for name in {stem, cut["id"] if cut else stem}:
                        found.setdefault(name, []).append(Path(parent) / file)
        return found


def frame_count(text: str) -> int:
    """A number of frames; ValueError where it is none."""
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of frames, which is 1 or more")
    return int(text)


def is_number(text: str) -> bool:
    """Whether a label is a number, and not a name."""
    return re.fullmatch(r"-?[0-9]+", text) is not None


def plain(name: str) -> str:
    """A class name without what tells spellings of one name apart: case, and underscores for spaces.

    >>> plain("Turn_Left")
    'turn left'
    """
    return name.replace("_", " ").casefold()
