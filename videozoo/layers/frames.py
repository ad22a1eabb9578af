"""Clips as batches of frames: how the 2-D networks see time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold_frames(x: Tensor) -> Tensor:
    """Clips (N, C, T, H, W) as a batch of images (N*T, C, H, W), the frames of a clip behind each other."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_frames(x: Tensor, num_frames: int) -> Tensor:
    """Feature maps (N*T, C, H, W) of folded frames as (N, C, T, H, W)."""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def temporal_shift(x: Tensor, num_segments: int) -> Tensor:
    """Move an eighth of the channels one frame back in time and an eighth one frame on (TSM, arXiv 1811.08383).

    Args:
        x: (N * num_segments, C, H, W); every ``num_segments`` consecutive images are one clip.
        num_segments: frames of a clip.

    Returns:
        The same shape: channels [0, C/8) hold the next frame's values, [C/8, C/4) the previous frame's, the rest is
        unchanged; frames that do not exist count as zero.
    """
    clips = x.unflatten(0, (-1, num_segments))  # (N, T, C, H, W)
    fold = x.shape[1] // 8
    if torch.compiler.is_exporting():  # in a graph, writes into slices are scatters, slow to export and to run
        zeros = torch.zeros_like(clips[:, :1, :fold])
        following = torch.cat([clips[:, 1:, :fold], zeros], dim=1)
        previous = torch.cat([zeros, clips[:, :-1, fold : 2 * fold]], dim=1)
        return torch.cat([following, previous, clips[:, :, 2 * fold :]], dim=2).flatten(0, 1)
    # one block copy and four slice writes: in channels-last memory faster than to move every value once in slices
    shifted = clips.clone()
    shifted[:, :-1, :fold] = clips[:, 1:, :fold]
    shifted[:, -1:, :fold] = 0
    shifted[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    shifted[:, :1, fold : 2 * fold] = 0
    return shifted.flatten(0, 1)


class ShiftedConv(nn.Module):
    """A 2-D convolution whose input is shifted in time first."""

    def __init__(self, conv: nn.Module, num_segments: int) -> None:
        super().__init__()
        self.conv = conv
        self.num_segments = num_segments

    def forward(self, x: Tensor) -> Tensor:
        """(N * num_segments, C, H, W) to (N * num_segments, C', H', W')."""
        return self.conv(temporal_shift(x, self.num_segments))

    def extra_repr(self) -> str:
        return f"num_segments={self.num_segments}"
