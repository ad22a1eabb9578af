"""Tensor names of PaddleVideo's TSN and the ImageNet network it starts from (PaddlePaddle/PaddleVideo, Apache-2.0)."""

from videozoo.checkpoints.keymap import Layout, Table

_TRUNK = (
    # PaddleVideo, behind "backbone."                   videozoo
    ("conv._conv.weight",                               "~conv1.weight"),
    ("conv._batch_norm.{*}",                            "~bn1.{*}"),
    ("res{block}.conv0._conv.weight",                   "~{block}.conv1.weight"),
    ("res{block}.conv0._conv.weight",                   "~{block}.conv1.conv.weight"),  # shifted in time
    ("res{block}.conv0._batch_norm.{*}",                "~{block}.bn1.{*}"),
    ("res{block}.conv1._conv.weight",                   "~{block}.conv2.weight"),
    ("res{block}.conv1._batch_norm.{*}",                "~{block}.bn2.{*}"),
    ("res{block}.conv2._conv.weight",                   "~{block}.conv3.weight"),
    ("res{block}.conv2._batch_norm.{*}",                "~{block}.bn3.{*}"),
    ("res{block}.short._conv.weight",                   "~{block}.downsample.0.weight"),
    ("res{block}.short._batch_norm.{*}",                "~{block}.downsample.1.{*}"),
)  # fmt: skip
_HEAD = (
    ("head.fc.weight",                                  "fc.weight | transposed"),
    ("head.fc.bias",                                    "fc.bias"),
)  # fmt: skip
_IMAGENET_HEAD = (
    ("out.{*}", "the classifier of ImageNet's 1000 classes"),
    ("fc.{*}",  "the classifier of ImageNet's 1000 classes"),
)  # fmt: skip
_LAST_PARTS = {"_mean": "running_mean", "_variance": "running_var"}
_ABSENT = ((".num_batches_tracked", "a counter that PaddlePaddle does not have; evaluation does not use it"),)


def _stage_and_letter(number: int, stage: int, position: int, depth: int) -> str:
    """``2a``, ``2b`` ...; in the third stage of the networks of 101 and 152 layers ``4a``, ``4b1``, ``4b2`` ..."""
    if stage == 3 and position and depth > 6:
        return f"{stage + 1}b{position}"
    return f"{stage + 1}{chr(ord('a') + position)}"


PADDLEVIDEO = Layout(
    name="paddlevideo",
    first_convs=("backbone.conv._conv.weight",),
    classifier="head.fc.weight | transposed",
    tables={
        "tsn": Table(
            (*((f"backbone.{theirs}", ours) for theirs, ours in _TRUNK), *_HEAD),
            absent=_ABSENT,
            last_parts=_LAST_PARTS,
            block_name=_stage_and_letter,
        )
    },
)

_IMAGENET = Table(_TRUNK, _IMAGENET_HEAD, _ABSENT, _LAST_PARTS, _stage_and_letter)

PADDLE_IMAGENET = Layout(
    name="paddle_imagenet",
    first_convs=("conv._conv.weight",),
    classifier=None,
    tables={"tsm": _IMAGENET, "tsn": _IMAGENET},
)
