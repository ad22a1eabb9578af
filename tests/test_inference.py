"""Networks rebuilt for inference answer what they answered, in every way that they compute it."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from test_models import TINY, clip, settle
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import videozoo
from videozoo.errors import InvalidArgument
from videozoo.inference import optimize_for_inference, reuse_heap
from videozoo.layers import fused
from videozoo.layers.fused import FusedBlock, FusedConv
from videozoo.layers.packed import PATIENCE, PackedConv
from videozoo.layers.video_model import VideoModel
from videozoo.models.tpn import TPN
from videozoo.models.tsm import TSM
from videozoo.models.tsn import TSN

SHAPES = ((1, 3, 8, 32, 32), (3, 3, 16, 40, 24))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["prepacked", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute; the plain one is what a torch without the other takes."""
    if request.param == "plain":
        monkeypatch.setattr(fused, "prepacked_works", lambda dtype: False)
    elif not fused.prepacked_works(torch.float32):
        pytest.skip("this torch has no packed convolutions")
    return request.param


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def small_resnet(**options: object) -> nn.Module:
    return timm.create_model("resnet26", num_classes=0, layers=(2, 1, 1, 1), channels=(8, 8, 8, 16), **options)


@pytest.fixture
def ircsn() -> VideoModel:
    return settle(TINY["ircsn"]())


# The same answers


@pytest.mark.parametrize("name", TINY)
def test_the_answers_stay(name: str, way: str) -> None:
    """Of clips of two sizes, alone and in batches, by one network; so nothing holds on to the first clip's shape."""
    network = settle(TINY[name]())
    optimized = optimize_for_inference(network)
    for shape in SHAPES:
        x = clip(*shape)
        before = x.clone()
        with torch.inference_mode():
            assert close(optimized(x), network(x))
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", TINY)
def test_the_methods_stay(name: str, way: str) -> None:
    network = settle(TINY[name]())
    optimized = optimize_for_inference(network)
    x = clip(*SHAPES[0])
    with torch.no_grad():
        maps, expected = optimized.forward_features(x), network.forward_features(x)
        assert close(maps, expected)
        assert close(optimized.forward_head(maps), network.forward_head(expected))
        assert close(optimized.forward_head(maps, pre_logits=True), network.forward_head(expected, pre_logits=True))
        _, stages = optimized.forward_intermediates(x)
        _, expected_stages = network.forward_intermediates(x)
        first = optimized.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    assert [close(*pair) for pair in zip(stages, expected_stages, strict=True)] == [True] * len(network.feature_info)
    assert close(first[0], expected_stages[0])
    assert type(optimized) is type(network)
    for attribute in ("num_classes", "num_features", "pretrained_cfg", "feature_info", "smallest_clip", "in_chans"):
        assert getattr(optimized, attribute) == getattr(network, attribute)
    assert all(optimized.get_submodule(info["module"]) is not None for info in optimized.feature_info)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*videozoo.list_models(), *videozoo.list_models("test_*")])
def test_whole_architectures(name: str) -> None:
    network = settle(videozoo.create_model(name))
    x = clip(1, 3, 8, 64, 64)
    with torch.inference_mode():
        assert close(optimize_for_inference(network)(x), network(x))


def test_the_auxiliary_head(way: str) -> None:
    network = settle(TINY["tpn_slowonly"](aux_head=True))
    assert isinstance(network, TPN)
    with torch.inference_mode():
        pairs = zip(
            optimize_for_inference(network).forward_with_aux(clip(*SHAPES[0])),
            network.forward_with_aux(clip(*SHAPES[0])),
            strict=True,
        )
        assert all(close(*pair) for pair in pairs)


def test_the_original_stays_and_shares_nothing(ircsn: VideoModel) -> None:
    for network in (ircsn, settle(TINY["tpn_tsm"]())):
        before = copy.deepcopy(network.state_dict())
        optimized = optimize_for_inference(network.train())
        assert network.training and not optimized.training
        assert any(parameter.requires_grad for parameter in network.parameters())
        state = network.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
        assert not places(network) & places(optimized)


# Weights shared with the original


