"""Two steps of the recipes of three networks, held against plain autograd and the formulae written out."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import random_model
from torch import Tensor

from videozoo.layers.video_model import VideoModel
from videozoo.models.tpn import TPN
from videozoo.training import recipes
from videozoo.training.loop import Run, train
from videozoo.training.network import create_network
from videozoo.training.recipe import Recipe, Sgd, StepSchedule
from videozoo.video.batches import Batch

NUM_STEPS, NUM_CLIPS, NUM_CLASSES = 2, 4, 10


class FixedBatches:
    """The same clips in every epoch, in place of a loader."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        yield from self.batches[first_step:]


def batches(num_frames: int, side: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(5)
    shape = (NUM_CLIPS, 3, num_frames, side, side)
    return [
        Batch(
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw),
            torch.randint(0, NUM_CLASSES, (NUM_CLIPS,), generator=draw),
            (),
        )
        for _ in range(NUM_STEPS)
    ]


def filled(name: str, recipe: Recipe) -> VideoModel:
    """The recipe's network in training mode, with random tensors everywhere and without dropout."""
    torch.manual_seed(0)
    network = create_network(name, recipe, num_classes=NUM_CLASSES)
    source = random_model(name, NUM_CLASSES).state_dict()
    own = network.state_dict()
    network.load_state_dict({key: source.get(key, tensor) for key, tensor in own.items()})
    for key, tensor in network.state_dict().items():
        if key.endswith("bn3.weight"):
            tensor.mul_(0.2)  # so that a long sum of residuals stays small
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # In double precision a difference is a difference, and not the rounding of another order.
    network.double().get_submodule(network.first_conv).register_forward_pre_hook(
        lambda _, inputs: (inputs[0].double(),)
    )
    return network


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``log sum exp(logits) - logits[label]``."""
    shifted = logits - logits.max(dim=1, keepdim=True).values
    return (shifted.exp().sum(dim=1).log() - shifted[torch.arange(len(labels)), labels]).mean()


def reference(network: VideoModel, recipe: Recipe, data: list[Batch]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the steps, from autograd and the formulae; the network is changed in place."""
    sgd, schedule = recipe.optimizer, recipe.schedule
    assert isinstance(sgd, Sgd) and isinstance(schedule, StepSchedule)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    momenta: list[Tensor | None] = [None] * len(parameters)
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (recipe.input.mean, recipe.input.std))
    found, norms = [], []
    for step, batch in enumerate(data):
        clips = (batch.clips.float() - mean) / std
        if isinstance(network, TPN):
            logits, aux = network.forward_with_aux(clips)
            loss = cross_entropy(logits, batch.labels) + 0.5 * cross_entropy(aux, batch.labels)
        else:
            loss = cross_entropy(network(clips), batch.labels)
        gradients = torch.autograd.grad(loss, parameters)
        norm = sum(float((gradient.double() ** 2).sum()) for gradient in gradients) ** 0.5
        found.append(loss.item())
        norms.append(norm)
        scale = min(1.0, (sgd.clip_norm or float("inf")) / (norm + 1e-6))
        warmup = schedule.warmup_epochs * NUM_STEPS
        rate = recipe.lr * (1 if step >= warmup else 1 - (1 - step / warmup) * (1 - schedule.warmup_factor))
        with torch.no_grad():
            for number, (weight, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                g = gradient * scale + sgd.weight_decay * weight
                kept = momenta[number]
                v = g if kept is None else sgd.momentum * kept + g
                momenta[number] = v
                weight -= rate * (g + sgd.momentum * v if sgd.nesterov else v)
    return found, norms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe_name", "num_frames", "side", "clipped"),
    [
        ("ircsn_r50", "ircsn_r50.ig65m_k400", 8, 64, True),
        ("tpn_slowonly_r50", "tpn_slowonly_r50.k400", 8, 64, True),
        ("tsn_r50", "tsn_r50.mmaction2_1x1x3_100e", 3, 64, False),
    ],
)
def test_the_recipes_steps_are_those_of_the_formulae(
    name: str, recipe_name: str, num_frames: int, side: int, clipped: bool, tmp_path: Path
) -> None:
    from videozoo import registry

    run_as = {"batch_size": NUM_CLIPS, "clips_at_once": NUM_CLIPS, "num_steps": NUM_STEPS, "log_every": 1}
    changes = [f"run.{key}={value}" for key, value in run_as.items()]
    changes += ["model.pretrained=false", "model.imagenet=false"]
    recipe = recipes.resolve(recipes.read(recipe_name), registry.architecture(name).protocol, changes)
    data = batches(num_frames, side)
    expected = filled(name, recipe)
    losses, norms = reference(expected, recipe, data)
    network = filled(name, recipe)
    AcceleratorState._reset_state(reset_partial_state=True)
    run = Run(
        recipe=recipe, network=network, loader=FixedBatches(data), steps_per_epoch=NUM_STEPS, validation=None,  # type: ignore[arg-type]
        out=tmp_path, labels=tuple(map(str, range(NUM_CLASSES))), dataset=None, identity={},
    )  # fmt: skip
    train(run, Accelerator(cpu=True))
    with open(tmp_path / "log.csv", encoding="utf-8", newline="") as stream:
        log: list[dict[str, Any]] = list(csv.DictReader(stream))
    start, after = filled(name, recipe).state_dict(), network.state_dict()
    moved = unlike = 0.0
    for key, tensor in expected.state_dict().items():
        moved += float((tensor.double() - start[key].double()).square().sum())
        unlike += float((tensor.double() - after[key].double()).square().sum())
    assert [float(line["loss"]) for line in log] == pytest.approx(losses, rel=1e-6)
    assert [float(line["gradient_norm"]) for line in log] == pytest.approx(norms, rel=1e-6)
    assert moved > 0
    assert [norm > recipe.optimizer.clip_norm for norm in norms] == [clipped] * NUM_STEPS  # type: ignore[operator]
    assert (unlike / moved) ** 0.5 < 1e-6
