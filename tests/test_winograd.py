"""Winograd's convolutions: exact in exact arithmetic, near in float32, and only where they belong."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from test_models import clip, settle
from torch import Tensor, nn
from torch.nn import functional as F

from videozoo.benchmark.operations import WINOGRAD, Operations
from videozoo.inference import optimize_for_inference
from videozoo.layers import fused, winograd, winograd_time
from videozoo.layers.video_model import VideoModel
from videozoo.layers.winograd import WinogradConv
from videozoo.layers.winograd_time import WinogradTimeConv
from videozoo.models.csn import CSN, InteractionReducedBlock
from videozoo.models.tsn import TSN

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A network with one convolution that suits, and clips."""

    trunk: Callable[[], VideoModel]
    wide: tuple[int, ...]
    """A clip for which it goes Winograd's way."""
    other: tuple[int, ...]
    """Another one."""
    third: tuple[int, ...]
    few: tuple[int, ...]
    """A clip for which it goes the direct way."""
    packed: list[tuple[int, ...]]
    """The convolution's inputs, of the first two clips."""

    def network(self, seed: int = 0) -> VideoModel:
        return settle(self.trunk(), seed)


CASES = {
    "3x3": Case(  # the second convolution of 128 channels, the first having stride 2
        lambda: TSN(
            timm.create_model("resnet26", num_classes=0, layers=(1, 2, 1, 1), channels=(8, 128, 8, 16)), num_classes=5
        ),
        (1, 3, 8, 64, 64), (2, 3, 7, 64, 56), (1, 3, 16, 96, 88), (1, 3, 2, 64, 64),
        [(8, 128, 8, 8), (14, 128, 8, 7)],
    ),
    "time": Case(  # the stem
        lambda: CSN(
            InteractionReducedBlock, (1, 1, 1, 1), width=64, num_classes=5, in_chans=3, drop_rate=0.0, bn_frozen=False
        ),
        (1, 3, 16, 64, 64), (2, 3, 16, 64, 56), (1, 3, 16, 96, 88), (1, 3, 8, 64, 64),
        [(1, 3, 16, 64, 64), (2, 3, 16, 64, 56)],
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def needs_it() -> None:
    if not (fused.prepacked_works(torch.float32) and winograd.works() and winograd_time.works()):
        pytest.skip("this machine takes the direct way")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that weights are packed for from now on."""
    shapes: list[torch.Size] = []

    class Watched(WinogradConv):
        def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
            shapes.append(shape)
            super().__init__(weight, bias, shape)

    class WatchedOverTime(WinogradTimeConv):
        def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size, stride: Pair, padding: Pair) -> None:
            shapes.append(shape)
            super().__init__(weight, bias, shape, stride, padding)

    monkeypatch.setattr(fused, "WinogradConv", Watched)
    monkeypatch.setattr(fused, "WinogradTimeConv", WatchedOverTime)
    return shapes


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


# The arithmetic


@pytest.mark.parametrize("points", [winograd.POINTS, winograd_time.POINTS])
def test_the_transforms_convolve_exactly(points: tuple[float, ...]) -> None:
    a, g, b = winograd.transforms(points)
    inputs, taps = torch.eye(6, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for d in inputs:
        for tap in taps:
            expected = torch.stack([d[i : i + 3] @ tap for i in range(4)])
            assert torch.allclose(a @ ((g @ tap) * (b @ d)), expected, rtol=0, atol=1e-15)


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("chunk_bytes", [winograd.CHUNK_BYTES, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 32, 8, 8), (5, 32, 7, 7), (3, 48, 13, 6), (2, 16, 1, 3)])
def test_maps_of_any_size(
    shape: tuple[int, ...], bias: bool, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk_bytes)
    random = torch.Generator().manual_seed(0)
    x, weight, offset = (torch.randn(size, generator=random) for size in (shape, (24, shape[1], 3, 3), (24,)))
    wanted = offset if bias else None
    convolution = WinogradConv(weight, wanted, x.shape)
    assert (convolution.images == 1) is (chunk_bytes == 1 or len(x) == 1)
    maps = x.clone(memory_format=torch.channels_last)
    expected = F.conv2d(x.double(), weight.double(), None if wanted is None else wanted.double(), padding=1).relu()
    found = convolution(maps)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert close(found, expected.float())
    assert torch.equal(maps, x)


@pytest.mark.usefixtures("needs_it")
def test_the_last_chunk_may_repeat_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "CHUNK_BYTES", 3 * 36 * 4 * 16 * 4)  # three images of 4 tiles
    random = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=random) for shape in ((7, 16, 8, 8), (16, 16, 3, 3)))
    convolution = WinogradConv(weight, None, x.shape)
    assert convolution.images == 4
    expected = F.conv2d(x.double(), weight.double(), padding=1).relu().float()
    assert close(convolution(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((1, 16, 8, 6, 5), (1, 1), (1, 1), (0, 0)), ((3, 32, 5, 4, 4), (1, 1), (1, 1), (0, 0)),
        ((1, 3, 4, 17, 20), (7, 7), (2, 2), (3, 3)), ((2, 16, 1, 7, 9), (3, 3), (1, 1), (1, 1)),
        ((1, 8, 11, 8, 8), (3, 5), (2, 1), (0, 2)), ((2, 8, 2, 5, 5), (1, 1), (1, 1), (0, 0)),
        ((1, 8, 6, 9, 7), (3, 3), (2, 2), (1, 1)),
    ],
)  # fmt: skip
def test_clips_of_any_size(shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    x, weight, offset = (torch.randn(size, generator=random) for size in (shape, (24, shape[1], 3, *kernel), (24,)))
    wanted = offset if bias else None
    clips = x.clone(memory_format=torch.channels_last_3d)
    expected = F.conv3d(
        x.double(), weight.double(), None if wanted is None else wanted.double(), (1, *stride), (1, *padding)
    ).relu()
    convolution = WinogradTimeConv(weight, wanted, x.shape, stride, padding)
    found = convolution(clips)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert close(found, expected.float())
    pool = fused.SpatialMaxPool(nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
    assert torch.equal(convolution(clips, pool.of_frames), pool(found))
    assert torch.equal(clips, x)


@pytest.mark.parametrize(
    ("images", "size", "channels", "expected"),
    [
        (8, 56, 64, False), (8, 28, 128, True), (1, 28, 128, True), (8, 7, 128, False), (1, 14, 256, False),
        (2, 14, 256, True), (2, 7, 512, False), (4, 7, 512, True), (8, 5, 512, False), (25, 7, 512, True),
    ],
)  # fmt: skip
def test_the_rule(images: int, size: int, channels: int, expected: bool) -> None:
    assert winograd.wins(images, size, size, channels, channels) is expected


@pytest.mark.parametrize(
    ("size", "taps", "channels", "skipped", "expected"),
    [
        ((32, 112, 112), 49, (3, 64), 4, True), ((8, 14, 14), 1, (1024, 256), 1, True),
        ((4, 14, 14), 1, (256, 256), 1, False), ((8, 56, 56), 1, (144, 64), 1, False),
        ((2, 7, 7), 9, (512, 512), 1, False), ((3, 14, 14), 9, (256, 256), 1, True),
        ((5, 14, 14), 1, (1024, 256), 1, False), ((7, 14, 14), 1, (1024, 256), 1, True),
    ],
)  # fmt: skip
def test_the_rule_over_time(size: tuple[int, ...], taps: int, channels: Pair, skipped: int, expected: bool) -> None:
    assert winograd_time.wins(size, taps, *channels, skipped) is expected


# In networks


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("share_weights", [False, True])
def test_shapes_by_turns(case: Case, share_weights: bool, made: list[torch.Size]) -> None:
    """Two of them are packed once, a third goes the direct way; the original keeps its values and its answers."""
    plain = case.network()
    before = copy.deepcopy(plain.state_dict())
    optimized = optimize_for_inference(plain, share_weights=share_weights)
    shapes = (case.wide, case.other, case.third)
    with torch.inference_mode():
        for shape in (*shapes[:2] * 2, *shapes):
            assert close(optimized(clip(*shape)), plain(clip(*shape)))
    assert [tuple(shape) for shape in made] == case.packed
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.usefixtures("needs_it")
def test_another_number_of_threads_packs_anew(case: Case, made: list[torch.Size]) -> None:
    """Layouts may depend on it."""
    plain = case.network()
    optimized = optimize_for_inference(plain)
    with torch.inference_mode():
        expected = plain(clip(*case.wide))
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            assert close(optimized(clip(*case.wide)), expected)
    assert len(made) == 2


@pytest.mark.usefixtures("needs_it")
def test_what_is_packed_is_not_kept_when_weights_change(case: Case, made: list[torch.Size]) -> None:
    optimized, other = optimize_for_inference(case.network()), case.network(seed=1)
    with torch.inference_mode():
        optimized(clip(*case.wide))
        for same in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized)), optimized.float()):
            assert close(same(clip(*case.wide)), case.network()(clip(*case.wide)))
        assert len(made) == 4
        optimized.load_state_dict(optimize_for_inference(other).state_dict())
        assert close(optimized(clip(*case.wide)), other(clip(*case.wide)))


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("share_weights", [False, True])
def test_threads_may_begin_together(case: Case, share_weights: bool) -> None:
    plain = case.network()
    optimized = optimize_for_inference(plain, share_weights=share_weights)
    clips = [clip(*shape) for shape in (case.wide, case.other, case.third, case.wide)]
    found: dict[int, list[Tensor]] = {}
    together = threading.Barrier(len(clips))

    def answer(index: int) -> None:
        with torch.inference_mode():
            together.wait(60)
            found[index] = [optimized(clips[index]) for _ in range(3)]

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        for index, x in enumerate(clips):
            assert all(close(logits, plain(x)) for logits in found[index])


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("heard", [False, True])
def test_the_stem_is_heard_by_hooks_and_given_as_stage_0(heard: bool) -> None:
    """Else its frames are pooled one by one, and nobody sees it whole."""
    case = CASES["time"]
    plain, x = case.network(), clip(*case.wide)
    optimized = optimize_for_inference(plain)
    seen: list[Tensor] = []
    if heard:
        stage = str(plain.feature_info[0]["module"])
        optimized.get_submodule(stage).register_forward_hook(lambda module, inputs, found: seen.append(found.clone()))
    with torch.inference_mode():
        stem, last = plain.forward_intermediates(x, indices=[0, 4], intermediates_only=True)
        found = optimized.forward_intermediates(x, indices=[0, 4], intermediates_only=True)
        alone = optimized.forward_intermediates(x, indices=[0], intermediates_only=True, stop_early=True)
        assert all(close(maps, expected) for maps, expected in zip((*found, *alone), (stem, last, stem), strict=True))
        seen.clear()
        assert close(optimized.forward_features(x), last)
    assert len(seen) == heard
    assert all(close(maps, stem) for maps in seen)


@pytest.mark.usefixtures("needs_it")
def test_the_profile_knows_the_transforms(case: Case) -> None:
    optimized = optimize_for_inference(case.network())
    with torch.inference_mode():
        for shape, expected in ((case.wide, True), (case.few, False)):
            optimized(clip(*shape))
            with Operations() as operations:
                optimized(clip(*shape))
            assert (WINOGRAD in operations.kinds) is expected


@pytest.mark.usefixtures("needs_it")
def test_what_was_packed_without_gradients_is_used_with_them(case: Case, made: list[torch.Size]) -> None:
    plain = case.network()
    optimized = optimize_for_inference(plain)
    expected = in_inference_mode(plain, clip(*case.wide))
    in_inference_mode(optimized, clip(*case.wide))
    assert close(optimized(clip(*case.wide)), expected)
    with torch.no_grad():
        assert close(optimized(clip(*case.wide)), expected)
    assert len(made) == 1


def in_inference_mode(optimized: VideoModel, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return optimized(x).float()


def in_autocast(optimized: VideoModel, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return in_inference_mode(optimized, x)


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        pytest.param(in_autocast, 0.1, id="autocast"),
        pytest.param(lambda net, x: in_inference_mode(net.to(torch.bfloat16), x), 0.1, id="bfloat16"),
        pytest.param(lambda net, x: net(x.requires_grad_()).detach(), 1e-5, id="gradients"),
        pytest.param(lambda net, x: torch.export.export(net, (x,)).module()(x).detach(), 1e-5, id="export"),
    ],
)
@pytest.mark.usefixtures("needs_it")
def test_the_other_ways_stay(
    case: Case, run: Callable[[VideoModel, Tensor], Tensor], tolerance: float, made: list[torch.Size]
) -> None:
    plain = case.network()
    expected = in_inference_mode(plain, clip(*case.wide))
    assert close(run(optimize_for_inference(plain), clip(*case.wide)), expected, tolerance)
    assert made == []


@pytest.mark.parametrize("missing", ["prepacked", "winograd"])
def test_a_machine_without_it_takes_the_other_ways(
    case: Case, missing: str, made: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "prepacked":
        monkeypatch.setattr(fused, "prepacked_works", lambda dtype: False)
    else:
        for way in (winograd, winograd_time):
            monkeypatch.setattr(way, "works", lambda: False)
    plain = case.network()
    assert close(*(in_inference_mode(net, clip(*case.wide)) for net in (optimize_for_inference(plain), plain)))
    assert made == []


@pytest.mark.usefixtures("needs_it")
def test_few_pixels_take_the_direct_way(case: Case, made: list[torch.Size]) -> None:
    plain = case.network()
    assert close(*(in_inference_mode(net, clip(*case.few)) for net in (optimize_for_inference(plain), plain)))
    assert made == []


def gone(self: object, x: Tensor) -> Tensor:
    raise AttributeError("gone")


def wrong(self: object, x: Tensor) -> Tensor:
    return torch.zeros(len(x), 32, *x.shape[2:])


@pytest.mark.parametrize(("module", "convolution"), [(winograd, WinogradConv), (winograd_time, WinogradTimeConv)])
def test_a_machine_that_it_was_not_measured_on(module: Any, convolution: type, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (gone, wrong):
        with monkeypatch.context() as patch:
            patch.setattr(convolution, "__call__", method)
            assert not module.works.__wrapped__()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not module.works.__wrapped__()
