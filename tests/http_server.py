"""A web server on loopback whose every answer, faults included, a test lays down beforehand; a proxy, too.

``tls/`` has a certificate authority of these tests alone, and two certificates of 127.0.0.1 that it signed, one of them
for a day of 2020.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TLS = Path(__file__).parent / "tls"
PATIENCE_SECONDS = 20.0
"""Longest time that an answer waits at a gate which a failing test left closed."""


@dataclass(frozen=True)
class Reply:
    """One answer to a GET."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: bool = True
    """Whether Content-Length is stated."""
    cut: int | None = None
    """Close the connection after this many bytes of the body."""
    gate: threading.Event | None = None
    """Send the second half of the body only when this is set."""


class Server:
    """Answers by path; of several replies to one path, each is given once and the last again and again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and headers of every GET so far."""
        self._replies: dict[str, list[Reply]] = {}
        self._changed = threading.Condition()

    def serve(self, path: str, *replies: Reply) -> str:
        """Lay down the replies to one path; returns its URL."""
        self._replies[path] = list(replies)
        return self.address + path

    def paths(self) -> list[str]:
        """The paths asked for so far."""
        return [path for path, _ in self.requests]

    def wait_for(self, count: int, timeout: float) -> bool:
        """Whether ``count`` requests have arrived before ``timeout`` seconds are over."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.requests) >= count, timeout)

    def answer(self, path: str, headers: dict[str, str]) -> Reply:
        """Note a request and choose its reply."""
        with self._changed:
            self.requests.append((path, headers))
            self._changed.notify_all()
            replies = self._replies.get(path, [Reply(status=404)])
            return replies.pop(0) if len(replies) > 1 else replies[0]


@contextmanager
def running(certificate: str | None = None, kind: Callable[[str], Server] = Server) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, until the block ends; over https with one of the certificates of ``tls/``.

    As a proxy it answers http requests itself (``serve`` then takes whole addresses), and passes https on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = server.answer(self.path, dict(self.headers))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.length:
                self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            body = reply.body if reply.cut is None else reply.body[: reply.cut]
            half = len(body) // 2 if reply.gate else len(body)
            try:
                self.wfile.write(body[:half])
                if reply.gate:
                    self.wfile.flush()
                    reply.gate.wait(PATIENCE_SECONDS)
                    self.wfile.write(body[half:])
            except ConnectionError:
                pass  # the client gave up, as some tests mean it to

        def do_CONNECT(self) -> None:
            server.answer(f"CONNECT {self.path}", dict(self.headers))
            host, _, port = self.path.partition(":")
            with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as there:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pass_on, args=(there, self.connection))
                back.start()
                _pass_on(self.connection, there)
                back.join()

        def log_message(self, format: str, *args: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / certificate)
        web.socket = context.wrap_socket(web.socket, server_side=True)
    server = kind(f"{'http' if certificate is None else 'https'}://127.0.0.1:{web.server_address[1]}")
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has hung up
