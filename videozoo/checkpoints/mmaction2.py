"""Tensor names of MMAction2, 0.x and 1.x alike (open-mmlab/mmaction2, Apache-2.0)."""

from videozoo.checkpoints.keymap import Layout, Table

_STEM_AND_HEAD = (
    # MMAction2                                         videozoo
    ("backbone.conv1.conv.weight",                      "~conv1.weight"),
    ("backbone.conv1.bn.{*}",                           "~bn1.{*}"),
    ("backbone.layer{L}.{B}.downsample.conv.weight",    "~layer{L}.{B}.downsample.0.weight"),
    ("backbone.layer{L}.{B}.downsample.bn.{*}",         "~layer{L}.{B}.downsample.1.{*}"),
    ("cls_head.fc_cls.{*}",                             "fc.{*}"),
)  # fmt: skip
_BOTTLENECK = (
    ("backbone.layer{L}.{B}.conv{K}.conv.net.weight",   "~layer{L}.{B}.conv{K}.conv.weight"),  # shifted in time
    ("backbone.layer{L}.{B}.conv{K}.conv.weight",       "~layer{L}.{B}.conv{K}.weight"),
    ("backbone.layer{L}.{B}.conv{K}.bn.{*}",            "~layer{L}.{B}.bn{K}.{*}"),
)  # fmt: skip
_CSN_BOTTLENECK = (
    ("backbone.layer{L}.{B}.conv1.conv.weight",         "layer{L}.{B}.conv1.weight"),
    ("backbone.layer{L}.{B}.conv1.bn.{*}",              "layer{L}.{B}.bn1.{*}"),
    ("backbone.layer{L}.{B}.conv2.0.conv.weight",       "layer{L}.{B}.conv2.weight"),  # ir-CSN
    ("backbone.layer{L}.{B}.conv2.0.bn.{*}",            "layer{L}.{B}.bn2.{*}"),
    ("backbone.layer{L}.{B}.conv2.0.conv.weight",       "layer{L}.{B}.conv2_pointwise.weight"),  # ip-CSN
    ("backbone.layer{L}.{B}.conv2.0.bn.{*}",            "layer{L}.{B}.bn2_pointwise.{*}"),
    ("backbone.layer{L}.{B}.conv2.1.conv.weight",       "layer{L}.{B}.conv2_depthwise.weight"),
    ("backbone.layer{L}.{B}.conv2.1.bn.{*}",            "layer{L}.{B}.bn2_depthwise.{*}"),
    ("backbone.layer{L}.{B}.conv3.conv.weight",         "layer{L}.{B}.conv3.weight"),
    ("backbone.layer{L}.{B}.conv3.bn.{*}",              "layer{L}.{B}.bn3.{*}"),
)  # fmt: skip
_PYRAMID = (
    ("neck.spatial_modulation.spatial_modulation.0.0.conv.weight", "neck.spatial.conv.weight"),
    ("neck.spatial_modulation.spatial_modulation.0.0.bn.{*}",      "neck.spatial.bn.{*}"),
    ("neck.temporal_modulation_ops.{I}.conv.conv.weight",          "neck.temporal.{I}.weight"),
    ("neck.downsample_ops.0.conv.conv.weight",                     "neck.bottom_up.weight"),
    ("neck.level_fusion_1.downsamples.{I}.conv.conv.weight",       "neck.top_down_fusion.levels.{I}.conv.weight"),
    ("neck.level_fusion_1.downsamples.{I}.conv.bn.{*}",            "neck.top_down_fusion.levels.{I}.bn.{*}"),
    ("neck.level_fusion_1.fusion_conv.conv.weight",                "neck.top_down_fusion.mix.conv.weight"),
    ("neck.level_fusion_1.fusion_conv.bn.{*}",                     "neck.top_down_fusion.mix.bn.{*}"),
    ("neck.level_fusion_2.downsamples.{I}.conv.conv.weight",       "neck.bottom_up_fusion.levels.{I}.conv.weight"),
    ("neck.level_fusion_2.downsamples.{I}.conv.bn.{*}",            "neck.bottom_up_fusion.levels.{I}.bn.{*}"),
    ("neck.level_fusion_2.fusion_conv.conv.weight",                "neck.bottom_up_fusion.mix.conv.weight"),
    ("neck.level_fusion_2.fusion_conv.bn.{*}",                     "neck.bottom_up_fusion.mix.bn.{*}"),
    ("neck.pyramid_fusion.conv.weight",                 "neck.fusion.conv.weight"),
    ("neck.pyramid_fusion.bn.{*}",                      "neck.fusion.bn.{*}"),
    ("neck.aux_head.conv.conv.weight",                  "aux_head.conv.weight"),
    ("neck.aux_head.conv.bn.{*}",                       "aux_head.bn.{*}"),
    ("neck.aux_head.fc.{*}",                            "aux_head.fc.{*}"),
)  # fmt: skip

_IGNORED = (
    ("cls_head.new_cls.{*}", "a copy of fc_cls made by fully convolutional testing and never refreshed"),
    ("data_preprocessor.{*}", "mean and std, which the manifest states"),
)
_ABSENT = ((".num_batches_tracked", "a counter that files ported from Caffe2 lack; evaluation does not use it"),)

_PLAIN = Table((*_STEM_AND_HEAD, *_BOTTLENECK), _IGNORED, _ABSENT)

MMACTION2 = Layout(
    name="mmaction2",
    first_convs=("backbone.conv1.conv.weight",),
    classifier="cls_head.fc_cls.weight",
    tables={
        "csn": Table((*_STEM_AND_HEAD, *_CSN_BOTTLENECK), _IGNORED, _ABSENT),
        "slowonly": _PLAIN,
        "tsm": _PLAIN,
        "tsn": _PLAIN,
        "tpn": Table((*_STEM_AND_HEAD, *_BOTTLENECK, *_PYRAMID), _IGNORED, _ABSENT),
    },
)


def _without_head(table: Table) -> Table:
    """The trunk of a network on its own, without the prefix that it has inside."""
    trunk = [(theirs, ours) for theirs, ours in table.renames if theirs.startswith("backbone.")]
    return Table([(theirs.removeprefix("backbone."), ours) for theirs, ours in trunk], (), table.absent)


MMACTION2_TRUNK = Layout(
    name="mmaction2_trunk",
    first_convs=("conv1.conv.weight",),
    classifier=None,
    tables={family: _without_head(MMACTION2.tables[family]) for family in ("csn", "slowonly", "tsm", "tsn")},
)
"""The files that training started from: a backbone that was saved alone."""
