"""The tensor names of VMZ and PaddleVideo: every depth, training dumps, and files that hold a trunk alone.

The foreign names are spelt here from scratch, unit by unit; the goldens' inventories, recorded from the frameworks,
check the spelling.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from foreign_files import save_legacy, save_pickle, save_python2
from torch import Tensor, nn
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Bottleneck,
    Conv2Plus1D,
    Conv3DSimple,
    R2Plus1dStem,
    VideoResNet,
)

import videozoo
from videozoo.checkpoints.arrays import BITS, Array
from videozoo.checkpoints.file_map import FileMap
from videozoo.checkpoints.keymap import foreign_names, rename
from videozoo.checkpoints.tensors import as_arrays, as_tensor, dtype_name
from videozoo.conversion import LAYOUTS, WeightFile, fit
from videozoo.convert import identify
from videozoo.errors import CheckpointMismatch, UnknownLayout
from videozoo.layers.video_model import VideoModel
from videozoo.pretrained import inventory_of

GOLDENS = Path(__file__).parent / "goldens"
NO_FILE = cast(FileMap, None)
"""Names and shapes are looked at alone."""
LAYOUT = {layout.name: layout for layout in LAYOUTS}
Tensors = Mapping[str, Tensor]

# One row a convolution: ours, our batch norm, VMZ's number in Caffe2, VMZ's convolution and batch norm in PyTorch.
FIRST = ("conv1", "bn1", "1", "conv1.0", "conv1.1")
FACTORED = [
    ("conv1.spatial", "conv1.bn", "1_middle", "conv1.0.0", "conv1.0.1"),
    ("conv1.temporal", "bn1", "1", "conv1.0.3", "conv1.1"),
    ("conv2.spatial", "conv2.bn", "2_middle", "conv2.0.0", "conv2.0.1"),
    ("conv2.temporal", "bn2", "2", "conv2.0.3", "conv2.1"),
]
LAST = ("conv3", "bn3", "3", "conv3.0", "conv3.1")
BLOCKS = {
    "ir": [FIRST, ("conv2", "bn2", "3", "conv2.0", "conv2.1"), ("conv3", "bn3", "4", "conv3.0", "conv3.1")],
    "ip": [
        FIRST,
        ("conv2_pointwise", "bn2_pointwise", "2_middle", "conv2.0.0", "conv2.0.1"),
        ("conv2_depthwise", "bn2_depthwise", "2", "conv2.0.2", "conv2.1"),
        LAST,
    ],
    "simple": FACTORED,
    "bottleneck": [FIRST, *FACTORED[2:], LAST],
    "whole": [FIRST, ("conv2", "bn2", "2", "conv2.0", "conv2.1")],
}
STEMS = {
    "whole": [("conv1", "bn1", "conv1", "stem.0", "stem.1")],
    "factored": [
        ("conv1.spatial", "conv1.bn", "conv1_middle", "stem.0", "stem.1"),
        ("conv1.temporal", "bn1", "conv1", "stem.3", "stem.4"),
    ],
}
CAFFE2_PARTS = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
PADDLE_PARTS = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}

VMZ = {
    "ircsn_r50": ("whole", "ir", (3, 4, 6, 3), 267),
    "ircsn_r101": ("whole", "ir", (3, 4, 23, 3), 522),
    "ircsn_r152": ("whole", "ir", (3, 8, 36, 3), 777),
    "ipcsn_r50": ("whole", "ip", (3, 4, 6, 3), 347),
    "ipcsn_r101": ("whole", "ip", (3, 4, 23, 3), 687),
    "ipcsn_r152": ("whole", "ip", (3, 8, 36, 3), 1027),
    "r2plus1d_18": ("factored", "simple", (2, 2, 2, 2), 187),
    "r2plus1d_34": ("factored", "simple", (3, 4, 6, 3), 347),
    "r2plus1d_152": ("factored", "bottleneck", (3, 8, 36, 3), 1032),
    "r3d_18": ("whole", "whole", (2, 2, 2, 2), 102),
    "test_ircsn": ("whole", "ir", (1, 1, 1, 1), None),
}
"""Architecture -> stem, block, depths, and how many blobs VMZ counts."""


def caffe2_names(name: str, state: Tensors) -> dict[str, str]:
    """Caffe2's name -> ours."""
    stem, block, depths, _ = VMZ[name]
    rows = [(conv, norm, theirs, f"{theirs}_spatbn_relu") for conv, norm, theirs, *_ in STEMS[stem]]
    places = [f"layer{stage}.{number}" for stage, depth in enumerate(depths, 1) for number in range(depth)]
    for number, place in enumerate(places):
        rows += [
            (f"{place}.{conv}", f"{place}.{norm}", f"comp_{number}_conv_{theirs}", f"comp_{number}_spatbn_{theirs}")
            for conv, norm, theirs, *_ in BLOCKS[block]
        ]
        shortcut = f"shortcut_projection_{number}"
        rows.append((f"{place}.downsample.0", f"{place}.downsample.1", shortcut, f"{shortcut}_spatbn"))
    head = [ours for ours in state if ours.startswith("fc.")]
    names = {f"last_out_L{len(state[ours])}_{ours[3]}": ours for ours in head}
    for conv, norm, their_conv, their_norm in rows:
        if f"{conv}.weight" in state:  # not every block has a projection
            names[f"{their_conv}_w"] = f"{conv}.weight"
            names |= {f"{their_norm}_{theirs}": f"{norm}.{ours}" for ours, theirs in CAFFE2_PARTS.items()}
    return names


