"""Tensor names of VMZ, in Caffe2 and in PyTorch (facebookresearch/VMZ, Apache-2.0; moabitcoin/ig65m-pytorch, MIT)."""

from videozoo.checkpoints.keymap import Layout, Table

# Caffe2. A block has one running number over the whole network; ``_riv``, called a running inverse variance, holds the
# variance as it is. The batch norm of the stem bears the name of the ReLU behind it.

_C2_STEM_AND_HEAD = (
    # VMZ                                               videozoo
    ("conv1_middle_w",                                  "conv1.spatial.weight"),  # R(2+1)D
    ("conv1_middle_spatbn_relu_{*}",                    "conv1.bn.{*}"),
    ("conv1_w",                                         "conv1.temporal.weight"),
    ("conv1_w",                                         "conv1.weight"),  # CSN, R3D
    ("conv1_spatbn_relu_{*}",                           "bn1.{*}"),
    ("shortcut_projection_{block}_w",                   "{block}.downsample.0.weight"),
    ("shortcut_projection_{block}_spatbn_{*}",          "{block}.downsample.1.{*}"),
    ("last_out_L{N}_w",                                 "fc.weight | squeezed"),
    ("last_out_L{N}_b",                                 "fc.bias"),
)  # fmt: skip
_C2_CSN = (
    ("comp_{block}_conv_1_w",                           "{block}.conv1.weight"),
    ("comp_{block}_spatbn_1_{*}",                       "{block}.bn1.{*}"),
    ("comp_{block}_conv_3_w",                           "{block}.conv2.weight"),  # ir-CSN: there is no conv_2
    ("comp_{block}_spatbn_3_{*}",                       "{block}.bn2.{*}"),
    ("comp_{block}_conv_4_w",                           "{block}.conv3.weight"),
    ("comp_{block}_spatbn_4_{*}",                       "{block}.bn3.{*}"),
    ("comp_{block}_conv_2_middle_w",                    "{block}.conv2_pointwise.weight"),  # ip-CSN
    ("comp_{block}_spatbn_2_middle_{*}",                "{block}.bn2_pointwise.{*}"),
    ("comp_{block}_conv_2_w",                           "{block}.conv2_depthwise.weight"),
    ("comp_{block}_spatbn_2_{*}",                       "{block}.bn2_depthwise.{*}"),
    ("comp_{block}_conv_3_w",                           "{block}.conv3.weight"),
    ("comp_{block}_spatbn_3_{*}",                       "{block}.bn3.{*}"),
)  # fmt: skip
_C2_R2PLUS1D = (
    ("comp_{block}_conv_{K}_middle_w",                  "{block}.conv{K}.spatial.weight"),  # factored
    ("comp_{block}_spatbn_{K}_middle_{*}",              "{block}.conv{K}.bn.{*}"),
    ("comp_{block}_conv_{K}_w",                         "{block}.conv{K}.temporal.weight"),
    ("comp_{block}_conv_{K}_w",                         "{block}.conv{K}.weight"),  # whole
    ("comp_{block}_spatbn_{K}_{*}",                     "{block}.bn{K}.{*}"),
)  # fmt: skip
_C2_LAST_PARTS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

_OF_THE_OPTIMIZER = "the optimizer's, of no use outside training"
_OF_A_RUN = "left over from a run of the network, not learned"
_C2_IGNORED = (
    ("{*}_momentum",            _OF_THE_OPTIMIZER),
    ("{*}_moment_{N}",          _OF_THE_OPTIMIZER),
    ("lr",                      _OF_THE_OPTIMIZER),
    ("LR",                      _OF_THE_OPTIMIZER),
    ("{*}_lr",                  _OF_THE_OPTIMIZER),
    ("{*}_lr_cpu",              _OF_THE_OPTIMIZER),
    ("{*}_lr_gpu{N}",           _OF_THE_OPTIMIZER),
    ("ONE",                     _OF_THE_OPTIMIZER),
    ("iter",                    "a counter of training steps"),
    ("ITER",                    "a counter of training steps"),
    ("{*}_iter",                "a counter of training steps"),
    ("{*}_iteration",           "a counter of training steps"),
    ("epoch",                   "a counter of epochs"),
    ("{*}_epoch",               "a counter of epochs"),
    ("{*}_sm",                  _OF_A_RUN),  # a batch's mean and inverse deviation
    ("{*}_siv",                 _OF_A_RUN),
    ("data",                    _OF_A_RUN),
    ("label",                   _OF_A_RUN),
)  # fmt: skip
_ABSENT = ((".num_batches_tracked", "a counter that Caffe2 does not have; evaluation does not use it"),)


