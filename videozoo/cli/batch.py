"""Many videos to one table: what ``videozoo extract`` and ``videozoo predict --out`` share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.artefacts.form import is_artefact
from videozoo.batch.inputs import Item, ListForm, find_videos, named_videos, shard_of
from videozoo.cli.data import add_list_arguments
from videozoo.cli.weights import refuse_unknown_weights
from videozoo.errors import InvalidArgument, OutputError, VideoError, printable
from videozoo.files import refuse_unfit
from videozoo.journal import beside
from videozoo.processors import num_processors

if TYPE_CHECKING:
    from videozoo.batch.answers import Network, Question
    from videozoo.batch.job import Summary

INPUTS = "video files, folders of frames or of videos, lists (.txt, .csv), or globs in quotes"


def add_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare the arguments of a table, of windows and of engines."""
    table = parser.add_argument_group("many videos to one table")
    table.add_argument(
        "--out", required=required, metavar="OUT",
        help="FILE.parquet, .jsonl, .safetensors, or a folder for Parquet; a killed run, started again, goes on",
    )  # fmt: skip
    table.add_argument(
        "--force",
        action="store_true",
        help="replace OUT if it exists, and begin anew; after a kill, go on without it",
    )
    table.add_argument("--window", type=float, metavar="S", help="answer for windows of so many seconds")
    table.add_argument("--stride", type=float, metavar="S", help="seconds from one window to the next; default: WINDOW")
    table.add_argument("--fps", type=float, metavar="R", help="frames a second of folders of images")
    table.add_argument("--shard", metavar="I/N", help="only every N-th video, from the I-th on: 1/4 to 4/4")
    table.add_argument("--workers", type=int, metavar="N", help="processes that decode; default: 1 for 4 processors")
    table.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine (default), or Ray")
    table.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster, as auto; default: start one here")
    add_list_arguments(parser)


def refuse_without_table(options: argparse.Namespace) -> None:
    """Raise InvalidArgument where options of a table were given and no table."""
    given = {
        "--force": options.force, "--window": options.window, "--stride": options.stride, "--fps": options.fps,
        "--shard": options.shard, "--workers": options.workers is not None, "--address": options.address,
        "--engine ray": options.engine != "local",
    }  # fmt: skip
    named = [name for name, value in given.items() if value]
    if named:
        raise InvalidArgument(f"{' '.join(named)} without --out: name the table to write")


def refuse_unknown_network(options: argparse.Namespace) -> None:
    """Raise UnknownModel, UnknownWeights or, for an exported one, InvalidArgument before anything is imported."""
    if is_artefact(options.model):
        raise InvalidArgument(f"{options.model} is an exported network, which has no features: name one of the zoo's")
    refuse_unknown_weights(options.model, options.pretrained, options.checkpoint)


def network(options: argparse.Namespace, class_names: tuple[str, ...] | None = None) -> Network:
    """The network that the command line names; one view a window, unless told otherwise."""
    from videozoo.batch.answers import Network

    return Network(
        options.model, options.pretrained, options.checkpoint, options.num_classes, class_names,
        options.device or "cpu", options.views or ("full" if options.window is None else "center"),
        not options.fast_resize, options.lock,
    )  # fmt: skip


def find(options: argparse.Namespace, *, once: bool) -> list[Item]:
    """The videos that the command line names, each path once or as often as it is named.

    Raises:
        VideoError: none of them exists.
        ListError: a list that cannot be used.
    """
    lists = ListForm(options.root, options.form, options.multi_label, options.template)
    items = find_videos(options.videos, lists) if once else named_videos(options.videos, lists)
    if not any(Path(item.path).exists() for item in items):
        raise VideoError(f"no video at {items[0].path}: there is no such file or folder")
    return items


def prepare(options: argparse.Namespace) -> tuple[list[Item], Path]:
    """The videos and the table: what can be found wrong before anything is fetched, or torch imported."""
    return target(options, find(options, once=True))


def run(options: argparse.Namespace, prepared: tuple[list[Item], Path], network: Network, question: Question) -> int:
    """Write the table; exit status 5 where a video cannot be decoded, and its row says why."""
    from videozoo.batch.job import Job
    from videozoo.inference import reuse_heap

    items, out = prepared
    job = Job(items, network, question, out, options.window, options.stride, options.fps, options.force, progress=True)
    reuse_heap()
    if options.engine == "ray":
        from videozoo.batch import on_ray

        summary = on_ray.run(job, address=options.address)
    else:
        from videozoo.batch import local

        with _folder(out.parent):
            summary = local.run(job, num_processes=_num_workers(options))
    return _told(summary, options)


def target(options: argparse.Namespace, items: list[Item]) -> tuple[list[Item], Path]:
    """The videos of this shard, and where their rows go; refused before any work what cannot be written.

    Raises:
        InvalidArgument: a shard, engine or format that cannot be.
        OutputError: the table exists or has no place.
    """
    from videozoo.batch.tables import refuse_without_pyarrow, writer_for

    mine, suffix = shard_of(items, options.shard)
    out = Path(options.out)
    if options.workers is not None and options.workers < 0:
        raise InvalidArgument(f"--workers {options.workers}: at least 0")
    if options.address is not None and options.engine != "ray":
        raise InvalidArgument(f"--address {options.address}: goes with --engine ray")
    if options.engine == "ray":
        if (out.suffix and not out.is_dir()) or options.shard is not None:
            raise InvalidArgument(
                "--engine ray writes Parquet to a folder, all of it: name OUT without suffix or shard"
            )
        for name, value in (("--workers", options.workers), ("--device", options.device)):
            if value is not None:
                raise InvalidArgument(f"{name} {value}: --engine ray uses all that the cluster has: leave it out")
        if find_spec("ray") is None:
            raise InvalidArgument('--engine ray needs Ray: pip install "videozoo[ray]"')
        refuse_without_pyarrow()
        return mine, out
    to_be_made = not out.suffix and not out.exists()
    if not out.suffix or out.is_dir():
        out = out / "rows.parquet"
    out = out.with_name(f"{out.stem}{suffix}{out.suffix}")
    writer_for(out)
    if not to_be_made:
        refuse_unfit(out, overwrite=options.force or beside(out).exists())  # a killed run may have been at its very end
    return mine, out


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """A folder that is made if it is missing, and taken away again if nothing has come to lie in it."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from None
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _num_workers(options: argparse.Namespace) -> int:
    return max(1, num_processors() // 4) if options.workers is None else int(options.workers)


def _told(summary: Summary, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(asdict(summary), indent=2))
    else:
        print(f"{printable(summary.out)}: {summary.num_rows} rows of {summary.num_videos} videos")
    if summary.num_failed:
        print(
            f"videozoo: error: {summary.num_failed} of {summary.num_videos} videos have rows with an error, in "
            "the column `error`",
            file=sys.stderr,
        )
        return VideoError.exit_status
    return 0
