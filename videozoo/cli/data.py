"""``videozoo data``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from videozoo.errors import InvalidArgument, ListError, VideoError, printable
from videozoo.video.dataset import Problem, VideoList, read_list

NAME = "data"
HELP = "Look at lists of labelled videos: check."
_CHECK = """\
Open every video of a list and print what is wrong: bad lines, labels out of range, files that are missing or that no
decoder reads, gaps in folders of frames, paths that are listed twice.
"""
_STATUS = (
    "exit status: 0 nothing is wrong; 5 something is wrong with videos; 7 with lines of the list, or with all of it"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check", help="open every video and print what is wrong", description=_CHECK, epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    check.add_argument("list", type=Path, metavar="LIST", help="a list, a .csv, or a folder with one folder per class")
    add_list_arguments(check)
    check.add_argument("--num-classes", type=int, metavar="N", help="labels are 0 to N - 1; default: any")
    check.add_argument("--labels", type=Path, metavar="TXT", help="class names, one a line, in class order")
    check.add_argument("--decode", action="store_true", help="decode every frame as well, which takes long")
    check.add_argument("--jobs", type=int, metavar="N", help="videos opened at once; default: 4 per processor")
    check.add_argument("--json", action="store_true", help="print JSON")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say how a list is read."""
    parser.add_argument("--root", type=Path, metavar="DIR", help="what paths are relative to; default: LIST's folder")
    parser.add_argument(
        "--form", choices=("video", "frames", "csv", "folders"),
        help="of LIST: `path label`, `name num_frames label` ...; default: found from the first line",
    )  # fmt: skip
    parser.add_argument("--multi-label", action="store_true", help="a line may have several labels")
    parser.add_argument(
        "--template", metavar="NAME", help="of the images in frame folders, as img_{:05}.jpg; default: found"
    )


def read_labels(path: Path | None) -> tuple[str, ...] | None:
    """The lines of a file of class names; None without a file.

    Raises:
        InvalidArgument: the file cannot be read, or has an empty line.
    """
    if path is None:
        return None
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"--labels {path} cannot be read: {error}") from None
    if not names:
        raise InvalidArgument(f"--labels {path} is empty: each line names a class")
    if bad := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise InvalidArgument(f"--labels {path}: line {bad[0]} is empty; each line names a class")
    return names


def run(options: argparse.Namespace) -> int:
    """Check one list."""
    for name, value in (("--num-classes", options.num_classes), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise InvalidArgument(f"{name} {value}: at least 1")
    names = read_labels(options.labels)
    num_classes = options.num_classes if names is None else len(names)
    videos = read_list(
        options.list, root=options.root, form=options.form, multi_label=options.multi_label,
        template=options.template, num_classes=num_classes, class_names=names, keep_problems=True,
    )  # fmt: skip
    problems = _sorted([*videos.problems, *_check(videos, options)])
    if options.json:
        print(json.dumps(_as_json(videos, problems), indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            print(printable(problem))
        print(printable(_summary(videos, problems, num_classes)))
    if videos.problems:
        return ListError.exit_status
    return VideoError.exit_status if problems else 0


def _check(videos: VideoList, options: argparse.Namespace) -> list[Problem]:
    from tqdm import tqdm

    from videozoo.video.listed import check_videos

    faults = check_videos(videos, decode=options.decode, num_threads=options.jobs)
    with tqdm(faults, total=len(videos.videos), unit="video", disable=None, leave=False) as bar:
        return [fault for fault in bar if fault is not None]


def _sorted(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line or 0)


def _as_json(videos: VideoList, problems: list[Problem]) -> dict[str, object]:
    return {
        "list": str(videos.source),
        "form": videos.form,
        "num_videos": len(videos.videos),
        "videos_by_label": dict(sorted(_by_label(videos).items())),
        "problems": [asdict(problem) for problem in problems],
    }


def _summary(videos: VideoList, problems: list[Problem], num_classes: int | None) -> str:
    by_label = _by_label(videos)
    of_all = "" if num_classes is None else f" of {num_classes}"
    return (
        f"{videos.source}, form {videos.form}: {len(videos.videos)} videos in {len(by_label)}{of_all} classes, "
        f"{len(problems)} problems"
    )


def _by_label(videos: VideoList) -> Counter[int]:
    return Counter(label for video in videos.videos for label in video.labels)
