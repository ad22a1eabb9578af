"""What every test stands on: a private cache, a known environment, and small files in MMAction2's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from videozoo import manifest

if TYPE_CHECKING:
    from videozoo.layers.video_model import VideoModel

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, or sees the user's settings."""
    monkeypatch.setenv("VIDEOZOO_HOME", str(tmp_path_factory.mktemp("home", numbered=True)))
    for name in ("VIDEOZOO_WEIGHTS_DIR", "VIDEOZOO_MIRROR", "VIDEOZOO_LOCK", "VIDEOZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


def random_model(architecture: str, num_classes: int | None = None) -> VideoModel:
    """A network whose every tensor is random, batch norms included, so that no mix-up of two tensors goes unseen."""
    import torch

    from videozoo.models import create_model

    model = create_model(architecture, num_classes=num_classes)
    generator = torch.Generator().manual_seed(20)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.2, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def foreign_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``foreign_file(architecture, num_classes=None)``: a .pth in MMAction2's layout, written once; never change it."""
    from videozoo.mmaction2_file import write_mmaction2

    folder = tmp_path_factory.mktemp("foreign")

    def write(architecture: str, num_classes: int | None = None) -> Path:
        path = folder / f"{architecture}-{num_classes or 'usual'}.pth"
        if not path.exists():
            write_mmaction2(random_model(architecture, num_classes), path)
        return path

    return write


@pytest.fixture
def edit_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``edit_manifest(weights, **file)``: for this test, the row's file has these properties."""

    def edit(weights: str, **file: Any) -> None:
        data = json.loads(manifest.path().read_text(encoding="utf-8"))
        (row,) = (row for row in data["weights"] if f"{row['architecture']}.{row['tag']}" == weights)
        row["file"].update(file)
        changed = tmp_path / "weights_manifest.json"
        changed.write_text(json.dumps(data), encoding="utf-8")
        monkeypatch.setattr(manifest, "path", lambda: changed)
        manifest.load.cache_clear()

    yield edit
    manifest.load.cache_clear()