def places(network: nn.Module) -> set[int]:
    """Where its weights lie; asks for no state dict, which would end the sharing."""
    tensors = (*network.parameters(), *network.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("name", TINY)
def test_shared_weights_answer_the_same(name: str, way: str) -> None:
    network = settle(TINY[name]())
    optimized = optimize_for_inference(network, share_weights=True)
    convolutions = [module for module in optimized.modules() if isinstance(module, FusedConv)]
    originals = places(network)
    assert all(places(conv) & originals for conv in convolutions)
    for shape in SHAPES:
        with torch.inference_mode():
            assert close(optimized(clip(*shape)), network(clip(*shape)))
    assert all(bool(places(conv) & originals) == (way == "prepacked") for conv in convolutions)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", ["ircsn", "tpn_tsm"])
def test_what_needs_weights_of_its_own_ends_the_sharing(name: str, used: bool) -> None:
    network, x = settle(TINY[name]()), clip(*SHAPES[0])

    def shared() -> VideoModel:
        optimized = optimize_for_inference(network, share_weights=True)
        if used:
            optimized(x)
        return optimized

    def reloaded() -> VideoModel:
        other = optimize_for_inference(settle(TINY[name](), seed=1), share_weights=True)
        other.load_state_dict(optimize_for_inference(network).state_dict())
        return other

    def saved() -> VideoModel:
        other = optimize_for_inference(settle(TINY[name](), seed=1))
        other.load_state_dict(shared().state_dict())
        return other

    def asked() -> VideoModel:
        optimized = shared()
        optimized.state_dict()
        return optimized

    with torch.inference_mode():
        expected = network(x)
    made = [
        asked(), saved(), reloaded(), copy.deepcopy(shared()), pickle.loads(pickle.dumps(shared())), shared().float(),
        optimize_for_inference(network, share_weights=True, dtype=torch.float32),
    ]  # fmt: skip
    half = [shared().to(torch.bfloat16), optimize_for_inference(network, share_weights=True, dtype=torch.bfloat16)]
    kept = copy.deepcopy(network.state_dict())
    reset_weights(network)
    for optimized in made:
        assert close(optimized(x), expected)
    assert all(close(optimized(x).float(), expected, 0.1) for optimized in half)
    network.load_state_dict(kept)
    assert close(network(x), expected)


def reset_weights(network: nn.Module) -> None:
    """In place, as training does."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def test_loading_into_a_sharing_copy_leaves_the_original(ircsn: VideoModel) -> None:
    before = copy.deepcopy(ircsn.state_dict())
    other = optimize_for_inference(settle(TINY["ircsn"](), seed=1))
    optimize_for_inference(ircsn, share_weights=True).load_state_dict(other.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in ircsn.state_dict().items())


def test_shared_weights_can_be_traced_and_differentiated(ircsn: VideoModel) -> None:
    x, wanted = clip(*SHAPES[0]), clip(*SHAPES[0]).requires_grad_()
    expected = ircsn(x).detach()
    exported = torch.export.export(optimize_for_inference(ircsn, share_weights=True), (x,))
    assert close(exported.module()(x), expected)
    optimized = optimize_for_inference(ircsn, share_weights=True)
    with torch.inference_mode():
        assert close(optimized(x), expected)
    optimized(wanted).sum().backward()  # what inference mode has made cannot be in the way
    assert wanted.grad is not None


def test_nothing_is_left_unfused() -> None:
    """Of the families themselves: no convolution and no batch norm by its own."""
    for make in TINY.values():
        kinds = {type(module) for module in optimize_for_inference(settle(make())).modules()}
        assert not kinds & {nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d}


# Trunks of timm beside the plain ResNet


@pytest.mark.parametrize(
    "trunk",
    [
        pytest.param(lambda: timm.create_model("resnet18", num_classes=0), id="basic blocks"),
        pytest.param(lambda: small_resnet(cardinality=4, base_width=16), id="groups"),
        pytest.param(lambda: small_resnet(stem_type="deep", avg_down=True), id="deep stem, pooled shortcut"),
        pytest.param(lambda: small_resnet(act_layer=nn.SiLU), id="another activation"),
        pytest.param(lambda: small_resnet(block_args={"attn_layer": "se"}), id="attention"),
        pytest.param(lambda: small_resnet(aa_layer=nn.AvgPool2d), id="blur"),
        pytest.param(lambda: timm.create_model("mobilenetv3_small_050", num_classes=0), id="no ResNet"),
    ],
)
@pytest.mark.parametrize("family", [TSN, TSM])
def test_other_trunks_keep_their_answers(trunk: object, family: type[TSN]) -> None:
    backbone = trunk()  # type: ignore[operator]
    if family is TSM and not hasattr(backbone, "layer4"):
        pytest.skip("the shift needs residual stages")
    network = settle(family(backbone, num_classes=5))
    with torch.inference_mode():
        expected = network(clip(1, 3, 8, 64, 64))
        assert close(optimize_for_inference(network)(clip(1, 3, 8, 64, 64)), expected)
        found = optimize_for_inference(network, dtype=torch.bfloat16)(clip(1, 3, 8, 64, 64))
    assert close(found, expected, 0.2)


def test_plain_blocks_of_timm_are_fused_and_others_are_not() -> None:
    def fused_blocks(trunk: nn.Module) -> int:
        return sum(isinstance(part, FusedBlock) for part in optimize_for_inference(TSN(trunk)).modules())

    assert fused_blocks(small_resnet()) == 5
    assert fused_blocks(small_resnet(avg_down=True)) == 2
    assert fused_blocks(small_resnet(act_layer=nn.SiLU)) == 0


# What can be done with the result


def test_it_cannot_be_trained(ircsn: VideoModel) -> None:
    optimized = optimize_for_inference(ircsn)
    with pytest.raises(InvalidArgument, match="optimised for inference"):
        optimized.train()
    with pytest.raises(InvalidArgument, match="optimised for inference"):
        optimized.reset_classifier(3)
    assert not optimized.eval().training
    assert not any(parameter.requires_grad for parameter in optimized.parameters())


def test_it_is_not_saved_as_a_model_folder(tmp_path: object) -> None:
    optimized = optimize_for_inference(videozoo.create_model("test_ircsn", pretrained=True))
    with pytest.raises(InvalidArgument, match="optimised for inference"):
        videozoo.save_to_dir(optimized, f"{tmp_path}/model")


@pytest.mark.parametrize("bad", [clip(1, 3, 8, 32), clip(1, 4, 8, 32, 32)])
def test_clips_that_do_not_fit_are_answered_as_before(ircsn: VideoModel, bad: Tensor) -> None:
    for network in (ircsn, settle(TINY["tsm"]())):
        with pytest.raises(InvalidArgument) as expected:
            network(bad)
        with pytest.raises(InvalidArgument) as found:
            optimize_for_inference(network)(bad)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("used", [False, True])
def test_copies_pickles_and_states(ircsn: VideoModel, used: bool) -> None:
    """Also once the weights have been packed, which neither deepcopy nor pickle can carry."""
    optimized, x = optimize_for_inference(ircsn), clip(*SHAPES[0])
    with torch.inference_mode():
        expected = ircsn(x)
        if used:
            optimized(x)
        assert close(copy.deepcopy(optimized)(x), expected)
        assert close(pickle.loads(pickle.dumps(optimized))(x), expected)
        other = optimize_for_inference(settle(TINY["ircsn"](), seed=1))
        if used:
            other(x)
        other.load_state_dict(optimized.state_dict())
        assert close(other(x), expected)
        assert close(optimized.to(torch.float64)(x.double()).float(), expected)
        assert optimized.to("meta")(x.to("meta")).shape == expected.shape


def test_clips_may_have_any_layout_and_type(ircsn: VideoModel) -> None:
    optimized, x = optimize_for_inference(ircsn), clip(2, 3, 8, 32, 32)
    frames_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    with torch.inference_mode():
        expected = ircsn(x)
        for same in (x, x.contiguous(memory_format=torch.channels_last_3d), frames_first, x.double()):
            assert close(optimized(same), expected)


def test_gradients_reach_the_clip(ircsn: VideoModel) -> None:
    x, y = clip(*SHAPES[0]).requires_grad_(), clip(*SHAPES[0]).requires_grad_()
    optimize_for_inference(ircsn)(x).sum().backward()
    ircsn(y).sum().backward()
    assert x.grad is not None and y.grad is not None
    assert close(x.grad, y.grad, 1e-4)


# Options


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_near(name: str, way: str) -> None:
    network = settle(TINY[name]())
    optimized = optimize_for_inference(network, dtype=torch.bfloat16)
    with torch.inference_mode():
        found, expected = optimized(clip(*SHAPES[0])), network(clip(*SHAPES[0]))
    assert found.dtype == torch.float32
    assert not close(found, expected)
    assert close(found, expected, 0.1)
    assert optimized.forward_features(clip(*SHAPES[0])).dtype == torch.bfloat16


@pytest.mark.parametrize("name", TINY)
def test_autocast_may_choose_the_type(name: str, way: str) -> None:
    network = settle(TINY[name]())
    optimized = optimize_for_inference(network)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = optimized(clip(*SHAPES[0]))
    with torch.inference_mode():
        assert close(found.float(), network(clip(*SHAPES[0])), 0.1)


def test_weights_are_packed_for_two_shapes(ircsn: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is packed for another shape would be packed anew at each call; a third takes the older's place in time."""
    if not fused.prepacked_works(torch.float32):
        pytest.skip("this torch has no packed convolutions")
    shapes: list[tuple[int, ...]] = []

    class Watched(PackedConv):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if len(arguments) == 5:
                shapes.append(arguments[-1])

    monkeypatch.setattr(fused, "PackedConv", Watched)
    optimized = optimize_for_inference(ircsn, share_weights=True)
    num_convolutions = sum(isinstance(module, FusedConv) for module in optimized.modules())
    first, second, third = (1, 3, 8, 32, 32), (3, 3, 8, 32, 32), (1, 3, 16, 40, 24)

    def ask(*turns: tuple[int, ...]) -> int:
        """How many times weights were packed."""
        before = len(shapes)
        for shape in turns:
            assert close(optimized(clip(*shape)), ircsn(clip(*shape)))
        return len(shapes) - before

    with torch.inference_mode():
        assert ask(first, second, first, second) == 2 * num_convolutions
        assert ask(*[third] * (PATIENCE - 1)) == 0
        assert ask(third) == num_convolutions
        assert ask(third, second) == 0
        assert ask(first) == 0  # it was the older one
    originals = places(ircsn)
    assert all(places(module) & originals for module in optimized.modules() if isinstance(module, FusedConv))


class Convolutions(TorchDispatchMode):
    """The memory formats and types of what convolutions see, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in str(func):
            x = args[0]
            layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
            self.seen.append((str(func), x.is_contiguous(memory_format=layout), x.dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("name", TINY)
def test_on_another_device_plain_convolutions_see_channels_last(name: str, dtype: torch.dtype | None) -> None:
    """The path of a GPU, as far as a device without arithmetic can take it."""
    optimized = optimize_for_inference(settle(TINY[name]()), dtype=dtype).to("meta")
    with torch.inference_mode(), Convolutions() as convolutions:
        found = optimized(clip(*SHAPES[0]).to("meta"))
    assert (found.device.type, found.dtype) == ("meta", torch.float32)
    assert len(convolutions.seen) > 5
    assert all(
        function.startswith("aten") and channels_last and seen == (dtype or torch.float32)
        for function, channels_last, seen in convolutions.seen
    )


def test_compiled_forward_takes_the_plain_way(ircsn: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", lambda x: "compiled"))
    assert optimize_for_inference(ircsn, compile=True)(clip(*SHAPES[0])) == "compiled"
    exported = torch.export.export(optimize_for_inference(ircsn), (clip(*SHAPES[0]),))
    assert "mkldnn" not in str(exported.graph)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiled_answers(ircsn: VideoModel) -> None:
    compiled = optimize_for_inference(ircsn, compile=True)
    with torch.inference_mode():
        for shape in SHAPES:
            assert close(compiled(clip(*shape)), ircsn(clip(*shape)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, "bfloat16", 16])
def test_a_type_that_is_no_floating_type(ircsn: VideoModel, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidArgument, match="floating type"):
        optimize_for_inference(ircsn, dtype=dtype)


def test_what_is_no_network_of_the_zoo(ircsn: VideoModel) -> None:
    with pytest.raises(InvalidArgument, match="Linear is no network of the zoo"):
        optimize_for_inference(nn.Linear(2, 2))  # type: ignore[type-var]
    with pytest.raises(InvalidArgument, match="optimised already"):
        optimize_for_inference(optimize_for_inference(ircsn))


def test_a_torch_without_the_private_functions_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (AttributeError("gone"), TypeError("other arguments")):
        fused.prepacked_works.cache_clear()

        def fail(self: PackedConv, x: Tensor, shortcut: Tensor | None = None, error: Exception = answer) -> Tensor:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(PackedConv, "__call__", fail)
            assert not fused.prepacked_works(torch.float32)
    with monkeypatch.context() as patch:
        fused.prepacked_works.cache_clear()
        patch.setattr(PackedConv, "__call__", lambda self, x, shortcut=None: torch.zeros(2, 16, *x.shape[2:]))
        assert not fused.prepacked_works(torch.float32)
    fused.prepacked_works.cache_clear()


@pytest.mark.parametrize(("platform", "has_it"), [("linux", True), ("linux", False), ("darwin", True)])
def test_heap_reuse_asks_glibc_alone(platform: str, has_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *call: calls.append(call) or 1) if has_it else SimpleNamespace()
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", platform)
    done = platform == "linux" and has_it
    assert reuse_heap() is done
    assert calls == ([(-4, 0), (-1, 2**31 - 1), (-8, 1)] if done else [])


def test_load_recognizer_writes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[FusedConv] = []
    monkeypatch.setattr(FusedConv, "fold", lambda self, dtype=None: folded.append(self))
    assert videozoo.load_recognizer("test_ircsn").model.for_inference
    assert not folded
    optimize_for_inference(videozoo.create_model("test_ircsn"))
    assert folded


def test_load_recognizer_optimises_unless_told() -> None:
    video = torch.randint(0, 255, (12, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fast, plain = (videozoo.load_recognizer("test_ircsn", optimize=optimize) for optimize in (True, False))
    assert (fast.model.for_inference, plain.model.for_inference) == (True, False)
    first, *others = (recognizer(video).view_logits for recognizer in (fast, plain))
    assert all(close(*pair) for pair in pairwise([first, *others]))
