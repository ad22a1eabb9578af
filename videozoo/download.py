"""URLs -> one verified file.

The first URL that gives the right bytes wins. A body is hashed while it streams into a temporary file beside its
target, and gets the final name only when the digest is right. TLS is always verified; proxies, ``NO_PROXY`` and
``REQUESTS_CA_BUNDLE`` are honoured; a redirect never leaves https and never carries credentials along.
"""

from __future__ import annotations

import hashlib
import ipaddress
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from videozoo.errors import DigestMismatch, FetchError
from videozoo.files import digest_problem, place

if TYPE_CHECKING:
    from requests import Response, Session

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""Longest silence in the middle of a body."""
MAX_RETRIES = 3
BACKOFF_SECONDS = 0.5
"""Pause before the second retry of one URL; doubles with each further one."""
MAX_PAUSE_SECONDS = 20.0
"""Longest pause, also where a server asks for a longer one by Retry-After."""
MAX_REDIRECTS = 10
MAX_BYTES = 8 << 30
"""Where the size is not known: no checkpoint is larger, and a disk is not filled by a server that never ends."""

_CHUNK_BYTES = 1 << 20
_RETRIED = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)


def download(
    urls: Sequence[str], target: Path, *, digest: str, size_bytes: int | None, what: str, progress: bool
) -> None:
    """Place the file that one of ``urls`` gives at ``target``; they are tried in order.

    Args:
        urls: https only, except for hosts that are this machine itself.
        target: the final name, in an existing folder; nothing is left there, nor beside it, when all URLs fail.
        digest: 64 hexadecimal digits of the sha256, or its first 8.
        size_bytes: of the file, where it is known.
        what: whose file it is, for messages.
        progress: whether to draw a bar on stderr if that is a terminal.

    Raises:
        DigestMismatch: every URL answered, each with other bytes.
        FetchError: no URL gave the file; the message has each one's reason.
        OutputError: ``target`` cannot be written.
    """
    reasons: list[str] = []
    only_digests = True
    with _session() as session:
        for url in urls:
            transfer = _Transfer(session, url, digest, size_bytes, target.name if progress else None)
            try:
                place(target, transfer.write, overwrite=True)
                return
            except FetchError as error:
                reasons.append(f"{url}: {error}")
                only_digests &= isinstance(error, DigestMismatch)
    kind = DigestMismatch if reasons and only_digests else FetchError
    raise kind(
        f"{what} could not be downloaded: {'; '.join(reasons) or 'no URL is known'}; a file that you have can be put "
        "into a folder that VIDEOZOO_WEIGHTS_DIR names, or be passed as checkpoint_path="
    )


class _Transfer:
    """One attempt at one URL.

    The hash is made where the bytes are written, so that a later resume by Range has one place to take both up again.
    """

    def __init__(self, session: Session, url: str, digest: str, size_bytes: int | None, bar: str | None) -> None:
        self._session = session
        self._url = url
        self._digest = digest
        self._size_bytes = size_bytes
        self._limit = MAX_BYTES if size_bytes is None else size_bytes + _CHUNK_BYTES  # an error page may be longer
        self._bar = bar

    def write(self, path: Path) -> None:
        """Fill ``path`` with the verified body; raises FetchError, or OSError from the disk alone."""
        with _get(self._session, self._url) as response, open(path, "wb") as stream:
            found = self._receive(response, stream)
        problem = digest_problem(found, self._digest)
        if problem is not None:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
            raise DigestMismatch(problem + (" (the server sent a web page)" if kind == "text/html" else ""))
        size = path.stat().st_size
        if self._size_bytes is not None and size != self._size_bytes:  # a prefix alone leaves room for chance
            raise FetchError(f"it has {size} bytes, not {self._size_bytes}")

    def _receive(self, response: Response, stream: BinaryIO) -> str:
        stated = response.headers.get("Content-Length", "")
        length = int(stated) if stated.isdecimal() and len(stated) < 20 else None
        if length is not None and length > self._limit:
            raise FetchError(f"the server announces {length} bytes, more than the file has")
        sha256, received = hashlib.sha256(), 0
        with _progress_bar(self._bar, length) as advance:
            for chunk in _body(response):
                received += len(chunk)
                if received > self._limit:
                    raise FetchError(f"the server sent more than {self._limit} bytes, more than the file has")
                stream.write(chunk)
                sha256.update(chunk)
                advance(len(chunk))
        if length is not None and received != length:
            raise FetchError(f"the connection ended after {received} of {length} bytes")
        return sha256.hexdigest()


def _body(response: Response) -> Iterator[bytes]:
    """The body as it was sent: the digest belongs to the published bytes, whatever encoding a server claims for them.

    A generator, so that an OSError of the disk, raised by its consumer, is not taken for one of the network.
    """
    with _network_errors():
        yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)


@contextmanager
def _network_errors() -> Iterator[None]:
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (RequestException, HTTPError, OSError) as error:
        raise FetchError(_reason(error)) from error


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


def _get(session: Session, url: str) -> Response:
    """The answer 200 to a GET, its body not read yet; redirects are followed here, one by one, to judge each."""
    _refuse_unsafe(url, previous=None)
    for _ in range(MAX_REDIRECTS + 1):
        with _network_errors():
            response = session.get(
                url,
                headers={"Accept-Encoding": "identity"},
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_SECONDS, STALL_SECONDS),
            )
        if response.status_code == 200:
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
    raise FetchError(f"more than {MAX_REDIRECTS} redirects")


def _refuse_unsafe(url: str, *, previous: str | None) -> None:
    """Allow https, and plain http between programs of this machine, unless a redirect would step down to it."""
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


def _session() -> Session:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.response import BaseHTTPResponse
    from urllib3.util.retry import Retry

    class BoundedRetry(Retry):
        def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
            asked = super().get_retry_after(response)
            return None if asked is None else min(asked, MAX_PAUSE_SECONDS)

    class Session(requests.Session):
        def get_redirect_target(self, resp: Response) -> None:
            return None  # else requests reads the whole body of a redirect, even when told not to follow it

    retry = BoundedRetry(
        total=MAX_RETRIES,
        backoff_factor=BACKOFF_SECONDS,
        backoff_max=MAX_PAUSE_SECONDS,
        status_forcelist=_RETRIED,
        allowed_methods=("GET",),
        raise_on_status=False,  # the last answer comes back, so that its status can be told
    )
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


@contextmanager
def _progress_bar(name: str | None, total: int | None) -> Iterator[Callable[[int], object]]:
    """What to tell of every further byte; it draws a bar only where someone can see it."""
    if name is None or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield bar.update
