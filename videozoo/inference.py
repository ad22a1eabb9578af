"""Networks rebuilt for inference, and the allocator setting that matters most on Linux."""

from __future__ import annotations

import copy
import ctypes
import sys
from typing import Any, TypeVar

import torch

from videozoo.errors import InvalidArgument
from videozoo.layers.fused import AsFloat32, FusedConv
from videozoo.layers.video_model import VideoModel

Net = TypeVar("Net", bound=VideoModel)


def optimize_for_inference(
    model: Net, *, dtype: torch.dtype | None = None, compile: bool = False, share_weights: bool = False
) -> Net:
    """A copy of a network that answers the same faster, in evaluation alone; the original stays as it is.

    Batch norms are folded into the convolutions, addition and ReLU happen where the convolution writes its result,
    memory is channels-last, and 3-D layers that see single frames run in two dimensions. On the CPU, convolutions run
    in oneDNN on weights that are packed at the first clip of a shape, for two shapes at a time and each number of
    threads; those lie beside the folded weights (with ``share_weights``, beside the original's). Nothing is kept on the
    disk. In float32, some convolutions go by Winograd's way (arXiv 1509.09308): wide 3x3 ones, with four times their
    weights, and those that see three frames, with twice. float32 logits agree to 1e-5 of the largest; of clips and
    weights that are not finite they do not tell, for oneDNN's ReLU makes zeros of NaN.

    The copy has the original's methods; ``train`` and ``reset_classifier`` raise `InvalidArgument`. Its state dict has
    the folded weights, under other names. The stages' maps are the original's, but a hook on a single block may see a
    tensor that the next block overwrites.

    Args:
        model: a network of the zoo; its batch norms are used as in evaluation, whatever its mode.
        dtype: of weights and feature maps, such as ``torch.bfloat16``, which costs accuracy; None for the model's own.
            Logits stay float32. Clips may have any floating type.
        compile: also compile ``forward`` with `torch.compile`, at the first clip of each shape.
        share_weights: write no folded weights; the copy reads the original's, and packs them at its first clip. For
            callers that drop the original, as `load_recognizer` does: who changes it in place may change the copy.
            Where weights of its own are needed (another ``dtype``, ``compile``, a state dict, ``.to()``, a GPU), the
            copy makes them then, and shares no more.

    Raises:
        InvalidArgument: something else than a network of the zoo, one that is optimised already, or a ``dtype`` that is
            no floating type.
    """
    if not isinstance(model, VideoModel):
        raise InvalidArgument(f"{type(model).__name__} is no network of the zoo: create_model builds them")
    if model.for_inference:
        raise InvalidArgument("this network is optimised already: optimise the one it was made from")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidArgument(f"dtype={dtype}: give a floating type, such as torch.bfloat16, or None")
    with torch.inference_mode(False), torch.no_grad():
        memo: dict[int, Any] = {}
        for part, replacement in model.fused_parts(dtype):
            memo[id(part)] = replacement
        optimized = copy.deepcopy(model, memo)
        if compile or not share_weights:
            for module in optimized.modules():
                if isinstance(module, FusedConv):
                    module.fold()
        if dtype is not None:
            optimized.to(dtype)
            optimized.fc.float()
            optimized.dropout = AsFloat32()
    optimized.for_inference = True
    optimized.eval().requires_grad_(False)
    if compile:
        optimized.compile()
    return optimized


def reuse_heap() -> bool:
    """Keep freed memory in this process, instead of giving it back to the system and asking for it again.

    Feature maps are tens of megabytes each. glibc maps such blocks anew for every layer, and the page faults can take
    more time than the arithmetic. This sets ``mallopt(M_MMAP_MAX, 0)`` and ``mallopt(M_TRIM_THRESHOLD, 2**31 - 1)``
    for the whole process and until it ends: what was once allocated stays with the process, though it is used again.
    ``mallopt(M_ARENA_MAX, 1)`` lets threads that start later share the heap; their own would not keep large blocks.
    The library calls it by itself in Ray's actors alone; the command line does.

    Returns:
        Whether it was done: only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1) and mallopt(m_arena_max, 1))
