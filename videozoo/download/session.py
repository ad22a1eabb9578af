"""One GET: over https, through the user's proxies, with bounded retries and redirects that are judged one by one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from videozoo.credentials import authorization
from videozoo.download import limits
from videozoo.errors import FetchError

if TYPE_CHECKING:
    from requests import Response, Session

_RETRIED = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)


class BodyError(FetchError):
    """A fault of the network in the middle of a body."""


def new_session() -> Session:
    """What `get` asks through; to be closed. Certificates are always verified."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import InvalidHeader
    from urllib3.response import BaseHTTPResponse
    from urllib3.util.retry import Retry

    class BoundedRetry(Retry):
        def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
            try:
                asked = super().get_retry_after(response)
            except InvalidHeader:
                return None
            return None if asked is None else min(asked, limits.MAX_PAUSE_SECONDS)

    class Session(requests.Session):
        def get_redirect_target(self, resp: Response) -> None:
            return None  # else requests reads the whole body of a redirect, even when told not to follow it

    retry = BoundedRetry(
        total=limits.MAX_RETRIES,
        backoff_factor=limits.BACKOFF_SECONDS,
        backoff_max=limits.MAX_PAUSE_SECONDS,
        status_forcelist=_RETRIED,
        allowed_methods=("GET",),
        raise_on_status=False,  # the last answer comes back, so that its status can be told
    )
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def get(session: Session, url: str, headers: Mapping[str, str]) -> Response:
    """The answer 200 to a GET, to one with a Range also 206 or 416, its body not read yet.

    Raises:
        FetchError: another answer, none, or a redirect that is refused.
    """
    good = (200, 206, 416) if "Range" in headers else (200,)
    secret = authorization(url)
    _refuse_unsafe(url, previous=None)
    for _ in range(limits.MAX_REDIRECTS + 1):
        with _network_errors(FetchError):
            response = session.get(
                url,
                headers={**headers, **secret},
                stream=True,
                allow_redirects=False,
                timeout=(limits.CONNECT_SECONDS, limits.STALL_SECONDS),
            )
        if response.status_code in good:
            return response
        location = response.headers.get("Location")
        response.close()
        if response.status_code not in _REDIRECTS or location is None:
            raise FetchError(_printable(f"the server answered {response.status_code} {response.reason or ''}"))
        try:
            previous, url = url, urljoin(url, location)
            _refuse_unsafe(url, previous=previous)
        except ValueError as error:  # what urllib raises for an address that is none
            raise FetchError(f"redirected to {_printable(location)}: {error}") from error
        secret = secret and authorization(url)  # never to another host, nor because another host said so
    raise FetchError(f"more than {limits.MAX_REDIRECTS} redirects")


def body(response: Response) -> Iterator[bytes]:
    """The body as it was sent: the digest belongs to the published bytes, whatever encoding a server claims for them.

    A generator, so that an OSError of the disk, raised by its consumer, is not taken for one of the network.

    Raises:
        BodyError: the connection broke, or fell silent.
    """
    with _network_errors(BodyError):
        yield from response.raw.stream(limits.CHUNK_BYTES, decode_content=False)


@contextmanager
def _network_errors(kind: type[FetchError]) -> Iterator[None]:
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (RequestException, HTTPError, OSError) as error:
        raise kind(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error, as one short printable line (a server may have chosen the words)."""
    from urllib3.exceptions import NewConnectionError

    while True:
        inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(error)
    if isinstance(error, NewConnectionError):
        text = text.partition(": ")[2] or text  # before it stands the repr of the connection
    return _printable(text or type(error).__name__)


def _printable(text: str) -> str:
    words = " ".join(text.split())[:300]
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _refuse_unsafe(url: str, *, previous: str | None) -> None:
    """Allow https, and plain http between programs of this machine, unless a redirect would step down to it."""
    if "\\" in url or not url.isprintable() or " " in url:
        # Two parsers may see two hosts in it, ours and the one that connects.
        raise FetchError(f"{'redirected to' if previous else 'its address is'} {_printable(url)}, which is no address")
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    stepped_down = previous is not None and urlsplit(previous).scheme != "http"
    if parts.scheme == "http" and _is_loopback(parts.hostname or "") and not stepped_down:
        return
    shown = _printable(f"{parts.scheme}://{parts.hostname or ''}")
    raise FetchError(f"{'redirected to' if previous else 'its address is'} {shown}, which is not https: refused")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
