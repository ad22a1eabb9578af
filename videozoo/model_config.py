"""``config.json`` of a model repository, timm's layout with our feeding protocol in it: text <-> typed record.

    {architecture, num_classes, num_features, label_names, model_args, pretrained_cfg, weights}

Such a file may come from anyone. Everything that is used is checked for its type and range; what videozoo does not know
is left alone, except arguments of the network, which cannot be ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, TypeVar, cast, get_args

from videozoo import manifest, registry
from videozoo.errors import UnknownModel, UnknownWeights, UnreadableCheckpoint
from videozoo.huggingface import PREFIX
from videozoo.manifest import Average, Crop, Input, Protocol, Sampling, Views

LOCAL = "local-dir:"
"""What names of model folders on this machine begin with."""
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MAX_CONFIG_BYTES = 4 << 20
MAX_CLASSES = 1 << 20
MAX_COUNT = 4096
"""Of frames, clips and pixels: far above any protocol, far below what would exhaust a machine."""

Kind = TypeVar("Kind")
_MODEL_ARGS: Mapping[str, type] = {
    "aux_head": bool,
    "backbone": str,
    "drop_rate": float,
    "in_chans": int,
    "num_segments": int,
}


def is_folder_name(name: str) -> bool:
    """Whether a model's name means a model folder."""
    return name.startswith((LOCAL, PREFIX))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a model folder says about its network."""

    architecture: str
    num_classes: int
    label_names: tuple[str, ...] | None
    model_args: Mapping[str, Any]
    """Of ``aux_head``, ``backbone``, ``drop_rate``, ``in_chans`` and ``num_segments`` those that are given."""
    protocol: Protocol
    """The folder's own; else that of the row it names, or of the architecture, with the folder's mean and std."""
    tag: str | None
    dataset: str | None
    license: str | None
    sha256: str | None
    """Of the weights, where the folder states it."""


def to_json(config: ModelConfig, *, num_features: int, first_conv: str, size_bytes: int) -> str:
    """The text of ``config.json``; the same arguments give the same text.

    Args:
        config: what `parse` is to find again.
        num_features: channels of the features, for other readers.
        first_conv: name of the convolution that sees the pixels, for other readers.
        size_bytes: of the weights.
    """
    center, protocol = config.protocol.center, config.protocol
    pretrained_cfg = {
        "architecture": config.architecture,
        "tag": config.tag,
        "num_classes": config.num_classes,
        "input_size": [config.model_args.get("in_chans", 3), center.num_frames, center.crop_size, center.crop_size],
        "frame_stride": center.frame_stride,
        "mean": [value / 255 for value in protocol.input.mean],
        "std": [value / 255 for value in protocol.input.std],
        "first_conv": first_conv,
        "classifier": "fc",
        "dataset": config.dataset,
        "license": config.license,
        "protocol": asdict(protocol),
    }
    record = {
        "architecture": config.architecture,
        "num_classes": config.num_classes,
        "num_features": num_features,
        "label_names": config.label_names,
        "model_args": dict(sorted(config.model_args.items())),
        "pretrained_cfg": pretrained_cfg,
        "weights": {"file": WEIGHTS, "size_bytes": size_bytes, "sha256": config.sha256},
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def parse(data: bytes, where: str) -> ModelConfig:
    """Read ``config.json``.

    Args:
        data: the file's bytes.
        where: its name in messages.

    Raises:
        UnreadableCheckpoint: it is no JSON, or says something impossible.
        UnknownModel: its architecture is none of videozoo's.
    """
    return _Reader(where).config(data)


@dataclass(frozen=True, slots=True)
class _Reader:
    where: str

    def config(self, data: bytes) -> ModelConfig:
        record = self._object(self._json(data), "it")
        cfg = self._object(record.get("pretrained_cfg") or {}, "pretrained_cfg")
        architecture = self._is(str, record.get("architecture", cfg.get("architecture")), "architecture")
        if not registry.is_model(architecture):
            try:
                registry.architecture(architecture[:100])
            except UnknownModel as error:
                raise UnknownModel(f"{self.where}: {error}") from None
        if "num_classes" not in record and "num_classes" not in cfg:
            self._fail("num_classes", "is missing")
        count = self._count(record.get("num_classes", cfg.get("num_classes")), "num_classes", MAX_CLASSES)
        tag, dataset, license_id = (self._text(cfg.get(key), key) for key in ("tag", "dataset", "license"))
        weights = self._object(record.get("weights") or {}, "weights")
        return ModelConfig(
            architecture=architecture,
            num_classes=count,
            label_names=self._labels(record.get("label_names", cfg.get("label_names")), count),
            model_args=self._model_args(self._object(record.get("model_args") or {}, "model_args")),
            protocol=self._protocol(cfg, architecture, tag),
            tag=tag,
            dataset=dataset,
            license=license_id,
            sha256=self._text(weights.get("sha256"), "weights.sha256"),
        )

    def _json(self, data: bytes) -> object:
        if len(data) > MAX_CONFIG_BYTES:
            raise UnreadableCheckpoint(f"{self.where} has {len(data)} bytes; at most {MAX_CONFIG_BYTES} are read")
        try:
            return json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UnreadableCheckpoint(f"{self.where} is no JSON ({type(error).__name__}); write it anew") from None

    def _labels(self, value: object, count: int) -> tuple[str, ...] | None:
        if value is None:
            return None
        if isinstance(value, dict):  # {"0": name, ...}, as some have it
            value = [value.get(str(number)) for number in range(len(value))]
        if not isinstance(value, list) or not all(isinstance(name, str) and name.isprintable() for name in value):
            self._fail("label_names", "is no list of printable names")
        if len(value) != count:
            self._fail("label_names", f"has {len(value)} names for {count} classes")
        return tuple(value)

    def _model_args(self, given: Mapping[str, object]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _MODEL_ARGS:
                self._fail(f"model_args.{name[:60]!r}", f"is not known; there are {', '.join(_MODEL_ARGS)}")
            kind, what = _MODEL_ARGS[name], f"model_args.{name}"
            if kind is int:
                found[name] = self._count(value, what, MAX_COUNT)
            else:
                found[name] = self._number(value, what) if kind is float else self._is(kind, value, what)
        return found

    def _protocol(self, cfg: Mapping[str, object], architecture: str, tag: str | None) -> Protocol:
        own = cfg.get("protocol")
        if own is not None:
            return self._own_protocol(self._object(own, "protocol"))
        try:
            protocol = registry.get_weights(f"{architecture}.{tag}").protocol
        except UnknownWeights:
            protocol = registry.architecture(architecture).protocol
        mean, std = protocol.input.mean, protocol.input.std
        if cfg.get("mean") is not None:
            mean = self._pixels(cfg["mean"], "mean", 255)
        if cfg.get("std") is not None:
            std = self._pixels(cfg["std"], "std", 255)
        return replace(protocol, input=self._input(mean, std))

    def _own_protocol(self, own: Mapping[str, object]) -> Protocol:
        pixels = self._object(own.get("input"), "protocol.input")
        protocol = Protocol(
            input=self._input(self._pixels(pixels.get("mean"), "mean", 1), self._pixels(pixels.get("std"), "std", 1)),
            full=self._views(self._object(own.get("full"), "protocol.full"), "protocol.full"),
            center=self._views(self._object(own.get("center"), "protocol.center"), "protocol.center"),
        )
        for fault in manifest.protocol_faults(protocol):
            self._fail("protocol", f"is impossible: {fault}")
        return protocol

    def _views(self, given: Mapping[str, object], what: str) -> Views:
        def count(name: str) -> int:
            return self._count(given.get(name), f"{what}.{name}", MAX_COUNT)

        def one_of(kind: object, name: str) -> str:
            value = given.get(name)
            if not isinstance(value, str) or value not in get_args(kind):
                self._fail(f"{what}.{name}", f"is {_shown(value)}; there are {', '.join(get_args(kind))}")
            return value

        average = None if given.get("average_clips") is None else one_of(Average, "average_clips")
        return Views(
            sampling=cast(Sampling, one_of(Sampling, "sampling")),
            num_frames=count("num_frames"),
            frame_stride=count("frame_stride"),
            num_clips=count("num_clips"),
            twice_sample=self._is(bool, given.get("twice_sample"), f"{what}.twice_sample"),
            short_side=count("short_side"),
            crop=cast(Crop, one_of(Crop, "crop")),
            crop_size=count("crop_size"),
            average_clips=cast(Average | None, average),
        )

    def _input(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Input:
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            self._fail("mean and std", "are not three values each, std above 0")
        return Input(mean, std)

    def _pixels(self, value: object, what: str, scale: int) -> tuple[float, ...]:
        """Values per channel in 0..255; a text like 0.485 times 255 is rounded to what the text meant."""
        if not isinstance(value, list) or len(value) > 16:
            self._fail(what, f"is {_shown(value)}, not a list of three numbers")
        numbers = [self._number(number, what) for number in value]
        return tuple(numbers if scale == 1 else (round(number * scale, 6) for number in numbers))

    def _number(self, value: object, what: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e6:
            self._fail(what, f"is {_shown(value)}, not a number")
        return float(value)

    def _count(self, value: object, what: str, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self._fail(what, f"is {_shown(value)}, not a whole number of 1..{most}")
        return value

    def _text(self, value: object, what: str) -> str | None:
        if value is None:
            return None
        text = self._is(str, value, what)
        if not text.isprintable() or len(text) > 200:
            self._fail(what, f"is {_shown(value)}, not a short printable text")
        return text

    def _is(self, kind: type[Kind], value: object, what: str) -> Kind:
        if not isinstance(value, kind):
            self._fail(what, f"is {_shown(value)}, not a {kind.__name__}")
        return value

    def _object(self, value: object, what: str) -> Mapping[str, object]:
        if not isinstance(value, dict):
            self._fail(what, f"is {_shown(value)}, not an object")
        return value

    def _fail(self, what: str, fault: str) -> NoReturn:
        raise UnreadableCheckpoint(f"{self.where}: {what} {fault}")


def _shown(value: object) -> str:
    """A value in a message: short, on one line."""
    if value is None:
        return "missing"
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, float | bool) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    return f"a long {type(value).__name__}" if isinstance(value, int | Sequence) else f"a {type(value).__name__}"
