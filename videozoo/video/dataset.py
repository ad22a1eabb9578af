"""Lists of labelled videos, in the forms that the original projects and their users have.

    form      a line, or what stands for it
    video     path label [label ...]
    frames    name num_frames label [label ...]   a folder of frames; or a video below the root, as in Kinetics' lists
    csv       a header, then one column for the path (or YouTube's id) and one for the label, number or name
    folders   no list: a folder with one folder per class, which holds videos or folders of frames

Nothing here opens a video, or imports torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal

from videozoo.errors import InvalidArgument, ListError
from videozoo.video.lookup import VIDEO_SUFFIXES, Classes, Videos, frame_count, is_number, plain

Form = Literal["video", "frames", "csv", "folders"]
StrPath = str | os.PathLike[str]

NAME_COLUMNS = ("path", "video_path", "video", "file", "filename", "file_name", "folder", "name")
ID_COLUMNS = ("video_id", "youtube_id", "id")
LABEL_COLUMNS = ("label", "labels", "label_id", "class", "class_id", "class_name", "category")
COUNT_COLUMNS = ("num_frames", "total_frames", "frames")


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One video of a list."""

    name: str
    """As the list writes it."""
    path: Path
    """Where it lies, or should lie: a video file or a folder of frames."""
    labels: tuple[int, ...]
    """Class numbers: one, unless the list has several labels a video."""
    num_frames: int | None
    """Frames of a folder as the list states them; None where it does not."""
    line: int | None
    """Number of the line, from 1 on; None for class folders."""

    def problem(self, reason: str) -> Problem:
        """What is wrong with this video."""
        return Problem(self.line, self.name, reason)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line of a list, or with its video."""

    line: int | None
    name: str
    reason: str

    def __str__(self) -> str:
        """The problem in one line."""
        return f"line {self.line}: {self.reason}" if self.line is not None else self.reason


@dataclass(frozen=True, slots=True)
class VideoList:
    """A list that was read."""

    source: Path
    form: Form
    multi_label: bool
    template: str | None
    """Names of the images in a folder of frames, such as ``img_{:05}.jpg``; None where they are to be found."""
    class_names: tuple[str, ...] | None
    """Names of the classes, by which labels may be written; of class folders, if nobody said otherwise, the folders."""
    videos: tuple[ListedVideo, ...]
    problems: tuple[Problem, ...]
    """Lines that say no video and label; `read_list` raises unless it is told to keep them."""

    @property
    def sha256(self) -> str:
        """Digest of the videos, their labels and where they lie: another list, or another root, has another one."""
        rows = [(video.name, str(video.path), video.labels, video.num_frames) for video in self.videos]
        text = json.dumps([self.template, self.multi_label, rows], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def refuse_absent(self) -> None:
        """Raise ListError where none of the videos exists."""
        if not any(os.path.exists(video.path) for video in self.videos):
            raise ListError(
                f"{self.source}: none of its {len(self.videos)} videos exists, as {self.videos[0].path}; "
                "--root (root=) says what the paths are relative to"
            )


def read_list(
    source: StrPath,
    *,
    root: StrPath | None = None,
    form: Form | None = None,
    multi_label: bool = False,
    template: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    keep_problems: bool = False,
) -> VideoList:
    """Read a list of videos.

    Args:
        source: a text file, a .csv or .tsv with a header, or a folder of class folders.
        root: what paths are relative to; None means the folder of the list.
        form: None finds it: a folder and .csv or .tsv by themselves, else ``frames`` where the first line has three
            fields or more with a number in the middle (with ``multi_label``: where its first field is a folder).
        multi_label: whether a video may have several labels.
        template: names of the images in a folder of frames, such as ``img_{:05}.jpg``, numbered from 1 (or 0) on.
        num_classes: labels are below it; None allows any.
        class_names: names that a .csv or the class folders may use for labels, in class order.
        keep_problems: bad lines become the list's ``problems`` and raise nothing.

    Raises:
        ListError: the list cannot be read or is empty, or a line is bad; the first of several is told.
        InvalidArgument: a template that does not hold one number.
    """
    path = Path(source)
    if template is not None:
        check_template(template)
    names = None if class_names is None else tuple(class_names)
    is_folder = os.path.isdir(path)  # unlike Path's, it answers for a path that cannot be looked at, too
    if form is not None and os.path.exists(path) and is_folder != (form == "folders"):
        raise ListError(f"{path} {'is a' if is_folder else 'is no'} folder: its form cannot be {form!r}")
    if is_folder:
        folders = class_folders(path)
        names = names if names is not None else tuple(folder.name for folder in folders)
        reader = _Reader(path, Videos(path), Classes(num_classes, names), multi_label)
        rows, form = reader.read_folders(folders), "folders"
    else:
        videos = Videos(path.parent if root is None else Path(root))
        reader = _Reader(path, videos, Classes(num_classes, names), multi_label)
        lines = _lines(path)
        form = form or _form(path, lines, reader)
        rows = reader.read_csv(lines) if form == "csv" else reader.read_lines(lines, form)
    listed, problems = tuple(rows), tuple(reader.problems)
    if problems and not keep_problems:
        others = f"; {len(problems) - 1} more: `videozoo data check` prints them" if len(problems) > 1 else ""
        raise ListError(f"{path} {problems[0]}{others}")
    if not listed and not problems:
        raise ListError(f"{path} is empty: it lists no videos")
    return VideoList(path, form, multi_label, template, names, listed, problems)


def class_folders(folder: Path) -> list[Path]:
    """The folders below ``folder`` but hidden ones, sorted by name: the classes.

    Raises:
        ListError: there are none, or the names of two differ by no more than case, or underscores for spaces.
    """
    found = [path for path in _entries(folder) if os.path.isdir(path)]
    if not found:
        raise ListError(f"{folder} holds no class folders: give a list, or a folder with one folder per class")
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(plain(path.name), path)
        if other is not path:
            raise ListError(f"{folder} holds {other.name!r} and {path.name!r}, which name one class: give each its own")
    return found


def _entries(folder: Path) -> list[Path]:
    """What a folder holds but hidden files, sorted by name."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ListError(f"{folder} cannot be read: {error.strerror}") from None


