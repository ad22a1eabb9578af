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
_Key = tuple[int, bool]
"""Number of threads, and whether autocast is on."""
_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
MOST_SHAPES = 2
PATIENCE = 8
"""Calls with other shapes until one of them is packed, too: to pack takes about as long as one call."""


class MadePerShape(Generic[Made]):
    """What was made for maps of a shape: oneDNN's layout of packed weights depends on it, and on the number of threads.

    A layout that was made for another shape is changed at each call, which can take ten times as long as the
    convolution (512 to 2048 channels, packed for 7x7 maps and used for 8x8); on weights that were never packed, whole
    networks take 1.3 to 1.4 times as long. Two shapes are kept, as the last batch of views is often smaller; another
    one takes the place of the older after `PATIENCE` calls.
    """

    def __init__(self) -> None:
        self._known: tuple[tuple[_Key, torch.Size, Made], ...] = ()  # replaced whole: another thread may add to it, too
        self._missed = 0

    def get(self, x: Tensor, make: Callable[[], Made]) -> Made | None:
        """For maps like ``x``, made now if need be; None for a shape that was rarely seen."""
        key = (torch.get_num_threads(), torch.is_autocast_enabled("cpu"))
        known = self._known
        for condition, shape, made in known:
            if shape == x.shape and condition == key:
                return made
        alike = [entry for entry in known if entry[0] == key]
        if len(alike) == MOST_SHAPES:
            self._missed += 1
            if self._missed % PATIENCE:
                return None
            known = tuple(entry for entry in known if entry is not alike[-1])
        made = make()
        self._known = ((key, x.shape, made), *known)
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
        self,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        relu: bool,
        shape: tuple[int, ...] | None = None,
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
    x, weight, bias, expected = small_case(dimensions, dtype)
    geometry = ((1,) * dimensions, (1,) * dimensions, (1,) * dimensions, 1)
    shortcut = expected.flip(0).contiguous(memory_format=_LAYOUTS[dimensions])
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for shape in (x.shape, None):
        packed = PackedConv(weight, bias, geometry, True, shape)
        found = packed(x) - expected.relu(), packed(x, shortcut.clone()) - (expected + shortcut).relu()
        if not all(bool(difference.abs().max() < tolerance) for difference in found):
            return False
    return True


def small_case(dimensions: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Channels-last maps, weight and bias of a 3x3 or 3x3x3 convolution of padding 1, and plain torch's answer."""
    draw = torch.Generator().manual_seed(0)  # not the program's own
    shapes = (2, 16, *(5, 9, 6)[:dimensions]), (32, 16, *[3] * dimensions), (32,)
    x, weight, bias = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    weight = weight / 10
    convolve = F.conv2d if dimensions == 2 else F.conv3d
    return x.contiguous(memory_format=_LAYOUTS[dimensions]), weight, bias, convolve(x, weight, bias, padding=1)
