"""Networks in MMAction2's layout: how the weights that come with the package are kept."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch

from videozoo import registry
from videozoo.checkpoints.keymap import foreign_names
from videozoo.checkpoints.mmaction2 import MMACTION2
from videozoo.files import place
from videozoo.layers.video_model import VideoModel


def write_mmaction2(model: VideoModel, path: Path, *, overwrite: bool = False) -> None:
    """Write a network's tensors as a ``.pth`` file under the names that MMAction2 has for them.

    Raises:
        OutputError: ``path`` exists or cannot be written.
    """
    tensors = model.state_dict()
    name = model.pretrained_cfg["architecture"]
    names = foreign_names(MMACTION2.tables[registry.architecture(name).family], tensors)
    state_dict = OrderedDict((names[ours], tensor.clone()) for ours, tensor in tensors.items())
    content = {"meta": {"architecture": name}, "state_dict": state_dict}
    place(path, lambda temporary: torch.save(content, temporary), overwrite=overwrite)
