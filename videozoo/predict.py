"""From a video to scores with labels: a network, its preprocessing and its class names as one callable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from videozoo import labels, manifest, registry
from videozoo.errors import InvalidArgument, VideoError
from videozoo.inference import optimize_for_inference
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Average, Crop, Entry, Protocol, Views
from videozoo.model_folder import architecture_of
from videozoo.models import create_model
from videozoo.pretrained import StrPath
from videozoo.stopwatch import Stopwatch
from videozoo.video.ahead import Video, sample_ahead
from videozoo.video.decode import open_frames
from videozoo.video.views import SampledVideo, ViewTransform

Mode = Literal["full", "center"]

CHUNK_BYTES = 200_000_000
"""Size of the largest feature map that one chunk of views may need; the peak is four to five times that."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video."""

    scores: Tensor
    """(num_classes,) float32: the views' answers averaged as the row says. Logits where it says None or ``score``."""
    view_logits: Tensor
    """(views, num_classes) float32, crops outermost, then clips; one row where the network averages over all frames."""
    frame_indices: NDArray[np.int64]
    """(clips * T,) 0-based numbers of the frames that were seen, clip after clip."""
    labels: tuple[str, ...]
    """Class names in class order."""
    average_clips: Average | None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Wall time of ``decode``, ``resize``, ``normalise`` (crops included), ``network`` and the ``rest``: all of a call.
    In a stream, decoding and resizing ran beside the network's work on the video before."""

    @property
    def probabilities(self) -> Tensor:
        """(num_classes,) float32 that sum to 1: the scores, through a softmax where they are logits."""
        return self.scores if self.average_clips == "prob" else self.scores.softmax(dim=0)

    def topk(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` best (label, score) pairs, best first; all of them where there are fewer classes.

        Raises:
            InvalidArgument: ``k`` is below 1.
        """
        if k < 1:
            raise InvalidArgument(f"k={k}: at least 1")
        values, indices = self.scores.topk(min(k, len(self.scores)))
        return [(self.labels[index], value) for value, index in zip(values.tolist(), indices.tolist(), strict=True)]


@dataclass(frozen=True)
class Recognizer:
    """A network with its preprocessing and its labels."""

    model: VideoModel
    transform: ViewTransform
    labels: tuple[str, ...]

    def __call__(self, video: Video, *, progress: bool = False) -> Prediction:
        """Recognise the action in one video.

        Args:
            video: a video file, a folder of numbered images, or a uint8 array (T, H, W, 3) in the order R, G, B.
            progress: draw a bar over the views on stderr, if that is a terminal.

        Raises:
            VideoError: the video cannot be decoded.
            InvalidArgument: an array of another shape or type.
        """
        watch = Stopwatch()
        with watch.on("rest"):
            sampled = self.transform.sample(open_frames(video), watch)
        return self._recognise(sampled, watch, progress)

    def stream(self, videos: Iterable[Video], *, progress: bool = False) -> Iterator[Prediction | VideoError]:
        """Recognise the action in each of several videos; a thread decodes the next one meanwhile.

        The frames of two videos are in memory at most; 10 clips of 32 frames of 341 x 256 pixels are 84 MB.

        Args:
            videos: each as in a call; read one ahead.
            progress: as in a call.

        Returns:
            For each video its prediction, or, where it cannot be decoded, the error.

        Raises:
            InvalidArgument: something that is no video, in its turn.
        """
        for sampled, watch in sample_ahead(self.transform, videos):
            yield sampled if isinstance(sampled, VideoError) else self._recognise(sampled, watch, progress)

    def _recognise(self, sampled: SampledVideo, watch: Stopwatch, progress: bool) -> Prediction:
        views = self.transform.views
        device = next(self.model.parameters()).device
        num_views = self.transform.num_views(len(sampled.positions))
        chunks = self.transform.clips(
            sampled, chunk_size=views_per_chunk(views), channels_last=self.model.for_inference
        )
        rows: list[Tensor] = []
        with (
            watch.on("rest"),
            torch.inference_mode(),
            tqdm(total=num_views, unit="view", disable=None if progress else True, leave=False) as bar,
        ):
            for clips in watch.each("normalise", chunks):
                with watch.on("network"):
                    rows.append(self.model(clips.to(device)).float().cpu())
                bar.update(len(clips))
            view_logits = torch.cat(rows)
            if views.average_clips is None:
                view_logits = view_logits.mean(dim=0, keepdim=True)
            answers = view_logits.softmax(dim=1) if views.average_clips == "prob" else view_logits
            scores = answers.mean(dim=0)
        return Prediction(scores, view_logits, sampled.frame_indices, self.labels, views.average_clips, watch.seconds)


def views_per_chunk(views: Views) -> int:
    """How many views to give to the network at once, judged by the stem's output: 64 channels at half the size."""
    stem_bytes = 64 * views.num_frames * (views.crop_size // 2) ** 2 * 4
    return max(1, CHUNK_BYTES // stem_bytes)


def create_transform(source: VideoModel | Entry, mode: Mode = "full", *, exact: bool = True) -> ViewTransform:
    """The preprocessing that belongs to weights: sampling, resize, crops, normalisation.

    Args:
        source: a network of the zoo, or a row of the manifest (`get_weights`).
        mode: ``"full"``, all views of the published protocol, or ``"center"``, one view.
        exact: resize as OpenCV does, to the bit; False is faster and may differ by one level of 255.

    Returns:
        A callable from a video to float32 (views, 3, T, H, W).

    Raises:
        InvalidArgument: a mode of another name, or a network that was not built by the zoo.
    """
    protocol = protocol_of(source)
    if mode not in ("full", "center"):
        raise InvalidArgument(f"mode={mode!r}: there are 'full' and 'center'")
    return ViewTransform(protocol.full if mode == "full" else protocol.center, protocol.input, exact=exact)


def protocol_of(source: VideoModel | Entry) -> Protocol:
    """How weights, or a network without them, are fed.

    Raises:
        InvalidArgument: a network that was not built by the zoo.
    """
    if isinstance(source, Entry):
        return source.protocol
    if not isinstance(source, VideoModel):
        raise InvalidArgument(f"{source!r} is neither a network nor a manifest row: `get_weights` finds a row by name")
    own = source.pretrained_cfg.get("protocol")
    if isinstance(own, Protocol):
        return own
    name, tag = source.pretrained_cfg.get("architecture"), source.pretrained_cfg.get("tag")
    if name is None:
        raise InvalidArgument("this network has no pretrained_cfg: build it with create_model, or give a manifest row")
    return registry.architecture(name).protocol if tag is None else registry.get_weights(f"{name}.{tag}").protocol


def load_recognizer(
    name: str,
    *,
    pretrained: bool | str = True,
    checkpoint_path: StrPath | None = None,
    num_clips: int | None = None,
    num_segments: int | None = None,
    crop: Crop | None = None,
    crop_size: int | None = None,
    twice_sample: bool | None = None,
    device: str | torch.device | None = None,
    mode: Mode = "full",
    exact: bool = True,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    lock: StrPath | None = None,
    optimize: bool = True,
) -> Recognizer:
    """A network with weights, the preprocessing and the labels that belong to them.

    Everything left out comes from the weights' manifest row; for a file of the user's own that is the row it was
    converted from, the row that ``pretrained`` names, or the architecture's defaults.

    Args:
        name: an architecture, ``architecture.tag``, ``hf-hub:org/name@revision`` or ``local-dir:PATH``.
        pretrained: which weights, as in `create_model`.
        checkpoint_path: load this file instead of published weights.
        num_clips: clips of a video, for networks that see clips.
        num_segments: frames of a video, for TSN and TSM.
        crop: ``"center"``, ``"three"`` or ``"ten"``.
        crop_size: pixels; three crops have to be as large as the row's short side, which is 256 for most.
        twice_sample: sample the video a second time, from the start of each part.
        device: where the network runs; None is the CPU.
        mode: the views that the other arguments change: ``"full"`` or ``"center"``.
        exact: see `create_transform`.
        num_classes: classes of ``checkpoint_path`` where they are not the architecture's usual ones.
        class_names: labels for such a file; None numbers them.
        lock: see `create_model`.
        optimize: rebuild the network with `optimize_for_inference`; False keeps it as `create_model` makes it.

    Raises:
        UnknownModel, UnknownWeights, FetchError, CheckpointError: as `create_model`.
        InvalidArgument: views that cannot be, such as segments for a network that sees clips.
    """
    architecture = architecture_of(name)
    _check_device(device)
    if num_classes == 0:
        raise InvalidArgument(
            "num_classes=0: a recognizer needs a classifier; create_model builds networks without one"
        )
    shifted = num_segments is not None and registry.architecture(architecture).family == "tsm"
    model = create_model(
        name,
        pretrained,
        checkpoint_path=checkpoint_path,
        num_classes=num_classes,
        num_segments=num_segments if shifted else None,
        lock=lock,
    )
    transform = create_transform(model, mode, exact=exact)
    views = _changed(transform.views, num_clips, num_segments, crop, crop_size, twice_sample)
    if views.num_frames % model.smallest_clip[0] or views.num_frames > model.smallest_clip[0] > 1:
        raise InvalidArgument(f"num_segments={num_segments}: {architecture} sees {model.smallest_clip[0]} at once")
    names = _class_names(model, class_names)
    model = model.to(device or "cpu")
    model = optimize_for_inference(model, share_weights=True) if optimize else model.eval()
    return Recognizer(model, replace(transform, views=views), names)


def _check_device(device: str | torch.device | None) -> None:
    try:
        torch.zeros(1, device=device or "cpu").cpu()  # there and back: "meta" is a device that gives nothing back
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"device {device}: {str(error).splitlines()[0]}") from None


def _changed(
    views: Views,
    num_clips: int | None,
    num_segments: int | None,
    crop: Crop | None,
    crop_size: int | None,
    twice_sample: bool | None,
) -> Views:
    if num_segments is not None and views.sampling == "clips":
        raise InvalidArgument(f"num_segments={num_segments}: this network sees clips; num_clips says how many")
    if num_clips not in (None, 1) and views.sampling != "clips":
        raise InvalidArgument(f"num_clips={num_clips}: this network sees single frames; num_segments says how many")
    return replace(
        views,
        num_clips=views.num_clips if num_clips is None else num_clips,
        num_frames=views.num_frames if num_segments is None else num_segments,
        crop=views.crop if crop is None else crop,
        crop_size=views.crop_size if crop_size is None else crop_size,
        twice_sample=views.twice_sample if twice_sample is None else twice_sample,
    )


def _class_names(model: VideoModel, class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    if class_names is not None:
        if len(class_names) != model.num_classes:
            raise InvalidArgument(f"{len(class_names)} class names for {model.num_classes} classes")
        return class_names
    own = own_class_names(model)
    return own if own is not None else numbered_classes(model.num_classes)


def numbered_classes(num_classes: int) -> tuple[str, ...]:
    """What classes are called that nobody has named.

    >>> numbered_classes(2)
    ('class 0', 'class 1')
    """
    return tuple(f"class {number}" for number in range(num_classes))


def own_class_names(model: VideoModel) -> tuple[str, ...] | None:
    """The names that came with a network's weights, or those of its data set; None where their number is another."""
    own = model.pretrained_cfg.get("label_names")
    if own is not None and len(own) == model.num_classes:
        return tuple(own)
    dataset = manifest.load().datasets.get(model.pretrained_cfg.get("dataset") or "")
    if dataset is None or dataset.labels is None or dataset.num_classes != model.num_classes:
        return None
    return labels.labels(dataset.name)
