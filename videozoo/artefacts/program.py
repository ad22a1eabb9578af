"""From a network to a graph, by torch.export: the one form from which all formats are written."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from videozoo.artefacts.form import POSITIONS, Axis, Precision, Shape
from videozoo.errors import InvalidArgument, reason
from videozoo.inference import optimize_for_inference
from videozoo.layers.video_model import VideoModel

_EXAMPLE = (2, 1, 16, 64, 96)
"""Least size of a dynamic axis in the example: no map has one frame or pixel, which torch would take for a constant."""


_config: Any = importlib.import_module("torch.fx.experimental._config")


class _InPrecision(nn.Module):
    """A network of few bits whose clips and logits are float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to logits."""
        return self.model(x.to(self.dtype)).float()


def prepared(model: VideoModel, dtype: Precision, fused: bool) -> nn.Module:
    """What is exported of a network: a copy in evaluation, in a precision, with batch norms folded or not."""
    torch_dtype: torch.dtype = getattr(torch, dtype)
    if fused:
        return optimize_for_inference(model, dtype=None if dtype == "float32" else torch_dtype)
    if dtype == "float32":
        return model
    return _InPrecision(copy.deepcopy(model).to(torch_dtype), torch_dtype)


def check_axes(model: VideoModel, dynamic: Sequence[Axis]) -> None:
    """Refuse dynamic axes that a network cannot have.

    Raises:
        InvalidArgument: frames, of a network that shifts a fixed number of them among each other.
    """
    segments = model.smallest_clip[0]
    if "frames" in dynamic and segments > 1:
        name = model.pretrained_cfg.get("architecture", type(model).__name__)
        raise InvalidArgument(
            f"--dynamic frames: {name} shifts {segments} segments among each other, and that number is part of its "
            "graph; leave out frames"
        )


def export_program(model: nn.Module, clip: Shape, dynamic: Sequence[Axis] = ()) -> ExportedProgram:
    """The graph of a network in evaluation.

    Args:
        model: from clips to logits.
        clip: N, C, T, H, W of the axes that are not dynamic.
        dynamic: axes of any size.

    Raises:
        InvalidArgument: torch.export cannot take the network, or not with these axes; with torch's reason.
    """
    free = [position for axis in dynamic for position in POSITIONS[axis]]
    shape = [max(size, _EXAMPLE[n]) if n in free else size for n, size in enumerate(clip)]
    if 4 in free:
        shape[4] = shape[3] + 32  # not a square: torch would take one side for the other
    example = torch.zeros(shape)
    was_training = model.training
    try:
        # without the setting, a graph traced on maps of several pixels refuses clips whose maps have one
        with torch.no_grad(), _config.patch(backed_size_oblivious=True):
            return torch.export.export(
                model.eval(), (example,), dynamic_shapes=(dict.fromkeys(free, Dim.DYNAMIC),), strict=False
            )
    except InvalidArgument:
        raise
    except Exception as error:  # any: torch.export says in many ways that it cannot
        axes = f" with dynamic {', '.join(dynamic)}" if dynamic else ""
        raise InvalidArgument(f"torch.export does not take this network{axes}: {reason(error)}") from None
    finally:
        model.train(was_training) if was_training else None


def least_sizes(program: ExportedProgram) -> Shape:
    """The smallest clip (N, C, T, H, W) that a program's dynamic axes allow; 1 where an axis is fixed."""
    (name,) = program.graph_signature.user_inputs
    (clip,) = (node for node in program.graph.nodes if node.name == name)
    sizes = [_least(program, size) for size in clip.meta["val"].shape]
    return cast(Shape, tuple(sizes))


def _least(program: ExportedProgram, size: Any) -> int:
    if isinstance(size, int):
        return 1
    lower = program.range_constraints[size.node.expr].lower
    # 2 is what torch says of every axis of which it knows nothing; the graph also takes 1
    return 1 if math.isinf(float(lower)) or int(lower) <= 2 else int(lower)
