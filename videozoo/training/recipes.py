"""The recipes of the package, one TOML file each in ``videozoo/recipes``, and how one is completed.

Those called ``architecture.tag`` are what the weights of that name were trained by. What a recipe leaves out about the
frames comes from the weights' protocol, so that ``finetune`` fits any network.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from videozoo import manifest, registry, settings
from videozoo.errors import InvalidArgument
from videozoo.manifest import Protocol
from videozoo.training.recipe import Recipe

FOLDER = Path(__file__).parent.parent / "recipes"
FINE_TUNE = "finetune"


def names() -> tuple[str, ...]:
    """The recipes that come with the package, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def default_name(architecture: str, *, from_weights: bool) -> str:
    """The recipe that is meant when none is named.

    Args:
        architecture: the network.
        from_weights: whether it starts from weights that were named: then it is fine-tuned.

    Raises:
        InvalidArgument: there is no recipe for it.
    """
    if from_weights:
        return FINE_TUNE
    spec = registry.architecture(architecture)
    if spec.dataset == "motion8":
        return "motion8"
    own = [name for name in names() if _read_own(name).get("model", {}).get("architecture") == architecture]
    if not own:
        raise InvalidArgument(
            f"no source says how {architecture} was trained: --recipe FILE.toml takes a recipe of yours, "
            f"--recipe {FINE_TUNE} the one that starts from --pretrained TAG"
        )
    rows = {entry.name for entry in manifest.load().entries if entry.default}
    return next((name for name in own if name in rows), own[0])


def read(name: str) -> settings.Table:
    """The tables of a recipe.

    Args:
        name: of a recipe of the package, or a TOML file of the user's own.

    Raises:
        InvalidArgument: there is no such recipe or file, or it is no TOML.
    """
    if name in names():
        return dict(_read_own(name))
    if not name.endswith(".toml"):
        near = get_close_matches(name, names(), n=3)
        hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(names())}"
        raise InvalidArgument(f"no recipe is called {name!r}; {hint}; a file of your own ends in .toml")
    try:
        return tomllib.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument(f"the recipe {name} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidArgument(f"the recipe {name} is no TOML: {error}") from None


@cache
def _read_own(name: str) -> settings.Table:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def resolve(table: Mapping[str, Any], protocol: Protocol, changes: Iterable[str] = ()) -> Recipe:
    """A complete recipe.

    Args:
        table: as `read` gives it.
        protocol: how the weights, or the architecture, are fed: what the recipe leaves out about the frames.
        changes: ``section.key=value``, the value as TOML writes it; a text may stand without quotation marks.

    Raises:
        InvalidArgument: a key that does not exist, with the nearest that does, or a value that cannot be.
    """
    tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    for change in changes:
        _apply(tables, change)
    views = protocol.center
    sampling = "clips" if views.sampling == "clips" else "segments"
    usual: dict[str, dict[str, Any]] = {
        "input": {"mean": list(protocol.input.mean), "std": list(protocol.input.std)},
        "augmentation": {
            "num_frames": views.num_frames,
            "crop_size": views.crop_size,
            "sampling": sampling,
            "frame_stride": views.frame_stride,
            "short_side": views.short_side,
        },
        "model": {},
        "loss": {},
    }
    for section, values in usual.items():
        own = tables.get(section, {})
        tables[section] = {**values, **own} if isinstance(own, Mapping) else own
    return settings.from_table(Recipe, tables, "recipe")


def _apply(tables: dict[str, Any], change: str) -> None:
    """Write ``section.key=value`` into the tables; ``section.table.key=value`` reaches one deeper."""
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise InvalidArgument(f"--set {change}: write section.key=value, as optimizer.lr=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    inner = tables
    for key in keys[:-1]:
        below = inner.get(key, {})
        if not isinstance(below, Mapping):
            raise InvalidArgument(f"--set {change}: {key} is no table")
        inner[key] = dict(below)
        inner = inner[key]
    inner[keys[-1]] = value
