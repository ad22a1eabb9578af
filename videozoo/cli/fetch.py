"""``videozoo fetch``."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from videozoo import cache, lockfile, registry
from videozoo.errors import InvalidArgument, VideoZooError, first_line, printable
from videozoo.manifest import Entry

NAME = "fetch"
HELP = "Download and verify weights, so that they load offline; an interrupted download is taken up again."
WAKE_SECONDS = 0.5
"""Python sees a signal that came just before a wait on a lock only when that wait ends; so none lasts longer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="weights by name or wildcard: 'ircsn_r152.*'")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many files at once (1)")
    parser.add_argument("--trust-first-use", action="store_true", help="also take files of which no digest is known")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")


def run(options: argparse.Namespace) -> int:
    """Fetch all that match; a file that cannot be had is reported, and the others are still fetched."""
    if options.jobs < 1:
        raise InvalidArgument(f"--jobs {options.jobs}: at least 1")
    entries = registry.find_weights(options.patterns)

    def fetch(entry: Entry) -> Path | VideoZooError:
        try:
            with lockfile.used(options.lock):  # here: another thread does not see what its caller chose
                return cache.obtain(entry, progress=True, trust_first_use=options.trust_first_use).path
        except VideoZooError as error:
            return error

    from tqdm import tqdm

    status = 0
    pool = ThreadPoolExecutor(options.jobs)
    try:
        fetched = [pool.submit(fetch, entry) for entry in entries]
        for entry, future in zip(entries, fetched, strict=True):
            while not wait([future], WAKE_SECONDS).done:
                pass
            answer = future.result()
            with tqdm.external_write_mode():  # between the bars of those that still come
                if isinstance(answer, Path):
                    print(f"{entry.name}  {printable(answer)}", flush=True)
                else:
                    print(f"videozoo: error: {first_line(answer)}", file=sys.stderr)
                    status = answer.exit_status
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt, nobody waits for a slow server
    return status