def _running_number(number: int, stage: int, position: int, depth: int) -> str:
    return str(number)


VMZ_CAFFE2 = Layout(
    name="vmz_caffe2",
    first_convs=("conv1_middle_w", "conv1_w"),
    classifier="last_out_L{N}_w",
    tables={
        family: Table((*_C2_STEM_AND_HEAD, *blocks), _C2_IGNORED, _ABSENT, _C2_LAST_PARTS, _running_number)
        for family, blocks in (("csn", _C2_CSN), ("r2plus1d", _C2_R2PLUS1D))
    },
    scope_end="/",  # gpu_0/conv1_w
)

# PyTorch: torchvision's video networks, with VMZ's convolutions in them.

_PT_STEM_AND_HEAD = (
    # VMZ                                               videozoo
    ("stem.0.weight",                                   "conv1.spatial.weight"),  # R(2+1)D
    ("stem.1.{*}",                                      "conv1.bn.{*}"),
    ("stem.3.weight",                                   "conv1.temporal.weight"),
    ("stem.4.{*}",                                      "bn1.{*}"),
    ("stem.0.weight",                                   "conv1.weight"),  # CSN, R3D
    ("stem.1.{*}",                                      "bn1.{*}"),
    ("layer{L}.{B}.downsample.0.weight",                "layer{L}.{B}.downsample.0.weight"),
    ("layer{L}.{B}.downsample.1.{*}",                   "layer{L}.{B}.downsample.1.{*}"),
    ("fc.{*}",                                          "fc.{*}"),
)  # fmt: skip
_PT_WHOLE = (
    ("layer{L}.{B}.conv{K}.0.weight",                   "layer{L}.{B}.conv{K}.weight"),
    ("layer{L}.{B}.conv{K}.1.{*}",                      "layer{L}.{B}.bn{K}.{*}"),
)  # fmt: skip
_PT_CSN = (
    *_PT_WHOLE,
    ("layer{L}.{B}.conv2.0.0.weight",                   "layer{L}.{B}.conv2_pointwise.weight"),  # ip-CSN
    ("layer{L}.{B}.conv2.0.1.{*}",                      "layer{L}.{B}.bn2_pointwise.{*}"),
    ("layer{L}.{B}.conv2.0.2.weight",                   "layer{L}.{B}.conv2_depthwise.weight"),
    ("layer{L}.{B}.conv2.1.{*}",                        "layer{L}.{B}.bn2_depthwise.{*}"),
)  # fmt: skip
_PT_R2PLUS1D = (
    *_PT_WHOLE,
    ("layer{L}.{B}.conv{K}.0.0.weight",                 "layer{L}.{B}.conv{K}.spatial.weight"),  # factored
    ("layer{L}.{B}.conv{K}.0.1.{*}",                    "layer{L}.{B}.conv{K}.bn.{*}"),
    ("layer{L}.{B}.conv{K}.0.3.weight",                 "layer{L}.{B}.conv{K}.temporal.weight"),
)  # fmt: skip

VMZ_TORCH = Layout(
    name="vmz_torch",
    first_convs=("stem.0.weight",),
    classifier="fc.weight",
    tables={
        "csn": Table((*_PT_STEM_AND_HEAD, *_PT_CSN), absent=_ABSENT),
        "r2plus1d": Table((*_PT_STEM_AND_HEAD, *_PT_R2PLUS1D), absent=_ABSENT),
    },
)
