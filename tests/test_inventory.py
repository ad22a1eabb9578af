"""What the converter knows of every architecture is what the networks say of themselves."""

from __future__ import annotations

import pytest

import videozoo
from videozoo import inventory
from videozoo.layers.blank import blank_networks
from videozoo.models.inventories import inventories
from videozoo.pretrained import inventory_of


def test_the_stored_inventories_are_those_of_the_networks() -> None:
    assert inventory.PATH.read_text(encoding="utf-8") == inventories(), "python -m videozoo.models.inventories"


@pytest.mark.parametrize("num_classes", [0, 174])
@pytest.mark.parametrize("name", ["ipcsn_r50", "tpn_tsm_r50", "r2plus1d_18", "test_tsn"])
def test_the_order_and_the_classes_are_the_networks(name: str, num_classes: int) -> None:
    with blank_networks():
        network = videozoo.create_model(name, num_classes=num_classes)
    found, expected = inventory.inventory(name, num_classes), inventory_of(network)
    assert list(found.places.items()) == list(expected.places.items())
    assert list(found.on_request.items()) == list(expected.on_request.items())