def torch_names(name: str, state: Tensors) -> dict[str, str]:
    """The name in VMZ's PyTorch code -> ours."""
    stem, block, _, _ = VMZ[name]
    rows = [(conv, norm, theirs, their_norm) for conv, norm, _, theirs, their_norm in STEMS[stem]]
    for place in sorted({ours.rpartition(".conv1")[0] for ours in state if ".conv1" in ours}):
        rows += [
            (f"{place}.{conv}", f"{place}.{norm}", f"{place}.{theirs}", f"{place}.{their_norm}")
            for conv, norm, _, theirs, their_norm in BLOCKS[block]
        ]
    pairs = [pair for ours, norm, theirs, their_norm in rows for pair in ((ours, theirs), (norm, their_norm))]
    modules = dict(pairs)
    return {
        f"{modules.get(module, module)}.{part}": ours for ours in state for module, _, part in [ours.rpartition(".")]
    }


def paddle_names(state: Tensors, prefix: str) -> dict[str, str]:
    """PaddleVideo's name of a trunk's tensor -> ours."""
    names = {}
    for ours in state:
        if not ours.startswith("backbone.") or ours.endswith("num_batches_tracked"):
            continue
        *place, module, part = ours.removeprefix("backbone.").replace(".conv.weight", ".weight").split(".")
        if module in ("0", "1") and place[-1] == "downsample":
            place, unit, module = place[:-1], "short", "conv" if module == "0" else "bn"
        else:
            unit = f"conv{int(module[-1]) - 1}" if place else "conv"
        stage = f"res{int(place[0][-1]) + 1}" if place else ""
        if stage == "res4" and place[1] != "0" and any("layer3.6." in name for name in state):
            block = f"{stage}b{place[1]}."
        else:
            block = f"{stage}{'abcdefgh'[int(place[1])]}." if place else ""
        theirs = "_conv.weight" if module.startswith("conv") else f"_batch_norm.{PADDLE_PARTS[part]}"
        names[f"{prefix}{block}{unit}.{theirs}"] = ours
    return names


def on_meta(name: str, **options: object) -> VideoModel:
    with torch.device("meta"):
        return videozoo.create_model(name, **options)  # type: ignore[arg-type]


def settled(name: str, **options: object) -> VideoModel:
    """A network whose every tensor is random."""
    network = videozoo.create_model(name, **options)  # type: ignore[arg-type]
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return network.eval()


def shapes(state: Tensors) -> dict[str, Array]:
    """Arrays like the tensors, which lie on the meta device, without memory for their values."""
    zero = {size: np.zeros((), bits) for size, bits in BITS.items()}
    return {
        name: Array(dtype_name(tensor), np.broadcast_to(zero[tensor.dtype.itemsize], tensor.shape))
        for name, tensor in state.items()
    }


