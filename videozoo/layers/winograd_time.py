"""Winograd's way along time for convolutions that see three frames, on the CPU: half of the multiplications.

F(4, 3) of "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv 1509.09308, in one dimension: four
frames come of products at six points, and each product is a convolution in two dimensions, of oneDNN's packed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from videozoo.layers.packed import PackedConv
from videozoo.layers.winograd import TILE, WINDOW, answers_rightly, transforms

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
"""Opposite points share their even and odd powers, which saves passes over the products."""
_ZERO, _ONE, _TWO, _INFINITY = 0, 1, 3, 5
"""Indices of values; behind those at 1 and 2 stand those at -1 and -2."""


def wins(size: Sequence[int], taps: int, in_channels: int, out_channels: int, skipped: int = 1) -> bool:
    """Whether it is faster than oneDNN's direct convolution, by a rule that was measured.

    Each tile costs passes over its inputs and over its products, and each clip as much as 60 million multiplications
    take. On AMD's Zen 4 it takes what is 1.0 to 1.6 times as fast with one thread, with AVX-512 and without, and 0.9
    to 1.5 times with two (the least are 7x7 pixels, or 14x14 of few channels); it leaves up to 1.2 times.

    Args:
        size: of the output, (T, H, W), or about; the last tile is computed whole.
        taps: height times width of the kernel.
        in_channels: of the weight.
        out_channels: of the weight.
        skipped: pixels of the input for each of the output.
    """
    num_frames, height, width = size
    tiles = -(-num_frames // TILE)
    saved = (3 * num_frames - WINDOW * tiles) * taps * in_channels * out_channels
    passes = tiles * (400 * skipped * in_channels + 500 * out_channels)
    return (saved - passes) * height * width > 6e7


class WinogradTimeConv:
    """A (3, h, w) convolution of stride 1 and padding 1 in time, with ReLU, for clips of one shape (`MadePerShape`).

    Args:
        weight: (channels out, channels in, 3, h, w), float32.
        bias: (channels out,); None for none.
        shape: of the clips, (N, C, T, H, W).
        stride: in space.
        padding: in space.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, shape: torch.Size, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> None:
        taps = weight.detach().movedim(2, 0)
        values = (transforms(POINTS)[1].float() @ taps.reshape(3, -1)).view(WINDOW, *taps.shape[1:])
        self._products = [
            PackedConv(
                value,
                bias if index == _ONE else None,  # every output has the product at 1 once
                (padding, stride, (1, 1), 1),
                index in (_ZERO, _INFINITY),
                (1, shape[1], *shape[3:]),
            )
            for index, value in enumerate(values)
        ]

    def __call__(self, x: Tensor, pool: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Channels-last clips of the shape that it was made for to the same with ``channels out``.

        ``pool`` makes each frame smaller, (1, channels out, H, W), before it is written.
        """
        clips = x.permute(0, 2, 3, 4, 1)
        black = x.new_zeros(clips.shape[2:])
        out: Tensor | None = None
        for index, clip in enumerate(clips):
            frames = [black, *clip, *[black] * TILE]
            for start in range(0, len(clip), TILE):
                tile = self._tile(_values(*frames[start : start + WINDOW]))
                for number, frame in zip(range(start, len(clip)), tile, strict=False):  # the last has fewer
                    frame = frame if pool is None else pool(frame)
                    if out is None:
                        out = x.new_empty(*clips.shape[:2], *frame.shape[2:], frame.shape[1]).permute(0, 1, 4, 2, 3)
                    out[index, number] = frame[0]
        assert out is not None  # clips have frames
        return out.transpose(1, 2)

    def _tile(self, values: Tensor) -> Iterator[Tensor]:
        """Its four frames, (1, channels out, H', W')."""
        even, odd = self._even_and_odd(values, _ONE)
        even2, odd2 = self._even_and_odd(values, _TWO)
        yield self._products[_ZERO](values[_ZERO], torch.add(even, even2))
        even.add_(even2, alpha=4)
        yield torch.add(odd, odd2, alpha=2, out=even2).clamp_min_(0)
        yield even.clamp_min_(0)
        yield self._products[_INFINITY](values[_INFINITY], odd.add_(odd2, alpha=8))

    def _even_and_odd(self, values: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Sum and difference of the products at a point and its opposite: what even and odd powers are factors of."""
        at, opposite = (self._products[i](values[i]) for i in (index, index + 1))
        return torch.add(at, opposite), at.sub_(opposite)


def _values(d0: Tensor, d1: Tensor, d2: Tensor, d3: Tensor, d4: Tensor, d5: Tensor) -> Tensor:
    """Frames, (H, W, channels), to a tile's values, (6, 1, channels, H, W)."""
    values = d0.new_empty(WINDOW, 1, *d0.shape)
    v0, v1, v2, v3, v4, v5 = values[:, 0]
    odd, even = torch.sub(d3, d1, alpha=4, out=v5), torch.sub(d4, d2, alpha=4, out=v1)
    torch.sub(even, odd, out=v2)
    torch.add(even, odd, out=v1)
    odd, even = torch.sub(d3, d1, out=v5), torch.sub(d4, d2, out=v3)
    torch.add(even, torch.sub(d0, d2, out=v0), alpha=4, out=v0)
    torch.sub(even, odd, alpha=2, out=v4)
    torch.add(even, odd, alpha=2, out=v3)
    torch.sub(torch.sub(d5, d3), odd, alpha=4, out=v5)
    return values.permute(0, 1, 4, 2, 3)


@cache
def works() -> bool:
    """Whether `WinogradTimeConv` answers rightly on this machine, and `wins` holds for it."""
    return answers_rightly(lambda x, weight, bias: WinogradTimeConv(weight, bias, x.shape, (1, 1), (1, 1))(x), 3)
