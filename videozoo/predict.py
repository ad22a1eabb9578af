"""From a video to scores with labels: a network, its preprocessing and its class names as one callable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from videozoo import labels, manifest, registry
from videozoo.artefacts.exported import ExportedModel, load_exported
from videozoo.artefacts.form import is_artefact
from videozoo.errors import InvalidArgument, VideoError
from videozoo.frame_features import FrameFeatures
from videozoo.inference import optimize_for_inference
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Crop, Entry, Protocol, Views
from videozoo.model_folder import architecture_of
from videozoo.models import create_model
from videozoo.prediction import Prediction, WindowPrediction
from videozoo.pretrained import StrPath
from videozoo.stopwatch import Stopwatch
from videozoo.video.ahead import Video, sample_ahead
from videozoo.video.decode import open_frames
from videozoo.video.views import SampledVideo, ViewTransform
from videozoo.video.windows import default_size, stream_windows

Mode = Literal["full", "center"]
_Changes = tuple[int | None, int | None, Crop | None, int | None, bool | None]
"""Of views: num_clips, num_segments, crop, crop_size, twice_sample."""

CHUNK_BYTES = 200_000_000
"""Size of the largest feature map that one chunk of views may need; the peak is four to five times that."""


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

    def recognise_all(self, videos: Iterable[Video], *, progress: bool = False) -> Iterator[Prediction | VideoError]:
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

    def stream(
        self, frames: Iterable[NDArray[np.uint8] | Tensor], *, window: int | None = None, stride: int | None = None
    ) -> Iterator[WindowPrediction]:
        """Recognise the action in windows that slide over frames as they come, from a camera or a long file.

        Each window is sampled like a video of its own, and answered as soon as the last frame that it shows is there;
        windows that the end cuts off before that are left out. Windows share resized frames, and, where the network
        sees frames one by one (TSN), what it computes of each frame that several of them show. In memory are the frames
        of the windows at hand.

        Args:
            frames: each uint8 (H, W, 3), R, G, B; read no further than the next answer needs.
            window: frames of a window; None means what a clip spans, or 64 for networks that see segments.
            stride: frames from one window to the next; None means ``window``.

        Raises:
            InvalidArgument: a stride of more than a window, or frames of another type or shape.
        """
        views = self.transform.views
        size = default_size(views) if window is None else window
        windows = stream_windows(self.transform, frames, size, size if stride is None else stride)
        kept = None
        if self.model.frames_are_independent:
            kept = FrameFeatures(self.model, self.transform, views.num_frames * views_per_chunk(views))
        for place, sampled in windows:
            logits = None if kept is None else kept.view_logits(sampled)
            yield WindowPrediction(place.first, place.end, self.recognise_sampled(sampled, view_logits=logits))

    def recognise_sampled(self, sampled: SampledVideo, *, view_logits: Tensor | None = None) -> Prediction:
        """Recognise the action in frames that ``transform`` has sampled; with ``view_logits``, average those alone."""
        return self._recognise(sampled, Stopwatch(), False, view_logits)

    def _recognise(
        self, sampled: SampledVideo, watch: Stopwatch, progress: bool, view_logits: Tensor | None = None
    ) -> Prediction:
        views = self.transform.views
        with watch.on("rest"), torch.inference_mode():
            if view_logits is None:
                view_logits = self._view_logits(sampled, watch, progress)
            if views.average_clips is None:
                view_logits = view_logits.mean(dim=0, keepdim=True)
            answers = view_logits.softmax(dim=1) if views.average_clips == "prob" else view_logits
            scores = answers.mean(dim=0)
        return Prediction(scores, view_logits, sampled.frame_indices, self.labels, views.average_clips, watch.seconds)

    def _view_logits(self, sampled: SampledVideo, watch: Stopwatch, progress: bool) -> Tensor:
        views = self.transform.views
        device = next(self.model.parameters()).device
        num_views = self.transform.num_views(len(sampled.positions))
        chunks = self.transform.clips(
            sampled, chunk_size=views_per_chunk(views), channels_last=self.model.for_inference
        )
        rows: list[Tensor] = []
        with tqdm(total=num_views, unit="view", disable=None if progress else True, leave=False) as bar:
            for clips in watch.each("normalise", chunks):
                with watch.on("network"):
                    rows.append(self.model(clips.to(device)).float().cpu())
                bar.update(len(clips))
        return torch.cat(rows)


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
    trust_artefact: bool = False,
) -> Recognizer:
    """A network with weights, the preprocessing and the labels that belong to them.

    Everything left out comes from the weights' manifest row; for a file of the user's own that is the row it was
    converted from, the row that ``pretrained`` names, or the architecture's defaults.

    Args:
        name: an architecture, ``architecture.tag``, ``hf-hub:org/name@revision`` or ``local-dir:PATH``; or the path of
            an exported network, ``*.onnx``, ``*.xml`` or ``*.pt2``, which brings weights, preprocessing and labels.
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
        trust_artefact: open an exported ``*.pt2``, which is a program: what opens it can run code in it.

    Raises:
        UnknownModel, UnknownWeights, FetchError, CheckpointError: as `create_model`.
        InvalidArgument: views that cannot be, such as segments for a network that sees clips.
    """
    _check_device(device)
    if is_artefact(name):
        if pretrained is not True or checkpoint_path is not None or num_classes is not None or lock is not None:
            raise InvalidArgument(f"{name} has its own weights: leave out pretrained, checkpoint, num_classes and lock")
        if torch.device(device or "cpu").type != "cpu":
            raise InvalidArgument(f"device {device}: an exported network runs on the CPU")
        exported = load_exported(Path(name), trusted=trust_artefact)
        return _recognizer(
            exported, class_names, mode, exact, (num_clips, num_segments, crop, crop_size, twice_sample)
        )  # fmt: skip
    architecture = architecture_of(name)
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
    recognizer = _recognizer(
        model, class_names, mode, exact, (num_clips, num_segments, crop, crop_size, twice_sample)
    )  # fmt: skip
    model = model.to(device or "cpu")
    model = optimize_for_inference(model, share_weights=True) if optimize else model.eval()
    return replace(recognizer, model=model)


def _recognizer(
    model: VideoModel, class_names: tuple[str, ...] | None, mode: Mode, exact: bool, changes: _Changes
) -> Recognizer:
    """The network as it is, with its labels and its views, some of them changed."""
    transform = create_transform(model, mode, exact=exact)
    views = _changed(transform.views, *changes)
    if views.num_frames % model.smallest_clip[0] or views.num_frames > model.smallest_clip[0] > 1:
        name = model.pretrained_cfg["architecture"]
        raise InvalidArgument(f"num_segments={changes[1]}: {name} sees {model.smallest_clip[0]} at once")
    if isinstance(model, ExportedModel) and (fault := _misfit(model, views)) is not None:
        advice = f" or --views {mode}" if views == transform.views else ""
        other: Mode = "center" if mode == "full" else "full"
        if _misfit(model, create_transform(model, other).views) is None:
            advice += f"; it was exported with --views {other}"
        raise InvalidArgument(
            f"views of {views.num_frames} frames of {views.crop_size} pixels do not fit this artefact: {fault}{advice}"
        )
    return Recognizer(model, replace(transform, views=views), _class_names(model, class_names))


def _misfit(model: ExportedModel, views: Views) -> str | None:
    return model.form.fault((1, model.in_chans, views.num_frames, views.crop_size, views.crop_size))


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
