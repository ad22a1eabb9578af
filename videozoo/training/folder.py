"""The folder of a run: who may write to it, and how its files get their names.

    OUT/recipe.toml              the complete recipe
    OUT/log.csv                  loss, gradient norm and learning rate
    OUT/validation.csv           accuracy, an epoch a line
    OUT/problems.csv             the videos that could not be decoded, if there are any
    OUT/best, OUT/last           model folders: ``create_model("local-dir:OUT/best")``
    OUT/state.safetensors        all that the next step depends on
    OUT/.videozoo-training       the lock, and what is not finished

Whatever is written, but for the lines of the logs, lies in the hidden folder until it is whole. So what a killed run
left is known, and nothing of another command or of the user's is taken for it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from videozoo.errors import OutputError
from videozoo.files import TEMPORARY_PREFIX, place
from videozoo.hub import save_to_dir
from videozoo.journal import NO_LOCKS
from videozoo.layers.video_model import VideoModel

STATE = "state.safetensors"
RECIPE = "recipe.toml"
LOG = "log.csv"
VALIDATION = "validation.csv"
PROBLEMS = "problems.csv"
BEST, LAST = "best", "last"
WORK = f"{TEMPORARY_PREFIX}training"
_LOCK = "lock"


@contextmanager
def opened(folder: Path, recipe_text: str, *, resume: bool) -> Iterator[None]:
    """The folder of a run with its recipe, for this process alone; one without a state is begun anew.

    Raises:
        OutputError: it cannot be made, another process trains in it, it holds files that are of no run, or there is a
            run in it and ``resume`` is false.
    """
    try:
        _refuse_taken(folder, resume=resume)
        stream = _locked(folder)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    with stream:
        _refuse_taken(folder, resume=resume)  # again: another process may have trained to its end meanwhile
        try:
            clear(folder)
            if not (folder / STATE).exists():
                (folder / PROBLEMS).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write in {folder}: {error.strerror or error}") from None
        if not (folder / STATE).exists():
            place_text(folder / RECIPE, recipe_text)
        yield


def _refuse_taken(folder: Path, *, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot make the folder {folder}: it is a file")
    there = [name for name in (STATE, LAST, BEST, RECIPE, LOG, VALIDATION, PROBLEMS) if (folder / name).exists()]
    if there and STATE not in there and not (folder / WORK).is_dir():
        raise OutputError(f"{folder} has a {there[0]} that no training wrote: move it away, or give another --out")
    if there and there[0] in (STATE, LAST, BEST) and not resume:
        raise OutputError(
            f"{folder} has a {there[0]} already: --resume goes on with that run, another --out begins one"
        )


def _locked(folder: Path) -> IO[bytes]:
    """A file that is this process's alone until it is closed, or the process gone, however it ended."""
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    stream = open(work / _LOCK, "wb")  # noqa: SIM115 - the caller closes it
    if sys.platform == "win32":
        return stream
    import fcntl

    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not held on by workers that were forked
    except (BlockingIOError, PermissionError):
        stream.close()
        raise OutputError(f"another process trains in {folder}: wait for it, or give another --out") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            stream.close()
            raise
    return stream


def place_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file of the run, which then replaces the one before in one step.

    Raises:
        OutputError: it cannot be written; the one before is kept.
    """
    whole = path.parent / WORK / path.name
    try:
        whole.parent.mkdir(exist_ok=True)
        place(whole, write, overwrite=True)
        os.replace(whole, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def place_text(path: Path, text: str) -> None:
    """`place_whole` of a text; what a file's name has that is no UTF-8 stays as it is."""
    place_whole(path, lambda whole: _write(whole, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def save_folder(network: VideoModel, folder: Path, labels: Sequence[str], dataset: str | None) -> None:
    """Write a model folder of the run anew, complete before it gets its name.

    Raises:
        OutputError: it cannot be written; the one that was there is kept.
    """
    work = folder.parent / WORK
    try:
        work.mkdir(exist_ok=True)
        clear(folder.parent)
        whole = work / "new" / folder.name  # the card names the folder that it is written to
        whole.parent.mkdir()
        save_to_dir(network, whole, labels=labels, dataset=dataset)
        if folder.exists():
            folder.rename(work / f"{folder.name}.old")
        whole.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # the first error is the one to report
            clear(folder.parent)


def clear(folder: Path) -> None:
    """Remove what is unfinished; a model folder that was being replaced gets its name back."""
    work = folder / WORK
    for name in (BEST, LAST):
        if (work / f"{name}.old").exists() and not (folder / name).exists():
            (work / f"{name}.old").rename(folder / name)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
