"""A recipe says all that a training does, as data: what its tables and fields are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from videozoo import settings
from videozoo.errors import InvalidArgument
from videozoo.video.augmentation import Augmentation

Freeze = Literal["none", "bn", "trunk"]
Precision = Literal["no", "fp16", "bf16"]


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise InvalidArgument(message)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The table ``[model]``: the network before its first step."""

    architecture: str | None = None
    """The one that the recipe is for; None for any."""
    pretrained: str | None = None
    """Tag of the weights to start from; None for none."""
    imagenet: str | None = None
    """timm's ResNet whose weights the trunk starts from, inflated where the trunk is 3-D; None for none."""
    drop_rate: float | None = None
    """Dropout before the classifier; None for the architecture's own."""
    freeze: Freeze = "none"
    """``bn``: batch norms keep their statistics, scale and shift. ``trunk``: only the classifiers learn."""
    fc_std: float = 0.01
    """Standard deviation that a new classifier is drawn with."""

    def __post_init__(self) -> None:
        """Raise InvalidArgument for two sources of weights, or numbers outside their range."""
        _refuse(
            self.pretrained is not None and self.imagenet is not None,
            "pretrained and imagenet both say where weights come from: set one of them to false",
        )
        _refuse(
            self.drop_rate is not None and not 0 <= self.drop_rate < 1,
            f"drop_rate must be from 0 to below 1, got {self.drop_rate}",
        )
        _refuse(not 0 < self.fc_std < 10, f"fc_std must be above 0 and below 10, got {self.fc_std}")


@dataclass(frozen=True, slots=True)
class InputSettings:
    """The table ``[input]``: what pixels of 0..255 are normalised by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Raise InvalidArgument for values that are none of pixels."""
        _refuse(not all(0 <= value <= 255 for value in self.mean), f"mean must be from 0 to 255, got {self.mean}")
        _refuse(not all(0 < value <= 255 for value in self.std), f"std must be above 0 and up to 255, got {self.std}")


Groups = Literal["all", "matrices", "head", "tsm"]


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with momentum: ``v = momentum v + g + weight_decay w; w = w - lr v``."""

    lr: float
    """Highest learning rate, at ``lr_batch_size`` clips a step; for others it is scaled linearly (arXiv 1706.02677)."""
    lr_batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    """Step along ``g + momentum v`` instead of ``v``."""
    groups: Groups = "all"
    """What decays and how fast it learns; see `parameter_groups`."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; None for any."""
    kind: Literal["sgd"] = "sgd"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for numbers outside their range."""
        _check_optimizer(self)
        _refuse(not 0 <= self.momentum < 1, f"momentum must be from 0 to below 1, got {self.momentum}")
        _refuse(self.nesterov and self.momentum == 0, "nesterov needs a momentum above 0")


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    lr: float
    """Highest learning rate, at ``lr_batch_size`` clips a step; for others it is scaled linearly."""
    lr_batch_size: int
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    groups: Groups = "matrices"
    """What decays and how fast it learns; see `parameter_groups`."""
    clip_norm: float | None = None
    """Largest norm of all gradients together; None for any."""
    kind: Literal["adamw"] = "adamw"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for numbers outside their range."""
        _check_optimizer(self)
        _refuse(not all(0 <= beta < 1 for beta in self.betas), f"betas must be from 0 to below 1, got {self.betas}")


def _check_optimizer(optimizer: Sgd | AdamW) -> None:
    _refuse(not 0 < optimizer.lr < 1000, f"lr must be above 0 and below 1000, got {optimizer.lr}")
    _refuse(optimizer.lr_batch_size < 1, f"lr_batch_size must be at least 1, got {optimizer.lr_batch_size}")
    _refuse(
        not 0 <= optimizer.weight_decay < 1, f"weight_decay must be from 0 to below 1, got {optimizer.weight_decay}"
    )
    clip = optimizer.clip_norm
    _refuse(clip is not None and not 0 < clip < float("inf"), f"clip_norm must be above 0, or false, got {clip}")


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """The learning rate times ``factor`` from each of some epochs on."""

    epochs: tuple[int, ...]
    factor: float = 0.1
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises linearly, step by step, from ``warmup_factor`` of what it would be."""
    warmup_factor: float = 0.1
    kind: Literal["step"] = "step"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for epochs that do not rise, or numbers outside their range."""
        rises = all(a < b for a, b in zip((0, *self.epochs), self.epochs, strict=False))
        _refuse(not rises, f"epochs must be numbers from 1 on that rise, got {self.epochs}")
        _refuse(not 0 < self.factor <= 1, f"factor must be above 0 and up to 1, got {self.factor}")
        _check_warmup(self)


