"""``videozoo`` and ``videozoo-convert``: one parser, one place where errors become one line and an exit status."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from videozoo.cli import (
    benchmark,
    cache,
    convert,
    data,
    demo,
    evaluate,
    fetch,
    import_,
    info,
    mirror,
    predict,
    push,
    train,
    verify,
    zoo_list,
)
from videozoo.errors import VideoZooError

EPILOG = """\
exit status: 0 done; 2 wrong arguments or names; 3 a checkpoint that cannot be used; 4 weights that cannot be had;
5 a video that cannot be decoded; 6 an output that exists or cannot be written; 7 a list that cannot be used;
130 interrupted; 1 anything else
"""
INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None) -> int:
    """The command ``videozoo``; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="videozoo", description="Models for video action recognition with verified pretrained weights.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"videozoo {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        *(zoo_list, info, fetch, import_, cache, mirror, verify),
        *(predict, convert, push, train, data, evaluate, benchmark, demo),
    ):
        sub = commands.add_parser(
            command.NAME, help=command.HELP, description=command.HELP, epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return _answer(parser.parse_args(arguments))


def run_convert(arguments: Sequence[str] | None = None) -> int:
    """The command ``videozoo-convert``: ``videozoo convert`` under the name that people look for."""
    parser = argparse.ArgumentParser(
        prog="videozoo-convert", description=convert.HELP, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"videozoo {_version()}")
    convert.add_arguments(parser)
    parser.set_defaults(run=convert.run)
    return _answer(parser.parse_args(arguments))


def _answer(options: argparse.Namespace) -> int:
    logging.basicConfig(format="videozoo: %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # every retry in three lines; the error at the end says it in one
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
    except VideoZooError as error:
        if getattr(options, "json", False):
            print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}, indent=2))
        print(f"videozoo: error: {str(error).splitlines()[0]}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("videozoo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone, as `head` does; Python would complain once more while it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of printing alone: commands turn their own into errors of the tree
        print(f"videozoo: error: {error}", file=sys.stderr)
        return 1
    return status


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("videozoo")
    except PackageNotFoundError:
        return "(source tree)"
