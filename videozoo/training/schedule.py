"""Learning rates: pure functions of the number of the step, so that there is no schedule to save and resume."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videozoo.training.recipe import CosineSchedule, OneCycleSchedule, RunSettings, StepSchedule

Schedule = StepSchedule | CosineSchedule | OneCycleSchedule


@dataclass(frozen=True, slots=True)
class Course:
    """How many steps a run has."""

    steps_per_epoch: int
    num_steps: int

    @classmethod
    def of(cls, run: RunSettings, steps_per_epoch: int) -> Course:
        """The course of a run over so many steps an epoch."""
        return cls(steps_per_epoch, run.num_steps or run.epochs * steps_per_epoch)

    @property
    def num_epochs(self) -> int:
        """Epochs, the last of which may be shorter."""
        return -(-self.num_steps // self.steps_per_epoch)


def lr_factor(schedule: Schedule, step: int, course: Course) -> float:
    """What the highest learning rate is multiplied by.

    Args:
        schedule: of the recipe.
        step: number of the step, from 0 on.
        course: how many there are.

    >>> course = Course(steps_per_epoch=10, num_steps=40)
    >>> [round(lr_factor(StepSchedule((2, 3)), step, course), 3) for step in (19, 20, 30)]
    [1.0, 0.1, 0.01]
    >>> round(lr_factor(StepSchedule((3,), warmup_epochs=2, warmup_factor=0.1), 0, course), 3)
    0.1
    """
    if isinstance(schedule, OneCycleSchedule):
        return _one_cycle(schedule, step, course, low=1 / 25, high=1.0, end=1 / 25e4)
    epoch = step // course.steps_per_epoch
    if isinstance(schedule, StepSchedule):
        factor = schedule.factor ** sum(epoch >= milestone for milestone in schedule.epochs)
    else:
        done = epoch / course.num_epochs if schedule.each == "epoch" else step / course.num_steps
        factor = _half_cosine(1.0, 0.0, done)
    warmup_steps = schedule.warmup_epochs * course.steps_per_epoch
    if step < warmup_steps:
        factor *= 1 - (1 - step / warmup_steps) * (1 - schedule.warmup_factor)
    return factor


def momentum_at(schedule: Schedule, step: int, course: Course) -> float | None:
    """The momentum that the schedule asks for; None for the optimizer's own."""
    if not isinstance(schedule, OneCycleSchedule):
        return None
    return _one_cycle(schedule, step, course, low=0.95, high=0.85, end=0.95)


def _one_cycle(schedule: OneCycleSchedule, step: int, course: Course, *, low: float, high: float, end: float) -> float:
    top = schedule.rise * course.num_steps - 1
    if step <= top:
        return _half_cosine(low, high, step / top if top > 0 else 1.0)
    last = course.num_steps - 1
    return _half_cosine(high, end, (step - top) / (last - top))


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
