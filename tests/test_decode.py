"""Frames of files that PyAV writes here, of folders and of arrays; and what is said of those that cannot be read."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from av.video.reformatter import Colorspace
from numpy.typing import NDArray
from synthetic_frames import make_frames, write_images
from torch import Tensor

from videozoo.errors import InvalidArgument, VideoError
from videozoo.manifest import Input, Views
from videozoo.video.decode import FewerFramesError, open_frames
from videozoo.video.views import ViewTransform

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 24
TRANSFORM = ViewTransform(
    Views("clips", 4, 2, 3, False, short_side=32, crop="three", crop_size=32, average_clips="prob"),
    Input(mean=(120.0, 120.0, 120.0), std=(60.0, 60.0, 60.0)),
)


def clip(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Frames whose mean brightness rises with their number, so that a lossy codec cannot hide which one it is."""
    level = np.linspace(40, 220, num_frames)[:, None, None, None]
    return (level + (make_frames(num_frames, height, width) - 128.0) / 8).clip(0, 255).astype(np.uint8)


def write_video(path: Path, *streams: NDArray[np.uint8], codec: str = "mpeg4", front: bool = True) -> Path:
    """A file with one video stream per clip, the last of them marked as the default one.

    ``front`` puts an mp4's table of frames before the frames.
    """
    options = {"movflags": "faststart"} if front and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        outputs = []
        for frames in streams:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.bit_rate = 2_000_000
            stream.disposition = Disposition.default.value if frames is streams[-1] else 0
            outputs.append(stream)
        for stream, frames in zip(outputs, streams, strict=True):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return path


