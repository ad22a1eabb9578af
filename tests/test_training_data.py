"""Training samples and their batches: what is drawn, what replaces what cannot be decoded, who loads what."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_frames import make_frames, write_images

from videozoo.demo import write_video
from videozoo.errors import InvalidArgument, ListError, VideoError
from videozoo.synthetic import Motions, draw_clip
from videozoo.video.augmentation import Augmentation, ColorJitter, MultiScaleCrop, RandomResizedCrop
from videozoo.video.batches import Batch, EpochOrder, TrainingLoader
from videozoo.video.dataset import VideoList, read_list
from videozoo.video.decode import ArrayFrames
from videozoo.video.training import TrainingVideos, augmented
from videozoo.video.transforms import normalise, normalise_clips, resize_short_side

SMALL = Augmentation(num_frames=4, frame_stride=2, crop_size=16, crop=RandomResizedCrop(area=(0.5, 1)))
WHOLE = Augmentation(num_frames=4, crop_size=32, crop=MultiScaleCrop((1.0,), max_gap=0), flip_probability=0.0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """Three videos, a folder of frames, and between them a damaged and a missing file."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"{number}.mp4", make_frames(12, 32, 48 + 16 * number))
    write_images(folder / "frames", [f"img_{i:05}.png" for i in range(1, 8)], make_frames(7, 32, 40))
    (folder / "damaged.mp4").write_bytes((folder / "0.mp4").read_bytes()[:700])
    (folder / "list.txt").write_text("0.mp4 0\ndamaged.mp4 1\n1.mp4 2\nmissing.mp4 3\nframes 4\n2.mp4 5\n")
    return read_list(folder / "list.txt")


# Samples


def test_a_sample_of_a_video(videos: VideoList) -> None:
    sample = TrainingVideos(videos, SMALL, num_classes=6)[0]
    assert (sample.clip.dtype, tuple(sample.clip.shape)) == (torch.uint8, (3, 4, 16, 16))
    assert sample.clip.is_contiguous()
    assert (sample.label.dtype, sample.label.shape, int(sample.label)) == (torch.int64, (), 0)
    assert sample.problems == ()


def test_several_labels_become_ones(videos: VideoList) -> None:
    several = replace(videos, multi_label=True, videos=(replace(videos.videos[0], labels=(1, 4)),))
    label = TrainingVideos(several, SMALL, num_classes=6)[0].label
    assert (label.dtype, label.tolist()) == (torch.float32, [0, 1, 0, 0, 1, 0])


def test_a_whole_frame_is_shown_as_it_is() -> None:
    frames = make_frames(4, 32, 32)
    clip, flipped = augmented(ArrayFrames(frames), WHOLE, generator())
    assert not flipped
    assert np.array_equal(clip.permute(1, 2, 3, 0).numpy(), frames)


def test_frames_come_in_the_order_of_the_draw() -> None:
    frames = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], (5, 32, 32, 3))
    clip, _ = augmented(ArrayFrames(frames), replace(WHOLE, num_frames=8, frame_stride=8), generator())
    assert clip[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 0, 3, 1]


def test_frames_are_resized_before_the_crop_to_the_bit() -> None:
    frames = make_frames(4, 48, 48)
    clip, _ = augmented(ArrayFrames(frames), replace(WHOLE, short_side=32), generator())
    assert torch.equal(clip.permute(1, 2, 3, 0), resize_short_side(torch.from_numpy(frames), 32))


def test_a_crop_of_the_full_frame_is_close_to_the_resize_of_testing() -> None:
    frames = make_frames(4, 48, 48)
    clip, _ = augmented(ArrayFrames(frames), WHOLE, generator())
    exact = resize_short_side(torch.from_numpy(frames), 32)
    assert (clip.permute(1, 2, 3, 0).int() - exact.int()).abs().max() <= 1


def test_mirrored_clips_and_their_labels() -> None:
    always = replace(WHOLE, flip_probability=1.0)
    frames = make_frames(4, 32, 32)
    clip, flipped = augmented(ArrayFrames(frames), always, generator())
    assert flipped
    assert np.array_equal(clip.permute(1, 2, 3, 0).numpy(), frames[:, :, ::-1])
    plain = TrainingVideos(Motions(8), always, num_classes=8)
    paired = TrainingVideos(Motions(8), replace(always, flip_label_pairs=((0, 1), (6, 7))), num_classes=8)
    assert [int(plain[index].label) for index in range(8)] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [int(paired[index].label) for index in range(8)] == [1, 0, 2, 3, 4, 5, 7, 6]


