"""Accuracy of a network on a list of videos: in one process or many, and in as many attempts as it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from videozoo import registry
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.errors import ListError, UnknownWeights, VideoError, first_line
from videozoo.evaluation_journal import Attempt, attempt
from videozoo.evaluation_result import (
    TOPK,
    EvaluationResult,
    Outcome,
    VideoResult,
    chosen_metrics,
    measured,
    protocol_in_words,
    published,
    worst_classes,
)
from videozoo.files import refuse_unfit
from videozoo.journal import beside
from videozoo.layers.video_model import VideoModel
from videozoo.manifest import Average, Entry
from videozoo.metrics import top_k_accuracy
from videozoo.predict import Recognizer, load_recognizer, numbered_classes
from videozoo.prediction import Prediction
from videozoo.protocols import with_protocol
from videozoo.ranks import Ranks, joined
from videozoo.video.dataset import Form, ListedVideo, StrPath, VideoList, read_list
from videozoo.video.listed import listed_video


def evaluate(
    recognizer: Recognizer | str,
    data: VideoList | StrPath,
    *,
    protocol: str | None = None,
    average_clips: Average | Literal["row"] | None = "row",
    metrics: Sequence[str] | None = None,
    out: StrPath | None = None,
    overwrite: bool = False,
    scores: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> EvaluationResult:
    """Recognise every video of a list and measure how often that is right.

    Under torchrun every process takes a disjoint share of the videos, and all of them return the same result. With
    ``out``, what is done is kept in ``OUT.journal`` (of further processes ``OUT.journal.RANK``) until the result is
    written: the same call, with any number of processes, goes on where a killed one stopped, and ends with the same
    bytes. Where one process fails all of them end; with ``strict`` those that are at work may first come to their end.
    Scores may differ by 1e-6 where the number of threads does: torchrun gives each process one, unless
    OMP_NUM_THREADS says otherwise.

    Args:
        recognizer: a network with its preprocessing, or a name for `load_recognizer`.
        data: a list, or what `read_list` reads; its labels are those of the network.
        protocol: see `with_protocol`; None means the recognizer's own views.
        average_clips: ``"prob"`` or ``"score"``; None for one row of mean logits; ``"row"`` as the recognizer does it.
        metrics: of `METRICS`; None means both that fit the labels.
        out: write the result to this file, as JSON.
        overwrite: replace ``out``, and begin anew instead of going on.
        scores: keep every video's scores in the result.
        strict: raise at the first video that cannot be decoded, instead of counting it. What an earlier attempt could
            not decode is tried again.
        progress: draw a bar with the accuracy so far on stderr, if that is a terminal.

    Raises:
        ListError: the list cannot be used, or none of its videos exists.
        VideoError: none of the videos can be decoded, or, with ``strict``, one of them.
        InvalidArgument: an unknown protocol or metric, or a metric that does not fit the labels.
        OutputError: ``out`` exists or cannot be written, or its journal belongs to another run or to a running one.
        RanksError: another process has ended.
    """
    target = None if out is None else Path(out)
    with joined() as ranks:
        with ranks.together():
            if target is not None:  # the journal may say that the file is this evaluation's own
                refuse_unfit(target, overwrite=overwrite or beside(target).exists())
            found = _with_views(recognizer, protocol, average_clips)
            videos = data if isinstance(data, VideoList) else read_list_for(found, data)
            if any(label >= len(found.labels) for video in videos.videos for label in video.labels):
                raise ListError(f"{videos.source} has labels that the network's {len(found.labels)} classes lack")
            videos.refuse_absent()
            wanted = chosen_metrics(metrics, videos)
        run = _Run(found, sha256_tensors(found.model.state_dict()), videos, wanted, scores, strict, progress)
        with attempt(target, run.identity(), run.asked(), ranks, anew=overwrite, keep_failures=not strict) as current:
            if current.written is not None:
                current.remove()
                return current.written
            result = run.result(run.outcomes(current), current)
            current.finish(result, overwrite=overwrite)
    return result


def _with_views(
    recognizer: Recognizer | str, protocol: str | None, average_clips: Average | Literal["row"] | None
) -> Recognizer:
    found = load_recognizer(recognizer) if isinstance(recognizer, str) else recognizer
    found = found if protocol is None else with_protocol(found, protocol)
    if average_clips == "row":
        return found
    views = replace(found.transform.views, average_clips=average_clips)
    return replace(found, transform=replace(found.transform, views=views))


def read_list_for(
    recognizer: Recognizer,
    source: StrPath,
    *,
    root: StrPath | None = None,
    form: Form | None = None,
    multi_label: bool = False,
    template: str | None = None,
) -> VideoList:
    """`read_list` with the classes of a recognizer.

    Where its classes have no names, those of class folders are taken in the order of the folders' names.

    Raises:
        ListError: as `read_list`, or there are not as many class folders as nameless classes.
    """
    names, num_classes = recognizer.labels, len(recognizer.labels)
    nameless = names == numbered_classes(num_classes)
    videos = read_list(
        source, root=root, form=form, multi_label=multi_label, template=template,
        num_classes=num_classes, class_names=None if nameless else names,
    )  # fmt: skip
    if nameless and videos.class_names is not None and len(videos.class_names) != num_classes:
        raise ListError(
            f"{source} has {len(videos.class_names)} class folders, the network {num_classes} classes without names: "
            "--labels (class_names= of load_recognizer) says which is which"
        )
    return videos


@dataclass(frozen=True)
class _Run:
    """One evaluation."""

    recognizer: Recognizer
    weights_sha256: str
    videos: VideoList
    wanted: Sequence[str]
    scores: bool
    strict: bool
    progress: bool

    def outcomes(self, current: Attempt) -> dict[int, Outcome]:
        """By the video's place in the list, in that order: of earlier attempts, of this process, of all others."""
        ranks = current.ranks
        # Without a shared disk each process knows its own; what several know, the first of them hands on.
        by_rank = ranks.gather(set(current.known))
        done = set[int]().union(*by_rank)
        todo = [number for number in range(len(self.videos.videos)) if number not in done]
        for number, outcome in self._recognise(todo[ranks.rank :: ranks.size], current.known, ranks):
            current.keep(number, outcome)
        handed_on = set[int]().union(*by_rank[: ranks.rank])
        mine = {number: outcome for number, outcome in current.known.items() if number not in handed_on}
        found = {number: outcome for theirs in ranks.gather(mine) for number, outcome in theirs.items()}
        return dict(sorted(found.items()))

    def identity(self) -> dict[str, Any]:
        """What two runs must have in common for their outcomes to be those of one."""
        transform = self.recognizer.transform
        identity = {
            "weights": self.weights_sha256,
            "list": self.videos.sha256,
            "views": asdict(transform.views),
            "input": asdict(transform.input),
            "resize": "exact" if transform.exact else "fast",
        }
        return dict(json.loads(json.dumps(identity)))  # as it will be read: lists for tuples

    def asked(self) -> dict[str, Any]:
        """What the result depends on beside the outcomes."""
        asked = {"list": str(self.videos.source), "labels": self.recognizer.labels, "metrics": self.wanted}
        return dict(json.loads(json.dumps(asked | {"scores": self.scores, "strict": self.strict})))

    def _recognise(
        self, share: Sequence[int], known: dict[int, Outcome], ranks: Ranks
    ) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each video of this process's share."""
        running = _RunningAccuracy()
        for number, outcome in known.items():
            running.add(self.videos.videos[number], outcome)
        silent = True if not self.progress or ranks.rank else None
        total = len(share) + len(known)
        with tqdm(total=total, initial=len(known), unit="video", disable=silent) as bar:
            sources = (listed_video(self.videos, self.videos.videos[number]) for number in share)
            for number, answer in zip(share, self.recognizer.recognise_all(sources), strict=True):
                if isinstance(answer, VideoError) and self.strict:
                    raise answer
                outcome = _outcome(answer)
                running.add(self.videos.videos[number], outcome)
                bar.set_postfix_str(str(running), refresh=False)
                bar.update()
                yield number, outcome

    def result(self, outcomes: dict[int, Outcome], current: Attempt) -> EvaluationResult:
        """The outcomes of all videos, measured."""
        listed, model, views = self.videos.videos, self.recognizer.model, self.recognizer.transform.views
        decoded = [(listed[number], outcome) for number, outcome in outcomes.items() if not isinstance(outcome, str)]
        failed = [(listed[number], outcome) for number, outcome in outcomes.items() if isinstance(outcome, str)]
        failures = tuple(video.problem(reason) for video, reason in failed)
        if not decoded:
            current.remove()  # or the next attempt would not even try
            raise VideoError(f"none of the {len(listed)} videos can be decoded; the first: {failures[0]}")
        row = row_of(model)
        per_video = (
            VideoResult(video.line, video.name, video.labels, tuple(found.tolist())) for video, found in decoded
        )
        return EvaluationResult(
            model=str(model.pretrained_cfg.get("architecture")) if row is None else row.name,
            weights_sha256=self.weights_sha256,
            list=str(self.videos.source),
            list_sha256=self.videos.sha256,
            num_videos=len(listed),
            num_failed=len(failures),
            protocol=protocol_in_words(views),
            views=views,
            metrics=measured(self.wanted, decoded),
            published=None if row is None else published(row),
            worst_classes=() if self.videos.multi_label else worst_classes(decoded, self.recognizer.labels),
            failures=failures,
            videos=tuple(per_video) if self.scores else None,
        )