def write_sound(path: Path, *, cover: bool = False) -> Path:
    """A second of silence, with or without a cover picture, which FFmpeg takes for a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=10)
            picture.height, picture.width, picture.pix_fmt = HEIGHT, WIDTH, "yuvj444p"
            picture.disposition = Disposition.attached_pic.value
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
        if cover:
            image = av.VideoFrame.from_ndarray(clip(1)[0], format="rgb24").reformat(format="yuvj444p")
            container.mux(picture.encode(image))
            container.mux(picture.encode())
    return path


def every_frame(source: object) -> Tensor:
    frames = open_frames(source)
    pairs = list(frames.read(range(frames.num_frames)))
    assert [index for index, _ in pairs] == list(range(frames.num_frames))
    return torch.stack([frame for _, frame in pairs])


def assert_alike(frames: Tensor, expected: NDArray[np.uint8]) -> None:
    assert frames.dtype == torch.uint8
    assert tuple(frames.shape) == expected.shape
    assert np.abs(frames.numpy().astype(int) - expected).mean() < 4  # a neighbouring frame is 8 levels away


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", clip())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_all_frames_of_a_file_are_read_in_order(suffix: str, tmp_path: Path) -> None:
    """Matroska announces no number of frames: its packets are counted."""
    assert_alike(every_frame(write_video(tmp_path / f"clip{suffix}", clip())), clip())


@pytest.mark.parametrize("as_type", [str, Path])
def test_wanted_frames_are_those_of_the_full_pass(video: Path, as_type: type) -> None:
    frames = every_frame(video)
    source = open_frames(as_type(video))
    read = list(source.read([17, 3, 4, 3]))
    assert [index for index, _ in read] == [3, 4, 17]
    assert all(torch.equal(frame, frames[index]) for index, frame in read)


def test_frames_equal_those_of_a_single_threaded_pass(video: Path) -> None:
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "NONE"
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.array_equal(every_frame(video).numpy(), expected)


@pytest.mark.parametrize(("matrix", "number"), [(Colorspace.ITU709, 1), (Colorspace.ITU601, 6)])
def test_colours_follow_the_matrix_that_the_stream_names(matrix: Colorspace, number: int, tmp_path: Path) -> None:
    """The wrong one of the two would move these colours by more than 10 levels."""
    colour = np.array([40, 180, 60], dtype=np.uint8)
    image = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (HEIGHT, WIDTH, 3)).copy(), format="rgb24")
    file = tmp_path / "colour.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT, WIDTH, "yuv420p", 2_000_000
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = number
        container.mux(stream.encode(image.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode())
    assert np.abs(every_frame(file).numpy().astype(int) - colour).max() <= 5


def test_the_stream_is_the_one_that_ffmpeg_would_choose(tmp_path: Path) -> None:
    small, large = clip(30), clip(height=96, width=128)
    assert_alike(every_frame(write_video(tmp_path / "two.mp4", small, large)), large)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1), ((1, 0, 0, 1), 0)],
)
def test_a_turned_recording_is_set_upright(
    video: Path, tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    """The matrix takes (x, y) to (a x + c y, b x + d y), y pointing down; turns are counterclockwise quarters."""
    data = video.read_bytes()
    plain, turned = (struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
                     for a, b, c, d in ((1, 0, 0, 1), matrix))  # fmt: skip
    at = data.index(plain, data.index(b"tkhd"))
    file = tmp_path / "turned.mp4"
    file.write_bytes(data[:at] + turned + data[at + len(turned) :])
    assert torch.equal(every_frame(file), every_frame(video).rot90(turns, dims=(1, 2)))


def test_a_file_cut_short_is_sampled_on_the_frames_that_it_holds(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    file = tmp_path / "cut.mp4"
    file.write_bytes(data[: len(data) * 6 // 10])
    source = open_frames(file)
    assert source.num_frames == NUM_FRAMES
    with pytest.raises(FewerFramesError, match=f"announces {NUM_FRAMES} frames and holds"):
        list(source.read(range(NUM_FRAMES)))
    assert 4 < source.num_frames < NUM_FRAMES

    sampled = TRANSFORM.sample(open_frames(file))
    assert sampled.frame_indices.tolist() == TRANSFORM.frame_indices(source.num_frames).tolist()
    assert len(TRANSFORM(file)) == TRANSFORM.num_views(source.num_frames)


def test_frames_of_differing_size_are_each_resized(tmp_path: Path) -> None:
    """Two recordings of different sizes, one behind the other, as a transport stream may hold them."""
    wide, tall = clip(6), clip(6, 64, 32)
    parts = [write_video(tmp_path / f"{number}.ts", frames) for number, frames in enumerate((wide, tall))]
    file = tmp_path / "both.ts"
    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_frames(file)
    sizes = [tuple(frame.shape[:2]) for _, frame in source.read(range(source.num_frames))]
    assert sizes == [(48, 64)] * 6 + [(64, 32)] * 6
    assert TRANSFORM(file).shape == (9, 3, 4, 32, 32)


@pytest.fixture
def broken(tmp_path: Path, video: Path) -> dict[str, Path]:
    """Files and folders that hold no video, by what is wrong with them."""
    whole = video.read_bytes()
    start = whole.index(b"mdat") + 4
    late = write_video(tmp_path / "late.mp4", clip(), front=False).read_bytes()
    contents = {
        "empty": b"",
        "text": b"This is no video.\n" * 40,
        "random": np.random.default_rng(0).bytes(4000),
        "cut": late[: len(late) // 2],
        "zeroed": whole[:start] + bytes(len(whole) - start),
        "damaged": whole[: len(whole) // 2] + bytes(len(whole) // 2),
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    }
    files = {name: tmp_path / f"{name}.mp4" for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(content)
    files["sound"] = write_sound(tmp_path / "sound.mp4")
    files["song"] = write_sound(tmp_path / "song.mp4", cover=True)
    files["undecodable"] = tmp_path / "undecodable.avi"
    avi = write_video(files["undecodable"], clip()).read_bytes()
    files["undecodable"].write_bytes(avi.replace(b"FMP4", b"zzzz"))
    files["missing"] = tmp_path / "missing.mp4"
    files["folder"] = tmp_path / "folder"
    files["folder"].mkdir()
    return files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no such file or folder"),
        ("folder", "holds no frames: expected images such as img_00001.jpg"),
        ("empty", "is not a video that can be read"),
        ("text", "is not a video that can be read"),
        ("random", "is not a video that can be read"),
        ("cut", "is not a video that can be read"),
        ("playlist", "is not a video that can be read"),
        ("sound", "has no video stream"),
        ("song", "has no video stream"),
        ("zeroed", "is damaged"),
        ("undecodable", "no decoder for its video stream"),
        ("damaged", "decoding stopped after [1-9][0-9]* frames"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    broken: dict[str, Path], capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    with pytest.raises(VideoError, match=message) as caught:
        TRANSFORM.sample(open_frames(broken[name]))
    assert str(broken[name]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # nothing of FFmpeg's own complaints


def test_metadata_in_an_unknown_encoding_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf\u00e9"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for pixels in clip(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    written = path.read_bytes()
    assert "caf\u00e9".encode() in written
    path.write_bytes(written.replace("\u00e9".encode(), b"\xe9\xe8"))
    assert len(every_frame(path)) == 4


@pytest.mark.parametrize(
    "template",
    ["img_{:05d}.png", "img_{:05d}.jpg", "{:04d}.JPEG", "take2_{}.png", "image-{:03d}.jpeg"],
)
def test_a_folder_of_numbered_images_is_a_video(template: str, tmp_path: Path) -> None:
    names = [template.format(number) for number in range(1, 13)]
    frames = every_frame(write_images(tmp_path / "frames", names, clip(12)))
    if template.endswith("png"):
        assert np.array_equal(frames.numpy(), clip(12))
    else:
        assert_alike(frames, clip(12))


def test_a_folder_and_its_array_give_the_same_views(tmp_path: Path) -> None:
    frames = clip(12)
    folder = write_images(tmp_path / "frames", [f"img_{number:05d}.png" for number in range(1, 13)], frames)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._img_00001.png").write_bytes(b"left by another system")
    assert torch.equal(TRANSFORM(folder), TRANSFORM(frames))


def test_optical_flow_beside_the_frames_is_left_alone(tmp_path: Path) -> None:
    frames = clip(3)
    names = [f"img_{number:05d}.png" for number in (1, 2, 3)]
    folder = write_images(tmp_path / "frames", names, frames)
    write_images(folder, [f"flow_{axis}_00001.png" for axis in "xy"], frames[:2])
    assert np.array_equal(every_frame(folder).numpy(), frames)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["img_00001.png", "img_00003.png"], "lacks frame 2: its 2 images are numbered 1 to 3"),
        (["img_00002.png", "img_00003.png"], "lacks frame 1"),
        (["img_1.png", "img_01.png"], "holds frame 1 twice"),
        (["a_1.png", "b_1.png"], "holds 2 series of images"),
        (["cover.png"], "holds no frames"),
    ],
)
def test_folders_that_are_no_video_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", names, clip(len(names)))
    with pytest.raises(VideoError, match=message):
        open_frames(folder)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", ["img_00001.png", "img_00002.png"], clip(2))
    (folder / "img_00002.png").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"img_00002\.png is not a readable image") as caught:
        every_frame(folder)
    assert "\n" not in str(caught.value)


ARRAYS = {
    "array": clip(5),
    "tensor": torch.from_numpy(clip(5)),
    "read-only": np.broadcast_to(clip(5), (5, HEIGHT, WIDTH, 3)),
    "negative strides": np.ascontiguousarray(clip(5)[::-1, ::-1])[::-1, ::-1],
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_an_array_is_a_video(array: NDArray[np.uint8] | Tensor) -> None:
    assert np.array_equal(every_frame(array).numpy(), clip(5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 8, 8, 3)), r"got float64 \(2, 8, 8, 3\)"),
        (torch.zeros(2, 8, 8, 3), r"got float32 \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), dtype=np.uint8), r"got uint8 \(8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), dtype=np.uint8), r"got uint8 \(2, 3, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), dtype=np.uint8), r"got uint8 \(0, 8, 8, 3\)"),
        ([1, 2, 3], "got list"),
    ],
)
def test_other_arrays_are_refused_with_what_they_are(source: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        open_frames(source)
