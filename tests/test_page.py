"""The page: what a video is answered with, what is refused and how, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from synthetic_frames import make_frames

from videozoo import load_recognizer
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.errors import InvalidArgument
from videozoo.predict import Recognizer

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from videozoo.page import scoring  # noqa: E402
from videozoo.page.app import create_app  # noqa: E402
from videozoo.page.guard import LOOPBACK  # noqa: E402
from videozoo.page.jobs import Worker  # noqa: E402
from videozoo.page.limits import Limits  # noqa: E402

Answer = Any
VIDEO = {"content-type": "video/mp4"}
SMALL = Limits(max_bytes=50_000, max_seconds=5, max_pixels=100 * 100)


@pytest.fixture(scope="module")
def recognizers() -> dict[str, Recognizer]:
    return {name: load_recognizer(name, mode="center") for name in ("test_ircsn", "test_tsn")}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return encoded(tmp_path_factory.mktemp("video"), make_frames(40, 32, 48))


def encoded(folder: Path, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    write_video(folder / "video.mp4", frames)
    return (folder / "video.mp4").read_bytes()


@pytest.fixture
def ask(recognizers: dict[str, Recognizer], tmp_path: Path) -> Callable[..., Answer]:
    """``ask(path, method="POST", limits=SMALL, **request)``: one request to a fresh application, without a socket."""

    def send(path: str, *, method: str = "POST", limits: Limits = SMALL, **request: Any) -> Answer:
        async def exchange() -> Answer:
            app = create_app(recognizers, tmp_path, limits=limits, hosts=LOOPBACK)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=120) as client:
                return await client.request(method, path, **request)

        answer = asyncio.run(exchange())
        assert list(tmp_path.iterdir()) == []  # nothing is kept, whatever came of it
        return answer

    return send


Ask = Callable[..., Answer]
URL = "/api/recognise?model=test_ircsn"


# Answers


def test_a_video_is_answered_window_by_window(
    ask: Ask, video: bytes, recognizers: dict[str, Recognizer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    answer = ask(f"{URL}&name=../../etc/my%20video.mp4", content=video, headers=VIDEO)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["model"], found["name"], found["num_frames"]) == ("test_ircsn", "my video.mp4", 40)
    assert (found["width"], found["height"]) == (48, 32)
    path = tmp_path_factory.mktemp("again") / "video.mp4"
    path.write_bytes(video)
    _, expected = scoring.timeline(recognizers["test_ircsn"], path, SMALL, threading.Event())
    assert [window["start_seconds"] for window in found["windows"]] == [one.start for one in expected]
    mean = torch.stack([one.probabilities for one in expected]).mean(dim=0)
    assert [row["probability"] for row in found["top"]] == pytest.approx(mean.topk(5).values.tolist(), abs=1e-6)
    labels = recognizers["test_ircsn"].labels
    assert [row["label"] for row in found["top"]] == [labels[index] for index in mean.topk(5).indices]
    best = [labels.index(row["label"]) for row in found["top"]]
    for window, one in zip(found["windows"], expected, strict=True):
        assert window["probabilities"] == pytest.approx(one.probabilities[best].tolist(), abs=1e-6)
        assert window["top"][0]["probability"] == pytest.approx(float(one.probabilities.max()), abs=1e-6)
    assert [window["end_seconds"] for window in found["windows"]][-1] == pytest.approx(40 / found["frame_rate"])


def test_the_networks_and_the_limits_are_told(ask: Ask) -> None:
    found = ask("/api/models", method="GET").json()
    assert found["models"] == [{"name": "test_ircsn", "num_classes": 8}, {"name": "test_tsn", "num_classes": 8}]
    assert found["max_bytes"] == SMALL.max_bytes


def test_the_interface_is_described(ask: Ask) -> None:
    schema = ask("/openapi.json", method="GET").json()
    assert {"/api/models", "/api/recognise"} == set(schema["paths"])
    post = schema["paths"]["/api/recognise"]["post"]
    assert {"200", "413", "415", "422", "503"} <= set(post["responses"])
    assert "video/*" in post["requestBody"]["content"]


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css"])
def test_the_page_loads_nothing_from_elsewhere(path: str, ask: Ask) -> None:
    answer = ask(path, method="GET")
    assert answer.status_code == 200
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|eval\(", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/../app.py", "/%2e%2e/app.py", "/static/index.html", "//etc/passwd"]
)
def test_there_are_no_other_files(path: str, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(path, method="GET").status_code == 404
    assert caplog.messages == ["refused 404: Not Found"]


# Refusals


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8000"}, 421),
        ({"host": ""}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "[::1]:8000"}, 200),
    ],
)
def test_other_sites_and_other_names_are_refused(
    headers: dict[str, str], status: int, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask("/api/models", method="GET", headers=headers)
    assert answer.status_code == status
    assert bool(caplog.records) is (status != 200)


@pytest.mark.parametrize(
    ("path", "headers", "content", "status", "says"),
    [
        ("/api/recognise?model=resnet", VIDEO, b"x", 404, "/api/models lists them"),
        ("/api/recognise", VIDEO, b"x", 422, "query.model: Field required"),
        ("/api/other", VIDEO, b"x", 404, "Not Found"),
        ("/api/models", VIDEO, b"x", 405, "Method Not Allowed"),
        (URL, {"content-type": "text/plain"}, b"x", 415, "video/*"),
        (URL, {"content-type": "multipart/form-data; boundary=x"}, b"x", 415, "video/*"),
        (URL, VIDEO, b"", 422, "empty"),
        (URL, VIDEO, b"no video at all", 422, "not a video"),
        (URL, VIDEO, b"x" * 50_001, 413, "at most 0.05 MB"),
        (URL, VIDEO | {"content-length": "9" * 30}, b"x", 413, "at most 0.05 MB"),
        (URL, VIDEO, b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/tmp/v.mp4\n#EXT-X-ENDLIST\n", 422, "not a video"),
        (URL, VIDEO, b"ffconcat version 1.0\nfile /etc/passwd\n", 422, "not a video"),
    ],
)
def test_bad_uploads_are_answered_kindly(
    path: str, headers: dict[str, str], content: bytes, status: int, says: str, ask: Ask, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = ask(path, content=content, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert says in answer.json()["error"]
    assert any(f"refused {status}" in record.getMessage() for record in caplog.records)


def test_bytes_are_counted_whatever_is_announced(ask: Ask) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"x" * 10_000

    assert ask(URL, content=body(), headers=VIDEO).status_code == 413


@pytest.mark.parametrize("limits", [replace(SMALL, idle_seconds=0.01), replace(SMALL, upload_seconds=0.01)])
def test_a_slow_upload_ends(limits: Limits, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    assert ask(URL, content=body(), headers=VIDEO, limits=limits).status_code == 408
    (message,) = caplog.messages
    assert message.startswith("refused 408: the upload took longer than")


@pytest.mark.parametrize(
    ("limits", "status", "says"),
    [
        (replace(SMALL, max_seconds=0.5), 413, "lasts 2 s|lasts 3 s"),
        (replace(SMALL, max_frame_rate=1), 413, "too many frames"),
        (replace(SMALL, max_pixels=1000), 413, "48 x 32 pixels are too large"),
        (replace(SMALL, max_resized_pixels=32 * 48 - 1), 413, "48 x 32 pixels are too long and thin"),
        (replace(SMALL, job_seconds=1e-9), 503, "took longer"),
    ],
)
def test_videos_beyond_the_limits(limits: Limits, status: int, says: str, ask: Ask, video: bytes) -> None:
    answer = ask(URL, content=video, headers=VIDEO, limits=limits)
    assert answer.status_code == status
    assert re.search(says, answer.json()["error"])


def test_frames_that_grow_on_the_way_are_refused_before_they_are_decoded(ask: Ask, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("grows")
    small, large = (_raw_h264(folder / name, size) for name, size in (("small", 32), ("large", 512)))
    limits = replace(SMALL, max_bytes=10_000_000)
    answer = ask(URL, content=small + large, headers=VIDEO, limits=limits)
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "decoding stopped after" in answer.json()["error"]
    larger = replace(limits, max_pixels=512 * 512)
    assert ask(URL, content=small + large, headers=VIDEO, limits=larger).status_code == 200


def _raw_h264(path: Path, size: int) -> bytes:
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for pixels in make_frames(20, size, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def test_a_video_that_is_cut_off_is_no_error_of_the_server(ask: Ask, video: bytes) -> None:
    answer = ask(URL, content=video[: len(video) // 2], headers=VIDEO)
    assert answer.status_code == 422
    assert "/" not in answer.json()["error"]  # no path of this machine


def test_a_fault_of_the_server_is_one_answer(
    ask: Ask, video: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Recognizer, *_: object) -> None:
        raise RuntimeError("no memory for /this/path")

    monkeypatch.setattr(Recognizer, "recognise_sampled", fails)
    answer = ask(URL, content=video, headers=VIDEO)
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "/" not in answer.json()["error"]
    assert "RuntimeError: no memory for /this/path" in caplog.text


def test_a_full_queue_says_so(recognizers: dict[str, Recognizer], tmp_path: Path, video: bytes) -> None:
    async def exchange() -> list[int]:
        app = create_app(recognizers, tmp_path, limits=replace(SMALL, queue=1), hosts=LOOPBACK)
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            arrived.set()
            await go_on.wait()
            yield video

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            first = asyncio.create_task(client.post(URL, content=body(), headers=VIDEO))
            await arrived.wait()
            second = await client.post(URL, content=video, headers=VIDEO)
            go_on.set()
            return [second.status_code, (await first).status_code, int(second.headers["retry-after"])]

    assert asyncio.run(exchange()) == [503, 200, 60]


def test_a_file_that_cannot_be_removed_holds_no_place(
    recognizers: dict[str, Recognizer],
    tmp_path: Path,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(path: Path, missing_ok: bool = False) -> None:
        raise OSError(5, "Input/output error")

    async def exchange() -> list[int]:
        app = create_app(recognizers, tmp_path, limits=replace(SMALL, queue=1), hosts=LOOPBACK)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
            return [(await client.post(URL, content=video, headers=VIDEO)).status_code for _ in range(2)]

    monkeypatch.setattr(Path, "unlink", fails)
    assert asyncio.run(exchange()) == [200, 200]
    assert sum("an upload stays in" in message for message in caplog.messages) == 2


def test_limits_that_let_nothing_through_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="queue=0"):
        Limits(queue=0)
    with pytest.raises(InvalidArgument, match="max_seconds=inf"):
        Limits(max_seconds=float("inf"))


def test_jobs_run_in_turn_and_one_that_fails_stops_nothing() -> None:
    worker: Worker[int] = Worker()
    begun, go_on = threading.Event(), threading.Event()

    def first() -> int:
        begun.set()
        go_on.wait(60)
        return 1

    futures = [worker.submit(first), worker.submit(lambda: 1 // 0), worker.submit(lambda: 3), worker.submit(lambda: 4)]
    assert begun.wait(60)
    assert futures[2].cancel()
    go_on.set()
    assert futures[0].result(60) == 1
    with pytest.raises(ZeroDivisionError):
        futures[1].result(60)
    assert futures[3].result(60) == 4
    worker.close()


# The command


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--model", "test_tns"], 2, "test_tsn"),
        (["--port", "70000"], 2, "0..65535"),
        (["--max-mb", "0"], 2, "above 0"),
        (["--max-mb", "nan"], 2, "above 0"),
        (["--max-mb", "inf"], 2, "above 0"),
        (["--max-seconds", "inf"], 2, "above 0"),
        (["--model", "net.pt2"], 2, "export .onnx or .xml"),
        (["--queue", "0"], 2, "above 0"),
        (["--host", "256.1.1.1"], 6, "cannot listen on 256.1.1.1"),
        (["--port", "0", "--model", "local-dir:nowhere"], 4, "local-dir:nowhere: there is no file config.json"),
        (["--port", "0", "--model", "hf-hub:no@such@name"], 2, "after @ stands a branch"),
    ],
)
def test_bad_arguments(arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *arguments]) == status
    assert says in capsys.readouterr().err


def test_a_taken_port_and_a_missing_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["serve", "--port", str(taken.getsockname()[1])]) == 6
    assert "try --port 0" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["serve"]) == 2
    assert 'pip install "videozoo[demo]"' in capsys.readouterr().err


@contextmanager
def served(*arguments: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command in a process of its own, at a port of its own: its address."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "videozoo", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://[\d.:]+/", line)
        assert match, line + process.stdout.read()
        yield match[0], process
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_until_it_is_interrupted(video: bytes, tmp_path: Path) -> None:
    with served("--model", "test_tsn", "--max-mb", "1", folder=tmp_path) as (address, process):
        found = httpx.post(
            f"{address}api/recognise?model=test_tsn", content=video, headers=VIDEO, timeout=120
        )  # fmt: skip
        assert found.json()["model"] == "test_tsn"
        host, port = address.split("/")[2].split(":")
        head = "POST /api/recognise?model=test_tsn HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"
        with socket.create_connection((host, int(port)), timeout=120) as large:  # refused long before its end
            large.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(64):
                large.sendall(b"40000\r\n" + b"x" * 0x40000 + b"\r\n")
            large.sendall(b"0\r\n\r\n")
            answer = b"".join(iter(lambda: large.recv(65536), b""))
        assert (answer[:13], b"at most 1 MB" in answer) == (b"HTTP/1.1 413 ", True)
        with socket.create_connection((host, int(port)), timeout=120) as half:
            half.sendall(f"{head}Content-Length: 9\r\n\r\nabc".encode())
            (folder,) = tmp_path.iterdir()
            while not list(folder.iterdir()):  # until the server has it in hand
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert b" 503 " in half.recv(100)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130, out
        assert out.splitlines()[-1] == "videozoo: interrupted"
        assert "Traceback" not in out
    assert list(tmp_path.iterdir()) == []


# Slow


@pytest.mark.slow
def test_a_hundred_uploads_by_eight_clients(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """None is lost, none gets another's answer, and memory stays."""
    videos = [
        encoded(tmp_path, make_frames(24 + 2 * number, 32, 48 + 2 * number)) for number in range(10)
    ]  # the answer tells them apart: each has its own length and width
    (tmp_path / "video.mp4").unlink()
    with served("--model", "test_ircsn", "--queue", "8", folder=tmp_path) as (address, process):

        def upload(number: int) -> tuple[int, int]:
            kind = number % 10
            answer = httpx.post(
                f"{address}api/recognise?model=test_ircsn&name={number}.mp4", content=videos[kind], headers=VIDEO,
                timeout=600,
            ).json()  # fmt: skip
            assert answer["name"] == f"{number}.mp4"
            assert (answer["num_frames"], answer["width"]) == (24 + 2 * kind, 48 + 2 * kind)
            return number, resident_kib(process.pid)

        upload(0)
        with ThreadPoolExecutor(8) as clients:
            done = dict(clients.map(upload, range(100)))
        assert sorted(done) == list(range(100))
        early, late = (max(done[n] for n in part) for part in (range(50), range(50, 100)))
        record_property("resident_kib", (early, late))
        sys.stderr.write(f"resident memory: first 50 {early} KiB, second 50 {late} KiB\n")
        assert late < 1.05 * early
        assert [list(folder.iterdir()) for folder in tmp_path.iterdir()] == [[]]


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="selenium is not installed")
@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="there is no chromedriver (package chromium-driver)")
def test_in_a_browser(tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    _write_webm(tmp_path / "video.webm", 64)
    _write_webm(tmp_path / "dropped.webm", 48)
    encoded(tmp_path, make_frames(40, 32, 48))
    (tmp_path / "broken.mp4").write_bytes(b"<img src=x onerror=alert(1)>")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    (tmp_path / "serve").mkdir()
    with served("--model", "test_ircsn", "--model", "test_tsn", folder=tmp_path / "serve") as (address, _):
        browser = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or "")
        )  # fmt: skip
        try:
            browser.get(address)
            wait = WebDriverWait(browser, 120)
            wait.until(lambda page: len(page.find_elements(By.CSS_SELECTOR, "#model option")) == 2)
            choose = browser.find_element(By.ID, "file")

            def choose_network(name: str, file: str) -> None:
                browser.find_element(By.CSS_SELECTOR, f"#model option[value={name}]").click()
                wait.until(lambda page: page.execute_script("return answer.model + answer.name") == name + file)

            _drop(browser, tmp_path / "dropped.webm")
            wait.until(lambda page: "48 frames" in page.find_element(By.ID, "status").text)
            choose_network("test_tsn", "dropped.webm")
            choose.send_keys(str(tmp_path / "video.webm"))
            wait.until(lambda page: "64 frames" in page.find_element(By.ID, "status").text)
            _drop(browser, tmp_path / "dropped.webm")
            wait.until(lambda page: "48 frames" in page.find_element(By.ID, "status").text)
            choose_network("test_ircsn", "dropped.webm")  # the file at hand, not the one that was chosen before
            choose.send_keys(str(tmp_path / "video.webm"))
            wait.until(lambda page: "64 frames" in page.find_element(By.ID, "status").text)
            wait.until(lambda page: page.find_element(By.ID, "result").is_displayed())
            assert len(browser.find_elements(By.CSS_SELECTOR, "#top li")) == 5
            assert len(browser.find_elements(By.CSS_SELECTOR, "#timeline path")) == 5
            assert "64 frames of 128 x 96" in browser.find_element(By.ID, "status").text
            first = browser.find_element(By.CSS_SELECTOR, "#top li").text
            assert re.fullmatch(r".+ \d+\.\d %", first)
            wait.until(lambda page: page.execute_script("return document.getElementById('video').readyState") >= 2)
            browser.find_element(By.ID, "timeline").click()  # the middle of the video
            wait.until(lambda page: page.find_element(By.ID, "now").text not in ("", "0.0"))
            seconds = browser.execute_script("return document.getElementById('video').currentTime")
            assert 1.5 < seconds < 2.5
            assert len(browser.find_elements(By.CSS_SELECTOR, "#window li")) == 5
            browser.save_screenshot(os.environ.get("VIDEOZOO_SCREENSHOT", str(tmp_path / "page.png")))
            choose.send_keys(str(tmp_path / "video.mp4"))  # of a kind that few browsers play
            wait.until(lambda page: "cannot play" in page.find_element(By.ID, "status").text)
            assert browser.find_element(By.ID, "result").is_displayed()
            choose.send_keys(str(tmp_path / "broken.mp4"))
            wait.until(lambda page: "not a video" in page.find_element(By.ID, "status").text)
            assert not browser.find_element(By.ID, "result").is_displayed()
            severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
            assert all("422" in message or "favicon" in message for message in severe), severe
        finally:
            browser.quit()


def _write_webm(path: Path, num_frames: int) -> None:
    """Of a kind that every Chromium plays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=16, width=128, height=96, pix_fmt="yuv420p")
        for frame in make_frames(num_frames, 96, 128):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _drop(browser: Any, path: Path) -> None:
    """As if the file were dragged onto the page from elsewhere."""
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (char) => char.charCodeAt(0));
        const dragged = new DataTransfer();
        dragged.items.add(new File([bytes], arguments[1]));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: dragged, bubbles: true }));
    """
    browser.execute_script(script, base64.b64encode(path.read_bytes()).decode("ascii"), path.name)