@dataclass
class _RunningAccuracy:
    """Top-1 and top-5 of the videos so far, for the eye."""

    num_right: dict[int, int] = field(default_factory=lambda: dict.fromkeys(TOPK, 0))
    num_videos: int = 0
    num_failed: int = 0

    def add(self, video: ListedVideo, outcome: Outcome) -> None:
        """One more video; with several labels, it is right where the best class, or one of the best, is one of them."""
        if isinstance(outcome, str):
            self.num_failed += 1
            return
        self.num_videos += 1
        for k in TOPK:
            right = (top_k_accuracy([outcome], [label], [k])[0] for label in video.labels)
            self.num_right[k] += any(right)

    def __str__(self) -> str:
        shares = [f"top{k} {100 * right / max(1, self.num_videos):.2f} %" for k, right in self.num_right.items()]
        return ", ".join([*shares, *([f"{self.num_failed} failed"] if self.num_failed else [])])


def row_of(model: VideoModel) -> Entry | None:
    """The row of the manifest that a network's weights are; None where they are not, or have other classes by now."""
    tag = model.pretrained_cfg.get("tag")
    if tag is None:
        return None
    try:
        row = registry.get_weights(f"{model.pretrained_cfg.get('architecture')}.{tag}")
    except UnknownWeights:
        return None
    return row if row.num_classes == model.num_classes else None


def _outcome(answer: Prediction | VideoError) -> Outcome:
    if isinstance(answer, VideoError):
        return first_line(answer)
    return np.asarray(answer.scores.numpy(), dtype=np.float32)
