"""Augmentation as data, and what is drawn from it: frames and regions."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videozoo.errors import InvalidArgument
from videozoo.labels import labels
from videozoo.video.augmentation import (
    Augmentation,
    ColorJitter,
    MultiScaleCrop,
    RandomCrop,
    RandomResizedCrop,
    left_right_pairs,
)
from videozoo.video.draws import Region, draw_clips, draw_dense, draw_frames, draw_region

NEEDED = {"num_frames": 8, "crop_size": 224}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Tables


def test_a_recipe_in_toml() -> None:
    table = tomllib.loads("""
        [augmentation]
        sampling = "segments"
        num_frames = 3
        short_side = 256
        crop_size = 224
        crop = { kind = "multi_scale", scales = [1, 0.875, 0.75, 0.66], max_gap = 1, num_positions = 13 }
        flip_label_pairs = [[2, 4]]
        color_jitter = { brightness = 0.5, contrast = 0.5, saturation = 0.5, hue = 0.1 }
    """)["augmentation"]
    augmentation = Augmentation.from_table(table)
    assert augmentation == Augmentation(
        sampling="segments",
        num_frames=3,
        short_side=256,
        crop_size=224,
        crop=MultiScaleCrop((1.0, 0.875, 0.75, 0.66), max_gap=1, num_positions=13),
        flip_label_pairs=((2, 4),),
        color_jitter=ColorJitter(0.5, 0.5, 0.5, 0.1),
    )
    assert Augmentation.from_table(augmentation.to_table()) == augmentation


def test_what_is_left_out_is_what_most_recipes_have() -> None:
    augmentation = Augmentation.from_table(NEEDED)
    assert (augmentation.sampling, augmentation.frame_stride, augmentation.short_side) == ("clips", 1, None)
    assert augmentation.crop == RandomResizedCrop(area=(0.08, 1), aspect_ratio=(3 / 4, 4 / 3))
    assert (augmentation.flip_probability, augmentation.flip_label_pairs) == (0.5, ())
    assert augmentation.color_jitter is None
    assert Augmentation.from_table(augmentation.to_table()) == augmentation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frame": 8}, "augmentation.num_frame is no setting; did you mean num_frames?"),
        ({"flip_probabilty": 0}, "augmentation.flip_probabilty is no setting; did you mean flip_probability?"),
        ({"sampling": "clip"}, "augmentation.sampling must be 'clips' or 'segments' or 'dense', got 'clip'; did you"),
        ({"num_frames": 0}, "augmentation.num_frames must be at least 1, got 0"),
        ({"crop_size": -1}, "augmentation.crop_size must be at least 1, got -1"),
        ({"frame_stride": 0}, "augmentation.frame_stride must be at least 1, got 0"),
        ({"short_side": 0}, "augmentation.short_side must be at least 1 pixel, got 0"),
        ({"sampling": "segments", "frame_stride": 2}, "augmentation.frame_stride must be 1 for segments sampling, got"),
        ({"sampling": "dense", "num_frames": 65}, "augmentation.num_frames must be at most 64 for dense sampling, got"),
        ({"flip_probability": 1.5}, "augmentation.flip_probability must be from 0 to 1, got 1.5"),
        ({"flip_probability": math.nan}, "augmentation.flip_probability must be from 0 to 1, got nan"),
        ({"flip_label_pairs": [[1, 2], [2, 3]]}, "augmentation.flip_label_pairs must be pairs of classes"),
        ({"flip_label_pairs": [[-1, 2]]}, "augmentation.flip_label_pairs must be pairs of classes"),
        ({"crop": "multi_scale"}, "augmentation.crop.kind must be 'random_resized' or 'multi_scale' or 'random', got"),
        ({"crop": {"kind": "multiscale"}}, "augmentation.crop.kind must be 'random_resized' or 'multi_scale' or"),
        ({"crop": {"kind": "random"}}, "augmentation.short_side must be at least crop_size 224 for random crops, got"),
        ({"crop": {"kind": "random"}, "short_side": 223}, "augmentation.short_side must be at least crop_size 224 for"),
        ({"crop": {"kind": "multi_scale", "area": [0, 1]}}, "augmentation.crop.area is no setting; there are scales"),
        ({"crop": {"kind": "random_resized", "area": [0, 1]}}, "augmentation.crop.area must be two numbers above 0"),
        ({"crop": {"kind": "random_resized", "area": [1, 0.5]}}, "augmentation.crop.area must be two numbers above 0"),
        ({"crop": {"kind": "random_resized", "aspect_ratio": [2, 1]}}, "augmentation.crop.aspect_ratio must be two"),
        ({"crop": {"kind": "multi_scale", "scales": []}}, "augmentation.crop.scales must be numbers above 0 and up"),
        ({"crop": {"kind": "multi_scale", "scales": [1.1]}}, "augmentation.crop.scales must be numbers above 0 and up"),
        ({"crop": {"kind": "multi_scale", "max_gap": -1}}, "augmentation.crop.max_gap must be 0 or more, got -1"),
        (
            {"crop": {"kind": "multi_scale", "num_positions": 9}},
            "augmentation.crop.num_positions must be 1 or 5 or 13, got",
        ),
        ({"color_jitter": {"hue": 0.6}}, "augmentation.color_jitter.hue must be from 0 to 0.5, got 0.6"),
        ({"color_jitter": {"contrast": -1}}, "augmentation.color_jitter.contrast must be 0 or more, got -1.0"),
        ({"color_jitter": {"color": 1}}, "augmentation.color_jitter.color is no setting; there are brightness"),
    ],
)
def test_a_bad_recipe_is_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Augmentation.from_table(NEEDED | change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_classes_that_a_mirror_exchanges() -> None:
    assert left_right_pairs(labels("motion8")) == ((0, 1), (6, 7))
    assert left_right_pairs(["turn_left", "TURN_RIGHT", "Right hand", "lefty", "Left Hand"]) == ((0, 1), (2, 4))
    names = labels("sthv1")
    assert [(names[a], names[b]) for a, b in left_right_pairs(names)] == [
        ("Turning the camera left while filming something", "Turning the camera right while filming something"),
        ("Pushing something from left to right", "Pushing something from right to left"),
        ("Pulling something from right to left", "Pulling something from left to right"),
    ]


# Frames


@given(
    total=st.integers(1, 400),
    num_frames=st.integers(1, 40),
    frame_stride=st.integers(1, 8),
    num_clips=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_clips_lie_in_the_video(total: int, num_frames: int, frame_stride: int, num_clips: int, seed: int) -> None:
    drawn = draw_clips(
        total, num_frames=num_frames, frame_stride=frame_stride, num_clips=num_clips, random=generator(seed)
    )
    assert drawn.dtype == np.int64
    assert drawn.shape == (num_clips * num_frames,)
    assert 0 <= drawn.min() <= drawn.max() < total
    clips = drawn.reshape(num_clips, num_frames)
    assert np.array_equal(clips, (clips[:, :1] + np.arange(num_frames) * frame_stride) % total)
    span = num_frames * frame_stride
    if total - span + 1 >= num_clips:  # long enough: every clip in its part, none beyond the end
        part = (total - span + 1) // num_clips
        assert np.array_equal(clips[:, 0] // part, np.arange(num_clips))
    elif total < span:
        assert not clips[:, 0].any()
    else:
        assert np.array_equal(clips[:, 0], np.sort(clips[:, 0])) or total <= max(num_clips, span)


@pytest.mark.parametrize(
    ("total", "num_clips", "span", "expected"),
    [
        (5, 1, 64, {0}),  # shorter than a clip
        (64, 1, 64, {0}),  # as long as a clip
        (66, 1, 64, {0, 1, 2}),
    ],
)
def test_where_a_clip_may_begin(total: int, num_clips: int, span: int, expected: set[int]) -> None:
    starts = {
        int(draw_clips(total, num_frames=span // 2, frame_stride=2, num_clips=num_clips, random=generator(seed))[0])
        for seed in range(60)
    }
    assert starts == expected


def test_a_short_video_goes_on_from_its_first_frame() -> None:
    drawn = draw_clips(5, num_frames=8, frame_stride=8, num_clips=1, random=generator())
    assert drawn.tolist() == [0, 3, 1, 4, 2, 0, 3, 1]


@pytest.mark.parametrize(
    ("total", "parts"),
    [(9, [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]), (11, [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]), (3, [{0}, {1}, {2}])],
)
def test_segments_are_drawn_each_from_its_part(total: int, parts: list[set[int]]) -> None:
    augmentation = Augmentation(sampling="segments", num_frames=3, crop_size=8)
    drawn = np.stack([draw_frames(augmentation, total, generator(seed)) for seed in range(100)])
    assert [set(column.tolist()) for column in drawn.T] == parts


@pytest.mark.parametrize(("total", "expected"), [(1, [0, 0, 0, 0, 0, 0, 0, 0]), (4, [0, 0, 1, 2, 2, 2, 3, 0])])
def test_fewer_frames_than_segments_are_spread(total: int, expected: list[int]) -> None:
    # Parts of half a frame: 0, 0.5, 1, 1.5 ..., rounded to even, and after the last frame comes the first.
    drawn = draw_frames(Augmentation(sampling="segments", num_frames=8, crop_size=8), total, generator())
    assert drawn.tolist() == expected


def test_few_places_for_many_clips_are_drawn_in_order() -> None:
    drawn = [draw_clips(35, num_frames=16, frame_stride=2, num_clips=6, random=generator(seed)) for seed in range(40)]
    starts = np.stack([clips.reshape(6, 16)[:, 0] for clips in drawn])
    assert np.array_equal(starts, np.sort(starts, axis=1))
    assert set(starts.ravel().tolist()) == {0, 1, 2, 3}


@given(total=st.integers(1, 300), num_segments=st.integers(1, 64), seed=st.integers(0, 2**32))
def test_dense_frames_lie_in_one_window(total: int, num_segments: int, seed: int) -> None:
    drawn = draw_dense(total, num_segments=num_segments, random=generator(seed))
    assert drawn.shape == (num_segments,)
    assert 0 <= drawn.min() <= drawn.max() < total
    step = 64 // num_segments
    assert np.array_equal(drawn, (drawn[0] + np.arange(num_segments) * step) % total)
    assert drawn[0] <= max(0, total - 64)


def test_dense_windows_reach_both_ends() -> None:
    starts = {int(draw_dense(67, num_segments=8, random=generator(seed))[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


# Regions


def cropped(crop: RandomResizedCrop | MultiScaleCrop | RandomCrop) -> Augmentation:
    return Augmentation(num_frames=1, crop_size=224, short_side=256, crop=crop)


def regions(
    crop: RandomResizedCrop | MultiScaleCrop | RandomCrop, height: int, width: int, count: int = 400
) -> set[Region]:
    random = generator()
    return {draw_region(cropped(crop), height, width, random) for _ in range(count)}


def inside(region: Region, height: int, width: int) -> bool:
    top, left, h, w = region
    return 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h > 0 and w > 0


@pytest.mark.parametrize(
    ("num_positions", "expected"),
    [
        (5, {(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)}),
        (
            13,
            {(0, 0), (0, 58), (0, 116), (8, 29), (8, 87), (16, 0), (16, 58), (16, 116), (24, 29), (24, 87)}
            | {(32, 0), (32, 58), (32, 116)},
        ),
    ],
)
def test_places_of_a_multi_scale_crop(num_positions: int, expected: set[tuple[int, int]]) -> None:
    # 224 of 341 x 256: steps of 117 // 4 = 29 columns and 32 // 4 = 8 rows.
    crop = MultiScaleCrop(scales=(0.875,), num_positions=num_positions)  # type: ignore[arg-type]
    assert {(top, left) for top, left, h, w in regions(crop, 256, 341)} == expected
    assert {(h, w) for _, _, h, w in regions(crop, 256, 341)} == {(224, 224)}


@pytest.mark.parametrize(
    ("max_gap", "expected"),
    [
        (0, {(256, 256), (224, 224), (192, 192), (168, 168)}),
        (
            1,
            {(256, 256), (224, 224), (192, 192), (168, 168)}
            | {(256, 224), (224, 256), (224, 192), (192, 224), (192, 168), (168, 192)},
        ),
    ],
)
def test_sizes_of_a_multi_scale_crop(max_gap: int, expected: set[tuple[int, int]]) -> None:
    drawn = regions(MultiScaleCrop(max_gap=max_gap), 256, 341)
    assert {(h, w) for _, _, h, w in drawn} == expected
    assert all(inside(region, 256, 341) for region in drawn)


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_regions_lie_in_the_frame(height: int, width: int, seed: int) -> None:
    for crop in (RandomResizedCrop(), MultiScaleCrop(), MultiScaleCrop(num_positions=13)):
        assert inside(draw_region(cropped(crop), height, width, generator(seed)), height, width)


def test_area_and_ratio_of_a_random_resized_crop() -> None:
    crop = RandomResizedCrop(area=(0.1, 0.4), aspect_ratio=(0.5, 2))
    drawn = regions(crop, 300, 400)
    assert len(drawn) == 400
    areas = np.array([region.height * region.width / 120_000 for region in drawn])
    ratios = np.array([region.width / region.height for region in drawn])
    assert 0.098 < areas.min() < 0.12 and 0.38 < areas.max() < 0.402  # sides are whole pixels
    assert 0.49 < ratios.min() < 0.53 and 1.9 < ratios.max() < 2.04
    # The logarithm of the ratio is uniform: as many upright as lying.
    assert 160 < (ratios < 1).sum() < 240
    assert all(inside(region, 300, 400) for region in drawn)


def test_random_crops_reach_every_place() -> None:
    drawn = regions(RandomCrop(), 226, 227, 200)
    assert drawn == {Region(top, left, 224, 224) for top in range(3) for left in range(4)}


def test_a_frame_too_long_for_the_ratio_gives_its_middle() -> None:
    assert regions(RandomResizedCrop(area=(1, 1)), 10, 1000, 5) == {Region(0, 493, 10, 13)}


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: draw_region(cropped(RandomResizedCrop()), 240, 320, random),
        lambda random: draw_region(cropped(MultiScaleCrop()), 240, 320, random),
        lambda random: draw_region(cropped(RandomCrop()), 256, 341, random),
        lambda random: draw_dense(300, num_segments=8, random=random).tolist(),
    ],
)
def test_draws_depend_on_the_generator_alone(draw: Callable[[np.random.Generator], object]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = [draw(generator(seed)) for seed in range(5)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert [draw(generator(seed)) for seed in range(5)] == first
    assert first[0] != first[1]


def test_augmentations_are_values() -> None:
    augmentation = Augmentation(num_frames=8, crop_size=224)
    assert replace(augmentation, crop_size=224) == augmentation
    assert hash(augmentation) == hash(Augmentation(num_frames=8, crop_size=224))