def test_half_of_the_clips_are_mirrored_and_no_label_of_the_others_changes() -> None:
    """A motion that is mirrored is that of the other class, in the clip as in the label."""
    half = replace(WHOLE, num_frames=2, frame_stride=1, flip_probability=0.5, flip_label_pairs=((0, 1),))
    data = TrainingVideos(Motions(60), half, num_classes=8)
    labels = [int(data[index].label) for index in range(0, 60, 8)] + [
        int(data[index].label) for index in range(1, 60, 8)
    ]
    assert set(labels) == {0, 1}
    drawn = [augmented(ArrayFrames(make_frames(4, 16, 16)), half, generator(seed))[1] for seed in range(200)]
    assert 70 < sum(drawn) < 130


def test_colours_change_alike_in_all_frames() -> None:
    grey = np.full((4, 32, 32, 3), 100, np.uint8)
    bright = replace(WHOLE, color_jitter=ColorJitter(brightness=0.5))
    levels = set()
    for seed in range(20):
        clip, _ = augmented(ArrayFrames(grey), bright, generator(seed))
        assert len(clip.unique()) == 1
        levels.add(int(clip.flatten()[0]))
    assert 50 <= min(levels) < 75 and 125 < max(levels) <= 150


def test_frames_of_another_size_are_brought_to_that_of_the_first(tmp_path: Path) -> None:
    write_images(tmp_path, ["img_1.png", "img_2.png"], make_frames(2, 32, 32))
    write_images(tmp_path, ["img_3.png", "img_4.png"], make_frames(2, 48, 64))
    (tmp_path / "list.txt").write_text(". 0\n")
    data = TrainingVideos(read_list(tmp_path / "list.txt"), replace(SMALL, frame_stride=1), num_classes=1)
    assert tuple(data[0].clip.shape) == (3, 4, 16, 16)


def test_a_file_that_holds_fewer_frames_than_announced_is_drawn_again() -> None:
    class Short(ArrayFrames):
        announced = 100

        @property
        def num_frames(self) -> int:
            return self.announced

        def read(self, wanted):  # type: ignore[no-untyped-def]
            from videozoo.video.decode import FewerFramesError

            if self.announced == 100:
                self.announced = 5
                raise FewerFramesError("announces 100 frames and holds 5")
            return super().read(wanted)

    clip, _ = augmented(Short(make_frames(5, 32, 32)), SMALL, generator())
    assert tuple(clip.shape) == (3, 4, 16, 16)


def test_clips_are_normalised_as_views_are() -> None:
    frames = torch.from_numpy(make_frames(2, 16, 24))
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    clips = normalise_clips(frames.permute(3, 0, 1, 2).unsqueeze(0), mean, std)
    assert clips.dtype == torch.float32
    for number, frame in enumerate(frames):
        expected = torch.empty((3, 16, 24))
        normalise(frame, mean, std, out=expected)
        assert torch.equal(clips[0, :, number], expected)


# Determinism


