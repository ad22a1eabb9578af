"""``videozoo cache list|verify|clean``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from videozoo.cache.contents import CachedFile, contents, remove, stale
from videozoo.cache.places import home
from videozoo.errors import DigestMismatch, printable

NAME = "cache"
HELP = "List, verify or clean the files of the cache."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="every file with its row, its size and what is known of its digest")
    verified = actions.add_parser("verify", help="read and hash every file; exit status 4 where one is damaged")
    cleaned = actions.add_parser(
        "clean", help="remove what nobody needs: damaged and outdated files, what ended processes left unfinished"
    )
    cleaned.add_argument("patterns", nargs="*", metavar="PATTERN", help="also all files of these rows: 'ircsn_r50.*'")
    cleaned.add_argument("--partial", action="store_true", help="also downloads that could be taken up again")
    cleaned.add_argument("--dry-run", action="store_true", help="print what would go, and remove nothing")
    for action in (listed, verified, cleaned):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Do one of the three."""
    actions = {"list": _list, "verify": _verify, "clean": _clean}
    return actions[options.action](options)


def _list(options: argparse.Namespace) -> int:
    files = contents()
    if options.json:
        _print_json(files)
        return 0
    lines = [("kind", "row", "bytes", "digest", "file"), *map(_cells, files)]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for line in lines:
        kind, row, size, digest, file = line
        cells = (kind.ljust(widths[0]), row.ljust(widths[1]), size.rjust(widths[2]), digest.ljust(widths[3]), file)
        print("  ".join(cells))
    print(f"{len(files)} files, {sum(file.size_bytes for file in files):,} bytes in {home()}")
    return 0


def _cells(file: CachedFile) -> tuple[str, str, str, str, str]:
    name = file.path.relative_to(home()).as_posix()
    problem = f" ({file.problem})" if file.problem else ""
    return (
        file.kind,
        printable(file.row or "-"),
        f"{file.size_bytes:,}",
        file.digest or "-",
        printable(f"{name}{problem}"),
    )


def _verify(options: argparse.Namespace) -> int:
    files = [file for file in contents(hashed=True) if file.digest is not None]
    damaged = [file for file in files if file.problem is not None]
    for file in damaged:
        print(f"videozoo: error: {printable(file.path)}: {printable(file.problem)}", file=sys.stderr)
    if options.json:
        _print_json(files)
    else:
        print(f"{len(files) - len(damaged)} of {len(files)} files in {home()} are what they were")
    return DigestMismatch.exit_status if damaged else 0


def _clean(options: argparse.Namespace) -> int:
    files = stale(options.patterns, partial=options.partial)
    for file in files:
        if not options.dry_run:
            remove(file)
        if not options.json:
            done = "would remove" if options.dry_run else "removed"
            print(f"{done}  {file.size_bytes:>13,} bytes  {printable(file.path)}")
    if options.json:
        _print_json(files)
    else:
        print(f"{len(files)} files, {sum(file.size_bytes for file in files):,} bytes")
    return 0


def _print_json(files: Sequence[CachedFile]) -> None:
    print(json.dumps([asdict(file) for file in files], indent=2, default=str))