def check_template(template: str) -> None:
    """Raise InvalidArgument for a template of images' names that does not hold one number."""
    try:
        first, second = template.format(1), template.format(2)
    except (ValueError, IndexError, KeyError) as error:
        raise InvalidArgument(f"template {template!r} is not like img_{{:05}}.jpg: {error}") from None
    if first == second or Path(first).name != first:
        raise InvalidArgument(f"template {template!r} must hold one number, as img_{{:05}}.jpg, and no folder")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise ListError(f"no list at {path}: there is no such file or folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ListError(f"{path} cannot be read as a list: {error}") from None


def _form(path: Path, lines: Sequence[str], reader: _Reader) -> Form:
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    fields = next((line.split() for line in lines if line.strip()), [])
    if len(fields) < 3 or not fields[-2].isdigit():
        return "video"
    return "frames" if not reader.multi_label or os.path.isdir(reader.videos.root / fields[0]) else "video"


@dataclass
class _Reader:
    """What reading the lines of one list needs to know, and the problems it meets."""

    source: Path
    videos: Videos
    classes: Classes
    multi_label: bool
    problems: list[Problem] = field(default_factory=list)

    def read_lines(self, lines: Sequence[str], form: Form) -> Iterator[ListedVideo]:
        """``path label`` or ``name num_frames label``; the path may hold spaces."""
        wanted = "name num_frames label" if form == "frames" else "path label"
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            fields = line.rsplit(maxsplit=self._num_labels(line, form) + (form == "frames"))
            if len(fields) < 2 + (form == "frames"):
                self.problems.append(Problem(number, line.strip(), f"{line.strip()!r} is not `{wanted}`"))
                continue
            name, *labels = fields
            num_frames = labels.pop(0) if form == "frames" else None
            yield from self._video(number, name.strip(), num_frames, labels, by_id=form == "frames")

    def _num_labels(self, line: str, form: Form) -> int:
        """With several labels a video: the numbers at the end of the line, but for the number of frames."""
        if not self.multi_label:
            return 1
        numbers = len(list(takewhile(is_number, reversed(line.split()[1:]))))
        return max(1, numbers - (form == "frames"))

    def read_csv(self, lines: Sequence[str]) -> Iterator[ListedVideo]:
        """Columns by the names in the header, separated by comma, semicolon or tab."""
        header = lines[0] if lines else ""
        delimiter = max(",;\t", key=header.count)
        table = csv.DictReader(lines, delimiter=delimiter)
        try:
            yield from self._rows(table)
        except csv.Error as error:
            raise ListError(f"{self.source} line {table.line_num}: {error}; a quote that opens must close") from None

    def _rows(self, table: csv.DictReader[str]) -> Iterator[ListedVideo]:
        columns = {name.strip().lower(): name for name in table.fieldnames or ()}
        name, label = _first(columns, (*NAME_COLUMNS, *ID_COLUMNS)), _first(columns, LABEL_COLUMNS)
        count = _first(columns, COUNT_COLUMNS)
        if name is None or label is None:
            raise ListError(
                f"{self.source} line 1 names the columns {', '.join(columns) or 'none'}: need a header with one of "
                f"{', '.join((*NAME_COLUMNS, *ID_COLUMNS))} and one of {', '.join(LABEL_COLUMNS)}"
            )
        by_id = count is not None or name.strip().lower() in ID_COLUMNS
        for row in table:
            if not row[name] or not row[label]:
                what = name if not row[name] else label
                self.problems.append(Problem(table.line_num, row[name] or "", f"the column {what} is empty"))
                continue
            texts = re.split(r"[\s;|]+", row[label].strip()) if self.multi_label else [row[label].strip()]
            yield from self._video(table.line_num, row[name].strip(), row[count] if count else None, texts, by_id=by_id)

    def read_folders(self, folders: Sequence[Path]) -> Iterator[ListedVideo]:
        """The videos and frame folders of every class folder, whose name is never taken for a number."""
        for folder in folders:
            for path in _entries(folder):
                if path.suffix.lower() in VIDEO_SUFFIXES or os.path.isdir(path):
                    name = str(path.relative_to(self.source))
                    yield from self._video(None, name, None, [folder.name], by_id=False, by_name=True)

    def _video(
        self,
        line: int | None,
        name: str,
        num_frames: str | None,
        labels: Sequence[str],
        *,
        by_id: bool,
        by_name: bool = False,
    ) -> Iterator[ListedVideo]:
        """The video of one line, if it has no fault."""
        number = self.classes.number_of_name if by_name else self.classes.number
        try:
            frames = None if not num_frames else frame_count(num_frames)
            numbers = tuple(number(text) for text in labels)
            path = self.videos.path(name, by_id=by_id)
        except ValueError as error:
            self.problems.append(Problem(line, name, f"{name}: {error}"))
        else:
            yield ListedVideo(name, path, numbers, frames, line)


def _first(columns: dict[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)
