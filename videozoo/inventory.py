"""What every architecture of the zoo needs: names, shapes and kinds of its tensors, without building it.

``inventories.json`` is written from the networks themselves by ``python -m videozoo.models.inventories``; a test
compares the two. So a file is converted without importing torch, which would cost more than the conversion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from videozoo.checkpoints.keymap import Inventory, Place

PATH = Path(__file__).with_name("inventories.json")
CLASSES = "classes"
"""Stands for the number of classes in a shape."""
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

Shape = list[int | str]
Parts = Mapping[str, int | Shape]
"""Name of a batch norm -> its channels; name of any other tensor, all of which are float32 -> its shape."""


def inventory(architecture: str, num_classes: int) -> Inventory:
    """The tensors of an architecture as the zoo registers it, with so many classes; 0 for no classifier.

    >>> inventory("test_ircsn", 8).places["fc.weight"]
    Place(dtype='F32', shape=(8, 256))
    """
    parts = _stored()[architecture]
    return Inventory(*(dict(_places(parts[side], num_classes)) for side in ("places", "on_request")))


@cache
def _stored() -> Mapping[str, Mapping[str, Parts]]:
    found: dict[str, dict[str, Parts]] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def _places(parts: Parts, num_classes: int) -> Iterator[tuple[str, Place]]:
    for name, what in parts.items():
        if isinstance(what, int):
            for part in BATCH_NORM:
                counter = part == "num_batches_tracked"
                yield f"{name}.{part}", Place("I64", ()) if counter else Place("F32", (what,))
        elif num_classes or CLASSES not in what:
            yield name, Place("F32", tuple(num_classes if isinstance(size, str) else size for size in what))
