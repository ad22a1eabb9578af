"""One URL, asked again by Range until its file is whole and verified."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videozoo.credentials import without_credentials
from videozoo.download import limits
from videozoo.download.part import Appending, Part, is_strong
from videozoo.download.session import BodyError, body, get
from videozoo.errors import DigestMismatch, FetchError
from videozoo.files import digest_problem

if TYPE_CHECKING:
    from requests import Response, Session


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was placed, and which URL gave it."""

    url: str
    """Without credentials."""
    sha256: str
    size_bytes: int


class _Interrupted(FetchError):
    """A body that ended before its file did."""


class Transfer:
    """One URL, asked again by Range until the file is whole."""

    def __init__(
        self, session: Session, url: str, part: Part, digest: str | None, size_bytes: int | None, bar: str | None
    ) -> None:
        self._session = session
        self._url = url
        self._shown = without_credentials(url)
        self._part = part
        self._digest = digest
        self._size_bytes = size_bytes
        # An error page may be longer than the file.
        self._limit = limits.MAX_BYTES if size_bytes is None else size_bytes + limits.CHUNK_BYTES
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
            self._part.remove()
            if self._pieces < 2:
                raise
        # Pieces of two versions of the file, or bytes that a power cut lost: once more in one piece, if it comes so.
        self._start_over("")
        self._receive_all()
        return self._verified()

    def _take_up(self) -> None:
        """Hash what an earlier call left of this URL."""
        self._etag = self._part.etag(self._shown)
        if self._etag is None:
            self._part.remove()
            return
        with open(self._part.path, "rb") as stream:
            while chunk := stream.read(limits.CHUNK_BYTES):
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
                fruitless = fruitless + 1 if self._received < best + limits.CHUNK_BYTES else 0
                best = max(best, self._received)
                if fruitless > limits.MAX_RETRIES:
                    raise
                time.sleep(min(limits.BACKOFF_SECONDS * 2**fruitless, limits.MAX_PAUSE_SECONDS) if fruitless else 0.0)

    def _receive(self) -> None:
        """Ask for what is missing and append it; returns when nothing is, as far as the server says."""
        headers = {"Accept-Encoding": "identity"}
        if self._received:
            headers["Range"] = f"bytes={self._received}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        with get(self._session, self._url, headers) as response:
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
        self._etag = etag if is_strong(etag) else None
        self._part.begin(self._shown, self._etag)
        self._sha256, self._received, self._pieces = hashlib.sha256(), 0, 0

    def _append(self, response: Response) -> None:
        length = _number(response.headers.get("Content-Length", ""))
        total = None if length is None else self._received + length
        if total is not None and total > self._limit:
            raise self._hopeless(f"the server announces {total} bytes, more than the file has")
        try:
            with (
                _progress_bar(self._bar, total, self._received) as advance,
                Appending(self._part.path, self._sha256) as stream,
            ):
                for chunk in body(response):
                    if self._received + len(chunk) > self._limit:
                        raise self._hopeless(f"the server sent more than {self._limit} bytes, more than the file has")
                    stream.write(chunk)
                    self._received += len(chunk)
                    advance(len(chunk))
        except BodyError as error:
            raise _Interrupted(f"the connection ended after {self._received} bytes: {error}") from error
        expected = self._size_bytes if total is None else total
        if expected is not None and self._received < expected:
            raise _Interrupted(f"the connection ended after {self._received} of {expected} bytes")
        if expected is None and response.headers.get("Accept-Ranges") == "bytes" and self._digest_problem():
            raise _Interrupted(f"the connection ended after {self._received} bytes, and {self._digest_problem()}")

    def _hopeless(self, reason: str) -> FetchError:
        """For a body that is none of this file's: it is not to be resumed."""
        self._part.forget()
        return FetchError(reason)

    def _digest_problem(self) -> str | None:
        return None if self._digest is None else digest_problem(self._sha256.hexdigest(), self._digest)

    def _verified(self) -> Downloaded:
        problem = self._digest_problem()
        if problem is not None:
            page = " (the server sent a web page)" if self._content_type == "text/html" else ""
            raise DigestMismatch(problem + page)
        if self._size_bytes not in (None, self._received):  # a prefix alone leaves room for chance
            raise self._hopeless(f"it has {self._received} bytes, not {self._size_bytes}")
        return Downloaded(self._shown, self._sha256.hexdigest(), self._received)


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

    with tqdm(total=total, initial=received, desc=name, unit="B", unit_scale=True, leave=None) as bar:
        yield bar.update
