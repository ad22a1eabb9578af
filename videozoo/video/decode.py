"""Frames of a video file, of a folder of images or of an array, as uint8 tensors (H, W, 3) in the order R, G, B."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from videozoo.errors import InvalidArgument, VideoError, reason

_TOLERANT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
"""Metadata in an unknown encoding does not matter. (PyAV 19 reads none before it is asked for.)"""


_MARGIN_PIXELS = 256 * 256


class FewerFramesError(VideoError):
    """A file that holds fewer frames than it announced; the source's ``num_frames`` is the true count from now on."""


@runtime_checkable
class FrameSource(Protocol):
    """Numbered frames, 0 to ``num_frames - 1``."""

    @property
    def num_frames(self) -> int:
        """Frames that the source holds, or announces as long as they have not been decoded; at least 1."""
        ...

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Each distinct wanted index with its frame, uint8 (H, W, 3), in ascending order.

        Raises:
            FewerFramesError: a wanted frame does not exist; choose anew among the ``num_frames`` that do.
            VideoError: the frames cannot be decoded.
        """
        ...


def open_frames(source: str | os.PathLike[str] | NDArray[np.uint8] | Tensor | FrameSource) -> FrameSource:
    """The frames of a video file, of a folder of numbered images, or of a uint8 array (T, H, W, 3).

    What is a `FrameSource` already stays as it is.

    Raises:
        VideoError: nothing lies at the path, it cannot be looked at, or it is neither a video nor a folder of frames.
        InvalidArgument: an array of another shape or type, or something that is neither array nor path.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return ArrayFrames(source)
    if isinstance(source, FrameSource):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidArgument(f"a video is a path or a uint8 array (T, H, W, 3), got {type(source).__name__}")
    path = Path(source)
    return FrameFolder(path) if stat.S_ISDIR(_mode(path)) else VideoFile(path)


