"""Files, folders, lists and globs as one list of videos, each of them once. Nothing here opens a video."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from videozoo.errors import InvalidArgument, ListError, VideoError
from videozoo.video.dataset import Form, check_template, read_list
from videozoo.video.lookup import VIDEO_SUFFIXES

_LIST_SUFFIXES = {".txt", ".csv", ".tsv", ".lst"}
_NUMBERED_IMAGE = re.compile(r"[^.].*?\d+\.(?:jpe?g|png)|\d+\.(?:jpe?g|png)", re.IGNORECASE)
_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Item:
    """One video to work on."""

    path: str
    """A video file or a folder of frames, as the input names it."""
    template: str | None = None
    """Names of the images in a folder of frames, where a list says so."""
    num_frames: int | None = None
    """Frames of a folder, where a list says so."""


@dataclass(frozen=True, slots=True)
class ListForm:
    """How lists among the inputs are read; see `read_list`. ``template`` is for folders of frames wherever they are."""

    root: Path | None = None
    form: Form | None = None
    multi_label: bool = False
    template: str | None = None


def named_videos(inputs: Sequence[str], lists: ListForm | None = None) -> list[Item]:
    """The videos that the inputs name, in their order, as often as they are named.

    Args:
        inputs: video files; folders of numbered images; other folders, whose videos and frame folders are found at any
            depth, through links, too, sorted, hidden ones left out; lists (.txt, .csv, .tsv, .lst) in the forms of
            `read_list`, or with one path a line; globs (``**`` is any depth). What is no video stays in, for whoever
            opens it to say so.
        lists: how lists are read.

    Raises:
        VideoError: a glob that nothing matches, or a folder that cannot be read.
        ListError: a list that cannot be used.
        InvalidArgument: a template that does not hold one number.
    """
    lists = lists or ListForm()
    if lists.template is not None:
        check_template(lists.template)
    return [item for text in inputs for item in _videos_of(text, lists)]


def find_videos(inputs: Sequence[str], lists: ListForm | None = None) -> list[Item]:
    """`named_videos`, each path once."""
    found: dict[str, Item] = {}
    for item in named_videos(inputs, lists):
        found.setdefault(item.path, item)
    return list(found.values())


def shard_of(items: Sequence[Item], shard: str | None) -> tuple[list[Item], str]:
    """The videos of one shard of several, and what its file's name gets.

    Args:
        items: all videos; the shards take turns, so that they are alike where neighbours are.
        shard: ``"i/n"``, i from 1 to n; None for all videos.

    Raises:
        InvalidArgument: something else.

    >>> items, suffix = shard_of([Item("a"), Item("b"), Item("c")], "1/2")
    >>> [item.path for item in items], suffix
    (['a', 'c'], '-00001-of-00002')
    """
    if shard is None:
        return list(items), ""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", shard)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise InvalidArgument(f"shard {shard}: give i/n with i from 1 to n, as 1/4 to 4/4")
    return list(items[number - 1 :: count]), f"-{number:05}-of-{count:05}"


def key_of(item: Item) -> str:
    """The video's path and how it is read: by it a run that goes on knows what is done."""
    return json.dumps(astuple(item))


def _videos_of(text: str, lists: ListForm) -> Iterator[Item]:
    path = Path(text)
    if path.is_dir():
        yield from _below(path, lists.template)
    elif path.suffix.lower() in _LIST_SUFFIXES and path.is_file():
        yield from _listed(path, lists)
    elif _GLOB.search(text) and not path.exists():
        names_suffix = path.suffix != "" and not _GLOB.search(path.suffix)
        matches = [
            _item(name, lists.template)
            for name in sorted(glob.iglob(text, recursive=True))
            if _may_be_video(Path(name), lists.template, any_file=names_suffix)
        ]
        if not matches:
            raise VideoError(f"no video matches {text}")
        yield from matches
    else:
        yield Item(text)


def _item(path: str, template: str | None) -> Item:
    return Item(path, template) if template is not None and os.path.isdir(path) else Item(path)


def _may_be_video(path: Path, template: str | None, *, any_file: bool) -> bool:
    """Whether a glob means this: a pattern that is as wide as ``**`` meets folders of videos and other files, too."""
    if path.is_dir():
        return _are_frames(os.listdir(path), template)
    return any_file or _is_video(path.name)


def _are_frames(names: Sequence[str], template: str | None) -> bool:
    """Whether a folder of these files is one video: beside videos, an image is a picture of one of them."""
    if template is not None:
        return template.format(0) in names or template.format(1) in names
    return any(_NUMBERED_IMAGE.fullmatch(name) for name in names) and not any(map(_is_video, names))


def _is_video(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _below(folder: Path, template: str | None) -> Iterator[Item]:
    found = False
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        where = os.path.realpath(parent)
        if where in seen:  # links may lead around in circles
            folders.clear()
            continue
        seen.add(where)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        framed = _are_frames(files, template)
        for name in [parent] if framed else [os.path.join(parent, name) for name in sorted(files)]:
            if framed or _is_video(os.path.basename(name)):
                found = True
                yield _item(name, template)
    if not found:
        yield _item(str(folder), template)  # whoever opens it says what is wrong with it


def _refuse_unreadable(error: OSError) -> None:
    raise VideoError(f"the folder {error.filename} cannot be read: {error.strerror}") from None


def _listed(path: Path, lists: ListForm) -> Iterator[Item]:
    bare = _bare_paths(path, lists)
    if bare is not None:
        yield from (_item(str(video), lists.template) for video in bare)
        return
    videos = read_list(path, root=lists.root, form=lists.form, multi_label=lists.multi_label, template=lists.template)
    for video in videos.videos:
        framed = video.path.is_dir() and (videos.template is not None or video.num_frames is not None)
        yield Item(str(video.path), videos.template, video.num_frames) if framed else Item(str(video.path))


def _bare_paths(path: Path, lists: ListForm) -> list[Path] | None:
    """The paths of a list without labels; None where its first line is not a path alone."""
    if lists.form is not None or path.suffix.lower() in (".csv", ".tsv"):
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ListError(f"{path} cannot be read as a list: {error}") from None
    root = path.parent if lists.root is None else lists.root
    if not lines or (len(lines[0].split()) > 1 and not (root / lines[0]).exists()):
        return None
    return [root / line for line in lines]
