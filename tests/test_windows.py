"""Sliding windows over files and streams: which frames they show, what is computed once, what stays in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from synthetic_frames import make_frames
from torch import Tensor

from videozoo import create_transform, get_weights, load_recognizer
from videozoo.demo import write_video
from videozoo.errors import InvalidArgument, VideoError
from videozoo.frame_features import FrameFeatures
from videozoo.models.tsn import TSN
from videozoo.predict import Recognizer
from videozoo.video.decode import FewerFramesError, open_frames
from videozoo.video.views import SampledVideo, ViewTransform
from videozoo.video.windows import sample_windows, stream_windows, windows

VIDEO = make_frames(90, 32, 48)


@pytest.fixture
def transform() -> ViewTransform:
    return create_transform(get_weights("test_ircsn"), "center")


@pytest.mark.parametrize(
    ("size", "stride", "total", "expected"),
    [
        (10, 5, 18, [(0, 10), (5, 15), (10, 18)]),
        (10, 10, 20, [(0, 10), (10, 20)]),
        (10, 10, 21, [(0, 10), (10, 20), (20, 21)]),
        (10, 3, 7, [(0, 7)]),
        (1, 1, 2, [(0, 1), (1, 2)]),
    ],
)
def test_windows_reach_the_end(size: int, stride: int, total: int, expected: list[tuple[int, int]]) -> None:
    found = list(windows(size, stride, total))
    assert [(window.first, window.end) for window in found] == expected
    assert [window.number for window in found] == list(range(len(found)))


@pytest.mark.parametrize(
    ("size", "stride", "reason"),
    [(0, 1, "stride"), (4, 5, "stride"), (4, 0, "stride"), (2.5, 1, "whole"), ("a", 1, "whole"), (4, 1.0, "whole")],
)
def test_a_stride_that_leaves_frames_unseen_is_refused(size: Any, stride: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        windows(size, stride, 10)


@pytest.mark.parametrize(("size", "stride"), [(40, 40), (40, 10), (33, 7), (5, 2), (200, 200)])
@pytest.mark.parametrize("start", [0, 2])
def test_a_window_is_sampled_like_a_video(transform: ViewTransform, size: int, stride: int, start: int) -> None:
    source = open_frames(VIDEO)
    found = list(sample_windows(transform, source, size, stride, start=start))
    assert [window for window, _ in found] == list(windows(size, stride, len(VIDEO)))[start:]
    for window, sampled in found:
        alone = transform.sample(open_frames(VIDEO[window.first : window.end]))
        assert (sampled.frame_indices == alone.frame_indices + window.first).all()
        assert torch.equal(next(transform.clips(sampled)), next(transform.clips(alone)))


class Announced:
    """Announces more frames than it holds, until it has been read to the end."""

    def __init__(self, held: int) -> None:
        self.num_frames = held + 20
        self.held = held

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for index in wanted:
            if index >= self.held:
                self.num_frames = self.held
                raise FewerFramesError("fewer")
            yield index, torch.from_numpy(VIDEO[index])


def test_a_file_with_fewer_frames_than_announced_has_the_windows_of_its_true_length(transform: ViewTransform) -> None:
    found = [(window.first, window.end) for window, _ in sample_windows(transform, Announced(50), 20, 10)]
    assert found == [(0, 20), (10, 30), (20, 40), (30, 50)]


class Counting:
    """An endless source that knows which of its frames are still in memory."""

    num_frames = 20_000

    def __init__(self) -> None:
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for index in wanted:
            frame = torch.zeros(32, 32, 3, dtype=torch.uint8)
            self.alive = [*(kept for kept in self.alive if kept() is not None), weakref.ref(frame)]
            self.most = max(self.most, len(self.alive))
            yield index, frame


def test_only_the_frames_of_the_windows_at_hand_are_in_memory(transform: ViewTransform) -> None:
    source = Counting()
    assert sum(1 for _ in sample_windows(transform, source, 64, 32)) == 624
    assert source.most < 40  # three windows of 8 frames, and what is handed on


def test_a_damaged_file_gives_the_windows_before_the_damage(transform: ViewTransform) -> None:
    class Damaged(Counting):
        def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
            for index, frame in super().read(wanted):
                if index > 100:
                    raise VideoError("damaged")
                yield index, frame

    found = []
    with pytest.raises(VideoError, match="damaged"):
        for window, _ in sample_windows(transform, Damaged(), 40, 20):
            found.append(window.number)
    assert found == [0, 1, 2, 3]


# Streams


@pytest.mark.parametrize("name", ["test_ircsn", "test_tpn", "test_tsn"])
@pytest.mark.parametrize(("window", "stride"), [(40, 8), (40, 13), (16, None)])
def test_a_stream_answers_as_calls_on_its_windows_do(name: str, window: int, stride: int | None) -> None:
    recognizer = load_recognizer(name, crop="three" if name == "test_tsn" else None)
    found = list(recognizer.stream((frame for frame in VIDEO), window=window, stride=stride))
    assert [answer.first for answer in found] == list(range(0, found[-1].first + 1, stride or window))
    assert found[-1].first + window + (stride or window) > len(VIDEO)
    for answer in found:
        if answer.end > len(VIDEO):
            continue  # all that it shows was there before the end
        alone = recognizer(VIDEO[answer.first : answer.end])
        assert (answer.prediction.frame_indices == alone.frame_indices + answer.first).all()
        torch.testing.assert_close(answer.prediction.view_logits, alone.view_logits, rtol=0, atol=1e-4)


def test_an_answer_comes_before_the_next_frame_is_asked_for() -> None:
    asked: list[int] = []

    def camera() -> Iterator[Any]:
        for number in range(1000):
            asked.append(number)
            yield VIDEO[number % len(VIDEO)]

    stream = load_recognizer("test_ircsn").stream(camera(), window=16)
    answer = next(stream)
    assert max(answer.prediction.frame_indices) == asked[-1] < 16


@pytest.mark.parametrize("as_frame", [np.asarray, torch.from_numpy])
def test_a_camera_may_use_one_buffer_for_all_frames(as_frame: Any) -> None:
    frames = make_frames(16, 32, 32)  # of the size of the resize, which then makes no copy
    buffer = np.empty_like(frames[0])

    def camera() -> Iterator[Any]:
        for frame in frames:
            buffer[:] = frame
            yield as_frame(buffer)

    recognizer = load_recognizer("test_ircsn", crop_size=32)
    assert recognizer.transform.views.short_side == 32
    (answer,) = recognizer.stream(camera(), window=16)
    assert torch.equal(answer.prediction.view_logits, recognizer(frames).view_logits)


@pytest.mark.parametrize(
    ("num_segments", "window", "stride"), [(8, 32, 4), (25, 64, 4), (25, 64, 7), (3, 10, 1), (8, 5, 2)]
)
def test_a_frame_by_frame_network_computes_each_frame_once(
    num_segments: int, window: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = load_recognizer("test_tsn", num_segments=num_segments, mode="center")
    seen: list[int] = []
    forward = TSN.forward_features

    def counted(model: TSN, x: Tensor) -> Tensor:
        seen.append(x.shape[0] * x.shape[2])
        return forward(model, x)

    monkeypatch.setattr(TSN, "forward_features", counted)
    answers = list(recognizer.stream(iter(VIDEO[: window + 16]), window=window, stride=stride))
    shown = {index for answer in answers for index in answer.prediction.frame_indices.tolist()}
    assert sum(seen) == len(shown) < num_segments * len(answers)


def test_features_of_frames_that_no_later_window_shows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    view_logits = FrameFeatures.view_logits

    def watched(features: FrameFeatures, window: SampledVideo) -> Tensor:
        logits = view_logits(features, window)
        kept.append(len(features._kept))
        return logits

    monkeypatch.setattr(FrameFeatures, "view_logits", watched)
    recognizer = load_recognizer("test_tsn", num_segments=25, mode="center")
    for _ in recognizer.stream((VIDEO[number % len(VIDEO)] for number in range(240)), window=64, stride=5):
        pass
    assert len(kept) > 30
    assert max(kept) == max(kept[:18]) <= 64


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), "frame"])
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"frame 1: need a uint8 array \(H, W, 3\)"):
        list(load_recognizer("test_ircsn").stream([VIDEO[0], frame]))


def test_a_stride_of_more_than_the_window_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="stride"):
        list(load_recognizer("test_ircsn").stream(iter(VIDEO), window=8, stride=9))


def test_a_long_file_comes_in_windows(tmp_path: Path, transform: ViewTransform) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, VIDEO)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    from_file = [sampled for _, sampled in sample_windows(transform, open_frames(path), 30, 15)]
    from_stream = [sampled for _, sampled in stream_windows(transform, frames, 30, 15)]
    assert len(from_file) == len(from_stream) == 5
    for one, other in zip(from_file, from_stream, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))


@pytest.fixture
def recognizer() -> Recognizer:
    found = load_recognizer("test_ircsn")
    return replace(found, transform=replace(found.transform, exact=False))


def test_a_stream_resizes_as_the_recognizer_does(recognizer: Recognizer) -> None:
    frames = make_frames(16, 50, 60)
    (answer,) = recognizer.stream(iter(frames), window=16)
    assert torch.equal(answer.prediction.view_logits, recognizer(frames).view_logits)
