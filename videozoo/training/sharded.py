"""Networks that are spread over the devices (FSDP): their tensors whole, and back into their parts.

Every process calls these functions at the same time; the first one gets the tensors. A network's names are those within
`WithLoss`, which is what the processes share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

PREFIX = "network."
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def gather_model(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict, whole; empty but on the first process."""
    found: dict[str, Any] = get_model_state_dict(model, options=_WHOLE)
    return {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}


def gather_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What `optimizer_tensors` finds of a network in one piece; empty but on the first process."""
    found: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    return {
        f"{name.removeprefix(PREFIX)}/{key}": value
        for name, kept in found.get("state", {}).items()
        for key, value in kept.items()
        if isinstance(value, Tensor)
    }


def whole(tensor: Tensor) -> Tensor:
    """A tensor that each process has a part of, such as the norm of its gradients: the same on all."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    weights: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
) -> None:
    """Give a network and its optimizer what was gathered; every process brings all of it."""
    named: dict[str, Any] = {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}
    set_model_state_dict(model, named, options=_WHOLE)
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    state: dict[str, Any] = {}
    for name, tensor in kept.items():
        of, _, key = name.rpartition("/")
        state.setdefault(f"{PREFIX}{of}", {})[key] = tensor
    whole: dict[str, Any] = {"state": state, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, whole, options=_WHOLE)
