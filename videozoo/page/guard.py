"""What is refused before anything is read: other sites' pages, other hosts' names. And headers of every answer.

A page of another site can have the browser send requests to this machine, and with a name of its own that it lets point
to 127.0.0.1 ("DNS rebinding") it could also read the answers. So the Host has to be a name of ours, and where a browser
says which site a request comes from, it has to be this one.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from videozoo.errors import printable

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_log = logging.getLogger(__name__)


class Guard:
    """Middleware."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 421, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, reason = refusal
        _log.warning("refused %s: %s", status, reason)
        answer = JSONResponse({"error": reason}, status, headers={"connection": "close"})
        await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _hostname(f"//{host}") not in self._hosts or len(headers.getlist("host")) > 1:
            return 421, f"this server is not called {printable(host[:80])!r}; see --allow-host"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, f"a page of {printable(origin[:80])!r} may not use this server"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "a page of another site may not use this server"
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None