def named(names: Mapping[str, str], state: Tensors) -> dict[str, Tensor]:
    return {theirs: state[ours].clone() for theirs, ours in names.items()}


def assert_same(found: VideoModel, expected: VideoModel) -> None:
    after = found.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.state_dict().items())


# Every depth


@pytest.mark.parametrize("layout", ["vmz_caffe2", "vmz_torch"])
@pytest.mark.parametrize("name", VMZ)
def test_every_depth_of_vmz(name: str, layout: str) -> None:
    network = on_meta(name, num_classes=359)
    state = network.state_dict()
    names = caffe2_names(name, state) if layout == "vmz_caffe2" else torch_names(name, state)
    held = shapes(state)
    counters = {ours for ours in state if ours.endswith("num_batches_tracked")}
    if layout == "vmz_caffe2":
        assert len(names) == (VMZ[name][3] or len(names))
    source = WeightFile(Path("weights"), NO_FILE, "pickle", LAYOUT[layout], {t: held[o] for t, o in names.items()}, {})
    assert (source.num_classes, source.in_chans) == (359, 3)
    assert identify(source) == name
    renaming = fit(source, inventory_of(network), name)
    assert all(renaming.tensors[ours] is source.tensors[theirs] for theirs, ours in names.items())
    assert set(renaming.filled) == (counters if layout == "vmz_caffe2" else set())
    assert renaming.ignored == {}


@pytest.mark.parametrize(
    ("golden", "name"),
    [
        ("c2_ir_csn_50", "ircsn_r50"),
        ("c2_ip_csn_50", "ipcsn_r50"),
        ("c2_r2plus1d_34", "r2plus1d_34"),
        ("pt_ir_csn_152", "ircsn_r152"),
        ("pt_r2plus1d_34", "r2plus1d_34"),
        ("paddle_tsn_r50", "tsn_r50"),
    ],
)
def test_names_are_spelt_as_the_frameworks_spell_them(golden: str, name: str) -> None:
    state = on_meta(name).state_dict()
    if golden.startswith("paddle"):
        names = paddle_names(state, "backbone.") | {"head.fc.weight": "fc.weight", "head.fc.bias": "fc.bias"}
    else:
        names = caffe2_names(name, state) if golden.startswith("c2") else torch_names(name, state)
    recorded = json.loads((GOLDENS / f"{golden}.json").read_text(encoding="utf-8"))["tensors"]
    assert {theirs for theirs, _ in recorded} == set(names)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("architecture", ["tsn_r50", "tsm_r50"])
def test_every_depth_of_paddlevideo(architecture: str, backbone: str) -> None:
    network = on_meta(architecture, backbone=backbone, num_classes=0)
    state = network.state_dict()
    names = paddle_names(state, "")
    table = LAYOUT["paddle_imagenet"].tables[architecture[:3]]
    held = shapes(state)
    renaming = rename(table, {theirs: held[ours] for theirs, ours in names.items()}, inventory_of(network))
    assert all(renaming.tensors[ours] is held[ours] for ours in names.values())
    counted = [ours for ours in state if not ours.endswith("num_batches_tracked")]
    assert foreign_names(table, counted) == {ours: theirs for theirs, ours in names.items()}


@pytest.mark.parametrize(("name", "channels"), [("r2plus1d_18", 2), ("r3d_18", 1), ("ircsn_r101", 3)])
def test_our_own_names_tell_the_input_channels(name: str, channels: int) -> None:
    state = shapes(on_meta(name, in_chans=channels, num_classes=5).state_dict())
    layout = next(layout for layout in LAYOUTS if layout.bare(state) is not None)
    source = WeightFile(Path("weights"), NO_FILE, "safetensors", layout, state, {})
    assert (layout.name, source.in_chans, source.num_classes) == ("videozoo", channels, 5)


