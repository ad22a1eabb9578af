"""The networks answer what VMZ's (Caffe2 and PyTorch) and PaddleVideo's own networks answered on made-up weights.

Each network runs the whole way: weights in a file of the framework's own form, converted without naming layout or
architecture, loaded by name, and asked. VMZ's last pooling, made for its own sizes, was widened to the whole map.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from filling import fill_input
from filling_legacy import fill_legacy
from foreign_files import save_legacy, save_pickle, save_python2
from torch import Tensor

import videozoo

GOLDENS = Path(__file__).parent / "goldens"
ARCHITECTURES = {
    "c2_ip_csn_50": "ipcsn_r50",
    "c2_ir_csn_50": "ircsn_r50",
    "c2_r2plus1d_34": "r2plus1d_34",
    "paddle_tsn_r50": "tsn_r50",
    "pt_ir_csn_152": "ircsn_r152",
    "pt_r2plus1d_34": "r2plus1d_34",
}
"""Golden -> our name."""
FRAMEWORKS = {
    "c2": (save_python2, "pickle", "vmz_caffe2"),
    "paddle": (lambda path, tensors: save_pickle(path, tensors, 4), "pickle", "paddlevideo"),
    "pt": (save_legacy, "torch_legacy", "vmz_torch"),
}
"""Beginning of a golden's name -> how the framework writes a file, and what its container and layout are called."""
TOLERANCE = 1e-4
"""Largest absolute difference, in standard deviations of the expected values."""


@dataclass(frozen=True)
class Published:
    """A golden, and the network that went the whole way."""

    name: str
    golden: dict[str, Any]
    report: videozoo.ConversionReport
    network: torch.nn.Module

    def clip(self) -> Tensor:
        """The input as (N, C, T, H, W); PaddleVideo's is (N, T, C, H, W)."""
        x = torch.from_numpy(fill_input(self.golden["key"], self.golden["shape"]))
        return x.transpose(1, 2) if self.name.startswith("paddle") else x


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Clips this small only make threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    golden = json.loads((GOLDENS / f"{request.param}.json").read_text(encoding="utf-8"))
    # hundreds of megabytes: not to be kept as pytest keeps its folders
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp(), ignore_cleanup_errors=True) as folder:
        source = Path(folder) / "weights"
        save = FRAMEWORKS[request.param.partition("_")[0]][0]
        save(source, {name: torch.from_numpy(fill_legacy(name, shape)) for name, shape in golden["tensors"]})
        report = videozoo.convert_checkpoint(source)
        source.unlink()
        network = videozoo.create_model(report.architecture, checkpoint_path=report.output).eval()
        yield Published(request.param, golden, report, network)


def apart(found: Tensor, expected: list[Any], std: float | None = None) -> float:
    """Largest difference, in standard deviations."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    assert found.shape == wanted.shape
    return ((found.double() - wanted).abs().max() / (wanted.std() if std is None else std)).item()


def test_the_architecture_finds_itself(published: Published) -> None:
    report = published.report
    _, container, layout = FRAMEWORKS[published.name.partition("_")[0]]
    assert report.architecture == ARCHITECTURES[published.name]
    assert (report.source_format, report.source_layout, report.num_classes) == (container, layout, 400)
    assert report.weights is None  # made-up weights are no row's


def test_every_published_tensor_has_a_place(published: Published) -> None:
    counters = {name for name in published.network.state_dict() if name.endswith("num_batches_tracked")}
    assert published.report.ignored == {}
    assert set(published.report.filled) == (set() if published.name.startswith("pt") else counters)
    assert published.report.num_tensors == len(published.golden["tensors"]) + len(published.report.filled)


def test_logits(published: Published) -> None:
    with torch.inference_mode():
        found = published.network(published.clip())
    assert apart(found, published.golden["logits"]) < TOLERANCE


def test_feature_maps(published: Published) -> None:
    with torch.inference_mode():
        maps = published.network.forward_intermediates(published.clip(), intermediates_only=True)
    assert len(published.golden["stages"]) >= 4
    for stage in published.golden["stages"]:
        found = maps[stage["stage"]]
        # PaddleVideo's are (N * T, C, H, W)
        found = found.transpose(1, 2).flatten(0, 1) if len(stage["shape"]) == 4 else found
        assert list(found.shape) == stage["shape"]
        wide = found.double().flatten()
        summary = torch.stack([wide.mean(), wide.std(correction=0), wide.abs().max(), *wide[stage["places"]]])
        expected = [stage["mean"], stage["std"], stage["absmax"], *stage["values"]]
        assert apart(summary, expected, stage["std"]) < TOLERANCE, stage["stage"]
