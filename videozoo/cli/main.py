"""``videozoo`` and ``videozoo-convert``: one parser, one place where errors become one line and an exit status."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from videozoo.cli import (
    benchmark,
    cache,
    convert,
    data,
    demo,
    evaluate,
    export,
    extract,
    fetch,
    import_,
    info,
    mirror,
    predict,
    push,
    serve,
    train,
    verify,
    zoo_list,
)
from videozoo.errors import VideoZooError, first_line, printable
from videozoo.version import version

EPILOG = """\
exit status: 0 done; 2 wrong arguments or names; 3 a checkpoint that cannot be used; 4 weights that cannot be had;
5 a video that cannot be decoded; 6 an output that exists or cannot be written; 7 a list that cannot be used;
8 a training that cannot go on; 130 interrupted; 143 terminated; 1 anything else
"""
INTERRUPTED = 130
TERMINATED = 143


class _OneLine(logging.Formatter):
    """Warnings name files, too."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (the library's name)
        return printable(super().formatMessage(record))


class _Terminated(KeyboardInterrupt):
    """SIGTERM came; whatever cleans up after an interrupt does so now, too."""


def run(arguments: Sequence[str] | None = None) -> int:
    """The command ``videozoo``; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="videozoo", description="Models for video action recognition with verified pretrained weights.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"videozoo {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        *(zoo_list, info, fetch, import_, cache, mirror, verify),
        *(predict, extract, convert, export, push, train, data, evaluate, benchmark, demo, serve),
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
    parser.add_argument("--version", action="version", version=f"videozoo {version()}")
    convert.add_arguments(parser)
    parser.set_defaults(run=convert.run)
    return _answer(parser.parse_args(arguments))


def _answer(options: argparse.Namespace) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name outside the terminal's encoding is no error
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("videozoo: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # every retry in three lines; the error at the end says it in one
    try:
        with _termination_unwinds():
            status: int = options.run(options)
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
    except VideoZooError as error:
        if getattr(options, "json", False):
            print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}, indent=2))
        print(f"videozoo: error: {first_line(error)}", file=sys.stderr)
        return error.exit_status
    except _Terminated:
        print("videozoo: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("videozoo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _let_go_of_stdout()  # the reader has gone, as `head` does
        return 0
    except OSError as error:
        if error.filename is not None:
            print(f"videozoo: error: {printable(error)}", file=sys.stderr)
            return 1
        _let_go_of_stdout()
        print(
            f"videozoo: error: standard output could not be written ({error.strerror or error}); "
            "files that were written before are whole",
            file=sys.stderr,
        )
        return 1
    return status


def _let_go_of_stdout() -> None:
    """Python would complain once more while it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Have SIGTERM raise instead of ending the process on the spot, which would leave unfinished files behind."""

    def unwind(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would cut the cleaning short
        raise _Terminated

    if (
        threading.current_thread() is not threading.main_thread()  # Python allows no handler there
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
