"""``python -m videozoo`` and the start of both commands: an interrupt while Python still imports is one line, too."""

from __future__ import annotations

import os
import sys
import threading


def videozoo() -> int:
    """The command ``videozoo``."""
    return _start("run")


def videozoo_convert() -> int:
    """The command ``videozoo-convert``."""
    return _start("run_convert")


def _start(command: str) -> int:
    try:
        from videozoo.cli import main

        status: int = getattr(main, command)()
    except KeyboardInterrupt:
        sys.stderr.write("videozoo: interrupted\n")
        status = 130
    at_work = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if status in (130, 143) and not all(thread.daemon for thread in at_work):
        # Python would wait for threads that still decode or download; what they leave is what a later call takes up.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    raise SystemExit(videozoo())
