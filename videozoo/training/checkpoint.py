"""The state of a run: all that its next step depends on, in one file, so that its parts are always of one step.

Weights, averaged weights and what the optimizer keeps are tensors; the rest is JSON in the header. Random numbers have
no place in it: those of a step follow from the seed and its number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.arrays import Array
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.tensors import as_arrays, as_tensor
from videozoo.errors import CheckpointMismatch, UnreadableCheckpoint, printable
from videozoo.training.folder import STATE, place_whole
from videozoo.training.validation import Accuracy

_KEY = "videozoo.training"


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps that are done."""
    unvalidated: bool = False
    """Whether the epoch that ended with them is still to be validated."""
    best: Accuracy | None = None
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
    place_whole(folder / STATE, lambda path: safetensors_file.write(path, arrays, {_KEY: text}))


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


def check_state(state: State, network: torch.nn.Module, *, averaged: bool) -> None:
    """Find out whether the tensors of a state are those of a network and of what learns in it.

    Args:
        state: as it was read.
        network: in one piece.
        averaged: whether there are averaged weights, too.

    Raises:
        CheckpointMismatch: one is missing, or has no place, or another shape.
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    saved = {name: tensor.shape for name, tensor in state.model.items()}
    average = {name: tensor.shape for name, tensor in state.average.items()}
    learned = {name: parameter.shape for name, parameter in network.named_parameters()}
    kept = {name: tensor.shape for name, tensor in state.optimizer.items()}
    wrong = [
        name
        for name, _ in sorted((own.items() ^ saved.items()) | ((own if averaged else {}).items() ^ average.items()))
    ]
    wrong += [name for name, shape in kept.items() if shape not in ((), learned.get(name.rpartition("/")[0]))]
    wrong += [name for name in kept if name.rpartition("/")[0] not in learned]
    if wrong:
        raise CheckpointMismatch(
            f"the state is not of this network: {wrong[0]!r} is missing, or has no place, or another shape; give "
            "another --out"
        )


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
