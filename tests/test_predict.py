"""From a video to scores: what the network is shown, in which order, and how its answers are averaged."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from synthetic_frames import make_frames
from torch import Tensor

from videozoo import create_model, create_transform, get_weights, load_recognizer, predict
from videozoo.demo import write_video
from videozoo.errors import CheckpointMismatch, InvalidArgument, NoSource, UnknownModel, UnknownWeights, VideoError
from videozoo.predict import Recognizer
from videozoo.prediction import Prediction
from videozoo.stopwatch import Stopwatch
from videozoo.synthetic import MOTIONS
from videozoo.video import ahead
from videozoo.video.decode import open_frames
from videozoo.video.views import SampledVideo, ViewTransform

ForeignFile = Callable[..., Path]
VIDEO = make_frames(40, 32, 48)  # its short side is what the test networks want: no resize
OFFSETS = {"center": (8,), "three": (0, 16, 8)}


def expected_views(prediction: Prediction, crop: str, num_frames: int = 8) -> Tensor:
    """The views, by slicing alone: crops outermost, then clips."""
    clips = VIDEO[prediction.frame_indices.reshape(-1, num_frames)]  # (clips, T, H, W, 3)
    views = [clip[:, :, left : left + 32] for left in OFFSETS[crop] for clip in clips]
    pixels = torch.from_numpy(np.stack(views)).permute(0, 4, 1, 2, 3).float()
    return (pixels - 127.5) / 63.75


@pytest.fixture
def recognizer(foreign_file: ForeignFile) -> Recognizer:
    return load_recognizer("test_ircsn", checkpoint_path=foreign_file("test_ircsn"))


# What can be recognised


def test_arrays_and_tensors(recognizer: Recognizer) -> None:
    prediction = recognizer(VIDEO)
    assert prediction.view_logits.shape == (1, 8)
    assert prediction.view_logits.dtype == prediction.scores.dtype == torch.float32
    again = recognizer(torch.from_numpy(VIDEO))
    assert torch.equal(prediction.view_logits, again.view_logits)
    assert not prediction.scores.requires_grad


def test_a_folder_of_frames(recognizer: Recognizer, tmp_path: Path) -> None:
    for number, frame in enumerate(VIDEO, start=1):
        with av.open(str(tmp_path / f"img_{number:05}.png"), "w", format="image2", options={"update": "1"}) as image:
            stream = image.add_stream("png", width=48, height=32, pix_fmt="rgb24")
            image.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            image.mux(stream.encode())
    for folder in (tmp_path, str(tmp_path)):
        assert torch.equal(recognizer(folder).view_logits, recognizer(VIDEO).view_logits)


def test_a_file(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, VIDEO)
    decoded = torch.stack([frame for _, frame in open_frames(path).read(range(40))])
    assert decoded.shape == VIDEO.shape
    assert torch.equal(recognizer(path).view_logits, recognizer(decoded).view_logits)
    assert recognizer(path).frame_indices.tolist() == recognizer(VIDEO).frame_indices.tolist()


@pytest.mark.parametrize(
    ("video", "error"),
    [
        (VIDEO.astype(np.float32), InvalidArgument),
        (VIDEO[0], InvalidArgument),
        (VIDEO[:0], InvalidArgument),
        (VIDEO.transpose(3, 0, 1, 2), InvalidArgument),
        (7, InvalidArgument),
        ("no/such/file.mp4", VideoError),
        (Path(__file__), VideoError),
        (Path(__file__).parent, VideoError),
    ],
)
def test_what_is_no_video(recognizer: Recognizer, video: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        recognizer(video)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1


# Views


@pytest.mark.parametrize(("crop", "num_clips"), [("center", 1), ("center", 3), ("three", 1), ("three", 4)])
def test_views_are_crops_outermost_then_clips(foreign_file: ForeignFile, crop: str, num_clips: int) -> None:
    path = foreign_file("test_ircsn")
    recognizer = load_recognizer("test_ircsn", checkpoint_path=path, crop=crop, num_clips=num_clips)  # type: ignore[arg-type]
    prediction = recognizer(VIDEO)
    assert len(prediction.frame_indices) == 8 * num_clips
    model = create_model("test_ircsn", checkpoint_path=path).eval()
    with torch.inference_mode():
        expected = model(expected_views(prediction, crop))
    assert prediction.view_logits.shape == (num_clips * len(OFFSETS[crop]), 8)
    torch.testing.assert_close(prediction.view_logits, expected)


def test_a_clip_holds_frames_at_the_stride_of_the_row(recognizer: Recognizer) -> None:
    # 8 frames, 2 apart, from the middle of 40: the first of the 25 possible starts is 0, the middle one 12
    assert recognizer(VIDEO).frame_indices.tolist() == list(range(12, 28, 2))


def test_the_network_sees_what_create_transform_gives(foreign_file: ForeignFile) -> None:
    path = foreign_file("test_tpn")
    model = create_model("test_tpn", checkpoint_path=path).eval()
    video = make_frames(21, 50, 70)
    with torch.inference_mode():
        expected = model(create_transform(model)(video))
    recognizer = load_recognizer("test_tpn", checkpoint_path=path, optimize=False)
    assert torch.equal(recognizer(video).view_logits, expected)


def test_ten_crops_of_another_size(foreign_file: ForeignFile) -> None:
    path = foreign_file("test_ircsn")
    recognizer = load_recognizer("test_ircsn", checkpoint_path=path, crop="ten", crop_size=24)
    assert recognizer.transform(VIDEO).shape == (10, 3, 8, 24, 24)
    assert recognizer(VIDEO).view_logits.shape == (10, 8)


def test_a_second_pass_adds_clips(foreign_file: ForeignFile) -> None:
    path = foreign_file("test_ircsn")
    recognizer = load_recognizer("test_ircsn", checkpoint_path=path, twice_sample=True, num_clips=2, crop="three")
    prediction = recognizer(VIDEO)
    assert prediction.frame_indices.reshape(4, 8)[:, 0].tolist() == [6, 18, 0, 12]
    assert prediction.view_logits.shape == (12, 8)


def test_segments_change_what_tsn_sees(foreign_file: ForeignFile) -> None:
    recognizer = load_recognizer("test_tsn", checkpoint_path=foreign_file("test_tsn"), num_segments=5)
    prediction = recognizer(VIDEO)
    assert prediction.frame_indices.tolist() == [4, 12, 20, 28, 36]
    assert prediction.view_logits.shape == (1, 8)


def test_segments_of_a_shifted_network_are_shifted_together() -> None:
    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        asked: dict[str, object] = {}

        def record(name: str, *_: object, **options: object) -> None:
            asked.update(options, name=name)
            raise Stop

        patch.setattr(predict, "create_model", record)
        with pytest.raises(Stop):
            load_recognizer("tsm_r50", checkpoint_path="file.pth", num_segments=16)
    assert (asked["name"], asked["num_segments"]) == ("tsm_r50", 16)


def test_center_mode_takes_one_view() -> None:
    entry = get_weights("ircsn_r152.ig65m_k400")
    full, center = create_transform(entry), create_transform(entry, "center")
    assert (full.views, center.views) == (entry.protocol.full, entry.protocol.center)
    assert (full.num_views(300), center.num_views(300)) == (30, 1)
    assert (full.exact, create_transform(entry, exact=False).exact) == (True, False)


def test_a_short_video_is_repeated(recognizer: Recognizer) -> None:
    prediction = recognizer(VIDEO[:3])
    assert set(prediction.frame_indices.tolist()) == {0, 1, 2}
    assert prediction.scores.isfinite().all()


# Averages and answers


@pytest.mark.parametrize("average", ["prob", "score", None])
def test_answers_are_averaged_as_the_row_says(foreign_file: ForeignFile, average: str | None) -> None:
    base = load_recognizer("test_ircsn", checkpoint_path=foreign_file("test_ircsn"), crop="three", num_clips=2)
    views = replace(base.transform.views, average_clips=average)  # type: ignore[arg-type]
    prediction = replace(base, transform=replace(base.transform, views=views))(VIDEO)
    logits = base(VIDEO).view_logits
    if average is None:
        assert prediction.view_logits.shape == (1, 8)
        torch.testing.assert_close(prediction.view_logits[0], logits.mean(dim=0))
        torch.testing.assert_close(prediction.scores, logits.mean(dim=0))
    else:
        assert torch.equal(prediction.view_logits, logits)
        answers = logits.softmax(dim=1) if average == "prob" else logits
        torch.testing.assert_close(prediction.scores, answers.mean(dim=0))
    assert prediction.average_clips == average
    torch.testing.assert_close(prediction.probabilities.sum(), torch.tensor(1.0))
    if average == "prob":
        assert torch.equal(prediction.probabilities, prediction.scores)
    else:
        torch.testing.assert_close(prediction.probabilities, prediction.scores.softmax(dim=0))


def test_tsn_averages_over_all_frames_of_all_crops(foreign_file: ForeignFile) -> None:
    path = foreign_file("test_tsn")
    prediction = load_recognizer("test_tsn", checkpoint_path=path, crop="three")(VIDEO)
    model = create_model("test_tsn", checkpoint_path=path).eval()
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(expected_views(prediction, "three")), pre_logits=True)
        expected = model.get_classifier()(features.mean(dim=0, keepdim=True))
    torch.testing.assert_close(prediction.view_logits, expected)
    assert torch.equal(prediction.scores, prediction.view_logits[0])


def test_the_best_classes_come_first(recognizer: Recognizer) -> None:
    prediction = recognizer(VIDEO)
    top = prediction.topk(3)
    order = prediction.scores.argsort(descending=True)[:3].tolist()
    assert top == [(MOTIONS[index], prediction.scores[index].item()) for index in order]
    assert [score for _, score in top] == sorted((score for _, score in top), reverse=True)
    assert len(prediction.topk(100)) == 8
    assert sorted(label for label, _ in prediction.topk(8)) == sorted(MOTIONS)
    assert prediction.labels == MOTIONS


def test_labels_of_a_file_with_other_classes(foreign_file: ForeignFile) -> None:
    path = foreign_file("test_ircsn", 10)
    with pytest.raises(CheckpointMismatch, match="has 10 classes"):
        load_recognizer("test_ircsn", checkpoint_path=path)
    assert load_recognizer("test_ircsn", checkpoint_path=path, num_classes=10).labels[9] == "class 9"
    names = tuple("abcdefghij")
    named = load_recognizer("test_ircsn", checkpoint_path=path, num_classes=10, class_names=names)
    assert named(VIDEO).topk(1)[0][0] in names
    with pytest.raises(InvalidArgument, match="3 class names for 10 classes"):
        load_recognizer("test_ircsn", checkpoint_path=path, num_classes=10, class_names=names[:3])


def test_chunks_do_not_change_the_answer(foreign_file: ForeignFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign_file("test_ircsn")
    recognizer = load_recognizer("test_ircsn", checkpoint_path=path, crop="three", num_clips=5)
    sizes: list[int] = []
    recognizer.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = recognizer(VIDEO)
    assert sizes == [15]
    one_view = 64 * 8 * 16 * 16 * 4  # bytes of its largest map, 64 channels at half the size
    monkeypatch.setattr(predict, "CHUNK_BYTES", 4 * one_view)
    chunked = recognizer(VIDEO)
    assert sizes == [15, 4, 4, 4, 3]
    monkeypatch.setattr(predict, "CHUNK_BYTES", 1)
    single = recognizer(VIDEO)
    assert sizes[5:] == [1] * 15
    for other in (chunked, single):
        torch.testing.assert_close(other.view_logits, whole.view_logits)


# Several videos


@dataclass
class Frames:
    """A source that counts its passes and its frames, of which it has more than it says."""

    num_passes: int = 0
    num_read: int = 0
    num_frames: int = 40
    most: int = 40

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        self.num_passes += 1
        assert list(wanted) == sorted(set(wanted))
        for number in range(self.most):
            if self.most > len(VIDEO) or number in wanted:
                self.num_read += 1
                yield number, torch.from_numpy(VIDEO[number % len(VIDEO)])


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Frames]:
    """What "0", "1" ... are opened as."""
    found = [Frames() for _ in range(5)]
    monkeypatch.setattr(ahead, "open_frames", lambda name: found[int(name)])
    return found


def test_a_stream_answers_as_calls_do(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, VIDEO)
    first, second, third, fourth = recognizer.recognise_all([path, __file__, VIDEO[:20], "none.mp4"])
    assert isinstance(first, Prediction) and isinstance(third, Prediction)
    assert torch.equal(first.view_logits, recognizer(path).view_logits)
    assert torch.equal(third.view_logits, recognizer(VIDEO[:20]).view_logits)
    assert isinstance(second, VideoError) and __file__ in str(second)
    assert isinstance(fourth, VideoError) and "none.mp4" in str(fourth)
    assert list(recognizer.recognise_all([])) == []


def test_what_is_no_video_stops_a_stream_in_its_turn(recognizer: Recognizer) -> None:
    stream = recognizer.recognise_all([VIDEO, VIDEO[0]])
    assert isinstance(next(stream), Prediction)
    with pytest.raises(InvalidArgument, match=r"\(T, H, W, 3\)"):
        next(stream)


def test_a_video_is_decoded_in_one_pass_for_all_its_views(foreign_file: ForeignFile, sources: list[Frames]) -> None:
    path = foreign_file("test_ircsn")
    recognizer = load_recognizer("test_ircsn", checkpoint_path=path, crop="three", num_clips=10)
    (prediction,) = recognizer.recognise_all(["0"])
    assert isinstance(prediction, Prediction)
    assert len(prediction.view_logits) == 30
    assert sources[0].num_passes == 1
    assert sources[0].num_read == len(set(prediction.frame_indices.tolist())) < 80


def test_frames_of_two_videos_are_in_memory_at_most(
    recognizer: Recognizer, sources: list[Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[weakref.ref[Tensor]] = []
    sample = ViewTransform.sample

    def record(*arguments: Any) -> SampledVideo:
        found = sample(*arguments)
        sampled.append(weakref.ref(found.frames[0]))
        return found

    monkeypatch.setattr(ViewTransform, "sample", record)
    asked: list[str] = []
    for number, _ in enumerate(recognizer.recognise_all(asked.append(name) or name for name in "01234")):
        assert len(asked) <= number + 2
        assert sum(frame() is not None for frame in sampled) <= 2
    assert len(sampled) == len(asked) == 5


def test_who_leaves_a_stream_early_waits_for_no_whole_video(recognizer: Recognizer, sources: list[Frames]) -> None:
    sources[1].most = 1_000_000
    others = threading.enumerate()
    stream = recognizer.recognise_all("01")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert sources[1].num_read < 1_000_000
    assert set(threading.enumerate()) <= set(others)


def test_the_parts_of_a_call_are_told(recognizer: Recognizer) -> None:
    started = time.perf_counter()
    seconds = recognizer(VIDEO).seconds
    assert seconds.keys() == {"decode", "resize", "normalise", "network", "rest"}
    assert 0 < sum(seconds.values()) <= time.perf_counter() - started
    assert min(seconds.values()) > 0


def test_a_stopwatch_books_every_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch.on("outer"):  # from 0
        with watch.on("inner"):  # 10 to 20
            pass
        for _ in watch.each("items", "ab"):  # 30 to 40, 70 to 80, 110 to 120
            with pytest.raises(ZeroDivisionError), watch.on("inner"):  # 50 to 60 the first time
                raise ZeroDivisionError
    assert sum(watch.seconds.values()) == next(clock) - 10
    assert watch.seconds == {"outer": 70, "inner": 30, "items": 30}


# What cannot be


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("test_ircsn", {"num_segments": 4}, InvalidArgument, "num_clips says how many"),
        ("test_ircsn", {"num_clips": 0}, InvalidArgument, "num_clips"),
        (
            "test_ircsn",
            {"crop": "five"},
            InvalidArgument,
            "'center', 'three' or 'ten'|\"center\", \"three\" or \"ten\"",
        ),
        ("test_ircsn", {"crop_size": 33}, InvalidArgument, "does not fit"),
        ("test_ircsn", {"crop_size": 0}, InvalidArgument, "does not fit"),
        ("test_ircsn", {"crop": "three", "crop_size": 24}, InvalidArgument, "three crops need"),
        ("test_ircsn", {"mode": "centre"}, InvalidArgument, "'full' and 'center'"),
        ("test_tsn", {"num_clips": 3}, InvalidArgument, "num_clips"),
        ("test_tsn", {"num_segments": 0}, InvalidArgument, "must be at least 1, got 0"),
    ],
)
def test_impossible_views_are_refused_before_any_video(
    name: str, options: dict[str, object], error: type[Exception], message: str, foreign_file: ForeignFile
) -> None:
    with pytest.raises(error, match=message):
        load_recognizer(name, checkpoint_path=foreign_file(name), **options)  # type: ignore[arg-type]


def test_names_that_are_none() -> None:
    with pytest.raises(UnknownModel, match="ircsn_r50"):
        load_recognizer("ircsn_r51")
    with pytest.raises(UnknownWeights, match="its tags are"):
        load_recognizer("ircsn_r50", pretrained="k600")
    with pytest.raises(NoSource, match="never published"):
        load_recognizer("tsn_r50.imagenet_k400_eval3")


def test_a_network_of_another_making_has_no_transform() -> None:
    model = create_model("test_tsn")
    model.pretrained_cfg = {}
    with pytest.raises(InvalidArgument, match="create_model"):
        create_transform(model)


# Equal to the original


def test_tpn_on_a_synthetic_video_answers_as_mmaction2(tmp_path: Path) -> None:
    """The whole way: published names, foreign file, 48 frames in six views; figures of the original implementation."""
    filling = pytest.importorskip("filling")
    from videozoo.checkpoints.keymap import foreign_names
    from videozoo.checkpoints.mmaction2 import MMACTION2

    golden = json.loads((Path(__file__).parent / "goldens" / "e2e_tpn_tsm_synth.json").read_text())
    with torch.device("meta"):
        places = create_model("tpn_tsm_r50", aux_head=True).state_dict()
    names = foreign_names(MMACTION2.tables["tpn"], places)
    state = OrderedDict(
        (name, torch.from_numpy(filling.fill(name, tuple(places[ours].shape), str(places[ours].dtype)[6:])))
        for ours, name in names.items()
    )
    path = tmp_path / "tpn.pth"
    torch.save({"meta": {}, "state_dict": state}, path)
    prediction = load_recognizer("tpn_tsm_r50", checkpoint_path=path)(make_frames(*golden["frames"]))
    assert prediction.frame_indices.tolist() == golden["frame_indices"]
    expected = torch.tensor(golden["view_logits"])
    torch.testing.assert_close(prediction.view_logits, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(prediction.scores, torch.tensor(golden["scores"]), atol=1e-6, rtol=0)
    assert prediction.scores.topk(5).indices.tolist() == golden["top5"]


def test_an_original_file_is_fed_as_the_row_that_its_digest_names(
    foreign_file: ForeignFile, edit_manifest: Callable[..., None]
) -> None:
    path = foreign_file("ircsn_r50")
    assert create_model("ircsn_r50", checkpoint_path=path).pretrained_cfg["tag"] is None
    edit_manifest("ircsn_r50.k400", sha256_prefix=hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert create_model("ircsn_r50", checkpoint_path=path).pretrained_cfg["tag"] == "k400"
