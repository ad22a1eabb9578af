"""The networks: sizes, shapes, the methods they share with timm, what sets each family apart, and loading files."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import videozoo
from videozoo import manifest, registry
from videozoo.checkpoints.keymap import foreign_names
from videozoo.checkpoints.mmaction2 import MMACTION2
from videozoo.errors import CheckpointMismatch, InvalidArgument, UnknownLayout, UnknownModel, UnknownWeights
from videozoo.layers.blank import blank_networks, fill
from videozoo.layers.frames import ShiftedConv, temporal_shift
from videozoo.layers.video_model import VideoModel
from videozoo.models.csn import CSN, InteractionPreservedBlock, InteractionReducedBlock
from videozoo.models.r2plus1d import Bottleneck, R2Plus1D, SimpleBlock
from videozoo.models.slowonly import SlowOnly
from videozoo.models.tpn import TPN
from videozoo.models.tsm import TSM
from videozoo.models.tsn import TSN

ARCHITECTURES = [*registry.list_models(), *registry.list_models("test_*")]
PUBLISHED_SIZES = {
    "ircsn_r50": 13_131_152,
    "ircsn_r152": 29_703_568,
    "ipcsn_r152": 33_016_592,
    "slowonly_r50": 32_454_096,
    "tsm_r50": 24_327_632,
    "tsn_r50": 24_327_632,
    "tpn_slowonly_r50": 91_498_336,
    "tpn_tsm_r50": 82_445_724,
}
"""Parameters of MMAction2's networks; the pyramid ones with the auxiliary head, which lies in their files."""


def small_resnet(in_chans: int = 3) -> nn.Module:
    return timm.create_model("resnet50", num_classes=0, in_chans=in_chans, layers=(1, 1, 1, 1), channels=(8, 8, 8, 16))


def small_tpn(trunk: SlowOnly | TSM, **options: object) -> TPN:
    return TPN(trunk, num_classes=5, **options)


TINY: dict[str, Callable[..., VideoModel]] = {
    "ircsn": lambda **o: CSN(InteractionReducedBlock, (1, 1, 1, 1), width=8, num_classes=5, **o),
    "ipcsn": lambda **o: CSN(InteractionPreservedBlock, (1, 1, 1, 1), width=8, num_classes=5, **o),
    "r2plus1d": lambda **o: R2Plus1D(SimpleBlock, (1, 1, 1, 1), width=8, num_classes=5, **o),
    "r2plus1d_deep": lambda **o: R2Plus1D(Bottleneck, (1, 1, 1, 1), width=8, num_classes=5, **o),
    "r3d": lambda **o: R2Plus1D(SimpleBlock, (1, 1, 1, 1), factored=False, width=8, num_classes=5, **o),
    "slowonly": lambda **o: SlowOnly((1, 1, 1, 1), width=8, num_classes=5, **o),
    "tsn": lambda **o: TSN(small_resnet(), num_classes=5, **o),
    "tsm": lambda **o: TSM(small_resnet(), num_classes=5, **o),
    "tpn_slowonly": lambda **o: small_tpn(SlowOnly((1, 1, 1, 1), width=2, num_classes=0), **o),
    "tpn_tsm": lambda **o: small_tpn(TSM(small_resnet(), num_classes=0), **o),
}
"""Every family in miniature; 5 classes."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settle(network: VideoModel, seed: int = 0) -> VideoModel:
    """Weights and statistics as of a trained network: nothing is zero, and deep sums stay small."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=random)
        elif tensor.ndim > 1:
            tensor.normal_(std=(1.5 / tensor[0].numel()) ** 0.5, generator=random)
        elif name.endswith("weight"):
            tensor.normal_(1, 0.2, generator=random).mul_(0.2 if ".bn3." in name else 1)
        else:
            tensor.normal_(std=0.2, generator=random)
    return network.eval()


def is_tpn(name: str) -> bool:
    return registry.architecture(name).family == "tpn"


def on_meta(name: str, **options: object) -> VideoModel:
    with torch.device("meta"):
        return videozoo.create_model(name, **options)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> Iterator[VideoModel]:
    """Each architecture once, in evaluation mode, with 7 classes; tests leave it as it is."""
    options = {"aux_head": True} if is_tpn(request.param) else {}
    yield settle(on_meta(request.param, num_classes=7, **options).to_empty(device="cpu"))


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> VideoModel:
    """A fresh miniature of each family."""
    return settle(TINY[request.param]())


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


