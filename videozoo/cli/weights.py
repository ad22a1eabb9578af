"""The network and the weights that a command line names: what the commands that load one share."""

from __future__ import annotations

import argparse
from pathlib import Path

from videozoo import registry
from videozoo.model_config import is_folder_name


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which weights the network takes, and how many classes they have."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", metavar="TAG", help="which weights: a tag or a pretraining; default: its own")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="a file of your own, converted or not")
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes of FILE, if not the usual ones")


def refuse_unknown_weights(model: str, pretrained: str | None = None, checkpoint: Path | None = None) -> None:
    """Raise UnknownModel or UnknownWeights for names of the zoo that do not exist, before anything is imported.

    Of a model folder (``hf-hub:``, ``local-dir:``), only opening it tells.
    """
    if is_folder_name(model):
        return
    architecture, _, tag = model.partition(".")
    registry.architecture(architecture)
    if checkpoint is None:
        registry.resolve_weights(architecture, pretrained or tag or True)
