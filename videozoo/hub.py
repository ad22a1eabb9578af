"""A network as a model folder in timm's layout, on this machine or in a repository of the Hugging Face Hub."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from videozoo import cache, models, registry
from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.tensors import as_arrays
from videozoo.errors import FetchError, InvalidArgument, OutputError, UnknownWeights
from videozoo.files import place, sha256_file
from videozoo.huggingface import PREFIX, check_repository_name, explain, is_offline
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Entry, Protocol
from videozoo.model_card import CARD, model_card
from videozoo.model_config import CONFIG, LOCAL, WEIGHTS, ModelConfig, parse, to_json
from videozoo.predict import own_class_names, protocol_of
from videozoo.pretrained import StrPath
from videozoo.video.views import ViewTransform


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be."""

    repository: str
    url: str
    commit: str | None
    """The new commit; None in a dry run."""
    files: dict[str, int]
    """Size in bytes by name."""
    weights_sha256: str
    card: str
    """The model card's text."""


def save_to_dir(
    model: VideoModel,
    path: StrPath,
    *,
    labels: Sequence[str] | None = None,
    transform: ViewTransform | None = None,
    dataset: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as a model folder, which ``create_model("local-dir:PATH")`` loads.

    The tensors are written bit for bit, the same network gives the same bytes.

    Args:
        model: a network of the zoo, fine-tuned or not.
        path: the folder; it is made if its parent exists.
        labels: class names in class order; None for those that came with the weights, or of their data set.
        transform: the preprocessing; None for that of the weights. Its views become the full protocol, one centred clip
            of them the other.
        dataset: what it was trained on; None for the data set of the weights, as long as ``labels`` is None, too.
        license: of the weights, an identifier of the Hub such as ``apache-2.0``; None for what the row says.
        overwrite: replace the files of a model folder that is there.

    Returns:
        The folder.

    Raises:
        InvalidArgument: a network without classifier, or labels or a transform that do not belong to it.
        OutputError: a file exists or cannot be written.
    """
    folder = Path(path)
    _write_folder(model, folder, f"{LOCAL}{folder.name}", labels, transform, dataset, license, overwrite)
    return folder


def push_to_hub(
    model: VideoModel,
    repo_id: str,
    *,
    labels: Sequence[str] | None = None,
    transform: ViewTransform | None = None,
    dataset: str | None = None,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload a network as one commit of a Hugging Face repository, which is made if there is none.

    Args:
        model: a network of the zoo, fine-tuned or not.
        repo_id: ``org/name``.
        labels: see `save_to_dir`.
        transform: see `save_to_dir`.
        dataset: see `save_to_dir`.
        license: see `save_to_dir`.
        private: whether a new repository is hidden from others.
        revision: the branch; None for the main one. It is made if there is none.
        commit_message: None for one that names the architecture.
        dry_run: write everything to a temporary folder, connect to nothing, and say what would be uploaded.

    Raises:
        InvalidArgument: as `save_to_dir`, or ``repo_id`` is not of the form ``org/name``.
        FetchError: the host refused or cannot be reached, or offline.
    """
    check_repository_name(repo_id)
    if is_offline() and not dry_run:
        raise FetchError(f"{repo_id}: VIDEOZOO_OFFLINE or HF_HUB_OFFLINE forbids an upload; unset it, or use --dry-run")
    with tempfile.TemporaryDirectory(prefix="videozoo-") as temporary:
        folder = Path(temporary) / "model"
        config = _write_folder(model, folder, f"{PREFIX}{repo_id}", labels, transform, dataset, license, False)
        message = commit_message or f"Add {config.architecture}, written by videozoo"
        commit = None if dry_run else _upload(folder, repo_id, private, revision, message)
        return Pushed(
            repository=repo_id,
            url=_url(repo_id),
            commit=commit,
            files={file.name: file.stat().st_size for file in sorted(folder.iterdir())},
            weights_sha256=config.sha256 or "",
            card=(folder / CARD).read_text(encoding="utf-8"),
        )


def _write_folder(
    model: VideoModel,
    folder: Path,
    name: str,
    labels: Sequence[str] | None,
    transform: ViewTransform | None,
    dataset: str | None,
    license_id: str | None,
    overwrite: bool,
) -> ModelConfig:
    """Write the three files; ``config.json`` last, so that a folder with one is whole."""
    config, row, trained_from = model_config_of(model, labels, transform, dataset, license_id)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    if not overwrite and (taken := [file for file in (WEIGHTS, CARD, CONFIG) if (folder / file).exists()]):
        raise OutputError(f"{folder} has a {taken[0]} already; pass overwrite=True to replace it")
    arrays = as_arrays(model.state_dict())
    metadata = {"videozoo.architecture": config.architecture, "videozoo.num_classes": str(config.num_classes)}
    if row is not None:
        metadata["videozoo.weights"] = row.name
    try:
        place(
            folder / WEIGHTS,
            lambda temporary: safetensors_file.write(temporary, arrays, metadata),
            overwrite=overwrite,
        )
        config = replace(config, sha256=sha256_file(folder / WEIGHTS))
        size = (folder / WEIGHTS).stat().st_size
        card = model_card(config, name=name, row=row, trained_from=trained_from)
        text = to_json(config, num_features=model.num_features, first_conv=model.first_conv, size_bytes=size)
        parse(text.encode("utf-8"), f"{folder}: {CONFIG}")  # what cannot be read again is not written
        for file, content in ((CARD, card), (CONFIG, text)):
            _place_text(folder / file, content, overwrite)
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return config


def _place_text(path: Path, text: str, overwrite: bool) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    place(path, write, overwrite=overwrite)


def model_config_of(
    model: VideoModel,
    labels: Sequence[str] | None,
    transform: ViewTransform | None,
    dataset: str | None,
    license_id: str | None,
) -> tuple[ModelConfig, Entry | None, Entry | None]:
    """The configuration; the row whose tensors, classes and preprocessing these are; else the row they started from,
    unless only the file that they came from says so.
    """
    architecture = model.pretrained_cfg.get("architecture")
    if not isinstance(architecture, str) or not registry.is_model(architecture):
        raise InvalidArgument("this network was not built by create_model: its architecture is not known")
    if model.for_inference:
        raise InvalidArgument(
            "this network was optimised for inference: save the one it was made from (load_recognizer: optimize=False)"
        )
    if model.num_classes == 0:
        raise InvalidArgument(f"{architecture} has no classifier: give it one with reset_classifier")
    names = _label_names(model, labels)
    protocol = protocol_of(model) if transform is None else _protocol(transform)
    start = _row(model)
    row = start if start is not None and _is_of(model, names, protocol, start) else None
    if row is not None:
        dataset, license_id = row.dataset, license_id or row.license.weights
    elif labels is None:
        dataset = dataset or model.pretrained_cfg.get("dataset")
    config = ModelConfig(
        architecture=architecture,
        num_classes=model.num_classes,
        label_names=names,
        model_args=_model_args(model, architecture),
        protocol=protocol,
        tag=None if row is None else row.tag,
        dataset=dataset,
        license=license_id or (None if start is not None else model.pretrained_cfg.get("license")),
        sha256=None,
    )
    return config, row, None if model.row_is_claimed else start


def _label_names(model: VideoModel, labels: Sequence[str] | None) -> tuple[str, ...]:
    names = own_class_names(model) if labels is None else tuple(labels)
    if isinstance(labels, str) or names is None:
        raise InvalidArgument(
            f"the names of the {model.num_classes} classes are not known: pass labels=[...] (--labels)"
        )
    if len(names) != model.num_classes:
        raise InvalidArgument(f"{len(names)} labels for {model.num_classes} classes")
    if bad := [name for name in names if not isinstance(name, str) or not name.isprintable()]:
        raise InvalidArgument(f"the label {bad[0]!r} is not printable text on one line")
    return names


def _protocol(transform: ViewTransform) -> Protocol:
    views = transform.views
    return Protocol(transform.input, views, replace(views, num_clips=1, twice_sample=False, crop="center"))


def _model_args(model: VideoModel, architecture: str) -> dict[str, Any]:
    """The arguments of the factory without which other tensors, or another forward, would come out."""
    parameters = inspect.signature(models.factory(architecture)).parameters
    found: dict[str, Any] = {"in_chans": model.in_chans, "drop_rate": model.drop_rate}
    if "num_segments" in parameters:
        found["num_segments"] = model.num_segments
    if "aux_head" in parameters:
        found["aux_head"] = model.aux_head is not None
    if "backbone" in parameters:
        trunk: Any = model.backbone
        found["backbone"] = trunk.pretrained_cfg.get("architecture")
    return {name: value for name, value in found.items() if value != parameters[name].default}


def _row(model: VideoModel) -> Entry | None:
    """The row that the weights came from, before any training."""
    name, tag = model.pretrained_cfg.get("architecture"), model.pretrained_cfg.get("tag")
    try:
        return None if tag is None else registry.get_weights(f"{name}.{tag}")
    except UnknownWeights:
        return None


def _is_of(model: VideoModel, names: tuple[str, ...], protocol: Protocol, row: Entry) -> bool:
    """Whether the network still is what the row's figures were measured with. Nothing is downloaded to find out."""
    if protocol != row.protocol or model.num_classes != row.num_classes:
        return False
    try:
        if cache.plan(row).kind == "download":
            return False
        original = models.create_model(row.architecture, row.tag)
    except FetchError:
        return False
    ours, theirs = model.state_dict(), original.state_dict()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[key].cpu(), theirs[key]) for key in ours)
    return same and names == own_class_names(original)


def _url(repo_id: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def _upload(folder: Path, repo_id: str, private: bool, revision: str | None, message: str) -> str:
    """Create what is missing, upload the folder as one commit, and return that commit."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="videozoo")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        done = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:  # its own errors, its HTTP client's, the system's
        raise explain(error, f"{PREFIX}{repo_id}@{revision or 'main'}: upload") from error
    return str(done.oid)