def test_the_middle_width_is_counted_anew_for_every_convolution() -> None:
    state = on_meta("r2plus1d_18").state_dict()
    widths = [len(state[f"layer{stage}.0.conv{unit}.spatial.weight"]) for stage in (1, 2, 3, 4) for unit in (1, 2)]
    assert widths == [144, 144, 230, 288, 460, 576, 921, 1152]
    assert len(state["conv1.spatial.weight"]) == 45


def test_a_network_with_torchvisions_widths_is_refused() -> None:
    """Its second convolution in a block takes the width of the first."""
    state = on_meta("r2plus1d_18").state_dict()
    tensors = {theirs: state[ours] for theirs, ours in torch_names("r2plus1d_18", state).items()}
    for theirs in ("layer2.0.conv2.0.0.weight", "layer2.0.conv2.0.1.weight"):
        tensors[theirs] = torch.empty((230, *tensors[theirs].shape[1:]), device="meta")
    with pytest.raises(UnknownLayout, match=r"nearest is r2plus1d_18 .2 of another shape"):
        identify(WeightFile(Path("torchvision.pth"), NO_FILE, "torch_zip", LAYOUT["vmz_torch"], shapes(tensors), {}))


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_152", "r3d_18"])
def test_a_pool_after_the_stem_only_when_asked(name: str) -> None:
    """It has no tensors, so the same files load; features are half as high and wide."""
    usual, pooled = on_meta(name), on_meta(name, pool1=True)
    assert list(usual.state_dict()) == list(pooled.state_dict())
    assert [info["reduction"] for info in usual.feature_info] == [2, 2, 4, 8, 16]
    assert [info["reduction"] for info in pooled.feature_info] == [2, 4, 8, 16, 32]
    x = torch.zeros(1, 3, 8, 64, 64, device="meta")
    assert usual.eval().forward_features(x).shape[2:] == (1, 4, 4)
    assert pooled.eval().forward_features(x).shape[2:] == (1, 2, 2)


# Caffe2's files


def caffe2(network: VideoModel) -> dict[str, Tensor]:
    state = network.state_dict()
    return named(caffe2_names("test_ircsn", state), state)


def test_a_training_dump(tmp_path: Path) -> None:
    """Scopes, momentum of every learned blob, counters and learning rates."""
    network = settled("test_ircsn")
    blobs = caffe2(network)
    extra = {f"{name}_momentum": blob for name, blob in blobs.items() if name.endswith(("_w", "_s", "_b"))}
    extra |= {name: torch.zeros(1) for name in ("lr", "SgdOptimizer_0_lr_gpu0", "conv1_spatbn_relu_sm")}
    extra |= {name: torch.ones(1, dtype=torch.int64) for name in ("model_iter", "optimizer_iteration")}
    source = tmp_path / "dump.pkl"
    save_python2(source, {f"gpu_0/{name}": blob for name, blob in (extra | blobs).items()})
    report = videozoo.convert_checkpoint(source)
    assert (report.architecture, report.num_classes) == ("test_ircsn", 8)
    assert set(report.ignored) == set(extra)
    assert all(report.ignored.values())
    for path in (source, report.output):
        assert_same(videozoo.create_model("test_ircsn", checkpoint_path=path), network)


def test_a_blob_without_a_rule_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "other.pkl"
    save_python2(source, caffe2(settled("test_ircsn")) | {"comp_9_conv_1_w": torch.zeros(2), "audio_w": torch.zeros(1)})
    with pytest.raises(CheckpointMismatch, match="2 unexpected, first comp_9_conv_1_w"):
        videozoo.create_model("test_ircsn", checkpoint_path=source)


def test_blobs_of_two_devices_are_refused(tmp_path: Path) -> None:
    blobs = caffe2(settled("test_ircsn"))
    source = tmp_path / "two.pkl"
    save_pickle(source, {f"gpu_{device}/{name}": blob for device in (0, 1) for name, blob in blobs.items()}, 2)
    with pytest.raises(CheckpointMismatch, match=f"{source}: {len(blobs)} tensors are there in several scopes"):
        videozoo.convert_checkpoint(source)


