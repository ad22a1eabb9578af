"""``videozoo predict``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.artefacts.form import is_artefact
from videozoo.cli import batch
from videozoo.cli.data import read_labels
from videozoo.cli.weights import add_weight_arguments, refuse_unknown_weights
from videozoo.errors import InvalidArgument, VideoError, first_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from videozoo.batch.inputs import Item
    from videozoo.predict import Recognizer
    from videozoo.prediction import Prediction

NAME = "predict"
HELP = "Recognise the action in videos."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help=batch.INPUTS)
    parser.add_argument(
        "--model", required=True, metavar="NAME",
        help="an architecture, architecture.tag, hf-hub: or local-dir:; or a file that `videozoo export` wrote: .onnx, "
        ".xml or .pt2",
    )  # fmt: skip
    parser.add_argument(
        "--trust-artefact", action="store_true", help="open an exported .pt2, which is a program and can run anything"
    )
    add_weight_arguments(parser)
    parser.add_argument("--labels", type=Path, metavar="TXT", help="class names of FILE, one a line")
    parser.add_argument(
        "--views", choices=("full", "center"),
        help="all views of the published test protocol (default), or one in the centre (default for windows)",
    )  # fmt: skip
    parser.add_argument("--fast-resize", action="store_true", help="not OpenCV's resize to the bit; off by one level")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="how many classes to print (5)")
    parser.add_argument("--device", help="cpu (default), cuda, cuda:1 ...")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument(
        "--profile", action="store_true", help="also print where the time goes; no video is then decoded ahead"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    batch.add_arguments(parser, required=False)


def run(options: argparse.Namespace) -> int:
    """Print the best classes of every video; a video that fails is reported, and the others still run."""
    if options.topk < 1:
        raise InvalidArgument(f"--topk {options.topk}: at least 1")
    if not is_artefact(options.model):
        refuse_unknown_weights(options.model, options.pretrained, options.checkpoint)
    class_names = read_labels(options.labels)
    if options.out is not None:
        return _write_table(options, class_names)
    batch.refuse_without_table(options)
    videos = batch.find(options, once=False)  # before anything is fetched or imported
    from videozoo.inference import reuse_heap
    from videozoo.predict import load_recognizer

    reuse_heap()
    recognizer = load_recognizer(
        options.model,
        pretrained=options.pretrained or True,
        checkpoint_path=options.checkpoint,
        device=options.device or "cpu",
        mode=options.views or "full",
        exact=not options.fast_resize,
        num_classes=options.num_classes,
        class_names=class_names,
        lock=options.lock,
        trust_artefact=options.trust_artefact,
    )
    answers: list[dict[str, object]] = []
    status = 0
    names = [item.path for item in videos]
    for video, outcome in zip(names, _outcomes(recognizer, videos, options), strict=True):
        if isinstance(outcome, VideoError):
            print(f"videozoo: error: {first_line(outcome)}", file=sys.stderr)
            answers.append({"video": video, "error": str(outcome)})
            status = outcome.exit_status
            continue
        answers.append(_answer(video, outcome, options.topk))
        if options.profile:
            answers[-1]["seconds"] = outcome.seconds
        if not options.json:
            _print(video, outcome, options.topk)
            if options.profile:
                _print_profile(outcome)
    if options.json:
        print(json.dumps(answers, indent=2))
    return status


def _write_table(options: argparse.Namespace, class_names: tuple[str, ...] | None) -> int:
    if options.profile:
        raise InvalidArgument("--profile goes with answers on the terminal, not with --out")
    if is_artefact(options.model):
        raise InvalidArgument(f"--out takes networks of the zoo; {options.model} is an exported one: leave out --out")
    prepared = batch.prepare(options)  # before anything is fetched or imported
    from videozoo.batch.answers import Question

    return batch.run(options, prepared, batch.network(options, class_names), Question("labels", topk=options.topk))


def _outcomes(
    recognizer: Recognizer, videos: list[Item], options: argparse.Namespace
) -> Iterator[Prediction | VideoError]:
    """What became of each video; for a profile one after the other, so that the parts sum to the whole."""
    from videozoo.batch.pieces import source_of

    if not options.profile:
        yield from recognizer.recognise_all(map(source_of, videos), progress=True)
        return
    for video in videos:
        try:
            yield recognizer(source_of(video), progress=True)
        except VideoError as error:
            yield error


def _best(prediction: Prediction, k: int) -> list[tuple[str, float]]:
    from videozoo.prediction import ranked

    return ranked(prediction.probabilities, prediction.labels, k)


def _answer(video: str, prediction: Prediction, k: int) -> dict[str, object]:
    top = [{"label": label, "probability": value} for label, value in _best(prediction, k)]
    return {
        "video": video,
        "topk": top,
        "views": len(prediction.view_logits),
        "frame_indices": prediction.frame_indices.tolist(),
    }


def _print(video: str, prediction: Prediction, k: int) -> None:
    print(printable(video))
    for rank, (label, value) in enumerate(_best(prediction, k), start=1):
        print(f"  {rank}  {100 * value:6.2f} %  {printable(label)}")


def _print_profile(prediction: Prediction) -> None:
    total = sum(prediction.seconds.values())
    for part in ("decode", "resize", "normalise", "network", "rest"):
        seconds = prediction.seconds.get(part, 0.0)
        print(f"  {part:9}  {seconds:8.3f} s  {100 * seconds / total:5.1f} %")
    print(f"  {'total':9}  {total:8.3f} s")
