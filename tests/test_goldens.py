"""The networks answer what the published ones answer: figures of MMAction2's own networks on made-up weights.

Each network runs the whole way: weights in a file as MMAction2 publishes it, converted without naming the architecture,
loaded by name, and asked. ``goldens/mmaction2_*.json`` holds the tensors of the published file, the inputs, and the
answers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from filling import fill, fill_input
from torch import Tensor

import videozoo

GOLDENS = Path(__file__).parent / "goldens"
ARCHITECTURES = {
    "ircsn_r50": "ircsn_r50",
    "slowonly_r50_8x8": "slowonly_r50",
    "tpn_slowonly_r50": "tpn_slowonly_r50",
    "tpn_tsm_r50_sthv1": "tpn_tsm_r50",
    "tsn_r50": "tsn_r50",
}
"""Golden -> our name."""
STAGES = {"stem.conv1_bn_relu": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4, "neck": 5}
"""Stage as the goldens call it -> its index in ``feature_info``."""
TOLERANCE = 1e-4
"""Largest absolute difference, in standard deviations of the expected values."""


@dataclass(frozen=True)
class Published:
    """A golden, and the network that went the whole way."""

    golden: dict[str, Any]
    architecture: str
    report: videozoo.ConversionReport
    network: torch.nn.Module


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Clips this small only make threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    golden = json.loads((GOLDENS / f"mmaction2_{request.param}.json").read_text(encoding="utf-8"))
    # hundreds of megabytes: not to be kept as pytest keeps its folders
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp(), ignore_cleanup_errors=True) as folder:
        source = Path(folder) / f"{request.param}.pth"
        tensors = OrderedDict((name, torch.from_numpy(fill(name, *kind))) for name, *kind in golden["tensors"])
        torch.save({"meta": {"mmaction_version": "0.24.1", "config": golden["source"]}, "state_dict": tensors}, source)
        del tensors
        report = videozoo.convert_checkpoint(source)
        source.unlink()
        architecture = ARCHITECTURES[request.param]
        yield Published(
            golden, architecture, report, videozoo.create_model(architecture, checkpoint_path=report.output).eval()
        )


def clips(question: dict[str, Any]) -> Tensor:
    """The input as (N, C, T, H, W); the golden has (batch, views, C, T, H, W), for 2-D trunks (batch, T, C, H, W)."""
    x = torch.from_numpy(fill_input(question["key"], question["shape"]))
    return x.flatten(0, 1) if x.ndim == 6 else x.transpose(1, 2)


def apart(found: Tensor, expected: Tensor, std: float) -> float:
    assert found.shape == expected.shape
    return ((found.double() - expected).abs().max() / std).item()


def test_the_architecture_finds_itself(published: Published) -> None:
    tensors = published.golden["tensors"]
    assert published.report.architecture == published.architecture
    assert published.report.source_layout == "mmaction2"
    assert (published.report.num_tensors, published.report.ignored, published.report.filled) == (len(tensors), {}, {})
    assert published.report.weights is None  # made-up weights are no row's


def test_every_published_tensor_has_a_place(published: Published) -> None:
    network, tensors = published.network, published.golden["tensors"]
    if published.architecture.startswith("tpn"):
        network = videozoo.create_model(published.architecture, checkpoint_path=published.report.output, aux_head=True)
    assert len(network.state_dict()) == len(tensors)
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == sum(
        torch.Size(shape).numel() for _, shape, _ in tensors
    )


def test_logits(published: Published) -> None:
    for question in published.golden["inputs"]:
        expected = torch.tensor(question["logits"], dtype=torch.float64)
        with torch.inference_mode():
            found = published.network(clips(question))
        assert apart(found, expected, expected.std().item()) < TOLERANCE, question["key"]


def test_feature_maps(published: Published) -> None:
    question = published.golden["inputs"][0]
    stages = {STAGES[stage["stage"]]: stage for stage in question["stages"]}
    assert list(stages) == list(range(len(published.network.feature_info)))
    with torch.inference_mode():
        maps = published.network.forward_intermediates(clips(question), intermediates_only=True)
    for found, stage in zip(maps, stages.values(), strict=True):
        # theirs are (N * T, C, H, W) in 2-D trunks
        found = found.transpose(1, 2).flatten(0, 1) if len(stage["shape"]) == 4 else found
        assert list(found.shape) == stage["shape"]
        wide = found.double()
        summary = torch.stack(
            [wide.mean(), wide.std(correction=0), wide.abs().max(), *wide.flatten()[: len(stage["first8"])]]
        )
        expected = torch.tensor([stage["mean"], stage["std"], stage["absmax"], *stage["first8"]], dtype=torch.float64)
        assert apart(summary, expected, stage["std"]) < TOLERANCE, stage["stage"]
