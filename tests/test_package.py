"""The package as a whole: layers, lazy names, torch.hub, what the wheel carries, and texts that must agree."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import videozoo
from videozoo import errors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "videozoo"

# Every module or package of videozoo; a module imports strictly lower layers, and siblings of its own package.
LAYERS = {
    "errors": 0, "version": 0, "processors": 0,
    "manifest": 1, "files": 1, "stopwatch": 1, "credentials": 1, "metrics": 1, "journal": 1, "ranks": 1,
    "settings": 1,
    "registry": 2, "download": 2, "lockfile": 2, "huggingface": 2, "synthetic": 2,
    "cache": 3, "checkpoints": 3, "video": 3, "layers": 3, "labels": 3, "tables": 3,
    "isolation": 1,
    "model_config": 3, "prediction": 3,
    "inventory": 4, "frame_features": 4, "conversion": 4, "mmaction2_file": 4, "model_card": 4, "inference": 4,
    "evaluation_result": 4,
    "pretrained": 5, "model_folder": 5, "evaluation_journal": 5,
    "models": 6, "artefacts": 6,
    "predict": 7, "convert": 7,
    "demo": 8, "hub": 8, "importing": 8, "verification": 8, "protocols": 8,
    "mirror": 9, "benchmark": 9, "evaluation": 9, "training": 9, "batch": 9, "export": 9, "page": 9,
    "cli": 10,
    "videozoo": 11, "__main__": 11,
}  # fmt: skip
WITHOUT_TORCH = {
    "errors", "manifest", "files", "registry", "download", "lockfile", "cache", "labels", "tables", "model_config",
    "settings", "processors",
}  # fmt: skip
HEAVY = {"torch", "torchvision", "timm", "av", "numpy", "huggingface_hub"}


# The layer law


def modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name that a file imports, wherever in the file, with its line."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in known else str(node.module)), node.lineno


def part(module: str) -> str:
    """What of the package a module belongs to: a key of LAYERS."""
    return "videozoo" if module == "videozoo" else module.split(".")[1]


def test_every_part_has_a_layer() -> None:
    assert {part(module) for module in modules()} == set(LAYERS)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    here = part(module)
    for name, line in imports(modules()[module]):
        where = f"{modules()[module]}:{line} imports {name}"
        if name.partition(".")[0] == "videozoo":
            assert name != "videozoo", f"{where}: the package root"
            sibling = part(name) == here and module.count(".") + name.count(".") >= 3
            assert sibling or LAYERS[part(name)] < LAYERS[here], where
        elif here in WITHOUT_TORCH:
            assert name.partition(".")[0] not in HEAVY, where


def test_no_import_cycle() -> None:
    graph = {
        module: {name for name, _ in imports(path) if name.startswith("videozoo")} for module, path in modules().items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


# Lazy names


def stub_imports() -> dict[str, str]:
    """Name -> module, of the imports that only a type checker sees."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_public_names_are_the_same_everywhere() -> None:
    homes = {name: f"videozoo.{home}" for name, home in videozoo._HOME.items()}
    assert homes == stub_imports()
    assert sorted(videozoo.__all__) == sorted(homes)
    assert set(homes) <= set(dir(videozoo))


@pytest.mark.parametrize("name", videozoo.__all__)
def test_a_public_name_comes_from_its_module_with_a_docstring(name: str) -> None:
    value = getattr(videozoo, name)
    assert value.__module__ == f"videozoo.{videozoo._HOME[name]}"
    assert inspect.getdoc(value)


