"""Winograd's convolutions: exact in exact arithmetic, near in float32, and only where they belong."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from test_models import clip, settle
from torch import Tensor
from torch.nn import functional as F

from videozoo.inference import optimize_for_inference
from videozoo.layers import fused, winograd
from videozoo.layers.video_model import VideoModel
from videozoo.layers.winograd import WinogradConv
from videozoo.models.tsn import TSN

WIDE = (1, 3, 8, 64, 64)
"""A clip of which `network` has 8 maps of 8x8 pixels and 128 channels."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def needs_it() -> None:
    if not (fused.prepacked_works(torch.float32) and winograd.works()):
        pytest.skip("this machine takes the direct way")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that weights are packed for from now on."""
    shapes: list[torch.Size] = []

    class Watched(WinogradConv):
        def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
            shapes.append(shape)
            super().__init__(weight, bias, shape)

    monkeypatch.setattr(fused, "WinogradConv", Watched)
    return shapes


def network(seed: int = 0) -> VideoModel:
    """With one convolution that suits: the second of 128 channels, the first having stride 2."""
    trunk = timm.create_model("resnet26", num_classes=0, layers=(1, 2, 1, 1), channels=(8, 128, 8, 16))
    return settle(TSN(trunk, num_classes=5), seed)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    assert found.shape == expected.shape
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


# The arithmetic


def test_the_transforms_convolve_exactly() -> None:
    a, g, b = winograd.transforms()
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


@pytest.mark.parametrize(
    ("images", "size", "channels", "expected"),
    [
        (8, 56, 64, False), (8, 28, 128, True), (1, 28, 128, True), (8, 7, 128, False), (1, 14, 256, False),
        (2, 14, 256, True), (2, 7, 512, False), (4, 7, 512, True), (8, 5, 512, False), (25, 7, 512, True),
    ],
)  # fmt: skip
def test_the_rule(images: int, size: int, channels: int, expected: bool) -> None:
    assert winograd.wins(images, size, size, channels, channels) is expected


# In networks


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("share_weights", [False, True])
def test_shapes_by_turns(share_weights: bool, made: list[torch.Size]) -> None:
    """Two of them are packed once, a third goes the direct way; the original keeps its values and its answers."""
    plain = network()
    before = copy.deepcopy(plain.state_dict())
    optimized = optimize_for_inference(plain, share_weights=share_weights)
    shapes = (WIDE, (2, 3, 7, 64, 56), (1, 3, 16, 96, 88))
    with torch.inference_mode():
        for shape in (*shapes[:2] * 2, *shapes):
            assert close(optimized(clip(*shape)), plain(clip(*shape)))
    assert [tuple(shape) for shape in made] == [(8, 128, 8, 8), (14, 128, 8, 7)]
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.usefixtures("needs_it")
def test_another_number_of_threads_packs_anew(made: list[torch.Size]) -> None:
    """Layouts may depend on it."""
    plain = network()
    optimized = optimize_for_inference(plain)
    with torch.inference_mode():
        expected = plain(clip(*WIDE))
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            assert close(optimized(clip(*WIDE)), expected)
    assert len(made) == 2


@pytest.mark.usefixtures("needs_it")
def test_what_is_packed_is_not_kept_when_weights_change(made: list[torch.Size]) -> None:
    optimized, other = optimize_for_inference(network()), network(seed=1)
    with torch.inference_mode():
        optimized(clip(*WIDE))
        for same in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized)), optimized.float()):
            assert close(same(clip(*WIDE)), network()(clip(*WIDE)))
        assert len(made) == 4
        optimized.load_state_dict(optimize_for_inference(other).state_dict())
        assert close(optimized(clip(*WIDE)), other(clip(*WIDE)))


@pytest.mark.usefixtures("needs_it")
@pytest.mark.parametrize("share_weights", [False, True])
def test_threads_may_begin_together(share_weights: bool) -> None:
    plain = network()
    optimized = optimize_for_inference(plain, share_weights=share_weights)
    clips = [clip(*WIDE), clip(2, 3, 7, 64, 56), clip(1, 3, 8, 96, 88), clip(*WIDE)]
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


def in_autocast(optimized: VideoModel) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        return optimized(clip(*WIDE)).float()


def in_inference_mode(optimized: VideoModel, *shape: int) -> Tensor:
    with torch.inference_mode():
        return optimized(clip(*(shape or WIDE))).float()


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        pytest.param(in_autocast, 0.1, id="autocast"),
        pytest.param(
            lambda net: in_inference_mode(net.to(torch.bfloat16)), 0.1, id="bfloat16"
        ),
        pytest.param(lambda net: net(clip(*WIDE).requires_grad_()).detach(), 1e-5, id="gradients"),
        pytest.param(
            lambda net: torch.export.export(net, (clip(*WIDE),)).module()(clip(*WIDE)).detach(), 1e-5, id="export"
        ),
    ],
)  # fmt: skip
def test_the_other_ways_stay(run: Callable[[VideoModel], Tensor], tolerance: float, made: list[torch.Size]) -> None:
    plain = network()
    with torch.inference_mode():
        expected = plain(clip(*WIDE))
    assert close(run(optimize_for_inference(plain)), expected, tolerance)
    assert made == []


@pytest.mark.parametrize("missing", ["prepacked", "winograd"])
def test_a_machine_without_it_takes_the_other_ways(
    missing: str, made: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "prepacked":
        monkeypatch.setattr(fused, "prepacked_works", lambda dtype: False)
    else:
        monkeypatch.setattr(winograd, "works", lambda: False)
    plain = network()
    assert close(in_inference_mode(optimize_for_inference(plain)), in_inference_mode(plain))
    assert made == []


def test_few_pixels_take_the_direct_way(made: list[torch.Size]) -> None:
    plain = network()
    few = (1, 3, 2, 64, 64)
    assert close(in_inference_mode(optimize_for_inference(plain), *few), in_inference_mode(plain, *few))
    assert made == []


def test_a_machine_that_it_was_not_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: WinogradConv, x: Tensor) -> Tensor:
        raise AttributeError("gone")

    def wrong(self: WinogradConv, x: Tensor) -> Tensor:
        return torch.zeros(len(x), self.out_channels, *x.shape[2:])

    for method in (gone, wrong):
        with monkeypatch.context() as patch:
            patch.setattr(WinogradConv, "__call__", method)
            assert not winograd.works.__wrapped__()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not winograd.works.__wrapped__()
