"""A network as a file that other runtimes run, checked against the network that it was made from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from videozoo import registry
from videozoo.artefacts.exported import load_exported
from videozoo.artefacts.form import (
    POSITIONS,
    Axis,
    Form,
    Format,
    Precision,
    Shape,
    axes_of,
    format_of,
    precision_of,
)
from videozoo.artefacts.program import check_axes, export_program, least_sizes, prepared
from videozoo.artefacts.write import check_installed, write
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.errors import InvalidArgument, OutputError, reason
from videozoo.files import TEMPORARY_PREFIX, place, refuse_unfit
from videozoo.hub import model_config_of
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Entry
from videozoo.model_config import ModelConfig, to_json
from videozoo.predict import Mode, create_transform
from videozoo.pretrained import StrPath
from videozoo.version import version

TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit, in parts of the largest logit of the eager float32 network."""
_SEED = 20


@dataclass(frozen=True)
class Agreement:
    """What came of one input, in eager float32 and from the file."""

    shape: tuple[int, ...]
    """N, C, T, H, W."""
    difference: float
    """Of a logit, the largest, in parts of the largest logit."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: dict[str, int]
    """Size in bytes by path; what is loaded stands last."""
    format: Format
    dtype: Precision
    fused: bool
    clips: str
    """Shape of the clips, N x C x T x H x W, in numbers and names of dynamic axes."""
    tolerance: float
    agreement: tuple[Agreement, ...]

    @property
    def difference(self) -> float:
        """The largest of all inputs."""
        return max(one.difference for one in self.agreement)


@dataclass(frozen=True)
class Request:
    """Arguments of an export that were found possible."""

    path: Path
    format: Format
    dynamic: tuple[Axis, ...]
    dtype: Precision
    fused: bool
    overwrite: bool


def request(
    path: StrPath,
    *,
    format: str | None = None,
    dynamic: Sequence[str] = (),
    dtype: str = "float32",
    fused: bool = False,
    overwrite: bool = False,
) -> Request:
    """Check the arguments of `export_model` before any work is done.

    Raises:
        InvalidArgument: an argument that cannot be, or a package that is missing.
        OutputError: the output exists or cannot be written.
    """
    target = Path(path)
    found = Request(
        target, format_of(target, format), axes_of(tuple(dynamic)), precision_of(dtype), fused, overwrite
    )  # fmt: skip
    check_installed(found.format)
    for file in _targets(found):
        refuse_unfit(file, overwrite=overwrite)
    return found


def export_model(
    model: VideoModel,
    path: StrPath,
    *,
    format: str | None = None,
    dynamic: Sequence[str] = (),
    dtype: str = "float32",
    fused: bool = False,
    mode: Mode = "full",
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a network, in evaluation, as a file for another runtime, with preprocessing, labels and provenance in it.

    The file takes float32 clips (N, C, T, H, W), normalised as the weights want them, and gives float32 logits. Before
    it gets its name, it runs three inputs on this processor, of different sizes where axes are dynamic, and its answers
    are compared with the network's. ``load_recognizer(path)`` reads it.

    Args:
        model: a network of the zoo, with a classifier, not optimised for inference.
        path: the file; for OpenVINO the ``.xml``, beside which a ``.bin`` is written.
        format: ``"torch-export"``, ``"onnx"``, ``"openvino"`` or ``"aot"`` (a library compiled for this processor);
            None for what the suffix says, ``torch-export`` for ``.pt2``.
        dynamic: of ``"batch"``, ``"frames"`` and ``"size"`` the axes that may be of any size.
        dtype: of weights and feature maps: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        fused: fold the batch norms into the convolutions first.
        mode: whose clips fit where axes are fixed: those of the ``"full"`` test protocol or of its ``"center"`` view.
        labels: class names in class order; None for those of the weights.
        overwrite: replace a file that is there.

    Raises:
        InvalidArgument: an argument that cannot be, such as dynamic frames of a network that shifts a fixed number of
            them; a package that is missing; a network that the format cannot hold.
        OutputError: the output exists or cannot be written, or its answers are not the network's; then there is none.
    """
    wanted = request(path, format=format, dynamic=dynamic, dtype=dtype, fused=fused, overwrite=overwrite)
    described = model_config_of(model, labels, None, None, None)
    check_axes(model, wanted.dynamic)
    views = create_transform(model, mode).views
    clip: Shape = (1, model.in_chans, views.num_frames, views.crop_size, views.crop_size)
    was_training = model.training
    model.eval()
    try:
        program = export_program(prepared(model, wanted.dtype, fused), clip, wanted.dynamic)
        form = Form(
            wanted.format, wanted.dtype, fused, clip, wanted.dynamic, least_sizes(program), model.smallest_clip
        )  # fmt: skip
        if (fault := form.fault(clip)) is not None:
            raise InvalidArgument(f"the network's own clips, {clip}, would not fit: {fault}; leave out that axis")
        text = _description(model, *described, form)
        return _write_checked(model, wanted, form, lambda file: write(program, wanted.format, file, text))
    finally:
        model.train(was_training) if was_training else None


