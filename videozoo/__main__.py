"""``python -m videozoo`` and the start of both commands: an interrupt while Python still imports is one line, too."""

from __future__ import annotations

import sys


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
        return 130
    return status


if __name__ == "__main__":
    raise SystemExit(videozoo())
