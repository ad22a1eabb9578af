"""The page's server: the files of the page, the networks there are, and the answer to a video."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from videozoo.errors import printable
from videozoo.page.guard import Guard
from videozoo.page.jobs import Worker
from videozoo.page.limits import Limits, Refused
from videozoo.page.scoring import TOP, Facts, Scored, timeline
from videozoo.page.upload import GONE, receive
from videozoo.predict import Recognizer
from videozoo.prediction import ranked

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_BODY = {"requestBody": {"required": True, "content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}}}
_log = logging.getLogger(__name__)


class Ranked(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class WindowAnswer(BaseModel):
    """What the network says of a part of the video."""

    start_seconds: float
    end_seconds: float
    top: list[Ranked]
    probabilities: list[float]
    """Of the labels in the answer's ``top``, in that order."""


class Answer(BaseModel):
    """What the network says of the video."""

    model: str
    name: str
    """Of the file, as it was sent."""
    num_frames: int
    frame_rate: float
    width: int
    height: int
    top: list[Ranked]
    """By the mean of the windows' probabilities."""
    windows: list[WindowAnswer]


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


class ModelInfo(BaseModel):
    """A network that can be asked."""

    name: str
    num_classes: int


class ModelList(BaseModel):
    """The networks there are, and what they accept."""

    models: list[ModelInfo]
    max_bytes: int
    max_seconds: float


_Work = tuple[Facts, list[Scored]]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 403, 404, 408, 413, 415, 421, 422, 500, 503)
}


def create_app(
    recognizers: Mapping[str, Recognizer], folder: Path, *, limits: Limits | None = None, hosts: frozenset[str]
) -> FastAPI:
    """The server's application.

    Args:
        recognizers: by name, in the order in which the page shows them; each with the views of one window.
        folder: an empty one; each upload lies there until it is answered.
        limits: of uploads; None for the usual ones.
        hosts: names by which the server may be called.
    """
    bounds = limits or Limits()
    worker: Worker[_Work] = Worker()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="videozoo", docs_url=None, redoc_url=None, lifespan=lifespan)  # their pages load from elsewhere
    app.add_middleware(Guard, hosts=hosts)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(HTTPException, _refuse_request)
    for address, (file, kind) in _FILES.items():
        app.add_api_route(address, _static(file, kind), include_in_schema=False)

    @app.get("/api/models")
    async def models() -> ModelList:
        """The networks that can be asked, and the limits of an upload."""
        known = [ModelInfo(name=name, num_classes=len(found.labels)) for name, found in recognizers.items()]
        return ModelList(models=known, max_bytes=bounds.max_bytes, max_seconds=bounds.max_seconds)

    waiting = threading.BoundedSemaphore(bounds.queue)

    @app.post("/api/recognise", responses=_PROBLEMS, openapi_extra=_BODY)
    async def recognise(
        request: Request, model: str = Query(max_length=300), name: str = Query("video", max_length=300)
    ) -> Answer:
        """What a network says of the video in the body, window by window. Nothing of it is kept."""
        recognizer = recognizers.get(model)
        if recognizer is None:
            raise Refused(404, f"there is no model {printable(model)!r}; /api/models lists them")
        if not waiting.acquire(blocking=False):
            raise Refused(503, "too many videos are waiting; try again in a minute")
        path = folder / secrets.token_hex(16)  # the sender's name for it is shown, and names no file
        abandoned = threading.Event()
        future: Future[_Work] | None = None
        try:
            await receive(request, path, bounds)
            future = worker.submit(lambda: timeline(recognizer, path, bounds, abandoned))
            return _answer(model, name, recognizer.labels, *await _result(future, request))
        except asyncio.CancelledError:  # an interrupt, and the time to finish is over
            raise Refused(503, "the server is being stopped") from None
        except Refused:
            raise
        except Exception as error:  # any: the next video's turn comes
            _log.error("failed at a video: %s: %s", type(error).__name__, printable(error))
            raise Refused(500, "the server failed at this video; its log says how") from None
        finally:
            abandoned.set()
            if future is not None:
                future.cancel()
            waiting.release()
            _forget(path)

    return app


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.error("an upload stays in %s: %s", printable(path), printable(error))


async def _result(future: Future[_Work], request: Request) -> _Work:
    """The job's result; a sender who goes away frees its place."""
    wrapped = asyncio.wrap_future(future)
    try:
        while True:
            done, _ = await asyncio.wait({wrapped}, timeout=0.5)
            if done:
                return wrapped.result()
            if await request.is_disconnected():
                raise Refused(GONE, "the sender went away")
    finally:
        wrapped.cancel()


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    _log.warning("refused %s: %s", error.status, printable(error.reason))
    headers = {"connection": "close"}  # what is left of the body is not read
    if error.status == 503:
        headers["retry-after"] = "60"
    return JSONResponse({"error": error.reason}, error.status, headers=headers)


async def _refuse_parameters(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else ()
    reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
    return await _refuse(request, Refused(422, printable("; ".join(reasons))))


async def _refuse_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    answer = await _refuse(request, Refused(error.status_code, error.detail))
    answer.headers.update(error.headers or {})
    return answer


def _static(file: str, kind: str) -> Callable[[], Any]:
    content = resources.files("videozoo.page").joinpath("static", file).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def _answer(model: str, name: str, labels: tuple[str, ...], facts: Facts, scored: list[Scored]) -> Answer:
    mean = torch.stack([one.probabilities for one in scored]).mean(dim=0)
    best = mean.topk(min(TOP, len(labels))).indices
    return Answer(
        model=model,
        name=printable(name.replace("\\", "/").rpartition("/")[2]),
        num_frames=facts.num_frames,
        frame_rate=facts.frame_rate,
        width=facts.width,
        height=facts.height,
        top=_ranked(mean, labels),
        windows=[
            WindowAnswer(
                start_seconds=one.start,
                end_seconds=one.end,
                top=_ranked(one.probabilities, labels),
                probabilities=one.probabilities[best].tolist(),
            )
            for one in scored
        ],
    )


def _ranked(probabilities: torch.Tensor, labels: tuple[str, ...]) -> list[Ranked]:
    return [Ranked(label=label, probability=value) for label, value in ranked(probabilities, labels, TOP)]
