"""Steps of training in MMAction2's own runner and in ours: the same weights, clips and recipe, in float64.

    python benchmarks/training_parity.py --mmaction2-python FILE    # an interpreter that has MMAction2 0.x

Theirs is mmcv's EpochBasedRunner with the hooks of the published configuration: optimizer, gradient clipping, warm-up
and schedule. Ours is what `videozoo train` runs. Both have dropout switched off, because each draws its own, and the
learning rate of the configuration as it stands, though the batch is small. Clips are of 64 pixels.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

RECIPES = {
    "ircsn_r50.ig65m_k400": ("csn/ircsn_ig65m_pretrained_bnfrozen_r50_32x2x1_58e_kinetics400_rgb", 8),
    "tpn_slowonly_r50.k400": ("tpn/tpn_slowonly_r50_8x8x1_150e_kinetics_rgb", 8),
    "tsn_r50.mmaction2_1x1x3_100e": ("tsn/tsn_r50_1x1x3_100e_kinetics400_rgb", 3),
}
"""The original's configuration and the number of frames."""
NUM_STEPS, NUM_CLIPS, SIDE = 4, 4, 64
RESULTS = Path(__file__).parent.parent / "results" / "training_parity.csv"


def main() -> int:
    """Print each step of each recipe, and write them to ``results``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mmaction2-python", metavar="FILE", required=True)
    options = parser.parse_args()
    rows = [row for name in RECIPES for row in compare(name, options.mmaction2_python)]
    with RESULTS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


def compare(name: str, python: str) -> Iterator[dict[str, Any]]:
    """The steps of one recipe, both ways."""
    with tempfile.TemporaryDirectory() as folder:
        before, after, log = ours(name, Path(folder))
        done = subprocess.run(
            [python, __file__, "--child", name, folder], check=True, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        theirs = torch.load(Path(folder) / "after.pth", weights_only=True)
    moved = sum(float((after[key] - before[key]).square().sum()) for key in after) ** 0.5
    unlike = sum(float((after[key] - theirs[key]).square().sum()) for key in after) ** 0.5
    for step, (own, their) in enumerate(zip(log, found["steps"], strict=True)):
        row = {
            "recipe": name,
            "step": step,
            "lr": f"{own['lr']:.7g}",  # our log has eight digits of float32
            "mmaction2_lr": f"{their['lr']:.7g}",
            "loss": f"{own['loss']:.7g}",
            "mmaction2_loss": f"{their['loss']:.7g}",
            "gradient_norm": f"{own['gradient_norm']:.7g}",
            "mmaction2_gradient_norm": f"{their['gradient_norm']:.7g}",
            "weights_apart_of_moved": f"{unlike / moved:.1e}",
            "mmaction2": found["version"],
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        print(*row.values(), flush=True)
        yield row


def ours(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, float]]]:
    """Tensors before and after the steps, under the original's names, and what was logged; writes what theirs needs."""
    from accelerate import Accelerator

    from videozoo import registry
    from videozoo.checkpoints.keymap import foreign_names
    from videozoo.checkpoints.mmaction2 import MMACTION2
    from videozoo.training import recipes
    from videozoo.training.loop import Run, train
    from videozoo.training.network import create_network
    from videozoo.video.batches import Batch

    architecture = name.partition(".")[0]
    size = {"batch_size": NUM_CLIPS, "clips_at_once": NUM_CLIPS, "num_steps": NUM_STEPS, "log_every": 1}
    changes = [f"run.{key}={value}" for key, value in size.items()]
    changes += ["model.pretrained=false", "model.imagenet=false"]
    changes += [f"optimizer.lr_batch_size={NUM_CLIPS}"]
    recipe = recipes.resolve(recipes.read(name), registry.architecture(architecture).protocol, changes)
    torch.manual_seed(0)
    network = create_network(architecture, recipe, num_classes=400).double()
    without_dropout(network)
    network.get_submodule(network.first_conv).register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    shape = (NUM_CLIPS, 3, RECIPES[name][1], SIDE, SIDE)
    batches = [
        Batch(torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, 400, (NUM_CLIPS,)), ())
        for _ in range(NUM_STEPS)
    ]
    table = MMACTION2.tables[registry.architecture(architecture).family]

    def named() -> dict[str, Any]:
        tensors = network.state_dict()
        return {their: tensors[own].clone() for own, their in foreign_names(table, tensors).items()}

    before = named()
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (recipe.input.mean, recipe.input.std))
    clips = [((batch.clips.float() - mean) / std).double() for batch in batches]
    torch.save({"weights": before, "clips": clips, "labels": [batch.labels for batch in batches]}, folder / "start.pth")
    run = Run(
        recipe=recipe, network=network, loader=_Batches(batches), steps_per_epoch=NUM_STEPS, validation=None,  # type: ignore[arg-type]
        out=folder, labels=tuple(map(str, range(400))), dataset=None, identity={},
    )  # fmt: skip
    train(run, Accelerator(cpu=True))
    with open(folder / "log.csv", encoding="utf-8", newline="") as stream:
        return before, named(), [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def without_dropout(network: torch.nn.Module) -> None:
    """Each program would draw its own."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


class _Batches:
    """The same clips in every epoch, in place of a loader."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Any]:
        yield from self.batches[first_step:]


def child(name: str, folder: Path) -> None:
    """Theirs, in the interpreter that has MMAction2; the last line that it prints is JSON."""
    import mmaction
    from mmaction.models import build_model
    from mmcv import Config
    from mmcv.runner import EpochBasedRunner, Hook, build_optimizer

    path = Path(mmaction.__file__).parent / ".mim" / "configs" / "recognition" / f"{RECIPES[name][0]}.py"
    config = Config.fromfile(str(path))
    config.model.backbone.pretrained = None  # else it fetches weights when it is built
    start = torch.load(folder / "start.pth", weights_only=True)
    model = build_model(config.model).double()
    model.load_state_dict(start["weights"])
    without_dropout(model)
    flat = type(model).__name__ == "Recognizer2D"
    batches = [
        {"imgs": clips.transpose(1, 2) if flat else clips[:, None], "label": labels[:, None]}
        for clips, labels in zip(start["clips"], start["labels"], strict=True)
    ]
    steps: list[dict[str, float]] = []

    class Note(Hook):  # type: ignore[misc]
        def after_train_iter(self, runner: Any) -> None:
            history = runner.log_buffer.val_history
            steps.append({
                "lr": runner.current_lr()[0],
                "loss": float(runner.outputs["loss"]),
                "gradient_norm": history["grad_norm"][-1],
            })  # fmt: skip

    optimizer = build_optimizer(model, config.optimizer)
    runner = EpochBasedRunner(
        model, optimizer=optimizer, work_dir=str(folder), logger=logging.getLogger("mmcv"), max_epochs=1
    )  # fmt: skip
    runner.register_training_hooks(config.lr_config, config.optimizer_config)
    runner.register_hook(Note(), priority="VERY_LOW")
    runner.run([batches], [("train", 1)])
    torch.save(dict(model.state_dict()), folder / "after.pth")
    print(json.dumps({"steps": steps, "version": mmaction.__version__}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