@pytest.mark.parametrize("shape", [(8, 256), (8, 256, 1, 1, 1)])
def test_a_classifier_may_be_a_convolution(shape: tuple[int, ...], tmp_path: Path) -> None:
    """As Caffe2 reshapes it to slide over larger maps."""
    network = settled("test_ircsn")
    blobs = caffe2(network)
    blobs["last_out_L8_w"] = blobs["last_out_L8_w"].view(shape)
    save_python2(tmp_path / "weights.pkl", blobs)
    assert_same(videozoo.create_model("test_ircsn", checkpoint_path=tmp_path / "weights.pkl"), network)


def test_a_classifier_over_several_places_is_refused(tmp_path: Path) -> None:
    blobs = caffe2(settled("test_ircsn"))
    blobs["last_out_L8_w"] = blobs["last_out_L8_w"].view(8, 64, 1, 2, 2)
    save_python2(tmp_path / "weights.pkl", blobs)
    with pytest.raises(CheckpointMismatch, match=r"first last_out_L8_w \(8, 64, 1, 2, 2\) .* \(8, 256\)"):
        videozoo.create_model("test_ircsn", checkpoint_path=tmp_path / "weights.pkl")


# PyTorch's files


def test_a_file_of_the_pytorch_code(tmp_path: Path) -> None:
    network = settled("test_ircsn")
    state = network.state_dict()
    source = tmp_path / "port.pth"
    save_legacy(source, named(torch_names("test_ircsn", state), state))
    report = videozoo.convert_checkpoint(source)
    assert (report.architecture, report.source_layout) == ("test_ircsn", "vmz_torch")
    assert_same(videozoo.create_model("test_ircsn", checkpoint_path=report.output), network)


# PaddleVideo's files


def paddle(network: VideoModel) -> dict[str, Tensor]:
    state = network.state_dict()
    head = {"head.fc.weight": state["fc.weight"].t().contiguous(), "head.fc.bias": state["fc.bias"].clone()}
    return named(paddle_names(state, "backbone."), state) | head


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_of_paddlevideo(protocol: int, tmp_path: Path) -> None:
    network = settled("test_tsn")
    source = tmp_path / "TSN.pdparams"
    save_pickle(source, paddle(network), protocol)
    report = videozoo.convert_checkpoint(source)
    assert (report.architecture, report.source_layout, report.num_classes) == ("test_tsn", "paddlevideo", 8)
    for path in (source, report.output):
        assert_same(videozoo.create_model("test_tsn", checkpoint_path=path), network)


def test_a_classifier_that_is_not_transposed_is_refused(tmp_path: Path) -> None:
    tensors = paddle(settled("test_tsn"))
    tensors["head.fc.weight"] = tensors["head.fc.weight"].t().contiguous()
    save_pickle(tmp_path / "wrong.pdparams", tensors, 4)
    with pytest.raises(CheckpointMismatch, match=r"head\.fc\.weight \(8, 160\) .* transposed"):
        videozoo.create_model("test_tsn", checkpoint_path=tmp_path / "wrong.pdparams", num_classes=8)


@pytest.mark.parametrize("head", ["out", "fc", None])
@pytest.mark.parametrize("architecture", ["tsn_r50", "tsm_r50"])
def test_imagenet_weights_start_a_trunk(
    architecture: str, head: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"backbone": "resnet26"}  # bottlenecks, two a stage: small
    expected = settled(architecture, num_classes=0, **options)
    state = expected.state_dict()
    tensors = named(paddle_names(state, ""), state)
    if head:
        tensors |= {f"{head}.weight": torch.zeros(512, 1000), f"{head}.bias": torch.zeros(1000)}
    source = tmp_path / "ResNet_pretrain.pdparams"
    save_pickle(source, tensors, 4)
    with pytest.raises(CheckpointMismatch, match=f"no classifier for {architecture}: pass num_classes=400"):
        videozoo.create_model(architecture, checkpoint_path=source, **options)
    with caplog.at_level(logging.WARNING, logger="videozoo"):
        network = videozoo.create_model(architecture, checkpoint_path=source, num_classes=400, **options)
    assert "it has no classifier; a new, untrained one for 400 classes was put in place" in caplog.text
    assert_same(network, expected)
    assert network.get_classifier().weight.shape == (400, 2048)
    assert 0.005 < network.get_classifier().weight.std() < 0.02
    bare = videozoo.create_model(architecture, checkpoint_path=source, num_classes=0, **options)
    assert_same(bare, expected)
    assert bare.num_classes == 0


