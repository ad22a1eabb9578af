"""Evaluation: the figures, and that neither kills, attempts, failures nor processes change them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_frames import write_images

import videozoo
from videozoo import evaluation, metrics
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.errors import InvalidArgument, ListError, OutputError, VideoError, VideoZooError
from videozoo.evaluation import evaluate
from videozoo.evaluation_journal import Attempt
from videozoo.journal import Journal
from videozoo.predict import Recognizer, load_recognizer
from videozoo.protocols import with_protocol
from videozoo.ranks import Ranks
from videozoo.synthetic import MOTIONS, draw_clip, motion_of
from videozoo.video.dataset import read_list

NUM_VIDEOS = 12
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos with their list; never change it."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for seed in range(2_000_000, 2_000_000 + NUM_VIDEOS):
        write_video(folder / f"{seed}.mp4", draw_clip(seed))
        lines.append(f"{seed}.mp4 {motion_of(seed)}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "gaps.txt").write_text("".join([*lines[:3], "gone.mp4 2\n", *lines[3:]]))
    return folder


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer("test_tsn")  # it cannot see the order of frames, and so is often wrong


@contextmanager
def counted(recognizer: Recognizer, stop_at: int | None = None) -> Iterator[list[None]]:
    """Grows by one for every video that the network sees; instead of one more than ``stop_at`` it is interrupted."""
    videos: list[None] = []

    def count(*_: object) -> None:
        if len(videos) == stop_at:
            raise KeyboardInterrupt
        videos.append(None)

    handle = recognizer.model.register_forward_pre_hook(count)
    try:
        yield videos
    finally:
        handle.remove()


def interrupt(recognizer: Recognizer, data: Path, out: Path, *, after: int, strict: bool = False) -> None:
    """Evaluate so many videos, no more."""
    with counted(recognizer, stop_at=after), pytest.raises(KeyboardInterrupt):
        evaluate(recognizer, data, out=out, strict=strict)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Figures


def test_the_figures_are_those_of_the_scores(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = videozoo.evaluate(recognizer, clips / "list.txt", out=out, scores=True)
    listed = read_list(clips / "list.txt").videos
    scores = np.stack([recognizer(video.path).scores.numpy() for video in listed])
    labels = [video.labels[0] for video in listed]
    top1, top5 = metrics.top_k_accuracy(scores, labels)
    mean = metrics.mean_class_accuracy(scores, labels)
    assert result.metrics == {"top1_accuracy": top1, "top5_accuracy": top5, "mean_class_accuracy": mean}
    assert 0 < top1 < 1
    assert result.videos is not None
    assert np.array_equal(np.array([video.scores for video in result.videos], dtype=np.float32), scores)
    assert [video.labels for video in result.videos] == [video.labels for video in listed]
    assert (result.num_videos, result.num_failed, result.failures) == (NUM_VIDEOS, 0, ())
    assert result.model == "test_tsn.motion8"
    assert result.published is not None
    assert result.published.top1_percent == 42.0
    assert result.views == recognizer.transform.views
    assert json.loads(out.read_text()) == json.loads(json.dumps(asdict(result)))
    assert names(tmp_path) == ["result.json"]


def test_the_worst_classes_are_those_that_are_mistaken(recognizer: Recognizer, clips: Path) -> None:
    result = evaluate(recognizer, clips / "list.txt", scores=True)
    assert result.videos is not None
    taken_for: dict[str, list[str]] = {name: [] for name in MOTIONS}
    for video in result.videos:
        taken_for[MOTIONS[video.labels[0]]].append(MOTIONS[int(np.argmax(video.scores))])
    assert {found.name for found in result.worst_classes} == {
        name for name, taken in taken_for.items() if set(taken) - {name}
    }
    for found in result.worst_classes:
        taken = taken_for[found.name]
        assert (found.num_videos, found.num_right) == (len(taken), taken.count(found.name))
        assert found.num_mistaken == taken.count(found.mistaken_for) >= 1
        assert found.mistaken_for != found.name
    shares = [found.num_right / found.num_videos for found in result.worst_classes]
    assert shares == sorted(shares)


def test_several_labels_a_video(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    lines = (clips / "list.txt").read_text().splitlines()
    path = tmp_path / "several.txt"
    path.write_text("".join(f"{line} {number % 8}\n" for number, line in enumerate(lines)))
    videos = read_list(path, root=clips, multi_label=True, num_classes=8)
    result = evaluate(recognizer, videos, scores=True)
    assert result.videos is not None
    scores = [video.scores for video in result.videos]
    targets = [[int(label in video.labels) for label in range(8)] for video in result.videos]
    assert result.metrics == {
        "mean_average_precision": metrics.mean_average_precision(np.float32(scores), targets),
        "mmit_mean_average_precision": metrics.mmit_mean_average_precision(np.float32(scores), targets),
    }
    assert result.worst_classes == ()
    with pytest.raises(InvalidArgument, match="top_k_accuracy needs one label a video"):
        evaluate(recognizer, videos, metrics=["top_k_accuracy"])


def test_class_folders_are_labelled_by_name(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    for video in read_list(clips / "list.txt").videos[:2]:
        folder = tmp_path / MOTIONS[video.labels[0]].replace(" ", "_")
        folder.mkdir()
        (folder / video.name).write_bytes(video.path.read_bytes())
    result = evaluate(recognizer, tmp_path, scores=True)
    assert result.videos is not None
    assert [video.labels for video in result.videos] == [(0,), (1,)]
    (tmp_path / "sidewards").mkdir()
    (tmp_path / "sidewards" / "a.mp4").touch()
    with pytest.raises(ListError, match="no class is called 'sidewards'"):
        evaluate(recognizer, tmp_path)


def test_lists_of_frame_folders(recognizer: Recognizer, tmp_path: Path) -> None:
    """As many frames as the list says are the video; more than there are cannot be decoded."""
    frames = draw_clip(2_000_000)
    for name in ("a", "b"):
        write_images(tmp_path / name, [f"img_{number:05}.png" for number in range(1, 17)], frames)
        write_images(tmp_path / name, [f"x{number}.png" for number in range(1, 17)], frames[::-1])
    path = tmp_path / "list.txt"
    path.write_text("a 12 0\nb 17 0\n")
    for template, expected in (("img_{:05}.png", frames[:12]), ("x{}.png", frames[::-1][:12])):
        result = evaluate(recognizer, read_list(path, template=template), scores=True)
        assert result.videos is not None
        (video,) = result.videos
        assert video.scores == tuple(recognizer(expected).scores.tolist())
        assert [failure.reason for failure in result.failures] == [
            f"{tmp_path / 'b'} holds 16 frames, not the 17 that were announced"
        ]


def test_nameless_classes_are_those_of_the_folders_in_order(
    recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    nameless = replace(recognizer, labels=tuple(f"class {number}" for number in range(8)))
    for number in range(8):
        (tmp_path / f"group {number}").mkdir()
        (tmp_path / f"group {number}" / "a.mp4").write_bytes((clips / f"{2_000_000 + number}.mp4").read_bytes())
    result = evaluate(nameless, tmp_path, scores=True)
    assert result.videos is not None
    assert [video.labels for video in result.videos] == [(number,) for number in range(8)]
    (tmp_path / "group 8").mkdir()
    with pytest.raises(ListError, match="has 9 class folders, the network 8 classes without names"):
        evaluate(nameless, tmp_path)


# Protocols


@pytest.mark.parametrize(
    ("architecture", "protocol", "changed"),
    [
        ("test_ircsn", "row", {}),
        ("test_ircsn", "center", {}),
        ("test_ircsn", "4x3", {"num_clips": 4, "crop": "three"}),
        ("test_tsn", "2x1", {"twice_sample": True}),
        ("test_tsn", "1x10", {"crop": "ten"}),
    ],
)
def test_protocols_are_views(architecture: str, protocol: str, changed: dict[str, object]) -> None:
    own = load_recognizer(architecture, num_clips=None, twice_sample=None)
    row = own.transform.views
    other = replace(own, transform=replace(own.transform, views=replace(row, crop="three")))
    assert with_protocol(other, protocol).transform.views == replace(row, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["", "x", "10", "10x2", "0x3", "-1x3", "3x1", "full", "1x3x1"])
def test_what_is_no_protocol(recognizer: Recognizer, protocol: str) -> None:
    with pytest.raises(InvalidArgument, match="protocol"):
        with_protocol(recognizer, protocol)


def test_averages(clips: Path) -> None:
    recognizer = load_recognizer("test_ircsn", num_clips=2)
    means = {}
    for average in ("prob", "score", None):
        result = evaluate(recognizer, clips / "list.txt", average_clips=average, scores=True)  # type: ignore[arg-type]
        assert result.videos is not None
        assert result.views.average_clips == average
        means[average] = torch.tensor([video.scores for video in result.videos])
    logits = torch.stack([recognizer(video.path).view_logits for video in read_list(clips / "list.txt").videos])
    torch.testing.assert_close(means["prob"], logits.softmax(dim=2).mean(dim=1))
    torch.testing.assert_close(means["score"], logits.mean(dim=1))
    torch.testing.assert_close(means[None], means["score"])


# Failures


def test_what_cannot_be_decoded_is_counted_and_told(recognizer: Recognizer, clips: Path) -> None:
    result = evaluate(recognizer, clips / "gaps.txt")
    (failure,) = result.failures
    assert (failure.line, failure.name) == (4, "gone.mp4")
    assert "there is no such file" in failure.reason
    assert (result.num_videos, result.num_failed) == (NUM_VIDEOS + 1, 1)
    assert result.metrics == evaluate(recognizer, clips / "list.txt").metrics


def test_strict_stops_and_goes_on_where_it_stopped(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "list.txt", tmp_path / "result.json"
    path.write_text(f"{clips}/2000000.mp4 0\n{tmp_path}/late.mp4 1\n")
    with pytest.raises(VideoError, match=r"late\.mp4"):
        evaluate(recognizer, path, out=out, strict=True)
    (tmp_path / "late.mp4").write_bytes((clips / "2000001.mp4").read_bytes())
    with counted(recognizer) as videos:
        assert evaluate(recognizer, path, out=out, strict=True).num_failed == 0
    assert len(videos) == 1


def test_a_strict_attempt_tries_again_what_an_earlier_one_could_not_decode(
    recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "list.txt", tmp_path / "result.json"
    path.write_text(f"{tmp_path}/late.mp4 1\n{clips}/2000000.mp4 0\n{clips}/2000002.mp4 2\n")
    interrupt(recognizer, path, out, after=1)
    (tmp_path / "late.mp4").write_bytes((clips / "2000001.mp4").read_bytes())
    with counted(recognizer) as videos:
        assert evaluate(recognizer, path, out=out, strict=True).num_failed == 0
    assert len(videos) == 2


def test_what_was_decoded_counts_whatever_journal_says_that_it_could_not_be(
    recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    path, out, journal = tmp_path / "list.txt", tmp_path / "result.json", tmp_path / "result.json.journal"
    path.write_text(f"{tmp_path}/late.mp4 1\n{clips}/2000000.mp4 0\n{clips}/2000002.mp4 2\n")
    interrupt(recognizer, path, out, after=1)
    journal.rename(tmp_path / "result.json.journal.1")
    (tmp_path / "late.mp4").write_bytes((clips / "2000001.mp4").read_bytes())
    interrupt(recognizer, path, out, after=1, strict=True)
    with counted(recognizer) as videos:
        assert evaluate(recognizer, path, out=out).num_failed == 0
    assert len(videos) == 1


def test_labels_of_more_classes_than_the_network_has(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{clips}/2000000.mp4 0\n{clips}/2000001.mp4 8\n")
    with pytest.raises(ListError, match=r"line 2: .*label 8 is out of range: labels go from 0 to 7"):
        evaluate(recognizer, path)
    with pytest.raises(ListError, match="labels that the network's 8 classes lack"):
        evaluate(recognizer, read_list(path))


def test_nothing_that_can_be_decoded(recognizer: Recognizer, tmp_path: Path) -> None:
    path, out = tmp_path / "list.txt", tmp_path / "result.json"
    path.write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(ListError, match="none of its 2 videos exists"):
        evaluate(recognizer, path, out=out)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(VideoError, match="none of the 2 videos can be decoded; the first: line 1: "):
        evaluate(recognizer, path, out=out)
    assert names(tmp_path) == ["a.mp4", "list.txt"]


# Attempts


def test_an_interrupted_run_goes_on(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "result.json"
    evaluate(recognizer, clips / "gaps.txt", out=whole, scores=True)
    interrupt(recognizer, clips / "gaps.txt", out, after=5)
    assert names(tmp_path) == ["result.json.journal", "whole.json"]
    with open(tmp_path / "result.json.journal", "ab") as stream:
        stream.write(b'{"video": 9, "sco')  # as a kill leaves it
    interrupt(recognizer, clips / "gaps.txt", out, after=3)
    with counted(recognizer) as videos:
        evaluate(recognizer, clips / "gaps.txt", out=out, scores=True)
    assert len(videos) == NUM_VIDEOS - 8
    assert names(tmp_path) == ["result.json", "whole.json"]
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", [b"\0" * 50 + b"\n", b"[1]\n", b"{}", b"\xff\n"])
def test_what_a_power_cut_leaves_is_computed_again(
    damage: bytes, recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    out, journal = tmp_path / "result.json", tmp_path / "result.json.journal"
    interrupt(recognizer, clips / "list.txt", out, after=4)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    journal.write_bytes(b"".join(lines[:3]) + damage + lines[4])
    with counted(recognizer) as videos:
        evaluate(recognizer, clips / "list.txt", out=out)
    assert len(videos) == NUM_VIDEOS - 2


def test_a_full_disk_is_one_line_and_the_run_goes_on(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "result.json", tmp_path / "result.json.journal"
    interrupt(recognizer, clips / "list.txt", out, after=3)
    full = journal.stat().st_size + 100  # half of the next but one line
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*journal: .* the same command goes on"):
            evaluate(recognizer, clips / "list.txt", out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.stat().st_size == full
    with counted(recognizer) as videos:
        evaluate(recognizer, clips / "list.txt", out=out)
    assert len(videos) == NUM_VIDEOS - 4


def test_one_process_at_a_time_writes_a_journal(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with open(tmp_path / "result.json.journal", "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with counted(recognizer) as videos, pytest.raises(OutputError, match="another process is writing"):
                evaluate(recognizer, clips / "list.txt", out=out, overwrite=overwrite)
            assert videos == []
            assert names(tmp_path) == ["result.json.journal"]
    assert evaluate(recognizer, clips / "list.txt", out=out).num_failed == 0


def test_a_journal_of_another_run_is_not_mixed_in(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    interrupt(recognizer, clips / "list.txt", out, after=2)
    with counted(recognizer) as videos:
        with pytest.raises(OutputError, match=r"belongs to a run with another list and views: .* --force"):
            evaluate(recognizer, clips / "gaps.txt", out=out, protocol="2x1")
        other = load_recognizer("test_tsn", pretrained=True)
        torch.nn.init.zeros_(other.model.get_classifier().weight)
        with pytest.raises(OutputError, match="another weights"):
            evaluate(other, clips / "list.txt", out=out)
        assert videos == []
        evaluate(recognizer, clips / "list.txt", out=out, overwrite=True)
        assert len(videos) == NUM_VIDEOS
    with pytest.raises(OutputError, match="exists"):
        evaluate(recognizer, clips / "list.txt", out=out)
    assert names(tmp_path) == ["result.json"]


def stop_before_removal(patch: pytest.MonkeyPatch) -> None:
    """As a kill between the last two steps would."""

    def remove(_: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(Attempt, "remove", remove)


def test_a_run_that_was_killed_when_all_was_written_ends_as_if_it_had_not_been(
    recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (first, second) = tmp_path / "result.json", (tmp_path / f"result.json.journal{end}" for end in ("", ".1"))
    for multi_label, metric in ((False, None), (True, ["mean_average_precision"])):
        videos = read_list(clips / "gaps.txt", num_classes=8, multi_label=multi_label)
        expected = evaluate(recognizer, videos, scores=True, metrics=metric)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_before_removal(patch)
            evaluate(recognizer, videos, out=out, scores=True, metrics=metric)
        first.rename(second)  # journals go one after the other, that of the first process last
        first.write_bytes(second.read_bytes().splitlines(keepends=True)[0])
        with open(first, "ab") as stream:
            stream.write(second.read_bytes().splitlines(keepends=True)[-1])
        second.unlink()
        before = out.read_bytes()
        with counted(recognizer) as seen:
            with pytest.raises(OutputError, match=r"result\.json exists"):
                evaluate(recognizer, videos, out=out, metrics=metric)  # without the scores it is another result
            with pytest.raises(OutputError, match=r"result\.json exists"):
                evaluate(recognizer, videos, out=out, scores=True, metrics=metric, strict=True)
            assert evaluate(recognizer, videos, out=out, scores=True, metrics=metric) == expected
        assert (seen, out.read_bytes(), names(tmp_path)) == ([], before, ["result.json"])
        out.unlink()


def test_a_file_of_somebody_else_is_refused_before_the_work(
    recognizer: Recognizer, clips: Path, tmp_path: Path
) -> None:
    """Whatever a journal of a killed run says."""
    out = tmp_path / "result.json"
    interrupt(recognizer, clips / "list.txt", out, after=4)
    out.write_text("mine")
    with counted(recognizer) as videos, pytest.raises(OutputError, match=r"result\.json exists; pass --force"):
        evaluate(recognizer, clips / "list.txt", out=out)
    assert (videos, out.read_text()) == ([], "mine")
    out.unlink()
    with counted(recognizer) as videos:
        evaluate(recognizer, clips / "list.txt", out=out)
    assert len(videos) == NUM_VIDEOS - 4


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks(
    number: int, recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    interrupt(recognizer, clips / "list.txt", tmp_path / "result.json", after=NUM_VIDEOS - 1)
    evaluate(recognizer, clips / "list.txt", out=tmp_path / "result.json")
    assert names(tmp_path) == ["result.json"]


def test_a_lock_that_fails_otherwise_is_told(
    recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OutputError, match=r"cannot write .*journal: Input/output error"):
        evaluate(recognizer, clips / "list.txt", out=tmp_path / "result.json")


COMMAND = [sys.executable, "-m", "videozoo", "eval", "test_tsn", "--scores"]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(videozoo.__file__).parent.parent), "OMP_NUM_THREADS": "1"}


def test_a_killed_process_goes_on(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    """A real SIGKILL, in the middle of the sixth video."""
    killed, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    code = f"""
