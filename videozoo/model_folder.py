"""A model folder, ``config.json`` and ``model.safetensors``: on this machine, or in a Hugging Face repository.

    local-dir:PATH              the folder PATH
    hf-hub:org/name@revision    the files of a repository; both from the one commit that the revision means now

Only ``model.safetensors`` is ever read for tensors, and only if that is what its bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from videozoo import huggingface
from videozoo.conversion import open_weights
from videozoo.errors import (
    CheckpointError,
    CheckpointMismatch,
    DigestMismatch,
    FetchError,
    InvalidArgument,
    UnreadableCheckpoint,
    first_line,
)
from videozoo.files import digest_problem, sha256_file
from videozoo.layers.video_model import VideoModel
from videozoo.model_config import CONFIG, LOCAL, MAX_CONFIG_BYTES, WEIGHTS, ModelConfig, is_folder_name, parse


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """An opened model folder whose files were found right."""

    origin: str
    """``hf-hub:org/name@commit`` or ``local-dir:PATH``."""
    config: ModelConfig
    weights: Path


def architecture_of(name: str) -> str:
    """The architecture that a model's name means; of a model folder, what its ``config.json`` says.

    Raises:
        FetchError, CheckpointError, UnknownModel: as `open_folder`, for the configuration.
    """
    return _config(name)[0].architecture if is_folder_name(name) else name.partition(".")[0]


def open_folder(name: str) -> ModelFolder:
    """Find, fetch and check the two files of a model folder.

    Args:
        name: ``local-dir:PATH`` or ``hf-hub:org/name@revision``.

    Raises:
        InvalidArgument: ``name`` is not of this form.
        FetchError: no such folder, repository, revision or file, or damaged bytes.
        UnknownModel: an architecture that videozoo does not have.
        CheckpointError: a file that cannot be used, or that is not what ``config.json`` says.
    """
    config, origin, repository = _config(name)
    weights = _local_file(origin, WEIGHTS) if repository is None else huggingface.fetch_file(repository, WEIGHTS)
    _check(origin, config, weights)
    return ModelFolder(origin, config, weights)


def describe(network: VideoModel, folder: ModelFolder) -> None:
    """Let ``network.pretrained_cfg`` say what the folder says, beside timm's keys ``protocol`` and ``label_names``."""
    config, center = folder.config, folder.config.protocol.center
    network.row_is_claimed = config.tag is not None
    network.pretrained_cfg = network.pretrained_cfg | {
        "tag": config.tag,
        "url": folder.origin,
        "input_size": (network.in_chans, center.num_frames, center.crop_size, center.crop_size),
        "frame_stride": center.frame_stride,
        "mean": tuple(value / 255 for value in config.protocol.input.mean),
        "std": tuple(value / 255 for value in config.protocol.input.std),
        "dataset": config.dataset,
        "license": config.license,
        "protocol": config.protocol,
        "label_names": config.label_names if network.num_classes == config.num_classes else None,
    }


def _config(name: str) -> tuple[ModelConfig, str, huggingface.Repository | None]:
    """The configuration, where it came from, and the repository at the commit that it came from."""
    if name.startswith(LOCAL):
        folder = name.removeprefix(LOCAL)
        if not folder or "\0" in folder:
            raise InvalidArgument(f"{name!r}: after {LOCAL} stands the path of a folder")
        origin = f"{LOCAL}{Path(folder).expanduser()}"
        return parse(_read(origin, _local_file(origin, CONFIG)), f"{origin}: {CONFIG}"), origin, None
    repository = huggingface.parse_repository(name)
    path = huggingface.fetch_file(repository, CONFIG, max_bytes=MAX_CONFIG_BYTES)
    repository = huggingface.pinned(repository, path)
    return parse(_read(str(repository), path), f"{repository}: {CONFIG}"), str(repository), repository


def _local_file(origin: str, name: str) -> Path:
    path = Path(origin.removeprefix(LOCAL)) / name
    if not path.is_file():
        raise FetchError(f"{origin}: there is no file {name}; a model folder is what save_to_dir writes")
    return path


def _read(origin: str, path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise FetchError(f"{origin}: {path.name} cannot be read: {error.strerror or error}") from None


def _check(origin: str, config: ModelConfig, path: Path) -> None:
    """Refuse weights that are no safetensors, or not those that the configuration is about."""
    try:
        if config.sha256 is not None and (problem := digest_problem(sha256_file(path), config.sha256)) is not None:
            raise DigestMismatch(f"{origin}: {WEIGHTS} is not the file of its {CONFIG}: {problem}; fetch it again")
        weights = open_weights(path)
    except OSError as error:
        raise FetchError(f"{origin}: {WEIGHTS} cannot be read: {error.strerror or error}") from None
    except CheckpointError as error:
        raise type(error)(f"{origin}: {first_line(error)}") from None
    if weights.format != "safetensors":
        raise UnreadableCheckpoint(
            f"{origin}: {WEIGHTS} is no safetensors file; if you trust it, give it as checkpoint_path"
        )
    if weights.num_classes != config.num_classes:
        raise CheckpointMismatch(
            f"{origin}: {WEIGHTS} has {weights.num_classes or 'no'} classes, its {CONFIG} says {config.num_classes}"
        )