@pytest.mark.parametrize("layout", ["vmz_caffe2", "vmz_torch", "videozoo"])
def test_a_file_without_its_classifier_is_a_trunk(layout: str, tmp_path: Path) -> None:
    expected = settled("test_ircsn", num_classes=0)
    state = expected.state_dict()
    spell = {
        "vmz_caffe2": caffe2_names,
        "vmz_torch": torch_names,
        "videozoo": lambda _, tensors: dict(zip(tensors, tensors, strict=True)),
    }
    save_legacy(tmp_path / "trunk", named(spell[layout]("test_ircsn", state), state))
    with pytest.raises(CheckpointMismatch, match="no classifier for test_ircsn: pass num_classes=8"):
        videozoo.create_model("test_ircsn", checkpoint_path=tmp_path / "trunk")
    network = videozoo.create_model("test_ircsn", checkpoint_path=tmp_path / "trunk", num_classes=3)
    assert_same(network, expected)
    assert network.get_classifier().weight.shape == (3, 256)


def test_a_converted_trunk_is_still_a_trunk(tmp_path: Path) -> None:
    expected = settled("tsn_r50", num_classes=0)
    state = expected.state_dict()
    source = tmp_path / "ResNet50_pretrain.pdparams"
    save_pickle(source, named(paddle_names(state, ""), state), 4)
    with pytest.raises(UnknownLayout, match="fits tsm_r50 and tsn_r50: say which one"):
        videozoo.convert_checkpoint(source)
    report = videozoo.convert_checkpoint(source, architecture="tsn_r50")
    assert report.num_classes == 0
    assert_same(videozoo.create_model("tsn_r50", checkpoint_path=report.output, num_classes=5), expected)
    with pytest.raises(CheckpointMismatch, match="has no classifier"):
        videozoo.create_model("tsn_r50", checkpoint_path=report.output)


# Against torchvision, on whose networks VMZ's PyTorch code is built


class MiddleAnew(Conv2Plus1D):
    """Torchvision's factored convolution with VMZ's width."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        super().__init__(in_planes, out_planes, 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes), stride)


class Pooled(R2Plus1dStem):
    def __init__(self) -> None:
        super().__init__()
        self.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))


TORCHVISION = {
    "r2plus1d_18": (BasicBlock, MiddleAnew, [2, 2, 2, 2], R2Plus1dStem, 5),
    "r2plus1d_152": (Bottleneck, MiddleAnew, [3, 8, 36, 3], R2Plus1dStem, 8),
    "r2plus1d_152 with pool1": (Bottleneck, MiddleAnew, [3, 8, 36, 3], Pooled, 8),
    "r3d_18": (BasicBlock, Conv3DSimple, [2, 2, 2, 2], BasicStem, 7),
}


@pytest.mark.parametrize("case", TORCHVISION)
def test_networks_answer_as_torchvisions(case: str) -> None:
    name, _, pool1 = case.partition(" with ")
    block, conv, depths, stem, num_frames = TORCHVISION[case]
    random = torch.Generator().manual_seed(1)
    theirs = VideoResNet(block, [conv] * 4, depths, stem, num_classes=6).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.2, generator=random)
            for tensor in (module.running_var, module.weight):
                tensor.data.uniform_(0.5, 1.0, generator=random)
    ours = on_meta(name, num_classes=6, **({"pool1": True} if pool1 else {})).eval()
    table = LAYOUT["vmz_torch"].tables["r2plus1d"]
    arrays = rename(table, as_arrays(theirs.state_dict()), inventory_of(ours)).tensors
    ours.load_state_dict({name: as_tensor(array) for name, array in arrays.items()}, assign=True)
    x = torch.randn(1, 3, num_frames, 40, 48, generator=random)
    with torch.inference_mode():
        expected, found = theirs(x), ours(x)
    assert expected.isfinite().all()
    assert (found - expected).abs().max() < 1e-4 * expected.std()
