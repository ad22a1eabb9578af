"""``videozoo train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from videozoo import registry
from videozoo.errors import InvalidArgument, printable
from videozoo.files import refuse_unfit

NAME = "train"
HELP = "Train a network on synthetic motions, from random weights."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="an architecture of the motion8 data: test_ircsn, test_tpn, test_tsn"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".safetensors, or .pth in MMAction2's layout"
    )
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps (3000)")
    parser.add_argument("--batch-size", type=int, default=32, help="clips a step (32)")
    parser.add_argument("--clips", type=int, default=8192, help="clips to draw and train on (8192)")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate (0.005)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (0)")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def run(options: argparse.Namespace) -> int:
    """Train, print the accuracy on clips that were never trained on, write the weights."""
    dataset = registry.architecture(options.model).dataset
    if dataset != "motion8":
        raise InvalidArgument(f"{options.model} is made for {dataset}; this command trains on motion8 alone")
    if options.clips < 1 or options.seed < 0 or not options.lr > 0:
        raise InvalidArgument(
            f"--clips {options.clips} --seed {options.seed} --lr {options.lr:g}: need at least 1 clip, a seed of 0 or "
            "more and a learning rate above 0"
        )
    import torch
    from tqdm import tqdm

    from videozoo.models import create_model
    from videozoo.train import HELD_OUT_SEED, motion_clips, predicted_classes, save_weights, train

    refuse_unfit(options.out, overwrite=options.force)  # before the work, not after it
    if options.out.suffix not in (".safetensors", ".pth"):
        raise InvalidArgument(f"--out {options.out}: the extension says the format, .safetensors or .pth")
    torch.manual_seed(options.seed)
    model = create_model(options.model, drop_rate=0.0)
    clips, classes = motion_clips(model, options.clips)
    steps = train(
        model, clips, classes,
        num_steps=options.steps, batch_size=options.batch_size, peak_lr=options.lr, seed=options.seed,
    )  # fmt: skip
    with tqdm(steps, total=options.steps, unit="step", disable=None) as bar:
        for step in bar:
            if step.number % 20 == 0:
                bar.set_postfix(loss=f"{step.loss:.3f}")
    held_out, truth = motion_clips(model, 800, first_seed=HELD_OUT_SEED)
    accuracy = (predicted_classes(model, held_out) == truth).float().mean().item()
    save_weights(model, options.out, overwrite=options.force)
    print(f"{printable(options.out)}: {100 * accuracy:.1f} % of 800 held-out clips", file=sys.stdout)
    return 0
