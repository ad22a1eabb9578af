"""The training loop.

A step takes the clips that the seed and its number say, whatever the number of processes; each process computes its
share, in as many passes as its memory needs, and the gradients of all are averaged. Dropout draws from the seed, the
number of the step and the process. So a run that is resumed goes on as if it had not been stopped.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from tqdm import tqdm

from videozoo.errors import CheckpointMismatch, InvalidArgument, TrainingError
from videozoo.layers.video_model import VideoModel
from videozoo.training.checkpoint import (
    Progress,
    check_state,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    save_state,
)
from videozoo.training.folder import BEST, LAST, LOG, PROBLEMS, VALIDATION, save_folder
from videozoo.training.log import CsvLog
from videozoo.training.network import WithLoss
from videozoo.training.optimizer import create_optimizer, set_rates
from videozoo.training.problems import Data, Undecoded, in_order, read_problems, write_problems
from videozoo.training.recipe import Recipe
from videozoo.training.schedule import Course, lr_factor, momentum_at
from videozoo.training.sharded import gather_model, gather_optimizer, spread, whole
from videozoo.training.together import together
from videozoo.training.validation import Accuracy, ValidationLoader, accuracy
from videozoo.video.batches import Batch, TrainingLoader
from videozoo.video.dataset import Problem
from videozoo.video.transforms import normalise_clips


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and where it goes."""

    recipe: Recipe
    network: VideoModel
    loader: TrainingLoader
    steps_per_epoch: int
    validation: ValidationLoader | None
    out: Path
    labels: tuple[str, ...]
    dataset: str | None
    """What the labels are of; None for the user's own."""
    identity: dict[str, Any]
    """What a run must have in common with another one to go on with it."""
    seed: int = 0
    validate_each_epoch: bool = False
    progress: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a training."""

    out: Path
    num_steps: int
    loss: float | None
    """Of the last step; None where nothing was left to do."""
    best: Accuracy | None
    problems: tuple[Problem, ...]
    """Videos to train on that could not be decoded; others stood in their places."""
    validation_problems: tuple[Problem, ...]
    """Videos to validate on that could not be decoded; they were not counted."""


def train(run: Run, accelerator: Accelerator) -> Result:
    """Train to the end, from the state in the run's folder if there is one.

    Raises:
        VideoError: no video can be decoded, or one with ``strict``.
        TrainingError: the loss is no number any more.
        CheckpointError: the state is damaged, or another run's.
        OutputError: a file cannot be written; the state and the folders before are kept.
    """
    return _Loop(run, accelerator).run_through()


@dataclass
class _Loop:
    run: Run
    accelerator: Accelerator
    progress: Progress = field(default_factory=Progress)
    problems: set[Undecoded] = field(default_factory=set)
    """That all processes have found, as of the last state."""
    found: set[Undecoded] = field(default_factory=set)
    """That this process has found since."""
    average: dict[str, Tensor] = field(default_factory=dict)
    loss: float | None = None
    """Of the step that was logged last, which the last step always is."""

    def __post_init__(self) -> None:
        recipe, network = self.run.recipe, self.run.network
        self.course = Course.of(recipe.run, self.run.steps_per_epoch)
        model = WithLoss(network, recipe.loss)
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.whole = copy.deepcopy(network) if self.sharded else network  # what is saved; then on the CPU
        self.model, self.optimizer = self.accelerator.prepare(
            model, create_optimizer(network, recipe.optimizer, recipe.lr)
        )
        if recipe.run.ema_decay and self.sharded:
            raise InvalidArgument("recipe.run.ema_decay: no averaged weights of a network that is spread over devices")
        if recipe.run.ema_decay:
            self.average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._restore()

    def run_through(self) -> Result:
        """Every step that is not done yet."""
        step, per_epoch = self.progress.step, self.run.steps_per_epoch
        settings = self.run.recipe.run
        with self._logs() as (log, validation_log), self._bar() as bar:
            if self.progress.unvalidated:  # stopped while it validated
                self._end_epoch(step, validation_log)
            while step < self.course.num_steps:
                epoch, done = divmod(step, per_epoch)
                for batch in self.run.loader.epoch(epoch, first_step=done):
                    loss, norm = self._step(step, batch)
                    step += 1
                    bar.update()
                    ends = step % per_epoch == 0 or step == self.course.num_steps
                    saves = ends or step % settings.checkpoint_every == 0
                    if saves or step % settings.log_every == 0:
                        self._log(log, bar, step, loss, norm)  # also finds out whether the loss still is a number
                    if ends:
                        if self._validates(step):  # which can fail: the epoch is kept before
                            self._save_state(step, unvalidated=True)
                        self._end_epoch(step, validation_log)
                    elif saves:
                        self._save_state(step)
                    if step == self.course.num_steps:
                        break
        replaced, uncounted = (
            tuple(one.problem for one in in_order(self.problems) if one.data == data) for data in ("train", "val")
        )
        return Result(self.run.out, step, self.loss, self.progress.best, replaced, uncounted)

    def _step(self, step: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; the mean loss of this process's clips, and the norm of all gradients."""
        recipe, device = self.run.recipe, self.accelerator.device
        self._note("train", batch.problems)
        torch.manual_seed(zlib.crc32(f"{self.run.seed} {step} {self.accelerator.process_index}".encode()))
        set_rates(
            self.optimizer,
            lr_factor(recipe.schedule, step, self.course),
            momentum_at(recipe.schedule, step, self.course),
        )
        self.model.train()
        passes = list(
            zip(
                batch.clips.to(device, non_blocking=True).split(recipe.run.clips_at_once),
                batch.labels.to(device, non_blocking=True).split(recipe.run.clips_at_once),
                strict=True,
            )
        )
        total = torch.zeros((), device=device)
        for number, (clips, labels) in enumerate(passes, start=1):
            # Processes exchange gradients once a step, with the last pass.
            with nullcontext() if number == len(passes) else self.accelerator.no_sync(self.model):
                loss = self.model(normalise_clips(clips, recipe.input.mean, recipe.input.std), labels)
                loss = loss * (len(labels) / len(batch.labels))
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = whole(self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_norm or math.inf))
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, tensor in self.run.network.state_dict().items() if self.average else ():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - recipe.run.ema_decay)
            else:
                self.average[name].copy_(tensor)
        return total, norm

    def _note(self, data: Data, problems: Iterable[Problem]) -> None:
        self.found.update(Undecoded(data, problem) for problem in problems)

    def _log(self, log: CsvLog | None, bar: tqdm[Any], step: int, loss: Tensor, norm: Tensor) -> None:
        """The mean loss of all processes, and the gradients' norm before they were clipped."""
        self.loss = mean = float(self.accelerator.reduce(loss, "mean"))
        # The gradients tell of the weights after the step. Half-precision ones may overflow: then there was no step.
        useless = not math.isfinite(norm) and not self.accelerator.optimizer_step_was_skipped
        if useless or not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} at step {step}, the gradients' norm {float(norm)}: begin again with another --out "
                "and a lower learning rate (--set optimizer.lr=...)"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
        if log is not None:
            log.write(step, (step - 1) // self.run.steps_per_epoch, f"{rate:.8g}", f"{mean:.8g}", f"{float(norm):.8g}")
        self.accelerator.log({"loss": mean, "lr": rate, "gradient_norm": float(norm)}, step=step)

    def _validates(self, step: int) -> bool:
        """Whether there is a validation at the end of an epoch, which this step is."""
        return self.run.validation is not None and (self.run.validate_each_epoch or step == self.course.num_steps)

    def _end_epoch(self, step: int, log: CsvLog | None) -> None:
        """Validate if it is asked for, keep the network as the last and perhaps the best, and keep the state."""
        improved = False
        with self._averaged():
            if self.run.validation is not None and self._validates(step):
                found = self._validate(self.run.validation, step)
                improved = self.progress.best is None or found.top1 > self.progress.best.top1
                if improved:
                    self.progress = replace(self.progress, best=found)
                if log is not None:
                    log.write(step, found.top1, found.top5, found.mean_class, found.num_videos, found.num_failed)
                    tqdm.write(f"step {step}: {found}") if self.run.progress else None
                self.accelerator.log(
                    {"top1": found.top1, "top5": found.top5, "mean_class": found.mean_class}, step=step
                )
            weights = gather_model(self.model) if self.sharded else {}
            with together():
                if self.accelerator.is_main_process:
                    if self.sharded:
                        self.whole.load_state_dict(weights)
                    for name in (BEST, LAST) if improved else (LAST,):
                        save_folder(self.whole, self.run.out / name, self.run.labels, self.run.dataset)
        self._save_state(step)

    def _validate(self, loader: ValidationLoader, step: int) -> Accuracy:
        """The accuracy of the network on all validation videos, the same on every process."""
        self.model.eval()
        numbers, logits = [], []
        for batch in loader:
            clips = normalise_clips(batch.clips.to(self.accelerator.device), *self._mean_and_std())
            with torch.no_grad():
                rows = self.model(clips).float()
            self._note("val", batch.problems)
            numbers.append(self.accelerator.gather(batch.numbers.to(rows.device)).cpu())
            logits.append(self.accelerator.gather(rows).cpu())
        counted = torch.cat(numbers)
        found = counted >= 0
        order = counted[found].argsort()
        rows = torch.cat(logits)[found][order]
        return accuracy(step, loader.views, counted[found][order].tolist(), rows.numpy())

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.run.recipe.input.mean, self.run.recipe.input.std

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights, if there are any, in place of the ones that learn."""
        if not self.average:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.run.network.state_dict().items()}
        self.run.network.load_state_dict(self.average)
        try:
            yield
        finally:
            self.run.network.load_state_dict(own)

    def _save_state(self, step: int, *, unvalidated: bool = False) -> None:
        found = set(gather_object(list(self.found))) - self.problems
        self.problems |= found
        self.found.clear()
        scaler = self.accelerator.scaler
        self.progress = replace(
            self.progress,
            step=step,
            unvalidated=unvalidated,
            scaler={} if scaler is None else scaler.state_dict(),
        )
        optimizer = self.optimizer.optimizer
        if self.sharded:
            weights, kept = gather_model(self.model), gather_optimizer(self.model, optimizer)
        else:
            weights, kept = self.run.network.state_dict(), optimizer_tensors(self.run.network, optimizer)
        with together():
            if self.accelerator.is_main_process:
                folder, run = self.run.out, self.run.identity
                if found:  # before the state: a kill in between leaves a video that is found again, and never loses one
                    write_problems(folder / PROBLEMS, self.problems)
                save_state(folder, run, self.progress, model=weights, optimizer=kept, average=self.average)

    def _restore(self) -> None:
        with together():
            state = read_state(self.run.out, self.run.identity)
            if state is not None:
                check_state(state, self.whole, averaged=bool(self.average))
                self.problems = read_problems(self.run.out / PROBLEMS)
        steps = gather_object([0 if state is None else state.progress.step])
        if len(set(steps)) > 1:
            raise CheckpointMismatch(
                f"the processes find the states of steps {steps}: {self.run.out} must be one folder"
            )
        if state is None:
            return
        self.progress = state.progress
        if self.sharded:
            spread(self.model, self.optimizer.optimizer, weights=state.model, kept=state.optimizer)
        else:
            self.run.network.load_state_dict(state.model)
            restore_optimizer(self.run.network, self.optimizer.optimizer, state.optimizer)
        for name, tensor in state.average.items():
            self.average[name].copy_(tensor)
        if self.accelerator.scaler is not None and state.progress.scaler:
            self.accelerator.scaler.load_state_dict(state.progress.scaler)

    @contextmanager
    def _logs(self) -> Iterator[tuple[CsvLog | None, CsvLog | None]]:
        """The two logs, which the first process writes."""
        if not self.accelerator.is_main_process:
            yield None, None
            return
        step, columns = self.progress.step, ["top1", "top5", "mean_class_accuracy", "num_videos", "num_failed"]
        validated = step - self.progress.unvalidated
        with (
            CsvLog(self.run.out / LOG, ["epoch", "lr", "loss", "gradient_norm"], from_step=step) as log,
            CsvLog(self.run.out / VALIDATION, columns, from_step=validated) as validation_log,
        ):
            yield log, validation_log

    def _bar(self) -> tqdm[Any]:
        silent = None if self.run.progress and self.accelerator.is_main_process else True
        return tqdm(total=self.course.num_steps, initial=self.progress.step, unit="step", disable=silent)