def _mode(path: Path) -> int:
    """What lies at a path: a folder or a regular file, for anything else, such as a pipe, may keep its reader for ever.

    Raises:
        VideoError: nothing, something else, or it cannot be found out.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(f"no video at {path}: there is no such file or folder") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise VideoError(f"{path} cannot be opened: {reason(error)}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise VideoError(f"{path} is neither a file nor a folder")
    return mode


class ArrayFrames:
    """Frames of an array or tensor, uint8 (T, H, W, 3)."""

    def __init__(self, array: NDArray[np.uint8] | Tensor) -> None:
        """Raises InvalidArgument for another shape or type, and for an empty axis."""
        shape, dtype = tuple(array.shape), str(array.dtype).removeprefix("torch.")
        if dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise InvalidArgument(
                f"a video array must be uint8 of shape (T, H, W, 3), none of them 0, got {dtype} {shape}"
            )
        self._array = array

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self._array)

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """See :class:`FrameSource`."""
        for index in _distinct(wanted):
            frame = self._array[index]
            # The copy makes any strides and a read-only array acceptable to torch.
            yield index, frame.cpu() if isinstance(frame, Tensor) else torch.from_numpy(np.array(frame, order="C"))


_FRAME_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)


class FrameFolder:
    """Frames of a folder of images such as ``img_00001.jpg``: one prefix, and numbers without a gap from 1 (or 0) on.

    Where a folder also holds optical flow (``flow_x_00001.jpg``), the files that begin with ``img_`` are the frames.
    """

    def __init__(self, folder: Path, *, template: str | None = None, num_frames: int | None = None) -> None:
        """The images of a folder.

        Args:
            folder: where they lie.
            template: their names, such as ``img_{:05}.jpg``, from 1 (or 0) on; None finds them.
            num_frames: how many of them are the video, from the first; None means all.

        Raises:
            VideoError: a folder without such images, with several series of them, with a gap, or with too few.
        """
        files = _numbered_images(folder) if template is None else _images_of(folder, template)
        if num_frames is not None and not 1 <= num_frames <= len(files):
            raise VideoError(f"{folder} holds {len(files)} frames, not the {num_frames} that were announced")
        self._files = files[:num_frames]

    @property
    def num_frames(self) -> int:
        """Number of images."""
        return len(self._files)

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """See :class:`FrameSource`."""
        for index in _distinct(wanted):
            yield index, _read_image(self._files[index])


def _numbered_images(folder: Path) -> list[Path]:
    series: dict[str, dict[int, Path]] = {}
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise VideoError(f"{folder} cannot be read: {reason(error)}") from error
    for file in names:
        match = _FRAME_NAME.fullmatch(file.name)
        if match is None or file.name.startswith("."):
            continue
        numbered = series.setdefault(match["prefix"], {})
        number = int(match["number"])
        if number in numbered:
            raise VideoError(f"{folder} holds frame {number} twice: {numbered[number].name} and {file.name}")
        numbered[number] = file
    if not series:
        raise VideoError(f"{folder} holds no frames: expected images such as img_00001.jpg (jpg, jpeg or png)")
    if len(series) > 1 and "img_" not in series:
        examples = ", ".join(repr(next(iter(numbered.values())).name) for numbered in series.values())
        raise VideoError(f"{folder} holds {len(series)} series of images ({examples}); keep one of them in the folder")
    files = series["img_"] if len(series) > 1 else next(iter(series.values()))
    first = 0 if 0 in files else 1
    missing = next((number for number in range(first, first + len(files)) if number not in files), None)
    if missing is not None:
        raise VideoError(
            f"{folder} lacks frame {missing}: its {len(files)} images are numbered {min(files)} to {max(files)}"
        )
    return [files[number] for number in sorted(files)]


def _images_of(folder: Path, template: str) -> list[Path]:
    try:
        names = {file.name for file in folder.iterdir()}
    except OSError as error:
        raise VideoError(f"{folder} cannot be read: {reason(error)}") from error
    first = 0 if template.format(0) in names else 1
    files: list[Path] = []
    while (name := template.format(first + len(files))) in names:
        files.append(folder / name)
    if not files:
        raise VideoError(f"{folder} holds no frame {template.format(1)}")
    return files


def _read_image(path: Path) -> Tensor:
    from torchvision.io import ImageReadMode, decode_image

    if os.path.exists(path) and not os.path.isfile(path):  # a pipe may keep its reader for ever
        raise VideoError(f"{path} is not a readable image: it is no file")
    try:
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        with warnings.catch_warnings():
            # torchvision 0.29 announces its image readers' removal to whoever calls them; that is not the user.
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise VideoError(f"{path} is not a readable image: {reason(error)}") from error
    if image.dtype != torch.uint8:
        raise VideoError(f"{path} has more than 8 bits per sample; convert it to 8 bits")
    return image.permute(1, 2, 0).contiguous()


class VideoFile:
    """Frames of the video stream that FFmpeg itself would choose, turned upright where the file asks for it."""

    def __init__(self, path: Path, *, max_pixels: int | None = None) -> None:
        """Open the file and decode nothing.

        Args:
            path: the file.
            max_pixels: frames of more than twice as many are damage, found before they are allocated; None means any
                size.

        Raises:
            VideoError: the file is not a video, has no video stream, or holds no frame.
        """
        self._path = path
        self._max_pixels = max_pixels
        self.num_threads = 0
        """Threads that decode; 0 means as FFmpeg likes, one more than there are processors or so."""
        with _opened(path) as (container, stream):
            # Some containers announce no number: counting packets reads the file but decodes nothing.
            self._num_frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            rate = stream.average_rate or stream.guessed_rate
            self.frame_rate = None if not rate else float(rate)
            """Frames a second on average, as the file says; None where it does not."""
        if self._num_frames < 1:
            raise VideoError(f"{path} holds no frames")

    @property
    def num_frames(self) -> int:
        """Frames that the file announces; the true count once a ``read`` has found fewer."""
        return self._num_frames

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """One pass from the first frame to the last wanted one; see :class:`FrameSource`."""
        targets = iter(_distinct(wanted))
        target = next(targets, None)
        num_decoded = 0
        with _opened(self._path) as (container, stream):
            stream.thread_type, stream.thread_count = "AUTO", self.num_threads
            if self._max_pixels is not None:
                # FFmpeg counts the margins that a decoder asks for
                stream.codec_context.options = {"max_pixels": str(2 * self._max_pixels + _MARGIN_PIXELS)}
            frames = _decoded(container, stream, self._path)
            while target is not None and (frame := next(frames, None)) is not None:
                if num_decoded == target:
                    yield target, _upright(frame)
                    target = next(targets, None)
                num_decoded += 1
        if target is not None:
            announced, self._num_frames = self._num_frames, num_decoded
            raise FewerFramesError(
                f"{self._path} announces {announced} frames and holds {num_decoded}; choose among those that it holds"
            )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        # "file:" keeps FFmpeg from taking a name such as "a:b.mp4" for a protocol. A playlist inside the file opens no
        # connection.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, **_TOLERANT) as container:
            stream = container.streams.best("video")
            # The cover picture of a song counts as a video stream in FFmpeg.
            if not isinstance(stream, VideoStream) or Disposition.attached_pic in stream.disposition:
                raise VideoError(f"{path} has no video stream")
            if stream.codec_context is None:
                raise VideoError(f"{path} cannot be decoded: PyAV has no decoder for its video stream; encode it anew")
            yield container, stream
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{path} is not a video that can be read: {reason(error)}") from error


def _decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    num_decoded = 0
    try:
        for frame in container.decode(stream):
            yield frame
            num_decoded += 1
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"{path} is damaged: decoding stopped after {num_decoded} frames ({reason(error)})") from error
    if num_decoded == 0:
        raise VideoError(f"{path} is damaged: none of its frames can be decoded")


def _upright(frame: VideoFrame) -> Tensor:
    """The frame as R, G, B, with the colour matrix that the stream names, turned counterclockwise as it asks."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    quarters, rest = divmod(frame.rotation, 90)
    if rest or quarters % 4 == 0:
        return pixels
    return torch.rot90(pixels, quarters, dims=(0, 1)).contiguous()


def _distinct(wanted: Sequence[int]) -> list[int]:
    return sorted({int(index) for index in wanted})
