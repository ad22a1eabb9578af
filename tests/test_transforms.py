"""Resize, crops, normalisation and whole views against the tensors of MMAction2, to the bit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from synthetic_frames import make_frames, probes
from torch import Tensor

from videozoo.errors import InvalidArgument, VideoError
from videozoo.manifest import Input, Views
from videozoo.video.decode import ArrayFrames
from videozoo.video.transforms import crop_boxes, normalise, resize_short_side
from videozoo.video.views import ViewTransform

GOLDENS = Path(__file__).parent / "goldens"
RESIZE = json.loads((GOLDENS / "pipeline_resize.json").read_text())
SPATIAL = json.loads((GOLDENS / "pipeline_spatial.json").read_text())
PADDLEVIDEO = json.loads((GOLDENS / "pipeline_paddlevideo.json").read_text())
(END_TO_END,) = json.loads((GOLDENS / "pipeline_end_to_end.json").read_text())["cases"]

IMAGENET = Input(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
VIEWS = Views(
    sampling="clips",
    num_frames=2,
    frame_stride=1,
    num_clips=1,
    twice_sample=False,
    short_side=256,
    crop="center",
    crop_size=224,
    average_clips="prob",
)


@cache
def clip(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    frames = make_frames(num_frames, height, width)
    frames.flags.writeable = False
    return frames


def sha256(array: Tensor | NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def named(case: dict[str, object]) -> str:
    return "-".join(str(case[key]) for key in ("frames", "crop", "layout") if key in case)


@pytest.mark.parametrize("case", RESIZE["cases"], ids=named)
def test_resize_equals_opencv(case: dict[str, object]) -> None:
    frames = clip(*case["frames"])
    assert sha256(frames) == case["frames_sha256"]
    resized = resize_short_side(torch.from_numpy(frames.copy()), 256)
    assert list(resized.shape[1:3]) == case["size"]
    assert sha256(resized) == case["sha256"]


@pytest.mark.parametrize("case", RESIZE["cases"], ids=named)
def test_float_resize_is_off_by_one_level_at_most(case: dict[str, object]) -> None:
    frames = torch.from_numpy(clip(*case["frames"]).copy())
    difference = resize_short_side(frames, 256, exact=False).int() - resize_short_side(frames, 256).int()
    assert difference.abs().max() <= 1
    assert difference.abs().float().mean() <= 0.14


def test_halving_in_float_rounds_halves_up_as_opencv_does() -> None:
    frames = torch.from_numpy(clip(1, 128, 160).copy())
    assert torch.equal(resize_short_side(frames, 64, exact=False), resize_short_side(frames, 64))


def test_resize_takes_frames_of_any_strides() -> None:
    frames = torch.from_numpy(clip(1, 100, 176).copy())
    strided = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(resize_short_side(strided, 64), resize_short_side(frames, 64))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 2)])
def test_resize_of_a_flat_image_stays_flat(height: int, width: int, exact: bool) -> None:
    frames = torch.full((1, height, width, 3), 200, dtype=torch.uint8)
    resized = resize_short_side(frames, 4, exact=exact)
    assert min(resized.shape[1:3]) == 4
    # OpenCV's truncations may lose one level of a flat image as well.
    assert set(resized.unique().tolist()) <= ({199, 200} if exact else {200})


def test_a_frame_that_has_its_size_is_not_copied() -> None:
    frames = torch.from_numpy(clip(2, 256, 256).copy())
    assert resize_short_side(frames, 256) is frames


@pytest.mark.parametrize(
    ("frames", "short_side", "named"),
    [
        (torch.zeros(1, 4, 4, 3), 8, "float32"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), 8, r"\(4, 4, 3\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 8, r"\(1, 3, 4, 4\)"),
        (torch.zeros(1, 0, 4, 3, dtype=torch.uint8), 8, r"\(1, 0, 4, 3\)"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), 0, "short_side"),
    ],
)
def test_resize_refuses_what_is_no_clip(frames: Tensor, short_side: int, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        resize_short_side(frames, short_side)


@pytest.mark.parametrize("case", SPATIAL["cases"], ids=named)
def test_crop_boxes_equal_those_of_mmaction2(case: dict[str, object]) -> None:
    height, width = resize_short_side(torch.from_numpy(clip(*case["frames"])[:1].copy()), 256).shape[1:3]
    boxes = crop_boxes(height, width, case["crop"], case["crop_size"])
    mirrored = (False, True) if case["crop"] == "ten" else (False,)
    assert [list(box) for box in boxes] == [[*box, flip] for box in case["boxes"] for flip in mirrored]


def test_ten_crop_boxes_equal_those_of_paddlevideo() -> None:
    for size, expected in PADDLEVIDEO["ten_crop_boxes_224"].items():
        width, height = map(int, size.split("x"))
        plain = [[box.left, box.top] for box in crop_boxes(height, width, "ten", 224) if not box.flip]
        assert plain == expected


def test_three_crops_of_an_odd_surplus_leave_the_last_column_unseen() -> None:
    assert [box.left for box in crop_boxes(256, 341, "three", 256)] == [0, 84, 42]


@pytest.mark.parametrize(
    ("crop", "crop_size", "message"),
    [
        ("center", 257, "257 x 257 pixels does not fit into 341 x 256"),
        ("ten", 300, "does not fit into 341 x 256"),
        ("center", 0, "1..256"),
        ("three", 224, "got 224 for 341 x 256"),
        ("five", 224, "five"),
    ],
)
def test_crops_that_cannot_be_are_refused(crop: str, crop_size: int, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        crop_boxes(256, 341, crop, crop_size)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", SPATIAL["norms"])
def test_normalise_divides_in_float32(norm: str, channels_last: bool) -> None:
    mean, std = (tuple(SPATIAL["norms"][norm][key]) for key in ("mean", "std"))
    levels = np.arange(256, dtype=np.uint8)
    expected = [(levels.astype(np.float32) - np.float32(mean[c])) / np.float32(std[c]) for c in range(3)]
    frame = torch.from_numpy(levels).view(4, 64, 1).expand(4, 64, 3)
    out = torch.empty((4, 64, 3)).permute(2, 0, 1) if channels_last else torch.empty((3, 4, 64))
    normalise(frame, mean, std, out)
    assert np.array_equal(out.reshape(3, 256).numpy(), np.stack(expected))


@pytest.mark.parametrize("case", SPATIAL["cases"], ids=named)
def test_views_equal_the_tensors_of_mmaction2(case: dict[str, object]) -> None:
    """All frames of the clip in order, through resize, crops, normalisation and the order of the views."""
    frames = clip(*case["frames"])
    norm = Input(**{key: tuple(values) for key, values in SPATIAL["norms"][case["norm"]].items()})
    # Frames-major cases are single passes of segments, one per frame of the clip.
    by_frame = case["layout"] == "NCHW"
    transform = ViewTransform(
        replace(
            VIEWS,
            sampling="segments" if by_frame else "clips",
            num_frames=len(frames) if by_frame else case["clip_len"],
            num_clips=1,
            crop=case["crop"],
            crop_size=case["crop_size"],
        ),
        norm,
    )
    sampled = transform.sample(ArrayFrames(frames))
    if not by_frame:  # the golden's clips follow each other without overlap
        order = np.arange(len(frames)).reshape(case["num_clips"], case["clip_len"])
        whole = [resize_short_side(torch.from_numpy(frame[None].copy()), 256)[0] for frame in frames]
        sampled = replace(sampled, frame_indices=order.reshape(-1), frames=whole, positions=order)
    views = torch.cat(list(transform.clips(sampled, chunk_size=2)))
    if by_frame:
        views = views.transpose(1, 2).flatten(0, 1)
    assert list(views.shape) == case["shape"]
    assert sha256(views) == case["sha256"]


@pytest.fixture(scope="module")
def tpn_tsm() -> ViewTransform:
    views = replace(VIEWS, sampling="segments", num_frames=8, twice_sample=True, crop="three", crop_size=256)
    return ViewTransform(views, IMAGENET)


def test_a_whole_test_protocol_equals_that_of_mmaction2(tpn_tsm: ViewTransform) -> None:
    frames = clip(*END_TO_END["frames"])
    assert tpn_tsm.frame_indices(len(frames)).tolist() == END_TO_END["frame_indices"]
    assert tpn_tsm.num_views(len(frames)) == 6
    views = tpn_tsm(frames)
    assert views.shape == (6, 3, 8, 256, 256)
    assert views.dtype == torch.float32
    by_frame = views.transpose(1, 2).flatten(0, 1)
    assert list(by_frame.shape) == END_TO_END["shape"]
    assert sha256(by_frame) == END_TO_END["sha256"]


SMALL = replace(VIEWS, num_frames=3, num_clips=2, short_side=32, crop="ten", crop_size=24)


@pytest.mark.parametrize("exact", [True, False])
def test_chunks_and_input_kinds_make_no_difference(exact: bool) -> None:
    frames = clip(9, 40, 50)
    transform = ViewTransform(SMALL, IMAGENET, exact)
    views = transform(frames)
    assert len(views) == transform.num_views(9) == 20
    assert torch.equal(transform(torch.from_numpy(frames.copy())), views)
    chunks = list(transform.clips(transform.sample(ArrayFrames(frames)), chunk_size=7))
    assert [len(chunk) for chunk in chunks] == [7, 7, 6]
    assert torch.equal(torch.cat(chunks), views)
    assert all(chunk.is_contiguous() for chunk in chunks)
    for chunk, other in zip(
        chunks, transform.clips(transform.sample(ArrayFrames(frames)), chunk_size=7, channels_last=True), strict=True
    ):
        assert other.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(other, chunk)
    mirrored = views[2:4].flip(-1)  # the mirror of the first position's two clips
    assert torch.equal(views[:2], mirrored)


def test_a_frame_that_several_clips_show_is_resized_once() -> None:
    transform = ViewTransform(replace(SMALL, num_frames=8, frame_stride=8, num_clips=10), IMAGENET)
    sampled = transform.sample(ArrayFrames(clip(5, 40, 50)))
    assert len(sampled.frames) == 5
    assert sampled.positions.shape == (10, 8)
    assert sampled.frame_indices.tolist() == [0, 3, 1, 4, 2, 0, 3, 1] * 10


def test_paddlevideo_segments_of_a_short_video_show_its_first_frame() -> None:
    transform = ViewTransform(replace(SMALL, sampling="paddlevideo_segments", num_clips=1), IMAGENET)
    assert transform.frame_indices(3).tolist() == [0, 0, 0]
    assert transform.frame_indices(10).tolist() == [1, 5, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "random"}, "random"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_clips": 0}, "num_clips"),
        ({"short_side": 0}, "short_side"),
        ({"crop_size": 64}, "does not fit"),
        ({"crop": "three"}, "equal to the image's height or width"),
        ({"sampling": "segments"}, "num_clips 1 and frame_stride 1, got 2 and 1"),
        ({"sampling": "paddlevideo_segments", "num_clips": 1, "twice_sample": True}, "twice_sample"),
    ],
)
def test_views_that_no_video_can_satisfy_are_refused_at_once(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        ViewTransform(replace(SMALL, **change), IMAGENET)


@pytest.mark.parametrize("norm", [Input((0.0,), (1.0,)), Input((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))])
def test_input_without_three_channels_or_with_a_zero_std_is_refused(norm: Input) -> None:
    with pytest.raises(InvalidArgument, match="mean and std"):
        ViewTransform(SMALL, norm)


def test_chunks_of_no_view_are_refused() -> None:
    transform = ViewTransform(SMALL, IMAGENET)
    with pytest.raises(InvalidArgument, match="chunk_size"):
        next(transform.clips(transform.sample(ArrayFrames(clip(9, 40, 50))), chunk_size=0))


def test_probes_lie_inside_and_begin_with_both_ends() -> None:
    positions = probes((2, 3, 4), 64, 11)
    assert positions[:2] == [(0, 0, 0), (1, 2, 3)]
    assert all(0 <= a < 2 and 0 <= b < 3 and 0 <= c < 4 for a, b, c in positions)
    assert len(set(positions)) > 12


@pytest.mark.parametrize(("height", "width"), [(4, 50_000), (50_000, 4), (3, 200)])
def test_frames_that_a_resize_would_blow_up_are_refused(height: int, width: int) -> None:
    with pytest.raises(VideoError, match=f"{width} x {height} pixels are too long and thin"):
        resize_short_side(torch.zeros(1, height, width, 3, dtype=torch.uint8), 256)
