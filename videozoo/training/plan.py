"""From what the user asked for to a run: everything is checked here, before anything is fetched or computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videozoo import labels, manifest, registry, settings
from videozoo.errors import CheckpointError, InvalidArgument, ListError, UnknownWeights
from videozoo.files import sha256_file
from videozoo.manifest import Protocol
from videozoo.model_config import is_folder_name
from videozoo.model_folder import open_folder
from videozoo.synthetic import MOTIONS, Motions
from videozoo.training import recipes
from videozoo.training.recipe import Recipe
from videozoo.video.augmentation import left_right_pairs
from videozoo.video.dataset import Form, StrPath, VideoList, class_folders, read_list
from videozoo.video.lookup import plain

HELD_OUT_SEED = 1_000_000
"""Of the synthetic motions: clips of seeds from here on are never trained on."""


@dataclass(frozen=True)
class Plan:
    """A training that was found possible, as far as that can be known without a network."""

    model: str
    """An architecture or a model folder, without a tag."""
    architecture: str
    pretrained: str | None
    checkpoint: Path | None
    recipe: Recipe
    videos: VideoList | Motions
    validation: VideoList | Motions | None
    labels: tuple[str, ...]
    dataset: str | None
    """What the labels are of; None for the user's own."""
    out: Path
    seed: int
    strict: bool

    @property
    def identity(self) -> dict[str, Any]:
        """What a run must have in common with another one to go on with it."""
        recipe = settings.to_table(self.recipe)
        del recipe["about"]  # words
        weights = sha256_file(open_folder(self.model).weights) if is_folder_name(self.model) else None
        return {
            "model": self.architecture if is_folder_name(self.model) else self.model,
            "weights": weights,
            "pretrained": self.pretrained,
            "checkpoint": None if self.checkpoint is None else sha256_file(self.checkpoint),
            "seed": self.seed,
            "classes": list(self.labels),
            "data": _digest(self.videos),
            "validation": None if self.validation is None else _digest(self.validation),
            "recipe": recipe,
        }

    def lines(self, num_ranks: int) -> Iterable[str]:
        """What is going to happen, in words."""
        run, optimizer = self.recipe.run, self.recipe.optimizer
        count = _count(self.videos)
        share = -(-run.batch_size // num_ranks)
        passes = -(-share // run.clips_at_once)
        num_steps = run.num_steps or run.epochs * (count // run.batch_size)
        yield (
            f"{self.model}: {count} videos in {len(self.labels)} classes, {num_steps} "
            f"steps of {run.batch_size} clips; processes: {num_ranks}, passes of each: {passes}"
        )
        scaled = "" if run.batch_size == optimizer.lr_batch_size else " (linear scaling rule)"
        yield (
            f"learning rate {self.recipe.lr:.6g}: {optimizer.lr:g} is for {optimizer.lr_batch_size} clips a step, "
            f"this run has {run.batch_size}{scaled}"
        )
        at_once, alone = min(share, run.clips_at_once), min(run.batch_size, run.clips_at_once)
        if self.recipe.model.freeze == "none" and at_once != alone:
            yield (
                f"batch norms see {at_once} clips at a time, in one process {alone}: "
                f"--set run.clips_at_once={at_once} there takes the same steps"
            )
        augmentation = self.recipe.augmentation
        pairs = left_right_pairs(self.labels)
        if pairs and augmentation.flip_probability and not augmentation.flip_label_pairs:
            left, right = (self.labels[number] for number in pairs[0])
            both = [list(pair) for pair in pairs]
            yield (
                f"clips are mirrored, and {left!r} is then still taught as {left!r}, not {right!r}: "
                f"--set augmentation.flip_probability=0, or --set 'augmentation.flip_label_pairs={both}'"
            )


def make_plan(
    model: str,
    data: StrPath | Motions,
    out: StrPath,
    *,
    val: StrPath | Motions | None = None,
    recipe: str | None = None,
    changes: Sequence[str] = (),
    pretrained: str | None = None,
    checkpoint: StrPath | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    root: StrPath | None = None,
    val_root: StrPath | None = None,
    form: Form | None = None,
    template: str | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Plan:
    """Check what was asked for.

    Args:
        model: an architecture, ``architecture.tag``, ``local-dir:PATH`` or ``hf-hub:org/name``.
        data: what to train on: a list or folder as `read_list` takes it, or synthetic motions.
        out: the run's folder.
        val: what to validate on.
        recipe: its name, or a TOML file; None for the architecture's own, or ``finetune`` where weights are named.
        changes: ``section.key=value``.
        pretrained: weights to start from instead of the recipe's.
        checkpoint: a file of weights to start from.
        num_classes: of the classifier; None for what the data, or else the weights, have.
        class_names: in class order; None for those of class folders, or of the weights.
        root: what the paths of ``data`` are relative to.
        val_root: what the paths of ``val`` are relative to.
        form: see `read_list`.
        template: see `read_list`.
        seed: of everything that is drawn, 0 or more.
        strict: whether a video that cannot be decoded ends the training.

    Raises:
        UnknownModel, UnknownWeights, InvalidArgument: names or settings that cannot be.
        ListError: a list that cannot be used, or whose videos do not exist.
        FetchError, CheckpointError: a model folder that cannot be opened.
    """
    if not 0 <= seed < 1 << 63:
        raise InvalidArgument(f"seed {seed}: give a number from 0 on")
    name, architecture, tag = _model(model, pretrained, checkpoint)
    protocol, known, dataset = _start(name, architecture, tag, recipe)
    from_weights = tag is not None or checkpoint is not None or is_folder_name(name)
    recipe_name = recipe or recipes.default_name(architecture, from_weights=from_weights)
    resolved = recipes.resolve(recipes.read(recipe_name), protocol, changes)
    if resolved.model.architecture not in (None, architecture):
        raise InvalidArgument(f"the recipe {recipe_name} is for {resolved.model.architecture}, not {architecture}")
    if from_weights:  # they stand above the recipe's, and the recipe says so
        resolved = replace(resolved, model=replace(resolved.model, pretrained=tag, imagenet=None))
    if resolved.loss.aux_weight and registry.architecture(architecture).family != "tpn":
        raise InvalidArgument(
            f"recipe.loss.aux_weight is {resolved.loss.aux_weight:g}, but {architecture} has no auxiliary head: "
            "--set loss.aux_weight=0"
        )
    _refuse_inside(Path(out), (data, val))
    names = _class_names(data, known, num_classes, class_names)
    options: dict[str, Any] = {"form": form, "template": template}
    videos = _read(data, names, root, options)
    validation = None if val is None else _read(val, names, val_root, options)
    if strict:
        _refuse_missing(videos)
        if validation is not None:
            _refuse_missing(validation)
    if _count(videos) < resolved.run.batch_size:
        raise InvalidArgument(
            f"recipe.run.batch_size is {resolved.run.batch_size}, there are {_count(videos)} videos: "
            "--set run.batch_size=N with a smaller one"
        )
    return Plan(
        model=name,
        architecture=architecture,
        pretrained=tag,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        recipe=resolved,
        videos=videos,
        validation=validation,
        labels=names,
        dataset=dataset if names == known else None,
        out=Path(out),
        seed=seed,
        strict=strict,
    )


def _model(model: str, pretrained: str | None, checkpoint: StrPath | None) -> tuple[str, str, str | None]:
    """Name, architecture and tag of the weights to start from."""
    if is_folder_name(model):
        if pretrained is not None or checkpoint is not None:
            raise InvalidArgument(f"{model} has its own weights: leave out --pretrained and --checkpoint")
        return model, open_folder(model).config.architecture, None
    name, _, tag = model.partition(".")
    registry.architecture(name)
    if tag and pretrained not in (None, tag):
        raise InvalidArgument(f"{model} and --pretrained {pretrained} name different weights: give one of them")
    asked = pretrained or tag or None
    if asked is not None and checkpoint is not None:
        raise InvalidArgument("--pretrained and --checkpoint both say where weights come from: give one of them")
    if checkpoint is not None and not os.path.isfile(checkpoint):
        raise CheckpointError(f"no file at {checkpoint}: --checkpoint is a file of weights")
    return name, name, None if asked is None else registry.resolve_weights(name, asked).tag


def _start(
    name: str, architecture: str, tag: str | None, recipe: str | None
) -> tuple[Protocol, tuple[str, ...] | None, str | None]:
    """How the network is fed, its class names if they are known, and their data set: before the recipe changes it."""
    if is_folder_name(name):
        config = open_folder(name).config
        return config.protocol, config.label_names, config.dataset
    spec = registry.architecture(architecture)
    try:  # the recipe of a row begins with its frames and pixels
        row = registry.get_weights(f"{architecture}.{tag}" if tag is not None else recipe or "")
    except UnknownWeights:
        row = None
    dataset = spec.dataset if row is None or row.dataset is None else row.dataset
    record = manifest.load().datasets.get(dataset)
    known = labels.labels(dataset) if record is not None and record.labels is not None else None
    return (spec if row is None else row).protocol, known, dataset


def _refuse_inside(out: Path, folders: Iterable[StrPath | Motions | None]) -> None:
    """The files of a run would be classes of the next one's."""
    for folder in folders:
        if folder is None or isinstance(folder, Motions) or not os.path.isdir(folder):
            continue
        if out.resolve().is_relative_to(Path(folder).resolve()):
            raise InvalidArgument(f"--out {out} lies in the class folders {folder}: name a folder outside")


def _class_names(
    data: StrPath | Motions,
    known: tuple[str, ...] | None,
    num_classes: int | None,
    class_names: Sequence[str] | None,
) -> tuple[str, ...]:
    """What the classes are called, in class order."""
    if num_classes is not None and num_classes < 1:
        raise InvalidArgument(f"--num-classes {num_classes}: at least 1")
    if class_names is not None:
        found = tuple(class_names)
    elif isinstance(data, Motions):
        found = MOTIONS
    elif os.path.isdir(data):
        found = tuple(folder.name for folder in class_folders(Path(data)))
        if known is not None and sorted(map(plain, found)) == sorted(map(plain, known)):
            found = known  # another order than the alphabet's, as the weights have it
    elif known is not None and num_classes in (None, len(known)):
        found = known
    elif num_classes is not None:
        found = tuple(f"class {number}" for number in range(num_classes))
    else:
        raise InvalidArgument(f"how many classes {data} has is not known: give --num-classes or --labels")
    if num_classes not in (None, len(found)):
        raise InvalidArgument(f"--num-classes {num_classes}, but there are {len(found)} class names, as {found[0]!r}")
    if len(set(found)) < len(found):
        raise InvalidArgument("two classes have the same name: give each its own")
    bad = [name for name in found if not name.strip() or not name.isprintable()]
    if bad:  # the trained network could not be saved
        raise InvalidArgument(f"the class name {bad[0]!r} is not printable text on one line: give it another name")
    return found


def _read(
    data: StrPath | Motions, names: tuple[str, ...], root: StrPath | None, options: dict[str, Any]
) -> VideoList | Motions:
    if isinstance(data, Motions):
        if names != MOTIONS:
            raise ListError(f"the synthetic motions have the classes {', '.join(MOTIONS)}, not {', '.join(names[:8])}")
        return data
    videos = read_list(data, root=root, num_classes=len(names), class_names=names, **options)
    videos.refuse_absent()
    return videos


def _refuse_missing(videos: VideoList | Motions) -> None:
    if isinstance(videos, Motions):
        return
    missing = [video for video in videos.videos if not os.path.exists(video.path)]  # unlike Path's, it raises nothing
    if missing:
        line = "" if missing[0].line is None else f" line {missing[0].line}:"
        more = f"; {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise ListError(f"{videos.source}{line} there is no {missing[0].path}{more}")


def _count(videos: VideoList | Motions) -> int:
    return videos.num_clips if isinstance(videos, Motions) else len(videos.videos)


def _digest(videos: VideoList | Motions) -> str:
    if isinstance(videos, Motions):
        return f"synthetic {videos.num_clips} from {videos.first_seed}"
    return videos.sha256
