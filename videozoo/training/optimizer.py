"""The optimizer of a recipe: which parameters decay, and how fast each of them learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from videozoo.training.recipe import AdamW, Groups, Sgd

Group = dict[str, Any]


def create_optimizer(network: nn.Module, settings: Sgd | AdamW, lr: float) -> torch.optim.Optimizer:
    """The optimizer of the parameters that learn.

    Args:
        network: its parameters with ``requires_grad``.
        settings: of the recipe.
        lr: the learning rate for the batch at hand. Each group has it, times its own factor, as ``base_lr`` too.
    """
    groups = parameter_groups(network, settings.groups, lr=lr, weight_decay=settings.weight_decay)
    if isinstance(settings, AdamW):
        return torch.optim.AdamW(groups, lr=lr, betas=settings.betas)
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov)


def set_rates(optimizer: torch.optim.Optimizer, lr_factor: float, momentum: float | None) -> None:
    """Give every group its learning rate for a step, and a momentum if the schedule has one."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_factor
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


def parameter_groups(network: nn.Module, kind: Groups, *, lr: float, weight_decay: float) -> list[Group]:
    """The parameters that learn, in groups.

    Args:
        network: any module.
        kind: ``all``: everything decays, batch norms and biases too, as in MMAction2. ``matrices``: vectors do not.
            ``head``: so, and the last layer, which is new, learns 10 times as fast.
            ``tsm``: of the last layer the weight learns 5 times and the bias 10 times as fast, other biases twice;
            biases and batch norms do not decay (arXiv 1811.08383).
        lr: learning rate of a factor of 1.
        weight_decay: of what decays.
    """
    rules: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for factor, decays, parameter in _rules(network, kind):
        if parameter.requires_grad:
            rules.setdefault((factor, decays), []).append(parameter)
    return [
        {"params": found, "lr": lr * factor, "base_lr": lr * factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), found in rules.items()
    ]


def _rules(network: nn.Module, kind: Groups) -> Iterator[tuple[float, bool, nn.Parameter]]:
    """For each parameter how much faster it learns, and whether it decays."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if kind == "all":
                yield 1.0, True, parameter
            elif kind == "matrices":
                yield 1.0, parameter.ndim > 1, parameter
            elif kind == "head":
                yield 10.0 if isinstance(module, nn.Linear) else 1.0, parameter.ndim > 1, parameter
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                yield 1.0, False, parameter
            elif isinstance(module, nn.Linear):
                yield (5.0, True, parameter) if name == "weight" else (10.0, False, parameter)
            else:
                yield (1.0, True, parameter) if name == "weight" else (2.0, False, parameter)
