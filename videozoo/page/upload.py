"""The body of a request into a file, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from videozoo.page.limits import Limits, Refused

GONE = 499
"""The status, of nobody's standard, for who did not wait for the answer."""
_DRAIN_SECONDS = 2.0


async def receive(request: Request, path: Path, limits: Limits) -> None:
    """Write the body to ``path``, counting its bytes as they come, whatever length was announced.

    Raises:
        Refused: 415 for a type that is no video's, 413 for too many bytes, 408 for a slow sender, 422 for no bytes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("video/") or kind == "application/octet-stream"):
        raise Refused(415, f"send a video as the body, of the type video/* or application/octet-stream, not {kind!r}")
    announced = request.headers.get("content-length", "")
    pieces = request.stream()
    try:
        if announced.isdecimal() and int(announced[:20]) > limits.max_bytes:
            raise _too_large(limits)
        async with asyncio.timeout(limits.upload_seconds):
            await _write(pieces, path, limits)
    except Refused as refusal:
        if refusal.status == 413:
            await _drain(pieces)
        raise
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {limits.upload_seconds:g} s, or stood still") from None
    except ClientDisconnect:
        raise Refused(GONE, "the sender went away") from None


async def _write(pieces: AsyncIterator[bytes], path: Path, limits: Limits) -> None:
    count = 0
    with open(path, "xb") as file:
        while True:
            async with asyncio.timeout(limits.idle_seconds):
                piece = await anext(pieces, None)
            if piece is None:
                break
            count += len(piece)
            if count > limits.max_bytes:
                raise _too_large(limits)
            file.write(piece)
    if count == 0:
        raise Refused(422, "the upload is empty")


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read on for a moment: who is cut off while sending does not read the answer."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in pieces:
                pass


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the file is too large: at most {limits.max_bytes / 1e6:g} MB")