def test_samples_depend_on_seed_epoch_and_number_alone() -> None:
    def clips(seed: int, epoch: int) -> list[torch.Tensor]:
        data = TrainingVideos(Motions(16), SMALL, num_classes=8, seed=seed)
        data.set_epoch(epoch)
        return [data[index].clip for index in reversed(range(0, 16, 8))]

    first = clips(0, 3)
    torch.manual_seed(7)
    np.random.seed(7)
    assert all(torch.equal(one, other) for one, other in zip(first, clips(0, 3), strict=True))
    for other in (clips(0, 4), clips(1, 3)):
        assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_drawing_leaves_torch_as_it_was(videos: VideoList) -> None:
    data = TrainingVideos(videos, replace(SMALL, color_jitter=ColorJitter(hue=0.1)), num_classes=6)
    order = EpochOrder(6, batch_size=2)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    for num_workers in (0, 1):
        list(TrainingLoader(data, order, num_workers=num_workers).epoch(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def equal(one: Batch, other: Batch) -> bool:
    same = torch.equal(one.clips, other.clips) and torch.equal(one.labels, other.labels)
    return same and tuple(one.problems) == tuple(other.problems)


def test_batches_are_the_same_whatever_the_number_of_workers(videos: VideoList) -> None:
    data = TrainingVideos(videos, replace(SMALL, color_jitter=ColorJitter(brightness=0.4)), num_classes=6, seed=3)

    def batches(num_workers: int) -> list[Batch]:
        loader = TrainingLoader(data, EpochOrder(6, batch_size=2, seed=3), num_workers=num_workers)
        return [batch for epoch in range(2) for batch in loader.epoch(epoch)]

    alone = batches(0)
    assert len(alone) == 6
    assert not any(equal(alone[step], alone[3 + step]) for step in range(3))
    for num_workers in (1, 2):
        assert all(equal(one, other) for one, other in zip(alone, batches(num_workers), strict=True))


def test_an_epoch_left_early_does_not_leak_into_the_next() -> None:
    data = TrainingVideos(Motions(24), SMALL, num_classes=8)
    loader = TrainingLoader(data, EpochOrder(24, batch_size=4), num_workers=2)
    for _ in loader.epoch(0):
        break
    expected = TrainingLoader(data, EpochOrder(24, batch_size=4), num_workers=0)
    assert all(equal(one, other) for one, other in zip(loader.epoch(1), expected.epoch(1), strict=True))


# Videos that cannot be decoded


def test_what_cannot_be_decoded_is_replaced_and_told(videos: VideoList) -> None:
    data = TrainingVideos(videos, SMALL, num_classes=6)
    sample = data[1]
    assert (sample.problems[0].line, sample.problems[0].name) == (2, "damaged.mp4")
    assert all("\n" not in problem.reason for problem in sample.problems)
    assert int(sample.label) in {0, 2, 4, 5}
    again = data[1]
    assert torch.equal(again.clip, sample.clip)
    assert again.problems == sample.problems
    replaced = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        replaced.add(int(data[3].label))
    assert len(replaced) > 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reports_travel_with_the_batches(videos: VideoList, num_workers: int) -> None:
    data = TrainingVideos(videos, SMALL, num_classes=6)
    loader = TrainingLoader(data, EpochOrder(6, batch_size=3), num_workers=num_workers)
    told = {problem for batch in loader.epoch(0) for problem in batch.problems}
    assert {(problem.line, problem.name) for problem in told} == {(2, "damaged.mp4"), (4, "missing.mp4")}
    assert "no such file" in next(problem.reason for problem in told if problem.line == 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_strict_stops_at_the_first_with_one_line(videos: VideoList, num_workers: int) -> None:
    data = TrainingVideos(videos, SMALL, num_classes=6, strict=True)
    assert data[0].problems == ()
    with pytest.raises(VideoError, match=r"^line 4: no video at .*missing.mp4: there is no such file or folder$"):
        data[3]
    loader = TrainingLoader(data, EpochOrder(6, batch_size=6), num_workers=num_workers)
    with pytest.raises(VideoError, match=r"^line [24]: [^\n]*$"):
        list(loader.epoch(0))


def test_a_list_without_any_video_that_can_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    data = TrainingVideos(read_list(tmp_path / "list.txt"), SMALL, num_classes=2)
    with pytest.raises(VideoError, match=r"^none of the 2 videos can be decoded; the first: line 2: no video at"):
        data[1]


def test_a_worker_that_dies_is_one_line(videos: VideoList) -> None:
    class Deadly(TrainingVideos):
        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            os._exit(1)

    loader = TrainingLoader(Deadly(videos, SMALL, num_classes=6), EpochOrder(6, batch_size=2), num_workers=1)
    with pytest.raises(VideoError, match="a process that loads videos ended"):
        list(loader.epoch(0))


# Bad arguments


def test_labels_beyond_the_classes_are_refused(videos: VideoList) -> None:
    with pytest.raises(ListError, match=r"list.txt line 6: 2.mp4 has label 5: labels go from 0 to 4$"):
        TrainingVideos(videos, SMALL, num_classes=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"augmentation": replace(SMALL, flip_label_pairs=((0, 8),))}, "flip_label_pairs must be of classes 0 to 7"),
        ({"videos": Motions(4), "num_classes": 7}, "the motions have 8 classes, not 7"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    arguments = {"videos": Motions(8), "augmentation": SMALL, "num_classes": 8} | options
    with pytest.raises(InvalidArgument, match=message):
        TrainingVideos(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 8])
def test_there_is_no_video_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError, match="videos 0 to 7"):
        TrainingVideos(Motions(8), SMALL, num_classes=8)[index]


@pytest.mark.parametrize("arguments", [(0,), (1, -1)])
def test_motions_that_do_not_exist(arguments: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match="need num_clips >= 1"):
        Motions(*arguments)


def test_motions_are_those_of_their_seeds() -> None:
    data = TrainingVideos(Motions(8, first_seed=80), replace(WHOLE, num_frames=16, crop_size=48), num_classes=8)
    drawn = torch.from_numpy(draw_clip(83))  # 48 x 64: the crop is a whole side high
    clip = data[3].clip.permute(1, 2, 3, 0)
    assert any(torch.equal(clip, drawn[:, :, left : left + 48]) for left in range(17))


# The order of an epoch


def steps(order: EpochOrder, epoch: int = 0, first_step: int = 0) -> list[list[int]]:
    order.set_epoch(epoch, first_step=first_step)
    return list(order)


def test_an_epoch_shows_every_video_at_most_once() -> None:
    order = EpochOrder(11, batch_size=3, seed=5)
    batches = steps(order)
    assert [len(batch) for batch in batches] == [3, 3, 3]
    shown = [index for batch in batches for index in batch]
    assert len(set(shown)) == 9 and set(shown) <= set(range(11))
    assert steps(order) == batches
    assert steps(order, epoch=1) != batches
    assert steps(EpochOrder(11, batch_size=3, seed=6)) != batches
    assert {index for epoch in range(10) for batch in steps(order, epoch) for index in batch} == set(range(11))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6])