# Sizes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_number_of_parameters(name: str) -> None:
    """Of the pyramid networks, those with published files count the auxiliary head, which the files hold."""
    options = {"aux_head": True} if name in PUBLISHED_SIZES and is_tpn(name) else {}
    count = sum(parameter.numel() for parameter in on_meta(name, **options).parameters())
    assert count == registry.architecture(name).num_parameters
    assert count == PUBLISHED_SIZES.get(name, count)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_follow_the_released_weights(name: str) -> None:
    network = on_meta(name, **({"aux_head": True} if is_tpn(name) else {}))
    norms = {module.eps for module in network.modules() if isinstance(module, _BatchNorm)}
    assert norms == {1e-3 if registry.architecture(name).family in ("csn", "r2plus1d") else 1e-5}
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    assert all(convolution.bias is None for convolution in convolutions)
    assert list(network.state_dict())[-2:] == ["fc.weight", "fc.bias"]
    assert network.get_submodule(network.first_conv).in_channels == 3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_a_function_of_the_package(name: str) -> None:
    factory = getattr(videozoo, name)
    assert factory.__name__ == name
    assert factory.__doc__
    assert name in dir(videozoo)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_defaults(name: str) -> None:
    network = on_meta(name)
    spec = registry.architecture(name)
    assert network.num_classes == manifest.load().datasets[spec.dataset].num_classes
    assert network.drop_rate == {"tsn": 0.4, "r2plus1d": 0.0}.get(spec.family, 0.5)
    view = spec.protocol.center
    assert network.pretrained_cfg["architecture"] == name
    assert network.pretrained_cfg["input_size"] == (3, view.num_frames, view.crop_size, view.crop_size)
    assert network.pretrained_cfg["tag"] is None


# Clips in, logits out


def test_logits(network: VideoModel) -> None:
    x = clip(2, 3, 8, 32, 32)
    with torch.inference_mode():
        logits = network(x)
        features = network.forward_features(x)
        pooled = network.forward_head(features, pre_logits=True)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
        assert not close(logits[:1], logits[1:])
        assert features.shape[:2] == (2, network.num_features)
        assert torch.equal(network.forward_head(features), logits)
        assert pooled.shape == (2, network.num_features)
        assert close(network.get_classifier()(pooled), logits)
        assert close(torch.cat([network(x[:1]), network(x[1:])]), logits), "clips of a batch mix"


def test_odd_sizes(network: VideoModel) -> None:
    num_frames = 5 if network.smallest_clip[0] == 1 else 16
    with torch.inference_mode():
        assert network(clip(1, 3, num_frames, 37, 53)).isfinite().all()
        assert network(clip(1, 3, num_frames, 64, 33)).shape == (1, 7)


def test_the_smallest_clip(network: VideoModel) -> None:
    t, h, w = network.smallest_clip
    with torch.inference_mode():
        assert network(clip(1, 3, t, h, w)).isfinite().all()
        for shape in [(1, 3, t - 1, h, w), (1, 3, t, h - 1, w), (1, 3, t, h, w - 1)]:
            with pytest.raises(InvalidArgument, match=f"smallest T x H x W is {t} x {h} x {w}"):
                network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 32, 32), r"4 dimensions: \(3, 8, 32, 32\)"),
        ((1, 1, 3, 8, 32, 32), "6 dimensions"),
        ((1, 8, 3, 32, 32), r"expected 3 channels .* \(1, 8, 3, 32, 32\)"),
        ((1, 4, 8, 32, 32), "expected 3 channels"),
    ],
)
def test_a_clip_of_another_shape(tiny: VideoModel, shape: tuple[int, ...], message: str) -> None:
    for method in (tiny, tiny.forward_features, tiny.forward_intermediates):
        with pytest.raises(InvalidArgument, match=message):
            method(torch.zeros(shape))


# Feature maps


def test_intermediates_are_the_stages(network: VideoModel) -> None:
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        last, maps = network.forward_intermediates(x)
        assert torch.equal(last, network.forward_features(x))
    assert torch.equal(maps[-1], last)
    assert len(maps) == len(network.feature_info) == (6 if hasattr(network, "neck") else 5)
    for found, info in zip(maps, network.feature_info, strict=True):
        size = 32 // info["reduction"]
        assert found.shape[:2] == (1, info["num_chs"])
        assert found.shape[3:] == (size, size)
        assert network.get_submodule(info["module"])


