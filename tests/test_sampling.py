"""Frame indices against those of MMAction2 and PaddleVideo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videozoo.errors import InvalidArgument
from videozoo.video.sampling import sample_clips, sample_dense, sample_paddlevideo, sample_segments

GOLDENS = Path(__file__).parent / "goldens"
MMACTION2 = json.loads((GOLDENS / "pipeline_frame_indices.json").read_text())["cases"]
PADDLEVIDEO = json.loads((GOLDENS / "pipeline_paddlevideo.json").read_text())["cases"]


def test_indices_equal_those_of_mmaction2() -> None:
    for case in MMACTION2:
        settings = dict(case["settings"])
        sample = sample_dense if settings.pop("dense", False) else sample_clips
        indices = sample(case["total"], start_index=case["start_index"], **settings)
        assert indices.dtype == np.int64
        assert indices.tolist() == case["indices"], case


def test_segments_are_clips_of_one_frame() -> None:
    cases = [case for case in MMACTION2 if case["settings"].get("num_frames") == 1 and case["start_index"] == 0]
    assert cases
    for case in cases:
        indices = sample_segments(
            case["total"],
            num_segments=case["settings"]["num_clips"],
            twice_sample=case["settings"].get("twice_sample", False),
        )
        assert indices.tolist() == case["indices"], case


def test_indices_equal_those_of_paddlevideo() -> None:
    for case in PADDLEVIDEO:
        indices = sample_paddlevideo(case["total"], num_segments=case["num_segments"], select_left=case["select_left"])
        assert indices.dtype == np.int64
        assert indices.tolist() == case["indices"], case


@pytest.mark.parametrize(("total", "num_clips", "span"), [(30, 25, 1), (60, 25, 1), (70, 25, 1), (91, 10, 64)])
def test_middles_are_rounded_in_two_steps(total: int, num_clips: int, span: int) -> None:
    """At these lengths (i + 0.5) * part gives another frame than i * part + part / 2."""
    part = (total - span + 1) / num_clips
    expected = [int(i * part + part / 2) for i in range(num_clips)]
    assert expected != [int((i + 0.5) * part) for i in range(num_clips)]
    assert sample_clips(total, num_frames=1, frame_stride=span, num_clips=num_clips).tolist() == expected


def test_a_video_as_long_as_a_clip_is_long_enough() -> None:
    assert (
        sample_clips(64, num_frames=8, frame_stride=8, num_clips=10).reshape(10, 8).tolist()
        == [[0, 8, 16, 24, 32, 40, 48, 56]] * 10
    )


@pytest.mark.parametrize(("total", "num_clips"), [(63, 5), (64, 10)])
def test_second_pass_is_left_out_of_a_video_shorter_than_a_clip(total: int, num_clips: int) -> None:
    indices = sample_clips(total, num_frames=8, frame_stride=8, num_clips=5, twice_sample=True)
    assert len(indices) == num_clips * 8


@pytest.mark.parametrize(("total", "expected"), [(8, [0, 3, 6, 6]), (9, [0, 3, 6, 6]), (3, [0, 0, 0, 0])])
def test_repeat_last_repeats_the_last_step_that_exists(total: int, expected: list[int]) -> None:
    indices = sample_clips(total, num_frames=4, frame_stride=3, num_clips=1, out_of_bound="repeat_last")
    assert indices.tolist() == expected


@given(
    total=st.integers(1, 4000),
    num_frames=st.integers(1, 40),
    frame_stride=st.integers(1, 20),
    num_clips=st.integers(1, 30),
    twice_sample=st.booleans(),
    out_of_bound=st.sampled_from(["loop", "repeat_last"]),
)
def test_every_index_is_that_of_a_frame(
    total: int, num_frames: int, frame_stride: int, num_clips: int, twice_sample: bool, out_of_bound: str
) -> None:
    indices = sample_clips(
        total,
        num_frames=num_frames,
        frame_stride=frame_stride,
        num_clips=num_clips,
        twice_sample=twice_sample,
        out_of_bound=out_of_bound,
    )
    assert indices.min() >= 0
    assert indices.max() < total
    passes = 2 if twice_sample and total >= num_frames * frame_stride else 1
    assert len(indices) == passes * num_clips * num_frames


@given(total=st.integers(1, 4000), num_segments=st.integers(1, 64), select_left=st.booleans())
def test_every_segment_and_dense_index_is_that_of_a_frame(total: int, num_segments: int, select_left: bool) -> None:
    for indices in (
        sample_paddlevideo(total, num_segments=num_segments, select_left=select_left),
        sample_dense(total, num_segments=num_segments),
        sample_segments(total, num_segments=num_segments, twice_sample=True),
    ):
        assert indices.min() >= 0
        assert indices.max() < total


CLIPS = {"num_frames": 8, "frame_stride": 8, "num_clips": 1}


@pytest.mark.parametrize(
    ("total", "change", "named"),
    [
        (0, {}, "num_frames_total"),
        (10, {"num_frames": 0}, "num_frames"),
        (10, {"frame_stride": 0}, "frame_stride"),
        (10, {"num_clips": -1}, "num_clips"),
        (10, {"start_index": -1}, "start_index"),
        (10, {"out_of_bound": "wrap"}, "out_of_bound"),
    ],
)
def test_nonsense_is_refused_by_name(total: int, change: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        sample_clips(total, **(CLIPS | change))


@pytest.mark.parametrize("sample", [sample_segments, sample_dense, sample_paddlevideo])
@pytest.mark.parametrize(("total", "num_segments"), [(0, 3), (10, 0)])
def test_empty_videos_and_no_segments_are_refused(sample: object, total: int, num_segments: int) -> None:
    with pytest.raises(InvalidArgument, match="must be at least 1"):
        sample(total, num_segments=num_segments)


def test_more_segments_than_the_dense_window_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="at most 64"):
        sample_dense(100, num_segments=65)
