"""Views of a video by the name of a test protocol: the weights' own, one view, or so many clips and crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from videozoo.errors import InvalidArgument
from videozoo.manifest import Crop
from videozoo.predict import Recognizer, create_transform

_CROPS: dict[int, Crop] = {1: "center", 3: "three", 10: "ten"}


def with_protocol(recognizer: Recognizer, protocol: str) -> Recognizer:
    """The same recognizer with other views.

    Args:
        recognizer: whose network, resize and normalisation are kept.
        protocol: ``"row"``, the test protocol of the weights; ``"center"``, one view; or ``"CLIPSxCROPS"`` such as
            ``"10x3"``, the row's with so many clips and 1, 3 or 10 crops. A clip of a network that sees segments is one
            pass over the video, of which there are 1 or 2.

    Raises:
        InvalidArgument: another protocol, or one that the network cannot have.
    """
    transform = recognizer.transform
    if protocol in ("row", "center"):
        mode: Literal["full", "center"] = "full" if protocol == "row" else "center"
        return replace(recognizer, transform=create_transform(recognizer.model, mode, exact=transform.exact))
    clips, _, crops = protocol.partition("x")
    if not (clips.isdigit() and crops.isdigit() and int(clips) > 0 and int(crops) in _CROPS):
        raise InvalidArgument(f"protocol {protocol!r}: give row, center, or CLIPSxCROPS with 1, 3 or 10 crops, as 10x3")
    row = create_transform(recognizer.model, exact=transform.exact)
    if row.views.sampling == "clips":
        views = replace(row.views, num_clips=int(clips), twice_sample=False, crop=_CROPS[int(crops)])
    elif int(clips) <= 2:
        views = replace(row.views, twice_sample=clips == "2", crop=_CROPS[int(crops)])
    else:
        raise InvalidArgument(f"protocol {protocol!r}: a network that sees segments takes 1 or 2 passes over the video")
    return replace(recognizer, transform=replace(row, views=views))