@dataclass(frozen=True, slots=True)
class CosineSchedule:
    """Half a cosine from the learning rate to 0 (arXiv 1608.03983)."""

    each: Literal["epoch", "step"] = "epoch"
    """When the rate changes: MMAction2's schedule has one rate an epoch."""
    warmup_epochs: float = 0.0
    """As in `StepSchedule`."""
    warmup_factor: float = 0.1
    kind: Literal["cosine"] = "cosine"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for numbers outside their range."""
        _check_warmup(self)


@dataclass(frozen=True, slots=True)
class OneCycleSchedule:
    """Up by half a cosine from 1/25 of the learning rate, then down to 4e-7 of it (arXiv 1708.07120).

    The momentum (of AdamW the first beta) goes down from 0.95 to 0.85 and up again, as in torch's ``OneCycleLR``.
    """

    rise: float = 0.3
    """Part of the steps in which the rate rises."""
    kind: Literal["one_cycle"] = "one_cycle"

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a rise that is no part."""
        _refuse(not 0 < self.rise < 1, f"rise must be above 0 and below 1, got {self.rise}")


def _check_warmup(schedule: StepSchedule | CosineSchedule) -> None:
    warmup, factor = schedule.warmup_epochs, schedule.warmup_factor
    _refuse(not 0 <= warmup < float("inf"), f"warmup_epochs must be 0 or more, got {warmup}")
    _refuse(not 0 <= factor <= 1, f"warmup_factor must be from 0 to 1, got {factor}")


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The table ``[loss]``: cross entropy, and what is added."""

    aux_weight: float = 0.0
    """Of the cross entropy of TPN's auxiliary classifier; 0 for a network without one."""
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Raise InvalidArgument for numbers outside their range."""
        _refuse(not 0 <= self.aux_weight < float("inf"), f"aux_weight must be 0 or more, got {self.aux_weight}")
        _refuse(
            not 0 <= self.label_smoothing < 1, f"label_smoothing must be from 0 to below 1, got {self.label_smoothing}"
        )


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The table ``[run]``: how long, and in what portions."""

    batch_size: int
    """Clips of a step, of all processes together."""
    clips_at_once: int
    """Of one process: a larger share of the batch is computed in several passes, whose gradients are added up. Batch
    norms see one pass at a time."""
    epochs: int = 1
    num_steps: int | None = None
    """Ends the run after so many steps, whatever ``epochs`` says."""
    mixed_precision: Precision = "no"
    ema_decay: float = 0.0
    """Of an average of the weights, which is then what is validated and saved; 0 for none."""
    log_every: int = 10
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two states to resume from, besides those at the end of each epoch."""
    find_unused_parameters: bool = False
    """For several processes: whether some learned parameters may have no part in the loss."""

    def __post_init__(self) -> None:
        """Raise InvalidArgument for numbers outside their range."""
        for name in ("batch_size", "clips_at_once", "epochs", "num_steps", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            _refuse(value is not None and value < 1, f"{name} must be at least 1, got {value}")
        _refuse(not 0 <= self.ema_decay < 1, f"ema_decay must be from 0 to below 1, got {self.ema_decay}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a training does."""

    about: str
    """Where it comes from, and what differs."""
    model: ModelSettings
    input: InputSettings
    augmentation: Augmentation
    optimizer: Sgd | AdamW
    schedule: StepSchedule | CosineSchedule | OneCycleSchedule
    loss: LossSettings
    run: RunSettings

    @property
    def lr(self) -> float:
        """The learning rate for this batch size, by the linear scaling rule (arXiv 1706.02677)."""
        return self.optimizer.lr * self.run.batch_size / self.optimizer.lr_batch_size

    def to_toml(self) -> str:
        """The file that `videozoo.training.recipes.resolve` reads again."""
        table = settings.to_table(self)
        table["augmentation"].setdefault("short_side", False)  # left out, it would be the protocol's
        return _toml(table)


def _toml(table: Mapping[str, Any], section: str = "") -> str:
    """TOML of texts, numbers, truth values, arrays and tables."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    text = (f"[{section}]\n" if section else "") + "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += "\n" + _toml(value, f"{section}.{key}" if section else key)
    return text


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes are TOML's, but for this
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