@pytest.mark.parametrize("indices", [1, 3, [0], [-1], [2, 0], (1, -2, 1)])
def test_intermediates_of_some_stages(tiny: VideoModel, indices: int | list[int]) -> None:
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        last, maps = tiny.forward_intermediates(x)
        expected = maps[-indices:] if isinstance(indices, int) else [maps[index] for index in indices]
        answers = [
            tiny.forward_intermediates(x, indices)[1],
            tiny.forward_intermediates(x, indices, intermediates_only=True),
            tiny.forward_intermediates(x, indices, intermediates_only=True, stop_early=True),
        ]
        for answer in answers:
            assert len(answer) == len(expected)
            assert all(torch.equal(found, wanted) for found, wanted in zip(answer, expected, strict=True))
        assert torch.equal(tiny.forward_intermediates(x, indices, stop_early=True)[0], last)


def test_stop_early_leaves_later_stages_out(tiny: VideoModel) -> None:
    calls: list[str] = []
    for info in tiny.feature_info:
        name = info["module"]
        tiny.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.inference_mode():
        tiny.forward_intermediates(clip(1, 3, 8, 32, 32), [1, 2], intermediates_only=True, stop_early=True)
    assert calls == [info["module"] for info in tiny.feature_info[:3]]


@pytest.mark.parametrize("indices", [[6], [0, 7], [-7], [], 7, 0, -1])
def test_stages_that_do_not_exist(tiny: VideoModel, indices: int | list[int]) -> None:
    with pytest.raises(InvalidArgument, match=rf"{len(tiny.feature_info)} stages, 0 to {len(tiny.feature_info) - 1}"):
        tiny.forward_intermediates(clip(1, 3, 8, 32, 32), indices)


# The classifier


def test_another_classifier(tiny: VideoModel) -> None:
    x = clip(2, 3, 8, 32, 32)
    with torch.inference_mode():
        pooled = tiny.forward_head(tiny.forward_features(x), pre_logits=True)
        tiny.reset_classifier(3)
        assert (tiny.num_classes, tiny.get_classifier().out_features, tuple(tiny(x).shape)) == (3, 3, (2, 3))
        assert tiny.get_classifier() is tiny.fc
        tiny.reset_classifier(0)
        assert isinstance(tiny.get_classifier(), nn.Identity)
        assert close(tiny(x), pooled)


def test_a_new_classifier_keeps_the_dtype(tiny: VideoModel) -> None:
    tiny.to(torch.float64).reset_classifier(3)
    assert tiny(clip(1, 3, 8, 32, 32).double()).dtype == torch.float64


def test_no_classes() -> None:
    network = videozoo.create_model("test_ircsn", num_classes=0).eval()
    assert network(clip(2, 3, 8, 32, 32)).shape == (2, network.num_features)


@pytest.mark.parametrize("family", TINY)
def test_dropout_acts_in_training_only(family: str) -> None:
    x = clip(2, 3, 8, 32, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        network = settle(TINY[family](drop_rate=0.9))
        assert torch.equal(network(x), network(x))
        network.train()
        assert not close(network(x), network(x))
        undropped = settle(TINY[family](drop_rate=0.0)).train()
        assert close(undropped(x), undropped(x))


# Training


def test_gradients_reach_every_parameter(network: VideoModel) -> None:
    """Taken in evaluation mode, so that the shared network's statistics stay."""
    x = clip(2, 3, 8, 40, 40)
    logits = sum(network.forward_with_aux(x)) if isinstance(network, TPN) else network(x)
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
    silent = [
        name
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is None or not gradient.isfinite().all() or not gradient.any()
    ]
    assert silent == []


def test_a_training_step_counts_in_batch_norms(tiny: VideoModel) -> None:
    before = copy.deepcopy(tiny.state_dict())
    tiny.train()(clip(2, 3, 8, 32, 32)).sum().backward()
    after = tiny.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if "running_" in name)


@pytest.mark.parametrize("family", TINY)
def test_frozen_batch_norms(family: str) -> None:
    network = settle(TINY[family](bn_frozen=True))
    before = copy.deepcopy(network.state_dict())
    assert network.train() is network
    assert network.training
    network(clip(2, 3, 8, 32, 32)).sum().backward()
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            assert (parameter.grad is None) == isinstance(module, _BatchNorm)
    network.train(False)
    assert not any(module.training for module in network.modules())
    network.train()
    assert all(module.training != isinstance(module, _BatchNorm) for module in network.modules())


