"""``videozoo serve``."""

from __future__ import annotations

import argparse
import importlib.util
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.artefacts.form import is_artefact
from videozoo.cli.weights import refuse_unknown_weights
from videozoo.errors import InvalidArgument, OutputError

if TYPE_CHECKING:
    from videozoo.page.limits import Limits

NAME = "serve"
HELP = "A web page on this machine: drop a video, see what networks say of it over time."
_MODELS = ("test_ircsn", "test_tpn", "test_tsn")
"""What needs no fetching."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--model", action="append", metavar="NAME",
        help="an architecture, architecture.tag, hf-hub:, local-dir: or an exported .onnx or .xml; also several times "
        "(default: the test nets)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="0 for any that is free (8000)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name by which browsers reach --host"
    )
    parser.add_argument("--max-mb", type=float, default=100.0, metavar="MB", help="of an upload (100)")
    parser.add_argument("--max-seconds", type=float, default=120.0, metavar="S", help="of a video (120)")
    parser.add_argument(
        "--queue", type=int, default=16, metavar="N", help="uploads at once, waiting ones included (16)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 ...")


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise InvalidArgument(f'{package} is not installed: pip install "videozoo[demo]"')
    names = list(dict.fromkeys(options.model or _MODELS))
    for name in names:
        if not is_artefact(name):
            refuse_unknown_weights(name)
        elif Path(name).suffix.lower() == ".pt2":
            raise InvalidArgument(
                f"{name} is a program, which the page does not open; export .onnx or .xml, or predict"
            )
    for option, value in (("--max-mb", options.max_mb), ("--max-seconds", options.max_seconds)):
        if not 0 < value < 1e9:
            raise InvalidArgument(f"{option} {value}: has to be a number above 0")
    if not 0 <= options.port <= 65535:
        raise InvalidArgument(f"--port {options.port}: a number of 0..65535")
    from videozoo.page.limits import Limits

    limits = Limits(
        max_bytes=int(options.max_mb * 1e6), max_seconds=options.max_seconds, queue=options.queue
    )  # fmt: skip
    with _listening(options.host, options.port) as listener:
        _serve(names, listener, limits, options)
    return 0


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OutputError(f"cannot listen on {host} port {port}: {error.strerror or error}; try --port 0") from None


def _serve(names: list[str], listener: socket.socket, limits: Limits, options: argparse.Namespace) -> None:
    import uvicorn

    from videozoo.inference import reuse_heap
    from videozoo.page.app import create_app
    from videozoo.page.guard import LOOPBACK
    from videozoo.predict import load_recognizer

    reuse_heap()
    recognizers = {name: load_recognizer(name, mode="center", device=options.device) for name in names}
    hosts = frozenset({options.host.lower(), *(name.lower() for name in options.allow_host)} | LOOPBACK)
    with tempfile.TemporaryDirectory(prefix="videozoo-serve-") as folder:
        app = create_app(recognizers, Path(folder), limits=limits, hosts=hosts)
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, server_header=False, limit_concurrency=256,
            timeout_keep_alive=5, timeout_graceful_shutdown=2, proxy_headers=False,
        )  # fmt: skip
        port = listener.getsockname()[1]
        address = f"[{options.host}]" if ":" in options.host else options.host
        print(f"videozoo: http://{address}:{port}/  (end with Ctrl-C)", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