def test_every_architecture_is_a_public_factory() -> None:
    factories = {name for name in videozoo.__all__ if videozoo.is_model(name)}
    assert factories == {*videozoo.list_models(), *videozoo.list_models("test_*")}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ircsn_r51'"):
        videozoo.ircsn_r51  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import videozoo; videozoo.list_models(pretrained=True); videozoo.get_weights('tsn_r50'); dir(videozoo)",
        "from videozoo.cli.main import run; run(['list'])",
        "from videozoo.cli.main import run; run(['info', 'ircsn_r50'])",
    ],
)
def test_names_are_answered_without_torch(code: str) -> None:
    done = python(f"{code}; import sys; print('imported:', sorted({HEAVY} & sys.modules.keys()))")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_networks_of_our_own_come_without_the_image_libraries() -> None:
    """timm and torchvision take a second to import, what torch needs to draw numbers for the meta device another."""
    code = """
import sys
import videozoo, videozoo.predict
videozoo.ircsn_r152, videozoo.slowonly_r50, videozoo.r2plus1d_34
videozoo.create_model("test_ircsn", pretrained=True)
print("imported:", sorted({"timm", "torchvision", "PIL", "torch._dynamo", "sympy"} & sys.modules.keys()))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "imported: []"


def python(code: str, *, path: Path | None = ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds packages in ``path`` too, if given."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )


# Trees, torch.hub and the wheel


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source tree as a checkout has it, which nobody installed."""
    tree = tmp_path / "checkout"
    shutil.copytree(PACKAGE, tree / "videozoo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hubconf.py", "weights_manifest.json", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    return tree


def test_hubconf_has_one_documented_entry_per_architecture() -> None:
    hub = runpy.run_path(str(ROOT / "hubconf.py"))
    entries = {name: value for name, value in hub.items() if callable(value) and not name.startswith("_")}
    assert set(entries) == {*videozoo.list_models(), *videozoo.list_models("test_*")}
    for name, entry in entries.items():
        assert entry is getattr(videozoo, name)
        assert len(inspect.getdoc(entry) or "") > 40


def test_hubconf_depends_on_what_the_package_depends_on() -> None:
    requirements = project()["dependencies"]
    names = [re.split(r"[<>=]", requirement)[0] for requirement in requirements]
    assert runpy.run_path(str(ROOT / "hubconf.py"))["dependencies"] == names


def test_torch_hub_loads_from_a_tree_that_is_not_installed(tree: Path, tmp_path: Path) -> None:
    code = f"""
import torch
model = torch.hub.load({str(tree)!r}, "test_ircsn", source="local", num_classes=5)
import videozoo.manifest
print(model.eval()(torch.zeros(1, 3, 8, 32, 32)).shape[1], videozoo.__file__, videozoo.manifest.path())
"""
    done = python(code, path=None, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, manifest = tree / "videozoo" / "__init__.py", tree / "weights_manifest.json"
    assert done.stdout.splitlines() == [f"5 {package} {manifest}"]


def test_the_manifest_exists_once_in_the_tree() -> None:
    assert (ROOT / "weights_manifest.json").is_file()
    assert not list(PACKAGE.rglob("weights_manifest.json"))


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no README.md yet")
def test_the_wheel_carries_everything_once(tree: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
        archive.extractall(tmp_path / "site")
    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith("weights_manifest.json")] == ["videozoo/weights_manifest.json"]
    ours = {path.relative_to(tree).as_posix() for path in (tree / "videozoo").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == ours | {"videozoo/weights_manifest.json"}
    data = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
    labels = {f"videozoo/labels/{row['labels']}" for row in data["datasets"].values() if row["labels"]}
    assert labels | {"videozoo/py.typed", "videozoo/weights_manifest.schema.json"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert f"Version: {videozoo.__version__}\n" in metadata
    assert {
        "videozoo = videozoo.__main__:videozoo",
        "videozoo-convert = videozoo.__main__:videozoo_convert",
    } <= set(scripts.splitlines())
    done = python("from videozoo.cli.main import run; run(['list'])", path=tmp_path / "site", cwd=tmp_path)
    assert "ircsn_r152.ig65m_k400" in done.stdout, done.stderr


# Texts that must agree


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def test_one_version_everywhere() -> None:
    headings = re.findall(
        r"^## \[?v?([0-9][^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert project()["version"] == videozoo.__version__ == headings[0]


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no README.md yet")
def test_the_table_in_the_readme_is_fresh() -> None:
    from videozoo.tables import with_weights_table

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == with_weights_table(text), "run: python -m videozoo.tables README.md"


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+) +(\d+) ", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            drawn[match[2]] = (parents.get(depth - 1), int(match[3]))
    classes = {
        name: (
            next((base.__name__ for base in value.__bases__ if base.__name__ in vars(errors)), None),
            value.exit_status,
        )
        for name, value in vars(errors).items()
        if isinstance(value, type)
    }
    assert drawn == classes
    assert len(drawn) > 10