def test_processes_share_each_step_of_one(num_ranks: int) -> None:
    alone = steps(EpochOrder(40, batch_size=6, seed=1), epoch=2)
    shares = [
        steps(EpochOrder(40, batch_size=6, seed=1, rank=rank, num_ranks=num_ranks), 2) for rank in range(num_ranks)
    ]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == alone  # noqa: RUF017
    assert {len(part) for share in shares for part in share} == {6 // num_ranks}


@pytest.mark.parametrize("first_step", [0, 1, 4, 5])
def test_an_epoch_goes_on_where_it_was_left(first_step: int) -> None:
    order = EpochOrder(23, batch_size=4, seed=1)
    whole = steps(order, epoch=3)
    assert steps(order, epoch=3, first_step=first_step) == whole[first_step:]
    assert len(order) == len(whole) - first_step
    assert order.steps_per_epoch == 5


def test_a_resumed_epoch_has_the_batches_that_were_left() -> None:
    data = TrainingVideos(Motions(16), SMALL, num_classes=8)
    whole = list(TrainingLoader(data, EpochOrder(16, batch_size=4), num_workers=0).epoch(1))
    rest = list(TrainingLoader(data, EpochOrder(16, batch_size=4), num_workers=1).epoch(1, first_step=2))
    assert all(equal(one, other) for one, other in zip(whole[2:], rest, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, "a batch of 12 videos cannot be drawn from 10: ask for 1 to 10"),
        ({"batch_size": 0}, "a batch of 0 videos"),
        ({"batch_size": 9, "num_ranks": 2}, "2 processes cannot share a batch of 9 evenly: ask for a multiple of 2"),
        ({"batch_size": 4, "rank": 2, "num_ranks": 2}, "rank 2 of 2"),
        ({"batch_size": 4, "seed": -1}, "seed -1"),
    ],
)
def test_orders_that_do_not_exist(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        EpochOrder(10, **options)


@pytest.mark.parametrize(("epoch", "first_step"), [(-1, 0), (0, -1), (0, 4)])
def test_steps_that_do_not_exist(epoch: int, first_step: int) -> None:
    with pytest.raises(InvalidArgument, match=f"epoch {epoch}, step {first_step}: an epoch has 3 steps"):
        EpochOrder(10, batch_size=3).set_epoch(epoch, first_step=first_step)


def test_loaders_that_do_not_fit() -> None:
    data = TrainingVideos(Motions(8), SMALL, num_classes=8)
    with pytest.raises(InvalidArgument, match="the order is of 9 videos, there are 8"):
        TrainingLoader(data, EpochOrder(9, batch_size=2))
    with pytest.raises(InvalidArgument, match="num_workers must be 0 or more, got -1"):
        TrainingLoader(data, EpochOrder(8, batch_size=2), num_workers=-1)


@pytest.mark.slow
def test_workers_may_be_started_afresh_instead_of_forked() -> None:
    """As on macOS, on Windows, and in Python 3.14."""
    code = """
import multiprocessing, torch
from videozoo.synthetic import Motions
from videozoo.video.augmentation import Augmentation
from videozoo.video.batches import EpochOrder, TrainingLoader
from videozoo.video.training import TrainingVideos

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    data = TrainingVideos(Motions(4), Augmentation(num_frames=2, crop_size=8), num_classes=8)
    for num_workers in (0, 1):
        loader = TrainingLoader(data, EpochOrder(4, batch_size=2), num_workers=num_workers)
        print([int(batch.clips.sum()) for epoch in (0, 1) for batch in loader.epoch(epoch)])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    alone, spawned = done.stdout.splitlines()
    assert alone == spawned
