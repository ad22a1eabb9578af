"""URLs -> one verified file.

The first URL that gives the right bytes wins. What arrives stands as ``<file>.part`` beside the target while it is
hashed, and gets the final name only when the digest is right. A body that ends early is taken up again by Range,
within the call and, where the server gave a strong ETag (kept with the URL in ``<file>.part.json``), in a later one;
without one no unfinished file outlives the call. TLS is always verified; proxies, ``NO_PROXY`` and
``REQUESTS_CA_BUNDLE`` are honoured; a redirect never leaves https and never carries credentials along.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from videozoo.errors import DigestMismatch, FetchError, OutputError
from videozoo.files import digest_problem, place, refuse_unfit

if TYPE_CHECKING:
    from requests import Response, Session

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""Longest silence in the middle of a body."""
MAX_RETRIES = 3
"""Retries of one request; also how often a body may end early without a MiB of progress."""
BACKOFF_SECONDS = 0.5
"""Pause before the second retry of one URL; doubles with each further one."""
MAX_PAUSE_SECONDS = 20.0
"""Longest pause, also where a server asks for a longer one by Retry-After."""
MAX_REDIRECTS = 10
MAX_BYTES = 8 << 30
"""Where the size is not known: no checkpoint is larger, and a disk is not filled by a server that never ends."""
PART = ".part"
"""How the name of what has arrived of a file ends; its record adds ``.json``."""