def _write_checked(
    model: VideoModel, wanted: Request, form: Form, write_files: Callable[[Path], list[Path]]
) -> Exported:
    """Write into a folder beside the output, compare, and only then give the files their names."""
    target = wanted.path
    try:
        folder = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=target.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from None
    with folder as temporary:
        try:
            files = write_files(Path(temporary) / target.with_suffix(target.suffix.lower()).name)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error.strerror or error}") from None
        agreement = _agreement(model, files[-1], form)
        tolerance = TOLERANCE[wanted.dtype]
        worst = max(agreement, key=lambda one: one.difference if one.difference == one.difference else float("inf"))
        if not worst.difference <= tolerance:
            raise OutputError(
                f"{target} was not written: on clips {worst.shape} its logits differ from the network's by "
                f"{worst.difference:.1e} of the largest; at most {tolerance:.0e} is allowed"
            )
        sizes = {}
        targets = _targets(wanted)
        if len(targets) > 1 and wanted.overwrite:
            target.unlink(missing_ok=True)  # an interrupt must not leave one file's graph with another's weights
        for source, final in zip(files, targets, strict=True):
            sizes[str(final)] = source.stat().st_size
            place(final, _mover(source), overwrite=wanted.overwrite)
    return Exported(sizes, wanted.format, wanted.dtype, wanted.fused, form.in_words(), tolerance, agreement)


def _mover(source: Path) -> Callable[[Path], None]:
    return lambda temporary: os.replace(source, temporary)


def _targets(wanted: Request) -> list[Path]:
    return [wanted.path.with_suffix(".bin"), wanted.path] if wanted.format == "openvino" else [wanted.path]


def _agreement(model: VideoModel, path: Path, form: Form) -> tuple[Agreement, ...]:
    try:
        exported = load_exported(path, trusted=True)  # we wrote it
        found = []
        for clips in _inputs(form):
            with torch.inference_mode():
                expected = model(clips.to(next(model.parameters()).device)).float().cpu()
            difference = (exported(clips) - expected).abs().max() / expected.abs().max()
            found.append(Agreement(tuple(clips.shape), float(difference)))
        return tuple(found)
    except Exception as error:  # any: a runtime that cannot run what it was given
        raise OutputError(f"the file was not written: its runtime cannot run it: {reason(error)}") from None


def _inputs(form: Form) -> list[Tensor]:
    """Three random inputs; the first is a clip of the protocol, in the others every dynamic axis has another size."""
    factors = {0: (1, 2, 3), 2: (1, 0.5, 1.25), 3: (1, 0.75, 0.5), 4: (1, 0.5, 0.625)}
    free = [position for axis in form.dynamic for position in POSITIONS[axis]]
    generator = torch.Generator().manual_seed(_SEED)
    shapes = [
        [max(form.least[n], int(size * factors[n][turn])) if n in free else size for n, size in enumerate(form.clip)]
        for turn in range(3)
    ]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _description(
    model: VideoModel, config: ModelConfig, row: Entry | None, trained_from: Entry | None, form: Form
) -> str:
    """``config.json`` as in a model folder, with the graph's form and where the weights come from."""
    file = None if row is None else row.file
    record = json.loads(
        to_json(config, num_features=model.num_features, first_conv=model.first_conv, size_bytes=0)
    )  # fmt: skip
    del record["weights"]
    record["export"] = asdict(form)
    record["provenance"] = {
        "videozoo": version(),
        "torch": str(torch.__version__),
        "title": registry.architecture(config.architecture).title,
        "weights": None if row is None else row.name,
        "trained_from": None if row is not None or trained_from is None else trained_from.name,
        "weights_sha256": sha256_tensors(model.state_dict()),
        "file": None if file is None else {name: getattr(file, name) for name in ("name", "sha256", "sha256_prefix")},
        "source": None if row is None else asdict(row.source),
        "license": None if row is None else asdict(row.license),
    }
    return json.dumps(record, ensure_ascii=False)
