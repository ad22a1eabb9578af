"""What an exported network is: its format, its precision, and the clips that its graph takes. No import of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from videozoo.errors import InvalidArgument, UnreadableCheckpoint, printable

Format = Literal["torch-export", "onnx", "openvino", "aot"]
Axis = Literal["batch", "frames", "size"]
Precision = Literal["float32", "float16", "bfloat16"]

SUFFIXES: Mapping[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx", "openvino": ".xml", "aot": ".pt2"}
KEY = "videozoo"
"""Under which the description stands in an artefact's metadata: the text of ``config.json`` with ``export`` in it."""

Known = TypeVar("Known")
Shape = tuple[int, int, int, int, int]
"""N, C, T, H, W."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a network was exported."""

    format: Format
    dtype: Precision
    """Of the weights and feature maps; clips and logits are float32."""
    fused: bool
    """Whether batch norms were folded into the convolutions."""
    clip: Shape
    """What the graph takes, where its axes are not dynamic."""
    dynamic: tuple[Axis, ...]
    least: Shape
    """The smallest that dynamic axes can be; 1 for the others."""
    smallest_clip: tuple[int, int, int]
    """T, H, W, as the network's `VideoModel.smallest_clip`."""

    def fault(self, shape: tuple[int, ...]) -> str | None:
        """Why clips of this shape do not fit; None where they do. Of any batch: it is cut into pieces."""
        free = {"frames": 2 in self._free, "size": 3 in self._free}
        for position, axis in ((2, "frames"), (3, "size"), (4, "size")):
            if not free[axis] and shape[position] != self.clip[position]:
                return f"its {axis} is fixed at {self.clip[position]}; export it with --dynamic {axis}"
            if free[axis] and shape[position] < self.least[position]:
                return f"its {axis} is at least {self.least[position]}"
        return None

    @property
    def smallest(self) -> Shape:
        """The smallest clip that the graph takes."""
        found = (self.least[n] if n in self._free else size for n, size in enumerate(self.clip))
        return cast(Shape, tuple(found))

    @property
    def _free(self) -> set[int]:
        return {position for axis in self.dynamic for position in POSITIONS[axis]}

    def in_words(self) -> str:
        """The shape of the clips: numbers, and names of dynamic axes."""
        names = {0: "batch", 2: "frames", 3: "height", 4: "width"}
        return " x ".join(names[n] if n in self._free else str(size) for n, size in enumerate(self.clip))


POSITIONS: Mapping[Axis, tuple[int, ...]] = {"batch": (0,), "frames": (2,), "size": (3, 4)}
"""Of the axes in (N, C, T, H, W)."""


def is_artefact(name: str) -> bool:
    """Whether the name of a model means an exported file.

    >>> is_artefact("out/model.onnx"), is_artefact("tsn_r50.imagenet_k400")
    (True, False)
    """
    return Path(name).suffix.lower() in SUFFIXES.values()


def format_of(path: Path, wanted: str | None) -> Format:
    """The format that is meant by a name and, where it is given, the format's own name.

    Raises:
        InvalidArgument: there is no such format, or its files are called otherwise.
    """
    if wanted is None:
        found = [name for name, suffix in SUFFIXES.items() if suffix == path.suffix.lower()]
        if not found:
            raise InvalidArgument(f"{path}: a name that ends in .pt2, .onnx or .xml says which format is wanted")
        return found[0]
    if wanted not in SUFFIXES:
        raise InvalidArgument(f"format {wanted!r}: there are {', '.join(SUFFIXES)}")
    chosen = cast(Format, wanted)
    if path.suffix.lower() != SUFFIXES[chosen]:
        raise InvalidArgument(f"{path}: files of the format {chosen} are called *{SUFFIXES[chosen]}")
    return chosen


def axes_of(names: tuple[str, ...]) -> tuple[Axis, ...]:
    """Names of dynamic axes, in their order in a clip.

    Raises:
        InvalidArgument: there is no such axis.
    """
    for name in names:
        if name not in POSITIONS:
            raise InvalidArgument(f"dynamic axis {name!r}: there are {', '.join(POSITIONS)}")
    return tuple(axis for axis in POSITIONS if axis in names)


def precision_of(name: str) -> Precision:
    """The type of numbers of this name.

    Raises:
        InvalidArgument: there is no such type.
    """
    if name not in get_args(Precision):
        raise InvalidArgument(f"dtype {name!r}: there are {', '.join(get_args(Precision))}")
    return cast(Precision, name)


def parse_form(record: object, where: str) -> Form:
    """The form that an artefact's metadata states; it may come from anyone.

    Raises:
        UnreadableCheckpoint: it states none, or an impossible one.
    """
    try:
        given = cast("dict[str, Any]", record)
        form = Form(
            format=_one_of(SUFFIXES, given["format"], "format"),
            dtype=precision_of(given["dtype"]),
            fused=_one_of((False, True), given["fused"], "fused"),
            clip=_sizes(given["clip"], 5),
            dynamic=axes_of(tuple(given["dynamic"])),
            least=_sizes(given["least"], 5),
            smallest_clip=_sizes(given["smallest_clip"], 3),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableCheckpoint(
            f"{where}: it does not say what clips it takes ({printable(str(error)[:300])})"
        ) from None
    return form


def _one_of(known: Iterable[Known], value: object, name: str) -> Known:
    for one in known:
        if type(value) is type(one) and value == one:
            return one
    raise ValueError(f"unknown {name}")


def _sizes(value: object, count: int) -> Any:
    if not isinstance(value, list) or len(value) != count or any(type(n) is not int or n < 1 for n in value):
        raise ValueError(f"not {count} sizes")
    return tuple(value)