import os, signal
from videozoo import evaluate, load_recognizer
recognizer = load_recognizer("test_tsn")
videos = 0
def kill(*_):
    global videos
    videos += 1
    if videos == 6:
        os.kill(os.getpid(), signal.SIGKILL)
recognizer.model.register_forward_hook(kill)
evaluate(recognizer, {str(clips / "gaps.txt")!r}, out={str(killed)!r}, scores=True)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    lines = (tmp_path / "killed.json.journal").read_text().splitlines()
    assert [json.loads(line).get("video") for line in lines] == [None, 0, 1, 2, 3, 4, 5]  # 3 has no file
    with counted(recognizer) as videos:
        evaluate(recognizer, clips / "gaps.txt", out=killed, scores=True)
    assert len(videos) == NUM_VIDEOS - 5
    evaluate(recognizer, clips / "gaps.txt", out=whole, scores=True)
    assert killed.read_bytes() == whole.read_bytes()


# Processes


class Threads:
    """Threads that stand for the processes of torchrun."""

    def __init__(self, size: int) -> None:
        self.size, self.here = size, threading.local()
        self.barrier, self.values = threading.Barrier(size, timeout=60), [None] * size
        self.num_sent = 0

    @contextmanager
    def joined(self) -> Iterator[Ranks]:
        yield _Thread(self.here.rank, self.size, self)

    def run(self, recognizer: Recognizer, data: Path, **options: object) -> list[object]:
        answers: list[object] = [None] * self.size

        def work(rank: int) -> None:
            self.here.rank = rank
            try:
                answers[rank] = evaluate(recognizer, data, **options)  # type: ignore[arg-type]
            except VideoZooError as error:
                answers[rank] = f"{type(error).__name__}: {error}"

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers


