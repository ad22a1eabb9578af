"""``videozoo train``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.cli.data import add_list_arguments, read_labels
from videozoo.errors import InvalidArgument, printable

if TYPE_CHECKING:
    from videozoo.synthetic import Motions
    from videozoo.training.loop import Result
    from videozoo.training.plan import Plan
    from videozoo.video.dataset import Problem

NAME = "train"
HELP = "Train a network by a recipe, or fine-tune one on classes of your own."
SHOWN_PROBLEMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", metavar="MODEL", help="an architecture, architecture.tag, hf-hub: or local-dir:")
    parser.add_argument(
        "--data", required=True, metavar="TRAIN",
        help="a list, a .csv, a folder with one folder per class; or synthetic[:N], N clips of the eight motions",
    )  # fmt: skip
    parser.add_argument("--val", metavar="VAL", help="what to validate on, as --data; synthetic is never trained on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the run")
    parser.add_argument(
        "--recipe", metavar="NAME",
        help="a recipe of the package, or a .toml file; default: the network's own, finetune where weights are named",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="changes",
        help="change the recipe, as run.batch_size=16 or optimizer.lr=0.01; --dry-run prints all of it",
    )  # fmt: skip
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", metavar="TAG", help="weights to start from: a tag or a pretraining")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="a file of weights to start from")
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes; default: those of the data or weights")
    parser.add_argument("--labels", type=Path, metavar="TXT", help="class names, one a line, in class order")
    parser.add_argument(
        "--freeze", choices=("trunk", "bn", "none"),
        help="learn the classifier alone; all but the batch norms; all. Default: as the recipe says",
    )  # fmt: skip
    add_list_arguments(parser)
    parser.add_argument("--val-root", type=Path, metavar="DIR", help="as --root, for VAL")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, crops and dropout (0)")
    parser.add_argument("--deterministic", action="store_true", help="on a GPU: the same numbers every time, slower")
    parser.add_argument("--validate", action="store_true", help="on VAL after every epoch, not only after the last")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR; begin if there is none")
    parser.add_argument("--strict", action="store_true", help="stop at the first video that cannot be decoded")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that load videos (2)")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: the GPU where there is one")
    parser.add_argument("--tensorboard", action="store_true", help="write tensorboard's event files to DIR, too")
    parser.add_argument("--dry-run", action="store_true", help="print the complete recipe and stop")


def run(options: argparse.Namespace) -> int:
    """Train, and say what came of it; of several processes, the first one does."""
    from videozoo.ranks import announced
    from videozoo.training.plan import make_plan

    if options.multi_label:
        raise InvalidArgument("--multi-label: training takes lists with one label a video")
    freeze = [] if options.freeze is None else [f"model.freeze={options.freeze}"]
    plan = make_plan(
        options.model, _data(options.data, "--data"), options.out,
        val=None if options.val is None else _data(options.val, "--val"), recipe=options.recipe,
        changes=[*options.changes, *freeze], pretrained=options.pretrained, checkpoint=options.checkpoint,
        num_classes=options.num_classes, class_names=read_labels(options.labels), root=options.root,
        val_root=options.val_root, form=options.form, template=options.template, seed=options.seed,
        strict=options.strict,
    )  # fmt: skip
    if options.dry_run:
        print(plan.recipe.to_toml(), end="")
        return 0
    from videozoo.inference import reuse_heap
    from videozoo.training.run import train

    reuse_heap()
    process = announced()
    if process.rank == 0:
        for line in plan.lines(process.size):
            print(printable(line), file=sys.stderr)
    result = train(
        plan, resume=options.resume, validate=options.validate, deterministic=options.deterministic,
        num_workers=options.workers, device=options.device, tensorboard=options.tensorboard, progress=True,
    )  # fmt: skip
    if process.rank == 0:
        _print(result, plan)
    return 0


def _data(text: str, option: str) -> Path | Motions:
    """A path, or the synthetic motions: to train on, or to validate on."""
    match = re.fullmatch(r"synthetic(?::(\d+))?", text)
    if match is None:
        return Path(text)
    from videozoo.synthetic import Motions
    from videozoo.training.plan import HELD_OUT_SEED

    if option == "--val":
        return Motions(int(match[1] or 800), first_seed=HELD_OUT_SEED)
    return Motions(int(match[1] or 4096))


def _print(result: Result, plan: Plan) -> None:
    from videozoo.training.folder import PROBLEMS
    from videozoo.video.dataset import VideoList

    loss = "nothing was left to do" if result.loss is None else f"the last step's loss is {result.loss:.4f}"
    print(f"{printable(result.out)}: {result.num_steps} steps; {loss}")
    if result.best is not None:
        print(f"best, after step {result.best.step}: {result.best}")
    name = "last" if result.best is None else "best"
    print(f"the network: local-dir:{printable(result.out / name)}")
    for what, videos, problems in (
        ("not decoded, and replaced by others", plan.videos, result.problems),
        ("not decoded, and not counted in the validation", plan.validation, result.validation_problems),
    ):
        if problems and isinstance(videos, VideoList):
            _print_problems(f"{what}: {len(problems)} of {videos.source}", problems, result.out / PROBLEMS)


def _print_problems(title: str, problems: Sequence[Problem], table: Path) -> None:
    print(printable(title))
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"  {printable(problem)}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"  {len(problems) - SHOWN_PROBLEMS} more in {printable(table)}")
