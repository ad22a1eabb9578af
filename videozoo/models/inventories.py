"""``python -m videozoo.models.inventories``: write `videozoo.inventory`'s data from the networks themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping

from videozoo import registry
from videozoo.checkpoints.keymap import Place
from videozoo.inventory import BATCH_NORM, CLASSES, PATH, Parts, Shape
from videozoo.layers.blank import blank_networks
from videozoo.models import create_model
from videozoo.pretrained import inventory_of

_ODD = 7919
"""A number of classes that is no other size in any network."""


def inventories() -> str:
    """The text of the file: one line an architecture."""
    lines = []
    for name in [*registry.list_models(), *registry.list_models("test_*")]:
        with blank_networks():
            found = inventory_of(create_model(name, num_classes=_ODD))
        parts = {"places": _parts(found.places), "on_request": _parts(found.on_request)}
        lines.append(f"{json.dumps(name)}: {json.dumps(parts, separators=(',', ':'))}")
    return "{\n" + ",\n".join(sorted(lines)) + "\n}\n"


def _parts(places: Mapping[str, Place]) -> Parts:
    found: dict[str, int | Shape] = {}
    for name, place in places.items():
        module = name.rpartition(".")[0]
        if f"{module}.running_mean" not in places:
            found[name] = [CLASSES if size == _ODD else size for size in place.shape]
        elif name == f"{module}.{BATCH_NORM[0]}":
            found[module] = place.shape[0]
    return found


if __name__ == "__main__":
    PATH.write_text(inventories(), encoding="utf-8")