class _Thread(Ranks):
    def __init__(self, rank: int, size: int, threads: Threads) -> None:
        super().__init__(rank, size)
        object.__setattr__(self, "threads", threads)

    def gather(self, value):  # type: ignore[no-untyped-def]
        threads = self.threads  # type: ignore[attr-defined]
        threads.values[self.rank] = value
        threads.barrier.wait()
        if self.rank == 0:
            threads.num_sent += sum(len(value) for value in threads.values if isinstance(value, dict))
        values = list(threads.values)
        threads.barrier.wait()
        return values


@pytest.mark.parametrize("size", [2, 5, NUM_VIDEOS + 3])
def test_many_processes_give_the_result_of_one(
    size: int, recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tmp_path / "one.json"
    expected = evaluate(recognizer, clips / "gaps.txt", out=one, scores=True)
    threads = Threads(size)
    monkeypatch.setattr(evaluation, "joined", threads.joined)
    many = tmp_path / "many.json"
    with counted(recognizer) as videos:
        answers = threads.run(recognizer, clips / "gaps.txt", out=many, scores=True)
    assert answers == [expected] * size
    assert len(videos) == NUM_VIDEOS
    assert many.read_bytes() == one.read_bytes()
    assert names(tmp_path) == ["many.json", "one.json"]


def test_another_number_of_processes_may_go_on(
    recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = tmp_path / "one.json", tmp_path / "result.json"
    evaluate(recognizer, clips / "list.txt", out=one)
    interrupt(recognizer, clips / "list.txt", out, after=4)
    (tmp_path / "result.json.journal").rename(tmp_path / "result.json.journal.4")
    threads = Threads(3)
    monkeypatch.setattr(evaluation, "joined", threads.joined)
    with counted(recognizer) as videos:
        threads.run(recognizer, clips / "list.txt", out=out)
    assert len(videos) == NUM_VIDEOS - 4
    assert threads.num_sent == NUM_VIDEOS  # the scores of each video once, though all of them read the journal
    assert out.read_bytes() == one.read_bytes()
    assert names(tmp_path) == ["one.json", "result.json"]


def test_one_process_and_many_exclude_each_other(
    recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = tmp_path / "result.json", tmp_path / "result.json.journal"
    threads = Threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "joined", threads.joined)
        with open(first, "wb") as stream, counted(recognizer) as videos:
            fcntl.flock(stream, fcntl.LOCK_EX)
            for overwrite in (False, True):
                answers = threads.run(recognizer, clips / "list.txt", out=out, overwrite=overwrite)
                assert answers == 2 * [
                    f"OutputError: another process is writing {first}: wait for it, or give another --out (out=)"
                ]
        assert (videos, names(tmp_path)) == ([], [first.name])

        refused = []

        def another(*_: object) -> None:
            with pytest.raises(OutputError, match="another process is writing"):
                Journal(first, {})
            refused.append(None)

        handle = recognizer.model.register_forward_pre_hook(another)
        try:
            threads.run(recognizer, clips / "list.txt", out=out)
        finally:
            handle.remove()
    assert len(refused) == NUM_VIDEOS
    assert names(tmp_path) == [out.name]


def test_a_journal_that_is_in_use_is_left(recognizer: Recognizer, clips: Path, tmp_path: Path) -> None:
    out, theirs = tmp_path / "result.json", tmp_path / "result.json.journal.7"
    for end in ("3", "7"):
        interrupt(recognizer, clips / "list.txt", out, after=2)
        (tmp_path / "result.json.journal").rename(tmp_path / f"result.json.journal.{end}")
    with open(theirs, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with counted(recognizer) as videos:
            evaluate(recognizer, clips / "list.txt", out=out)
    assert len(videos) == NUM_VIDEOS - 4
    assert names(tmp_path) == [out.name, theirs.name]


def test_what_the_first_process_cannot_write_ends_all(
    recognizer: Recognizer, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is lost."""
    out = tmp_path / "result.json"
    threads = Threads(3)
    monkeypatch.setattr(evaluation, "joined", threads.joined)
    handle = recognizer.model.register_forward_pre_hook(lambda *_: out.write_text("mine") and None)
    try:
        answers = threads.run(recognizer, clips / "list.txt", out=out)
    finally:
        handle.remove()
    assert answers == 3 * [f"OutputError: {out} exists; pass --force (overwrite=True) to replace it"]
    assert out.read_text() == "mine"
    out.unlink()
    with counted(recognizer) as videos:
        threads.run(recognizer, clips / "list.txt", out=out)
    assert (videos, names(tmp_path)) == ([], [out.name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_first", "status", "message"),
    [
        (None, 5, "there is no such file or folder"),  # with --strict, in the share of the second process
        ("result.json", 6, "result.json exists; pass --force"),
        ("result.json.journal", 6, "belongs to a run with another weights"),
    ],
)
def test_an_error_in_one_process_is_one_line_in_each(
    in_first: str | None, status: int, message: str, clips: Path, tmp_path: Path
) -> None:
    """Two real processes over gloo, which share no disk; nobody ends the one that waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = tmp_path / "list.txt"
    path.write_text(f"{clips}/2000000.mp4 0\n{clips}/{'2000001' if in_first else 'gone'}.mp4 1\n")
    command = [*COMMAND, "--data", str(path), "--strict", "--out", "result.json"]
    processes = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        folder.mkdir()
        if rank == 0 and in_first is not None:
            (folder / in_first).write_text('{"run": {}}\n')
        group = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=environment() | group,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [process.communicate(timeout=300) for process in processes]
    told = [[line for line in err.splitlines() if line.startswith("videozoo: ")] for _, err in ended]
    assert [len(lines) for lines in told] == [1, 1], ended
    assert not any("Traceback" in err for _, err in ended), ended
    assert message in told[0 if in_first else 1][0]
    statuses = [process.returncode for process in processes]
    if in_first:
        assert (statuses, told[1]) == ([status, status], told[0])
    else:
        assert statuses == [8, status]
        assert told[0][0].startswith("videozoo: error: another process of this run has ended or cannot be reached: ")


@pytest.mark.slow
def test_torchrun_gives_the_result_of_one_process(clips: Path, tmp_path: Path) -> None:
    """Two real processes over gloo."""
    more = ["--data", str(clips / "gaps.txt"), "--out"]
    for name, size in (("one.json", 0), ("two.json", 2)):
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        command = [*start, *COMMAND[1:]] if size else COMMAND
        command = [*command, *more, str(tmp_path / name)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test_tsn.motion8 on ") == 1  # the first process alone prints
    assert names(tmp_path) == ["one.json", "two.json"]
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


# The command


def test_the_command_sets_measured_beside_published(clips: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["eval", "test_tsn", "--data", str(clips / "gaps.txt"), "--out", str(tmp_path / "result.json")]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"test_tsn.motion8 on {clips / 'gaps.txt'}: 13 videos, 1 could not be decoded"
    result = json.loads((tmp_path / "result.json").read_text())
    (measured,) = (line for line in lines if line.startswith("measured"))
    (published,) = (line for line in lines if line.startswith("published"))
    assert measured.split()[1] == f"{100 * result['metrics']['top1_accuracy']:.2f}"
    assert measured.endswith(result["protocol"])
    assert published.split()[1:3] == ["42.00", "-"]
    assert published.endswith(result["published"]["protocol"])
    assert f" taken for {result['worst_classes'][0]['mistaken_for']}" in "\n".join(lines)
    assert lines[-1].startswith("  line 4: no video at ")
    assert run([*arguments, "--force", "--json", "--metrics", "mean_class_accuracy", "--protocol", "2x1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["metrics"]) == ["mean_class_accuracy"]
    assert result["views"]["twice_sample"] is True


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--strict"], 5, "no video at"),
        (["--out", "none/result.json"], 6, "there is no folder none"),
        (["--protocol", "9x9"], 2, "protocol '9x9'"),
        (["--metrics", "top_3"], 2, "no metric is called 'top_3'"),
        (["--pretrained", "k600"], 2, "its tags are motion8"),
        (["--checkpoint", "none.pth"], 3, "none.pth"),
        (["--root", "elsewhere"], 7, "none of its 13 videos exists"),
        (["--data", "none.txt"], 7, "no list at none.txt"),
        (["--form", "frames"], 7, "line 1: "),
    ],
)
def test_evaluations_that_cannot_be(
    more: list[str],
    status: int,
    message: str,
    clips: Path,
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["eval", "test_tsn", "--data", str(clips / "gaps.txt"), *more]) == status
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("videozoo: error: ")
    assert message in line
    assert (out, names(tmp_path)) == ("", [])
