"""``videozoo eval``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.artefacts.form import is_artefact
from videozoo.cli.data import add_list_arguments, read_labels
from videozoo.cli.weights import add_weight_arguments, refuse_unknown_weights
from videozoo.errors import InvalidArgument, ListError, printable
from videozoo.files import refuse_unfit
from videozoo.journal import beside

if TYPE_CHECKING:
    from videozoo.evaluation_result import EvaluationResult
    from videozoo.predict import Recognizer

NAME = "eval"
HELP = "Measure the accuracy of a network on a list of labelled videos."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", metavar="MODEL", help="an architecture, architecture.tag, hf-hub: or local-dir:")
    add_weight_arguments(parser)
    parser.add_argument("--labels", type=Path, metavar="TXT", help="class names of FILE, one a line")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="LIST", help="a list, a .csv, or a folder with one folder per class"
    )
    add_list_arguments(parser)
    parser.add_argument(
        "--protocol", default="row", metavar="row|center|CLIPSxCROPS",
        help="views of a video: those of the weights' test protocol (default), one, or as 10x3",
    )  # fmt: skip
    parser.add_argument(
        "--average-clips", choices=("row", "prob", "score", "none"), default="row",
        help="mean of the views' probabilities, of their logits, one row of logits; default: the row's",
    )  # fmt: skip
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME",
        help="top_k_accuracy mean_class_accuracy (default); mean_average_precision mmit_mean_average_precision "
        "(default with --multi-label)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="write the result; a killed run, started again, goes on where it was"
    )
    parser.add_argument("--scores", action="store_true", help="keep every video's scores in the result")
    parser.add_argument("--strict", action="store_true", help="stop at the first video that cannot be decoded")
    parser.add_argument("--force", action="store_true", help="replace JSON if it exists, and begin anew")
    parser.add_argument("--fast-resize", action="store_true", help="not OpenCV's resize to the bit; off by one level")
    parser.add_argument(
        "--device", default="cpu", help="cpu (default), cuda, cuda:1 ...; under torchrun, cuda is each its own"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Evaluate, and print the result beside what was published; of several processes, the first one prints."""
    from videozoo.ranks import joined

    with joined() as ranks:
        with ranks.together():
            _refuse(options)  # before the work, not after it
            from videozoo.evaluation import evaluate, read_list_for
            from videozoo.inference import reuse_heap

            reuse_heap()
            recognizer = _recognizer(options)
            videos = read_list_for(
                recognizer, options.data, root=options.root, form=options.form, multi_label=options.multi_label,
                template=options.template,
            )  # fmt: skip
        result = evaluate(
            recognizer, videos, protocol=options.protocol,
            average_clips=None if options.average_clips == "none" else options.average_clips,
            metrics=options.metrics, out=options.out, overwrite=options.force, scores=options.scores,
            strict=options.strict, progress=True,
        )  # fmt: skip
    if ranks.rank == 0:
        print(
            json.dumps(asdict(result), indent=2, ensure_ascii=False)
            if options.json
            else "\n".join(map(printable, _lines(result)))
        )
    return 0


def _refuse(options: argparse.Namespace) -> None:
    if options.out is not None:  # the journal may say that the file is this evaluation's own
        refuse_unfit(options.out, overwrite=options.force or beside(options.out).exists())
    if is_artefact(options.model):
        raise InvalidArgument(
            f"{options.model} is an exported network, which eval does not take: name one of the zoo's"
        )
    refuse_unknown_weights(options.model, options.pretrained, options.checkpoint)
    if not os.path.exists(options.data):
        raise ListError(f"no list at {options.data}: there is no such file or folder")


def _recognizer(options: argparse.Namespace) -> Recognizer:
    from videozoo.predict import load_recognizer

    device = options.device
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return load_recognizer(
        options.model,
        pretrained=options.pretrained or True,
        checkpoint_path=options.checkpoint,
        device=device,
        exact=not options.fast_resize,
        num_classes=options.num_classes,
        class_names=read_labels(options.labels),
    )


def _lines(result: EvaluationResult) -> Iterator[str]:
    """The result as text."""
    yield f"{result.model} on {result.list}: {result.num_videos} videos, {result.num_failed} could not be decoded"
    for name, value in result.metrics.items():
        yield f"  {name:28} {100 * value:6.2f} %"
    yield ""
    yield from _comparison(result)
    if result.worst_classes:
        yield ""
        yield "worst classes"
        for found in result.worst_classes:
            share = 100 * found.num_right / found.num_videos
            mistaken = f"{found.num_mistaken} taken for {found.mistaken_for}"
            yield f"  {share:6.2f} % of {found.num_videos:4}  {found.name}: {mistaken}"
    if result.failures:
        yield ""
        yield "not decoded, and in no figure"
        for failure in result.failures:
            yield f"  {failure}"


def _comparison(result: EvaluationResult) -> Iterator[str]:
    """Measured and published figures, each with its protocol."""
    top1, top5 = (_percent(result.metrics.get(f"top{k}_accuracy")) for k in (1, 5))
    yield f"{'':12}{'top-1 %':>8}{'top-5 %':>9}  protocol"
    yield _row("measured", top1, top5, result.protocol)
    known = result.published
    if known is None:
        yield f"{'published':12}nothing: these weights are no row of the manifest"
        return
    yield _row("published", known.top1_percent, known.top5_percent, known.protocol or f"not stated; {known.views}")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _row(name: str, top1: float | None, top5: float | None, protocol: str) -> str:
    cells = ("-" if value is None else f"{value:.2f}" for value in (top1, top5))
    return f"{name:12}{next(cells):>8}{next(cells):>9}  {protocol}"
