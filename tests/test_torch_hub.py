"""torch.hub on the zip that GitHub would send, in an environment that has the dependencies and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

import videozoo

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ("hubconf.py", "weights_manifest.json", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
LOAD = """
import json, sys, torch
torch.hub.set_dir(sys.argv[1])
name = "lab/videozoo:main"  # torch.hub finds it in its folder, and does not ask GitHub
options = {"trust_repo": True, "skip_validation": True}
entries = torch.hub.list(name, **options)
helps = [torch.hub.help(name, entry, **options) for entry in entries]
model = torch.hub.load(name, "test_ircsn", pretrained=True, **options)
import videozoo
print(json.dumps([entries, helps, videozoo.__file__, list(model.eval()(torch.zeros(1, 3, 8, 32, 32)).shape)]))
"""


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """torch.hub's own folder after it has unpacked the zip of a branch."""
    archive = tmp_path / "main.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in [*(REPOSITORY / name for name in NAMES), *(REPOSITORY / "videozoo").rglob("*")]:
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, f"videozoo-{COMMIT}/{path.relative_to(REPOSITORY).as_posix()}")
    folder = tmp_path / "hub"
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    (folder / f"videozoo-{COMMIT}").rename(folder / "lab_videozoo_main")
    return folder


@pytest.mark.slow
@pytest.mark.network
def test_torch_hub_needs_the_dependencies_and_nothing_else(hub_folder: Path, tmp_path: Path) -> None:
    """Installs torch and the rest, which is 2 GB or more; VIDEOZOO_TEST_PYTHON names an interpreter that has them."""
    python = os.environ.get("VIDEOZOO_TEST_PYTHON")
    if python is None:
        venv.create(tmp_path / "fresh", with_pip=True)
        python = str(tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python")
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        subprocess.run([python, "-m", "pip", "install", "-q", *project["dependencies"]], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    installed = subprocess.run([python, "-m", "pip", "list"], env=environment, capture_output=True, text=True).stdout
    assert "videozoo" not in installed and "pytest" not in installed
    done = subprocess.run(
        [python, "-c", LOAD, str(hub_folder)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries, helps, file, shape = json.loads(done.stdout.splitlines()[-1])
    assert set(entries) == {*videozoo.list_models(), *videozoo.list_models("test_*")}
    assert all(len(text) > 40 for text in helps)
    assert file == str(hub_folder / "lab_videozoo_main" / "videozoo" / "__init__.py")
    assert shape == [1, 8]
    assert sys.executable != python