@pytest.mark.parametrize(
    "options",
    [{"drop_rate": 1.0}, {"drop_rate": -0.1}, {"num_classes": -1}, {"in_chans": 0}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("name", registry.list_models("test_*"))
def test_arguments_out_of_range(name: str, options: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        videozoo.create_model(name, **options)


# Copies and compilers


def test_copies_answer_alike(tiny: VideoModel) -> None:
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        expected = tiny(x)
        assert torch.equal(copy.deepcopy(tiny)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(tiny))(x), expected)


@pytest.mark.parametrize("name", registry.list_models("test_*"))
def test_a_network_by_name_can_be_pickled(name: str) -> None:
    network = videozoo.create_model(name).eval()
    again = pickle.loads(pickle.dumps(network))
    x = clip(1, 3, 8, 32, 32)
    assert torch.equal(again(x), network(x))
    assert again.pretrained_cfg == network.pretrained_cfg


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # torch, of Python 3.13.0
def test_compile_without_graph_breaks(tiny: VideoModel) -> None:
    x = clip(2, 3, 8, 32, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        torch.compiler.reset()
        compiled = torch.compile(tiny, fullgraph=True, backend="aot_eager")
        assert close(compiled(x), tiny(x))


def test_export(tiny: VideoModel) -> None:
    x = clip(2, 3, 8, 32, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        program = torch.export.export(tiny, (x,), strict=False)
        assert close(program.module()(x), tiny(x))


# The temporal shift


def test_shift_by_hand() -> None:
    """Eight channels, so the first takes the next frame and the second the previous one; two clips do not mix."""
    frames = torch.arange(1.0, 7.0)  # two clips of three frames
    x = frames.view(6, 1, 1, 1).expand(6, 8, 2, 2).clone()
    shifted = temporal_shift(x, 3)
    assert shifted[:, 0, 0, 0].tolist() == [2, 3, 0, 5, 6, 0]
    assert shifted[:, 1, 0, 0].tolist() == [0, 1, 2, 0, 4, 5]
    assert torch.equal(shifted[:, 2:], x[:, 2:])
    assert shifted.shape == x.shape


@pytest.mark.parametrize(("channels", "moved"), [(8, 1), (16, 2), (20, 2), (7, 0)])
def test_shift_moves_an_eighth_each_way(channels: int, moved: int) -> None:
    x = clip(4, channels, 3, 3)
    changed = (temporal_shift(x, 4) != x).flatten(2).any(dim=2).any(dim=0)
    assert changed.tolist() == [channel < 2 * moved for channel in range(channels)]


@pytest.mark.parametrize(
    ("backbone", "shifted"),
    [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3)), ("resnet101", (2, 2, 12, 2))],
)
def test_which_blocks_are_shifted(backbone: str, shifted: tuple[int, ...]) -> None:
    """Every block; every second one from 23 blocks in the third stage on."""
    trunk = on_meta("tsm_r50", backbone=backbone).backbone
    stages = [getattr(trunk, f"layer{stage}") for stage in (1, 2, 3, 4)]
    every = [[number for number, block in enumerate(stage) if isinstance(block.conv1, ShiftedConv)] for stage in stages]
    assert tuple(map(len, every)) == shifted
    assert all(numbers == list(range(0, len(stage), 2 if backbone == "resnet101" else 1)) for numbers, stage in
               zip(every, stages, strict=True))  # fmt: skip
    assert sum(isinstance(module, ShiftedConv) for module in trunk.modules()) == sum(shifted)


def test_only_the_residual_branch_is_shifted() -> None:
    """The shortcut sees frames where they are: with a silent branch, the block is the shortcut."""
    block = settle(TSM(small_resnet(), num_classes=5)).backbone.layer1[0]
    nn.init.zeros_(block.bn3.weight)
    nn.init.zeros_(block.bn3.bias)
    x = clip(8, 64, 8, 8)
    assert torch.equal(block(x), block.downsample(x).relu())


@pytest.mark.parametrize("family", ["tsm", "tpn_tsm"])
def test_a_long_clip_counts_as_several(family: str) -> None:
    network = settle(TINY[family]())
    x = clip(2, 3, 48, 32, 32)
    with torch.inference_mode():
        parts = torch.stack([network(part) for part in x.split(8, dim=2)])
        assert close(network(x), parts.mean(dim=0))
        assert network.forward_features(x).shape[:2] == (2, network.num_features)


@pytest.mark.parametrize("family", ["tsm", "tpn_tsm"])
@pytest.mark.parametrize("num_frames", [9, 12])
def test_frames_that_are_no_multiple_of_the_segments(family: str, num_frames: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{num_frames} frames: this network takes 8 segments, or a multiple"):
        TINY[family]()(clip(1, 3, num_frames, 32, 32))


def test_another_number_of_segments() -> None:
    network = settle(videozoo.create_model("tsm_r50", backbone="resnet18", num_segments=4, num_classes=5))
    assert network.smallest_clip == (4, 1, 1)
    x = clip(1, 3, 12, 32, 32)
    with torch.inference_mode():
        assert close(network(x), torch.stack([network(part) for part in x.split(4, dim=2)]).mean(dim=0))


def test_who_sees_the_order_of_frames() -> None:
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        for family, network in ((name, settle(make())) for name, make in TINY.items()):
            assert close(network(x.flip(2)), network(x)) == (family == "tsn"), family


# Other trunks


@pytest.mark.parametrize("name", ["tsn_r50", "tsm_r50"])
def test_another_trunk(name: str) -> None:
    network = settle(videozoo.create_model(name, backbone="resnet18", num_classes=5, in_chans=2))
    assert network.num_features == 512
    assert network(clip(1, 2, 8, 32, 32)).shape == (1, 5)


def test_a_trunk_that_is_no_resnet() -> None:
    network = settle(videozoo.create_model("tsn_r50", backbone="test_efficientnet", num_classes=5))
    x = clip(1, 3, 4, 32, 32)
    with torch.inference_mode():
        assert network(x).shape == (1, 5)
        assert len(network.forward_intermediates(x, intermediates_only=True)) == len(network.feature_info)
    assert network.get_submodule(network.first_conv).in_channels == 3


def test_a_trunk_without_maps() -> None:
    network = videozoo.create_model("tsn_r50", backbone="test_vit", num_classes=5).eval()
    with pytest.raises(InvalidArgument, match=r"need maps \(N, \d+, H, W\)"):
        network(clip(1, 3, 1, 160, 160))
    with pytest.raises(InvalidArgument, match="needs a timm ResNet"):
        videozoo.create_model("tsm_r50", backbone="test_vit")


@pytest.mark.parametrize("name", ["tsn_r50", "tsm_r50"])
def test_a_trunk_that_does_not_exist(name: str) -> None:
    with pytest.raises(InvalidArgument, match="resnet5O"):
        videozoo.create_model(name, backbone="resnet5O")


def test_no_segments() -> None:
    with pytest.raises(InvalidArgument, match="num_segments=0"):
        videozoo.create_model("tsm_r50", backbone="resnet18", num_segments=0)


# The pyramid


@pytest.mark.parametrize(("num_frames", "levels"), [(1, 1), (5, 1), (8, 1), (9, 2), (10, 2), (16, 2), (17, 3)])
def test_the_pyramid_pools_eight_frames(num_frames: int, levels: int) -> None:
    network = settle(TINY["tpn_slowonly"]())
    with torch.inference_mode():
        features = network.forward_features(clip(1, 3, num_frames, 64, 64))
    assert features.shape == (1, network.num_features, levels, 2, 2)


@pytest.mark.parametrize("family", ["tpn_slowonly", "tpn_tsm"])
def test_auxiliary_logits(family: str) -> None:
    network = settle(TINY[family](aux_head=True))
    x = clip(2, 3, 16, 32, 32)
    with torch.inference_mode():
        logits, auxiliary = network.forward_with_aux(x)
        assert close(logits, network(x))
        assert auxiliary.shape == (2, 5)
        assert not close(auxiliary, logits)
        network.reset_classifier(3)
        assert [tuple(one.shape) for one in network.forward_with_aux(x)] == [(2, 3), (2, 3)]
        network.reset_classifier(0)
        assert network.forward_with_aux(x)[1].shape == (2, network.num_features)


def test_auxiliary_logits_without_the_head() -> None:
    with pytest.raises(InvalidArgument, match="aux_head=True"):
        TINY["tpn_slowonly"]().forward_with_aux(clip(1, 3, 8, 32, 32))


# Names and arguments


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ircsn_r5O", {}, UnknownModel, "ircsn_r50"),
        ("tpn_slowonly", {}, UnknownModel, "tpn_slowonly_r50"),
        ("ircsn_r50", {"pool1": True}, InvalidArgument, "ircsn_r50 has no argument pool1"),
        ("ircsn_r50", {"num_segments": 8}, InvalidArgument, "ircsn_r50 has no argument num_segments"),
        ("tsn_r50", {"aux_head": False, "num_segments": 8}, InvalidArgument, "no argument aux_head, num_segments"),
        ("tpn_tsm_r50", {"backbone": "resnet18"}, InvalidArgument, "no argument backbone"),
        ("ircsn_r152.k400", {}, InvalidArgument, "pass pretrained=True"),
        ("ircsn_r152.k400", {"pretrained": "ig65m_k400"}, InvalidArgument, "different weights"),
        ("ircsn_r152", {"pretrained": "k600"}, UnknownWeights, "its tags are ig65m_k400"),
        ("ircsn_r152.k600", {"pretrained": True}, UnknownWeights, "its tags are ig65m_k400"),
        ("ipcsn_r50", {"pretrained": True}, UnknownWeights, "none were published"),
    ],
)
def test_wrong_names_and_arguments(name: str, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        videozoo.create_model(name, **options)


def test_a_misspelt_argument() -> None:
    with pytest.raises(TypeError, match="num_class"):
        videozoo.create_model("test_ircsn", num_class=3)


def test_an_attribute_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="ircsn_r34"):
        videozoo.ircsn_r34  # noqa: B018


# Files


def published(network: VideoModel) -> OrderedDict[str, Tensor]:
    """The network's tensors as MMAction2 names them."""
    table = MMACTION2.tables[registry.architecture(network.pretrained_cfg["architecture"]).family]
    names = foreign_names(table, network.state_dict())
    return OrderedDict((names[ours], tensor.clone()) for ours, tensor in network.state_dict().items())


@pytest.fixture(params=registry.list_models("test_*"))
def trained(request: pytest.FixtureRequest) -> VideoModel:
    """A tiny network by name whose weights are to come back out of a file."""
    return settle(videozoo.create_model(request.param), seed=1)


def save(tensors: dict[str, Tensor], path: Path, **parts: object) -> Path:
    torch.save({"meta": {"mmaction_version": "0.24.1", "epoch": 58}, "state_dict": tensors, **parts}, path)
    return path


def logits(network: VideoModel) -> Tensor:
    with torch.inference_mode():
        return network.eval()(clip(2, network.in_chans, 8, 32, 32))


def assert_same(found: VideoModel, expected: VideoModel) -> None:
    before, after = expected.state_dict(), found.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) and after[key].dtype == before[key].dtype for key in before)
    assert close(logits(found), logits(expected))  # to the bit it depends on where in memory the weights lie


