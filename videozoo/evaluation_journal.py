"""What an evaluation has done so far: a journal of each process beside the result, until that is written.

The first process's is ``OUT.journal``, the others' are ``OUT.journal.RANK``. Whoever has the first one locked has all:
it is taken before the others and given up after them.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videozoo.errors import OutputError
from videozoo.evaluation_result import EvaluationResult, Outcome, read_result, write_result
from videozoo.files import place, refuse_unfit, sha256_file
from videozoo.journal import Journal, beside, discard, read, scan
from videozoo.ranks import Ranks


@dataclass(frozen=True)
class Attempt:
    """One attempt at one evaluation: what earlier ones have done, and where this one keeps what it does."""

    ranks: Ranks
    out: Path | None
    asked: dict[str, Any]
    """What the result depends on beside the outcomes, as JSON."""
    known: dict[int, Outcome]
    """By the video's place in the list, as far as this process can see journals."""
    journal: Journal | None
    written: EvaluationResult | None
    """The result, if an earlier attempt has written it and came no further."""

    def keep(self, number: int, outcome: Outcome) -> None:
        """Note what became of a video.

        Raises:
            OutputError: the journal cannot be written.
        """
        self.known[number] = outcome
        if self.journal is not None:
            self.journal.append({"video": number} | _packed(outcome))

    def finish(self, result: EvaluationResult, *, overwrite: bool) -> None:
        """Write the result, once, and then give up the journals.

        Raises:
            OutputError: the file exists meanwhile, or cannot be written.
        """
        with self.ranks.together():
            if self.out is not None and self.journal is not None and self.ranks.rank == 0:
                self._write(self.out, self.journal, result, overwrite=overwrite)
        self.remove()

    def _write(self, out: Path, journal: Journal, result: EvaluationResult, *, overwrite: bool) -> None:
        def fill(unfinished: Path) -> None:
            write_result(unfinished, result)
            journal.append({"result": sha256_file(unfinished), "asked": self.asked})

        place(out, fill, overwrite=overwrite)

    def remove(self) -> None:
        """Give up the journals, those of earlier attempts included; the first process's last."""
        if self.out is None or self.journal is None:
            return
        if self.ranks.rank:
            self.journal.remove()
        self.ranks.gather(None)
        _discard_others(self.out)
        self.ranks.gather(None)
        if self.ranks.rank == 0:
            self.journal.remove()


@contextmanager
def attempt(
    out: Path | None, run: dict[str, Any], asked: dict[str, Any], ranks: Ranks, *, anew: bool, keep_failures: bool
) -> Iterator[Attempt]:
    """Go on with what earlier attempts have left.

    Args:
        out: where the result goes; None keeps nothing.
        run: what outcomes must have in common to be those of one evaluation, as JSON.
        asked: what the result depends on beside them, as JSON.
        ranks: the processes, all of which call this.
        anew: give up what earlier attempts have done, and replace ``out``.
        keep_failures: whether videos that an earlier attempt could not decode are known.

    Raises:
        OutputError: another process is at it, the journals are those of another run, or ``out`` exists.
    """
    if out is None:
        yield Attempt(ranks, None, asked, {}, None, None)
        return
    with ExitStack() as stack:
        first = beside(out)
        journal: Journal | None = None
        written: EvaluationResult | None = None
        with ranks.together():
            if ranks.rank == 0:
                journal = stack.enter_context(Journal(first, run, anew=anew))
                written = None if anew else _written(out, first, run, asked, journal)
        written = ranks.gather(written)[0]
        with ranks.together():
            if anew:
                _discard_others(out)
        with ranks.together():
            if ranks.rank:
                journal = stack.enter_context(Journal(first.with_name(f"{first.name}.{ranks.rank}"), run, anew=anew))
        known: dict[int, Outcome] = {}
        with ranks.together():
            for path in [] if anew else [first, *_others(out)]:
                _read(path, run, known, keep_failures=keep_failures)
        yield Attempt(ranks, out, asked, known, journal, written)


def _written(
    out: Path, first: Path, run: dict[str, Any], asked: dict[str, Any], journal: Journal
) -> EvaluationResult | None:
    """The result that an earlier attempt wrote without giving up its journals.

    Raises:
        OutputError: a file of this name exists and is not that.
    """
    lines = read(first, run)
    last = lines[-1] if lines else {}
    if last.get("asked") == asked and os.path.isfile(out) and last["result"] == sha256_file(out):
        return read_result(out)
    try:
        refuse_unfit(out, overwrite=False)
    except OutputError:
        if not lines:  # nothing was done that could be gone on with
            journal.remove()
        raise
    return None


def _others(out: Path) -> list[Path]:
    """The journals of all processes but the first, as far as this one can see them."""
    name = re.compile(re.escape(beside(out).name) + r"\.\d+")
    return sorted(path for path in out.parent.iterdir() if name.fullmatch(path.name))


def _discard_others(out: Path) -> None:
    for path in _others(out):
        with suppress(OutputError):  # who is at it without the first process's can only have it for a moment
            discard(path)


def _read(path: Path, run: dict[str, Any], known: dict[int, Outcome], *, keep_failures: bool) -> None:
    if not path.exists():
        return
    for line, _ in scan(path, run):
        if "scores" in line:
            known[int(line["video"])] = np.frombuffer(base64.b64decode(line["scores"]), dtype="<f4")
        elif "reason" in line and keep_failures:
            known.setdefault(int(line["video"]), str(line["reason"]))


def _packed(outcome: Outcome) -> dict[str, str]:
    if isinstance(outcome, str):
        return {"reason": outcome}
    return {"scores": base64.b64encode(outcome.astype("<f4").tobytes()).decode()}
