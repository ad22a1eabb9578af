"""What a training leaves in its folder, and what it goes on from.

    OUT/recipe.toml         the complete recipe
    OUT/log.csv             loss, gradient norm and learning rate
    OUT/validation.csv      accuracy, an epoch a line
    OUT/best, OUT/last      model folders: ``create_model("local-dir:OUT/best")``
    OUT/state.safetensors   all that the next step depends on

The state is one file, so that its parts are always of one step: weights, the optimizer's tensors and the averaged
weights, and JSON in its header. Random numbers have no place in it: those of a step follow from the seed and its
number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.tensors import as_arrays, as_tensor
from videozoo.errors import CheckpointMismatch, OutputError, UnreadableCheckpoint, printable
from videozoo.files import TEMPORARY_PREFIX, place
from videozoo.hub import save_to_dir
from videozoo.layers.video_model import VideoModel
from videozoo.training.validation import Accuracy
from videozoo.video.dataset import Problem

STATE = "state.safetensors"
RECIPE = "recipe.toml"
_KEY = "videozoo.training"


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it found."""

    step: int = 0
    """Steps that are done."""
    unvalidated: bool = False
    """Whether the epoch that ended with them is still to be validated."""
    best: Accuracy | None = None
    problems: tuple[Problem, ...] = ()
    """Videos that could not be decoded."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of half-precision gradients."""


@dataclass(frozen=True)
class State:
    """A state as it was read."""

    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor]


def save_state(
    folder: Path,
    run: Mapping[str, Any],
    progress: Progress,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
) -> None:
    """Replace the state in one step; whatever goes wrong, the one before is kept.

    Args:
        folder: of the run.
        run: what says which run it is; see `read_state`.
        progress: how far it is.
        model: the network's state dict.
        optimizer: see `optimizer_tensors`.
        average: averaged weights, or none.

    Raises:
        OutputError: it cannot be written.
    """
    parts = {"model": model, "optimizer": optimizer, "average": average}
    arrays = as_arrays({f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in found.items()})
    text = json.dumps({"run": run, "progress": asdict(progress)}, sort_keys=True)
    place(folder / STATE, lambda path: safetensors_file.write(path, arrays, {_KEY: text}), overwrite=True)


def read_state(folder: Path, run: Mapping[str, Any]) -> State | None:
    """The state of a run, None where there is none.

    Args:
        folder: of the run.
        run: what says which run it is. Everything in it has to be as it was saved.

    Raises:
        UnreadableCheckpoint: the file is damaged, or no state.
        CheckpointMismatch: it is another run's.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        file = FileMap(path)
        if not safetensors_file.looks_like(file.data):
            raise UnreadableCheckpoint("no safetensors file")
        arrays, metadata = safetensors_file.read(file)
        record = json.loads(metadata[_KEY])
        saved, progress = record["run"], _progress(record["progress"])
        parts = {part: _part(arrays, part) for part in ("model", "optimizer", "average")}
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise UnreadableCheckpoint(f"{path}: no state of a training") from None
    if (difference := _difference(saved, json.loads(json.dumps(run)))) is not None:
        raise CheckpointMismatch(
            f"{folder} is of another run: {difference}; give the arguments it began with, or another --out"
        )
    return State(progress, **parts)


def _progress(record: dict[str, Any]) -> Progress:
    best = record["best"]
    return Progress(
        step=int(record["step"]),
        unvalidated=record["unvalidated"],
        best=None if best is None else Accuracy(**best),
        problems=tuple(Problem(**problem) for problem in record["problems"]),
        scaler=record["scaler"],
    )


def _part(arrays: Mapping[str, Array], part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    # Copied: a window on the file would change with the file that replaces it.
    return {
        name.removeprefix(prefix): as_tensor(array).clone() for name, array in arrays.items() if name.startswith(prefix)
    }


def _difference(saved: Any, now: Any, where: str = "") -> str | None:
    """The first value that differs, in words."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in sorted({*saved, *now}):
            found = _difference(saved.get(key), now.get(key), f"{where}.{key}" if where else key)
            if found is not None:
                return found
        return None
    return None if saved == now else f"its {where} is {printable(saved)[:80]}, not {printable(now)[:80]}"


def optimizer_tensors(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps of each parameter, by the parameter's name and its own: ``fc.weight/momentum_buffer``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer what `optimizer_tensors` found."""
    parameters = dict(network.named_parameters())
    for name, tensor in tensors.items():
        of, _, key = name.rpartition("/")
        parameter = parameters[of]
        device = "cpu" if key == "step" else parameter.device  # where torch keeps the count of steps
        optimizer.state[parameter][key] = tensor.to(device)


def save_folder(network: VideoModel, folder: Path, labels: Sequence[str], dataset: str | None) -> None:
    """Write a model folder anew, complete before it gets its name.

    Raises:
        OutputError: it cannot be written; the one that was there is kept.
    """
    fresh, old = (folder.parent / f"{TEMPORARY_PREFIX}{folder.name}.{kind}" for kind in ("new", "old"))
    clear(folder.parent)
    try:
        save_to_dir(network, fresh, labels=labels, dataset=dataset)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        clear(folder.parent)


def clear(folder: Path) -> None:
    """Remove what a killed run left unfinished; a model folder that was being replaced gets its name back."""
    for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*.old")):
        name = folder / path.name.removeprefix(TEMPORARY_PREFIX).removesuffix(".old")
        if name.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(name)
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def prepare_folder(folder: Path, recipe_text: str, *, resume: bool) -> None:
    """Make the folder of a run, with its recipe; one that was left without a state is begun anew.

    Raises:
        OutputError: it cannot be made, or there is a run in it and ``resume`` is false.
    """
    try:
        taken = [name for name in (STATE, "last", "best") if (folder / name).exists()]
        if taken and not resume:
            raise OutputError(
                f"{folder} has a {taken[0]} already: --resume goes on with that run, another --out begins one"
            )
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"cannot make the folder {folder}: it is a file")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    clear(folder)
    if STATE not in taken:
        place(folder / RECIPE, lambda path: _write(path, recipe_text), overwrite=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
