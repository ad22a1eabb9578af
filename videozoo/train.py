"""One readable training loop, and the synthetic motions that the ``test_*`` networks learn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from videozoo import registry
from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.keymap import foreign_names
from videozoo.checkpoints.mmaction2 import MMACTION2
from videozoo.checkpoints.tensors import as_arrays
from videozoo.errors import InvalidArgument
from videozoo.files import place
from videozoo.layers.video_model import VideoModel
from videozoo.predict import create_transform
from videozoo.synthetic import draw_clip, motion_of

HELD_OUT_SEED = 1_000_000
"""Seeds from here on are never trained on."""


@dataclass(frozen=True)
class Step:
    """Where a training run is."""

    number: int
    loss: float


def motion_clips(model: VideoModel, num_clips: int, *, first_seed: int = 0) -> tuple[Tensor, Tensor]:
    """Synthetic motions as ``model`` sees them.

    Returns:
        Clips float32 (num_clips, 3, T, H, W) and classes int64 (num_clips,).
    """
    transform = create_transform(model, "center")
    seeds = range(first_seed, first_seed + num_clips)
    clips = torch.cat([transform(draw_clip(seed)) for seed in seeds])
    return clips, torch.tensor([motion_of(seed) for seed in seeds])


def train(
    model: VideoModel,
    clips: Tensor,
    classes: Tensor,
    *,
    num_steps: int,
    batch_size: int,
    peak_lr: float,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> Iterator[Step]:
    """Train ``model`` in place with AdamW and a one-cycle schedule; every step is yielded when it is done.

    Args:
        model: the network; it is left in evaluation mode.
        clips: (M, C, T, H, W) normalised.
        classes: (M,) class numbers.
        num_steps: optimizer steps.
        batch_size: clips a step, drawn without replacement within an epoch.
        peak_lr: highest learning rate, reached after a tenth of the steps.
        weight_decay: of matrices; vectors (batch norms, biases) have none.
        seed: of the order of the clips and of dropout.

    Raises:
        InvalidArgument: fewer clips than one batch, or counts below 1.
    """
    if num_steps < 1 or not 1 <= batch_size <= len(clips):
        raise InvalidArgument(f"num_steps={num_steps}, batch_size={batch_size} for {len(clips)} clips")
    torch.manual_seed(seed)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak_lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=num_steps, pct_start=0.1)
    model.train()
    for number, batch in zip(range(1, num_steps + 1), _batches(len(clips), batch_size, seed), strict=False):
        loss = F.cross_entropy(model(clips[batch]), classes[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        yield Step(number, loss.item())
    model.eval()


def _batches(num_clips: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled epochs without end, the incomplete last batch of each left out."""
    random = np.random.default_rng(seed)
    while True:
        order = torch.from_numpy(random.permutation(num_clips))
        yield from order.split(batch_size)[: num_clips // batch_size]


def predicted_classes(model: VideoModel, clips: Tensor, *, batch_size: int = 64) -> Tensor:
    """Most likely class of each clip: (M, C, T, H, W) to int64 (M,)."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch).argmax(dim=1) for batch in clips.split(batch_size)])


def save_weights(model: VideoModel, path: Path, *, overwrite: bool = False) -> None:
    """Write a network's tensors: ``.pth`` as MMAction2 lays them out, any other extension as our safetensors.

    Raises:
        OutputError: ``path`` exists or cannot be written.
    """
    tensors = model.state_dict()
    name = model.pretrained_cfg["architecture"]
    if path.suffix != ".pth":
        arrays = as_arrays(tensors)
        metadata = {"videozoo.architecture": name, "videozoo.num_classes": str(model.num_classes)}
        place(path, lambda temporary: safetensors_file.write(temporary, arrays, metadata), overwrite=overwrite)
        return
    names = foreign_names(MMACTION2.tables[registry.architecture(name).family], tensors)
    state_dict = OrderedDict((names[ours], tensor.clone()) for ours, tensor in tensors.items())
    place(
        path,
        lambda temporary: torch.save({"meta": {"architecture": name}, "state_dict": state_dict}, temporary),
        overwrite=overwrite,
    )