def test_a_file_before_and_after_conversion(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    source = save(published(trained), tmp_path / "published.pth")
    report = videozoo.convert_checkpoint(source)
    assert (report.architecture, report.num_classes) == (name, 8)
    assert (report.ignored, report.filled) == ({}, {})
    for path in (source, report.output, str(report.output)):
        assert_same(videozoo.create_model(name, checkpoint_path=path), trained)


def test_a_raw_training_checkpoint(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    trained(clip(1, 3, 8, 32, 32)).sum().backward()
    optimizer.step()
    tensors = published(trained)
    tensors._metadata = OrderedDict({"": {"version": 1}})  # as nn.Module.state_dict leaves it
    source = save(tensors, tmp_path / "epoch_58.pth", optimizer=optimizer.state_dict())
    assert_same(videozoo.create_model(name, checkpoint_path=source), trained)
    assert videozoo.convert_checkpoint(source, architecture=name).ignored == {}


def test_a_stale_copy_of_the_classifier_is_ignored(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    stale = {
        "cls_head.new_cls.weight": torch.ones(8, trained.num_features, 1, 1, 1),
        "cls_head.new_cls.bias": torch.ones(8),
    }
    source = save({**published(trained), **stale}, tmp_path / "stale.pth")
    report = videozoo.convert_checkpoint(source, architecture=name)
    assert report.ignored.keys() == stale.keys()
    assert_same(videozoo.create_model(name, checkpoint_path=report.output), trained)


def test_the_preprocessor_of_a_file_is_ignored(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    extra = {f"data_preprocessor.{part}": torch.ones(3, 1, 1, 1) for part in ("mean", "std")}
    source = save({**extra, **published(trained)}, tmp_path / "rc.pth")
    assert videozoo.convert_checkpoint(source, architecture=name).ignored.keys() == extra.keys()
    assert_same(videozoo.create_model(name, checkpoint_path=source), trained)


def test_counters_that_a_file_lacks_are_filled(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    tensors = {key: tensor for key, tensor in published(trained).items() if not key.endswith("num_batches_tracked")}
    report = videozoo.convert_checkpoint(save(tensors, tmp_path / "ported.pth"), architecture=name)
    counters = {key for key in trained.state_dict() if key.endswith("num_batches_tracked")}
    assert report.filled.keys() == counters
    network = videozoo.create_model(name, checkpoint_path=report.output)
    assert all(network.state_dict()[key].item() == 0 for key in counters)
    assert_same(network, trained)


def test_half_precision_files_become_float32(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    tensors = {key: t.half() if t.is_floating_point() else t for key, t in published(trained).items()}
    network = videozoo.create_model(name, checkpoint_path=save(tensors, tmp_path / "half.pth"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert (logits(network) - logits(trained)).abs().max() < 0.02 * logits(trained).std()


@pytest.mark.parametrize("shifted", [False, True])
def test_shifted_and_plain_trunks_are_told_apart(shifted: bool, tmp_path: Path) -> None:
    """Their files differ in the name of one convolution per block alone."""
    name = "tsm_r50" if shifted else "tsn_r50"
    network = on_meta(name)
    names = foreign_names(MMACTION2.tables[name[:3]], network.state_dict())
    assert sum(".net." in foreign for foreign in names.values()) == (16 if shifted else 0)
    tensors = {names[ours]: torch.zeros(t.shape, dtype=t.dtype) for ours, t in network.state_dict().items()}
    source = save(tensors, tmp_path / "unknown.pth")
    assert videozoo.convert_checkpoint(source).architecture == name
    other = "tsn_r50" if shifted else "tsm_r50"
    with pytest.raises(CheckpointMismatch, match=f"does not fit {other}: 16 missing, .*; 16 unexpected"):
        videozoo.create_model(other, checkpoint_path=source)


def test_a_file_of_another_architecture(trained: VideoModel, tmp_path: Path) -> None:
    other = "test_ircsn" if trained.pretrained_cfg["architecture"] != "test_ircsn" else "test_tsn"
    source = save(published(trained), tmp_path / "published.pth")
    with pytest.raises(CheckpointMismatch, match=f"does not fit {other}"):
        videozoo.create_model(other, checkpoint_path=source)
    converted = videozoo.convert_checkpoint(source, architecture=trained.pretrained_cfg["architecture"]).output
    with pytest.raises(CheckpointMismatch, match=f"not {other}"):
        videozoo.create_model(other, checkpoint_path=converted)


def test_a_file_that_does_not_fit_lists_every_tensor(trained: VideoModel, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    tensors = published(trained)
    names = list(tensors)
    del tensors[names[1]], tensors["cls_head.fc_cls.bias"]
    tensors |= {"backbone.layer9.0.conv1.conv.weight": torch.zeros(2), names[0]: torch.zeros(1, 2, 3)}
    source = save(tensors, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointMismatch, match=r"2 missing, .*; 1 unexpected, .*; 1 of another shape") as caught:
        videozoo.create_model(name, checkpoint_path=source)
    for part in ("fc.bias", "backbone.layer9.0.conv1.conv.weight", f"{names[0]} (1, 2, 3)"):
        assert part in str(caught.value)
    with pytest.raises(UnknownLayout, match=f"nearest is {name} .2 missing"):
        videozoo.convert_checkpoint(source)
    assert not (tmp_path / "damaged.safetensors").exists()


@pytest.mark.parametrize("layout", ["published", "converted"])
def test_another_number_of_classes(
    trained: VideoModel, layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = trained.pretrained_cfg["architecture"]
    source = save(published(trained), tmp_path / "eight.pth")
    if layout == "converted":
        source = videozoo.convert_checkpoint(source, architecture=name).output
    with caplog.at_level(logging.WARNING, logger="videozoo"):
        assert videozoo.create_model(name, checkpoint_path=source, num_classes=8).num_classes == 8
        assert caplog.records == []
        network = videozoo.create_model(name, checkpoint_path=source, num_classes=5)
    assert [(record.levelname, record.name.split(".")[0]) for record in caplog.records] == [("WARNING", "videozoo")]
    assert "8 classes was replaced by a new, untrained one for 5" in caplog.text
    assert logits(network).shape == (2, 5)
    assert network.pretrained_cfg["num_classes"] == 5
    before, after = trained.state_dict(), network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if not key.startswith("fc."))


def test_a_file_with_another_number_of_classes(tmp_path: Path) -> None:
    five = settle(videozoo.create_model("test_ircsn", num_classes=5))
    source = save(published(five), tmp_path / "five.pth")
    with pytest.raises(CheckpointMismatch, match="5 classes, test_ircsn has 8: pass num_classes=5"):
        videozoo.create_model("test_ircsn", checkpoint_path=source)
    assert_same(videozoo.create_model("test_ircsn", checkpoint_path=source, num_classes=5), five)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
def test_other_input_channels(trained: VideoModel, in_chans: int, tmp_path: Path) -> None:
    name = trained.pretrained_cfg["architecture"]
    source = save(published(trained), tmp_path / "colour.pth")
    network = videozoo.create_model(name, checkpoint_path=source, in_chans=in_chans)
    first = f"{trained.first_conv}.weight"
    before, after = trained.state_dict(), network.state_dict()
    weight = before[first]
    expected = adapt_input_conv(in_chans, weight.flatten(2)[..., None]).view(len(weight), in_chans, *weight.shape[2:])
    assert torch.equal(after[first], expected)
    assert all(torch.equal(after[key], before[key]) for key in before if key != first)
    assert logits(network).shape == (2, 8)
    assert network.pretrained_cfg["input_size"][0] == in_chans


def test_a_file_for_other_input_channels(tmp_path: Path) -> None:
    four = settle(videozoo.create_model("test_ircsn", in_chans=4))
    source = tmp_path / "four.pth"
    torch.save(dict(four.state_dict()), source)  # under our own names
    assert_same(videozoo.create_model("test_ircsn", checkpoint_path=source, in_chans=4), four)
    with pytest.raises(CheckpointMismatch, match="pass in_chans=4"):
        videozoo.create_model("test_ircsn", checkpoint_path=source)


def test_the_auxiliary_head_of_a_file_is_optional(tmp_path: Path) -> None:
    whole = settle(videozoo.create_model("test_tpn", aux_head=True))
    source = videozoo.convert_checkpoint(save(published(whole), tmp_path / "whole.pth")).output
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        expected, auxiliary = whole.forward_with_aux(x)
        assert close(videozoo.create_model("test_tpn", checkpoint_path=source).eval()(x), expected)
        again = videozoo.create_model("test_tpn", checkpoint_path=source, aux_head=True).eval()
        assert close(again.forward_with_aux(x)[1], auxiliary)
    plain = settle(videozoo.create_model("test_tpn"))
    bare = save(published(plain), tmp_path / "bare.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing, first aux_head\.conv\.weight"):
        videozoo.create_model("test_tpn", checkpoint_path=bare, aux_head=True)


# Networks that are built to be filled


@pytest.mark.parametrize("name", ["test_ircsn", "ircsn_r50", "slowonly_r50", "r2plus1d_18", "tsm_r50"])
def test_a_filled_network_is_like_one_that_was_built(name: str) -> None:
    built = videozoo.create_model(name, num_classes=3)
    with blank_networks():
        filled = videozoo.create_model(name, num_classes=3)
    assert all(parameter.is_meta for parameter in filled.parameters())
    fill(filled, built.state_dict())
    assert str(filled) == str(built)
    state, expected = filled.state_dict(), built.state_dict()
    assert list(state) == list(expected)
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in expected.items())
    # no block shares a tensor or a hook with the block that it was copied from
    assert len(list(filled.parameters())) == len(list(built.parameters()))
    assert len({id(module) for module in filled.modules()}) == len(list(built.modules()))
    calls: list[object] = []
    first = next(module for module in filled.modules() if isinstance(module, nn.ReLU))
    first.register_forward_hook(lambda *_: calls.append(1))
    hooked = [module for module in filled.modules() if module._forward_hooks]
    assert hooked == [first]


@pytest.mark.parametrize("wrong", [{}, {"fc.bias": torch.zeros(4)}], ids=["missing", "misshaped"])
def test_a_network_is_not_filled_with_what_does_not_fit(wrong: dict[str, Tensor]) -> None:
    built = videozoo.create_model("test_ircsn", num_classes=3).state_dict()
    del built["fc.bias"]
    with blank_networks():
        network = videozoo.create_model("test_ircsn", num_classes=3)
    with pytest.raises(CheckpointMismatch, match=r"fc.bias: the network needs a tensor of \(3,\)"):
        fill(network, {**built, **wrong})