_CHUNK_BYTES = 1 << 20
_MAX_HASHES_PENDING = 8
_RETRIED = (429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was placed, and which URL gave it."""

    url: str
    """Without credentials."""
    sha256: str
    size_bytes: int


def download(
    urls: Sequence[str], target: Path, *, digest: str | None, size_bytes: int | None, what: str, progress: bool
) -> Downloaded:
    """Place the file that one of ``urls`` gives at ``target``; they are tried in order.

    Only one caller at a time may download to one ``target``.

    Args:
        urls: https only, except for hosts that are this machine itself.
        target: the final name, in an existing folder; when all URLs fail nothing is left there, and beside it at most
            what a later call can resume.
        digest: 64 hexadecimal digits of the sha256, or its first 8; None to take what comes, which only a user who said
            so may have.
        size_bytes: of the file, where it is known.
        what: whose file it is, for messages.
        progress: whether to draw a bar on stderr if that is a terminal.

    Raises:
        DigestMismatch: every URL answered, each with other bytes.
        FetchError: no URL gave the file; the message has each one's reason.
        OutputError: ``target`` cannot be written.
    """
    refuse_unfit(target, overwrite=True)
    reasons: list[str] = []
    only_digests = True
    partial = _Partial(target)
    try:
        with _session() as session:
            for url in urls:
                transfer = _Transfer(session, url, partial, digest, size_bytes, target.name if progress else None)
                try:
                    found = transfer.run()
                except FetchError as error:
                    reasons.append(f"{without_credentials(url)}: {error}")
                    only_digests &= isinstance(error, DigestMismatch)
                    continue
                place(target, partial.move, overwrite=True)
                return found
    except OSError as error:  # of the disk: those of the network are FetchErrors
        partial.remove()
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        partial.tidy()
    kind = DigestMismatch if reasons and only_digests else FetchError
    raise kind(
        f"{what} could not be downloaded: {'; '.join(reasons) or 'no URL is known'}; a file that you have can be put "
        "into a folder that VIDEOZOO_WEIGHTS_DIR names, or be passed as checkpoint_path="
    )


def without_credentials(url: str) -> str:
    """A URL as it may be shown and recorded: ``user:password@`` left out."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}" if separator else url


class _Partial:
    """What has arrived of a file, and a record of where it came from as long as it can be resumed in a later call."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + PART)
        self._record = target.with_name(target.name + PART + ".json")

    def etag(self, url: str) -> str | None:
        """The ETag of what lies here, if it came from ``url``."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        etag = record.get("etag") if isinstance(record, dict) and record.get("url") == url else None
        return etag if isinstance(etag, str) and _is_strong(etag) else None

    def begin(self, url: str, etag: str) -> None:
        """Empty, for a body that starts at its first byte."""
        self.remove()
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        if _is_strong(etag):
            self._record.write_text(json.dumps({"url": url, "etag": etag}) + "\n", encoding="utf-8")

    def move(self, target: Path) -> None:
        os.replace(self.path, target)
        self.remove()

    def remove(self) -> None:
        for path in (self._record, self.path):  # in this order: a part without a record is never resumed
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what no later call can resume."""
        try:
            if not self._record.exists():
                self.path.unlink(missing_ok=True)
        except OSError:
            return  # the failure that led here is the one to report


def _is_strong(etag: str) -> bool:
    """Whether equal ETags mean equal bytes; weak ones, ``W/"..."``, mean it not."""
    return len(etag) > 2 and etag[0] == etag[-1] == '"' and etag.isascii() and etag.isprintable()


class _Interrupted(FetchError):
    """A body that ended before its file did."""


class _BodyError(FetchError):
    """A fault of the network in the middle of a body."""


class _Hashing:
    """Hashes beside the thread that reads and writes (hashlib lets others run meanwhile), a few chunks behind it."""

    def __init__(self, sha256: hashlib._Hash) -> None:
        self._sha256 = sha256
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> _Hashing:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()  # waits for all that is pending

    def update(self, chunk: bytes) -> None:
        """Hash ``chunk`` soon; waits where hashing falls behind, so that memory stays bounded."""
        if len(self._pending) >= _MAX_HASHES_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._sha256.update, chunk))


class _Transfer:
    """One URL, asked again by Range until the file is whole."""

    def __init__(
        self, session: Session, url: str, partial: _Partial, digest: str | None, size_bytes: int | None, bar: str | None
    ) -> None:
        self._session = session
        self._url = url
        self._shown = without_credentials(url)
        self._partial = partial
        self._digest = digest
        self._size_bytes = size_bytes
        self._limit = MAX_BYTES if size_bytes is None else size_bytes + _CHUNK_BYTES  # an error page may be longer
        self._bar = bar
        self._etag: str | None = None
        self._sha256 = hashlib.sha256()
        self._received = 0
        self._pieces = 0
        self._content_type = ""

    def run(self) -> Downloaded:
        """Fill the part with the verified body; raises FetchError, or OSError from the disk alone."""
        self._take_up()
        try:
            if not self._is_whole():
                self._receive_all()
            return self._verified()
        except DigestMismatch:
            self._partial.remove()
            if self._pieces < 2:
                raise
        # Pieces of two versions of the file, or bytes that a power cut lost: once more in one piece, if it comes so.
        self._start_over("")
        self._receive_all()
        return self._verified()

    def _take_up(self) -> None:
        """Hash what an earlier call left of this URL."""
        self._etag = self._partial.etag(self._shown)
        if self._etag is None or not self._partial.path.is_file() or self._partial.path.is_symlink():
            self._partial.remove()
            self._etag = None
            return
        with open(self._partial.path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                self._sha256.update(chunk)
                self._received += len(chunk)
        self._pieces = 1

    def _is_whole(self) -> bool:
        """Whether an earlier call was stopped just before the end."""
        known = self._digest is not None and self._received > 0
        return known and self._size_bytes in (None, self._received) and self._digest_problem() is None

    def _receive_all(self) -> None:
        best, fruitless = self._received, 0
        while True:
            try:
                self._receive()
                return
            except _Interrupted:
                # Where Range is ignored each piece starts at 0, so only what was never reached before is progress.
                fruitless = fruitless + 1 if self._received < best + _CHUNK_BYTES else 0
                best = max(best, self._received)
                if fruitless > MAX_RETRIES:
                    raise
                time.sleep(min(BACKOFF_SECONDS * 2**fruitless, MAX_PAUSE_SECONDS) if fruitless else 0.0)

    def _receive(self) -> None:
        """Ask for what is missing and append it; returns when nothing is, as far as the server says."""
        headers = {"Accept-Encoding": "identity"}
        if self._received:
            headers["Range"] = f"bytes={self._received}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        with _get(self._session, self._url, headers) as response:
            etag = response.headers.get("ETag", "")
            if response.status_code == 416 and _range_total(response) == self._received > 0:
                return
            if response.status_code == 200:
                self._start_over(etag)
            elif not self._continues(response, etag):
                self._start_over("")
                raise _Interrupted("the server answered a Range with another one")
            self._content_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            self._pieces += 1
            self._append(response)

    def _continues(self, response: Response, etag: str) -> bool:
        start = response.headers.get("Content-Range", "").partition("-")[0].strip()
        same = self._etag is None or not etag or etag == self._etag
        return response.status_code == 206 and start == f"bytes {self._received}" and same

    def _start_over(self, etag: str) -> None:
        self._partial.begin(self._shown, etag)
        self._etag = etag if _is_strong(etag) else None
        self._sha256, self._received, self._pieces = hashlib.sha256(), 0, 0

    def _append(self, response: Response) -> None:
        length = _number(response.headers.get("Content-Length", ""))
        total = None if length is None else self._received + length
        if total is not None and total > self._limit:
            raise FetchError(f"the server announces {total} bytes, more than the file has")
        cut: FetchError | None = None
        with (
            _progress_bar(self._bar, total, self._received) as advance,
            _Hashing(self._sha256) as hashing,
            open(self._partial.path, "ab") as stream,
        ):
            try:
                for chunk in _body(response):
                    if self._received + len(chunk) > self._limit:
                        self._partial.remove()
                        raise FetchError(f"the server sent more than {self._limit} bytes, more than the file has")
                    hashing.update(chunk)
                    stream.write(chunk)
                    self._received += len(chunk)
                    advance(len(chunk))
            except _BodyError as error:
                cut = error
        expected = self._size_bytes if total is None else total
        if cut is not None:
            raise _Interrupted(f"the connection ended after {self._received} bytes: {cut}") from cut
        if expected is not None and self._received < expected:
            raise _Interrupted(f"the connection ended after {self._received} of {expected} bytes")
        if expected is None and response.headers.get("Accept-Ranges") == "bytes" and self._digest_problem():
            raise _Interrupted(f"the connection ended after {self._received} bytes, and {self._digest_problem()}")

    def _digest_problem(self) -> str | None:
        return None if self._digest is None else digest_problem(self._sha256.hexdigest(), self._digest)

    def _verified(self) -> Downloaded:
        problem = self._digest_problem()
        if problem is not None:
            page = " (the server sent a web page)" if self._content_type == "text/html" else ""
            raise DigestMismatch(problem + page)
        if self._size_bytes not in (None, self._received):  # a prefix alone leaves room for chance
            self._partial.remove()
            raise FetchError(f"it has {self._received} bytes, not {self._size_bytes}")
        return Downloaded(self._shown, self._sha256.hexdigest(), self._received)


def _body(response: Response) -> Iterator[bytes]:
    """The body as it was sent: the digest belongs to the published bytes, whatever encoding a server claims for them.

    A generator, so that an OSError of the disk, raised by its consumer, is not taken for one of the network.
    """
    with _network_errors(_BodyError):
        yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)


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


def _get(session: Session, url: str, headers: Mapping[str, str]) -> Response:
    """The answer 200 to a GET, to one with a Range also 206 or 416, its body not read yet.

    Redirects are followed here, one by one, to judge each.
    """
    good = (200, 206, 416) if "Range" in headers else (200,)
    _refuse_unsafe(url, previous=None)
    for _ in range(MAX_REDIRECTS + 1):
        with _network_errors(FetchError):
            response = session.get(
                url,
                headers=dict(headers),
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_SECONDS, STALL_SECONDS),
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


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _range_total(response: Response) -> int | None:
    """How many bytes the file has, as an answer 416 tells it: ``bytes */1234``."""
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


@contextmanager
def _progress_bar(name: str | None, total: int | None, received: int) -> Iterator[Callable[[int], object]]:
    """What to tell of every further byte; it draws a bar only where someone can see it."""
    if name is None or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=received, desc=name, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield bar.update
