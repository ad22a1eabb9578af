"""oneDNN's own convolutions, on weights that were packed once.

They are private functions of torch, so `prepacked_works` computes a small case both ways before they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Padding, stride, dilation and groups."""
Made = TypeVar("Made")


class MadePerShape(Generic[Made]):
    """What was made for maps of a shape and a number of threads: oneDNN's layout of packed weights depends on both.

    A layout that was made for another shape would be changed at each call, which can take ten times as long as the
    convolution. For each number of threads there are two shapes, as the last batch of views is often smaller.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[torch.Size, int, Made], ...] = ()  # replaced whole: another thread may add to it, too

    def get(self, x: Tensor, make: Callable[[], Made]) -> Made | None:
        """For maps like ``x``, made now if need be; None for a third shape."""
        num_threads = torch.get_num_threads()
        known = self._known
        for shape, threads, made in known:
            if shape == x.shape and threads == num_threads:
                return made
        if sum(threads == num_threads for _, threads, _ in known) == 2:
            return None
        made = make()
        self._known = ((x.shape, num_threads, made), *known)
        return made


class PackedConv:
    """A convolution in two or three dimensions, an addition after it and a ReLU after that.

    Args:
        weight: (channels out, channels in / groups, *kernel).
        bias: (channels out,); None for none.
        geometry: of the convolution.
        relu: whether there is a ReLU.
        shape: of the maps that the weight is packed for; None leaves it as it is, for maps of any shape.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, geometry: Geometry, relu: bool, shape: torch.Size | None
    ) -> None:
        self._weight = weight
        if shape is not None:
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, shape)
        self._bias, self._geometry, self._relu = bias, geometry, "relu" if relu else None

    def __call__(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Channels-last maps to the same; ``shortcut``, of the output's shape and layout, is overwritten with it."""
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._weight, self._bias, *self._geometry, self._relu or "none", [], None
            )
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, self._weight, self._bias, *self._geometry, "add", 1.0, self._relu, [], None
        )


@cache
def prepacked_works(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's packed convolutions on this machine, and they give the plain ones' answers."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    with torch.autocast("cpu", enabled=False), torch.inference_mode():
        try:
            return all(_agrees(dimensions, dtype) for dimensions in (2, 3))
        except (AttributeError, RuntimeError, TypeError, ValueError):  # whatever a torch without them answers
            return False


def _agrees(dimensions: int, dtype: torch.dtype) -> bool:
    draw = torch.Generator().manual_seed(0)  # not the program's own
    convolve, layout = (F.conv2d, torch.channels_last) if dimensions == 2 else (F.conv3d, torch.channels_last_3d)
    weight, bias = torch.randn(16, 8, *[3] * dimensions, generator=draw) / 10, torch.randn(16, generator=draw)
    x, y = (torch.randn(2, channels, *[5] * dimensions, generator=draw) for channels in (8, 16))
    weight, bias, x, y = (tensor.to(dtype) for tensor in (weight, bias, x, y))
    plain = convolve(x, weight, bias, padding=1)
    x, y = (maps.contiguous(memory_format=layout) for maps in (x, y))
    geometry = ((1,) * dimensions, (1,) * dimensions, (1,) * dimensions, 1)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for shape in (x.shape, None):
        packed = PackedConv(weight, bias, geometry, True, shape)
        for found, expected in ((packed(x), plain.relu()), (packed(x, y.clone()), (plain + y).relu())):
            if not bool((found - expected).abs().max() < tolerance):
                return False
    return True
