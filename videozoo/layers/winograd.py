"""Winograd's 3x3 convolutions for the CPU: a quarter of the multiplications, on oneDNN's packed weights.

F(4x4, 3x3) of "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv 1509.09308: 4x4 outputs at a
time are seen as a product of polynomials, which is known from its values at six points a dimension. What is left to
multiply are 36 matrices over the channels; they run as one grouped 1x1 convolution of an image that is a line of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo.layers.packed import PackedConv, small_case

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where the polynomials are taken, besides infinity; few and small, for float32's sake."""
TILE, WINDOW, VALUES = 4, 6, 36
"""Outputs and inputs of a tile in one dimension; inputs in two."""
CHUNK_BYTES = 2**23
"""Of the values of as many images as are computed at once."""
_AT_ONES = POINTS.index(1.0) * (WINDOW + 1)
"""The value at (1, 1): every output of a tile has it once, so a bias can be added to it."""


@cache
def transforms(points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """``A`` (4, 6), ``G`` (6, 3) and ``B`` (6, 6), float64, for five points and infinity.

    ``A @ ((G @ g) * (B @ d))`` are the four sums ``d[i] * g[0] + d[i + 1] * g[1] + d[i + 2] * g[2]``.
    """
    others = [[other for other in points if other != point] for point in points]
    rows_a = [[point**power for power in range(TILE)] for point in points]
    rows_b = [[*_polynomial(roots), 0.0] for roots in others]
    rows_g = [
        [point**power / _value(_polynomial(roots), point) for power in range(3)]
        for point, roots in zip(points, others, strict=True)
    ]
    at_infinity = [0.0] * (TILE - 1) + [1.0], [0.0, 0.0, 1.0], _polynomial(points)
    a, g, b = (
        torch.tensor([*rows, last], dtype=torch.float64, device="cpu")
        for rows, last in zip((rows_a, rows_g, rows_b), at_infinity, strict=True)
    )
    return a.T, g, b


def _polynomial(roots: list[float] | tuple[float, ...]) -> list[float]:
    """Coefficients of the product of ``x - root``, the constant one first."""
    coefficients = [1.0]
    for root in roots:
        coefficients = [
            lower - root * same for lower, same in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)
        ]
    return coefficients


def _value(coefficients: list[float], x: float) -> float:
    return sum(coefficient * x**power for power, coefficient in enumerate(coefficients))


@cache
def _transforms_of_tiles() -> tuple[Tensor, Tensor, Tensor]:
    """The three of flattened tiles: (16, 36), (36, 9) and (36, 36), float32."""
    a, g, b = (torch.kron(matrix, matrix).float() for matrix in transforms(POINTS))
    return a, g, b


def wins(images: int, height: int, width: int, in_channels: int, out_channels: int) -> bool:
    """Whether it is faster than oneDNN's direct convolution, by a rule that was measured.

    Beside the products, each tile costs a transform of its inputs and one of its values, and each call the reading of
    weights that are four times as many; margins of maps that are no multiple of 4 are computed for nothing. On AMD's
    Zen 4, with AVX-512 and without, the rule holds within 5 % but for 7x7 maps of 128 channels: it takes 128 channels
    and more at 28x28, 256 from two images at 14x14, 512 from four at 7x7, not 64 at 56x56.
    """
    tiles = images * _tiles(height) * _tiles(width)
    return images * height * width > tiles * (5.4 + 270 / in_channels + 540 / out_channels) + 76


def _tiles(size: int) -> int:
    return -(-size // TILE)


class WinogradConv:
    """A 3x3 convolution of stride 1 and padding 1, with ReLU, for maps of one shape (`MadePerShape`).

    Args:
        weight: (channels out, channels in, 3, 3), float32.
        bias: (channels out,); None for none.
        shape: of the maps, (N, C, H, W).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
        self.out_channels, in_channels = weight.shape[:2]
        images, _, height, width = shape
        per_image = _tiles(height) * _tiles(width)
        values = VALUES * per_image * max(in_channels, self.out_channels) * weight.element_size()
        chunks = max(1, images * values // CHUNK_BYTES)
        self.images = -(-images // chunks)
        """That are computed at once."""
        taps = weight.detach().permute(2, 3, 0, 1).reshape(9, -1)
        transformed = (_transforms_of_tiles()[1] @ taps).view(VALUES * self.out_channels, in_channels, 1, 1)
        offset = None
        if bias is not None:
            offset = bias.new_zeros(VALUES, self.out_channels)
            offset[_AT_ONES] = bias
            offset = offset.flatten()
        line = (1, VALUES * in_channels, 1, self.images * per_image)
        self._products = PackedConv(transformed, offset, ((0, 0), (1, 1), (1, 1), VALUES), False, line)

    def __call__(self, x: Tensor) -> Tensor:
        """Channels-last maps of the shape that it was made for to the same with ``channels out``."""
        x = x.permute(0, 2, 3, 1)
        images, height, width, _ = x.shape
        out = x.new_empty(images, height, width, self.out_channels)
        for start in range(0, images, self.images):
            start = min(start, images - self.images)  # the last chunk has the others' size, and may repeat images
            self._write(x[start : start + self.images], out[start : start + self.images])
        return out.permute(0, 3, 1, 2)

    def _write(self, x: Tensor, out: Tensor) -> None:
        """(N, H, W, channels in) to (N, H, W, channels out)."""
        to_outputs, _, to_values = _transforms_of_tiles()
        images, height, width, channels = x.shape
        rows, columns = _tiles(height), _tiles(width)
        whole = rows * TILE, columns * TILE
        x = F.pad(x, (0, 0, 1, whole[1] + 1 - width, 1, whole[0] + 1 - height))
        windows = x.unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)  # (N, rows, columns, channels in, 6, 6)
        windows = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, VALUES, channels)
        line = torch.matmul(to_values, windows).view(1, 1, len(windows), -1).permute(0, 3, 1, 2)
        line = self._products(line)
        tiles = torch.matmul(to_outputs, line.permute(0, 2, 3, 1).view(-1, VALUES, self.out_channels))
        tiles = tiles.view(images, rows, columns, TILE, TILE, -1).transpose(2, 3)
        if whole == (height, width):
            torch.clamp_min(tiles, 0, out=out.view(tiles.shape))
        else:
            torch.clamp_min(tiles.reshape(images, *whole, -1)[:, :height, :width], 0, out=out)


@cache
def works() -> bool:
    """Whether `WinogradConv` answers rightly on this machine, and `wins` holds for it."""
    return answers_rightly(lambda x, weight, bias: WinogradConv(weight, bias, x.shape)(x), 2)


def answers_rightly(convolve: Callable[[Tensor, Tensor, Tensor], Tensor], dimensions: int) -> bool:
    """Whether maps, weight and bias give the right answers, on the arithmetic that the rules were measured with.

    They were measured on Zen 4 alone.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    with torch.autocast("cpu", enabled=False), torch.inference_mode():
        x, weight, bias, expected = small_case(dimensions)
        try:
            found = convolve(x, weight, bias)
        except (AttributeError, RuntimeError, TypeError, ValueError):  # as in `prepacked_works`
            return False
    return bool((found - expected.relu()).abs().max() < 1e-4)
