"""Legitimate files of other frameworks, written here: what a test needs to prove that nothing is lost on the way."""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videozoo.checkpoints import readers
from videozoo.checkpoints.paddle import SixteenBit
from videozoo.checkpoints.tensors import as_tensor


def model_tensors() -> dict[str, Tensor]:
    """Every dtype and shape that matters: scalars, empty, half precision, views, transposed and shared storages."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(6, 4, generator=generator)
    return {
        "conv1.weight": torch.randn(4, 3, 1, 3, 3, generator=generator),
        "bn1.num_batches_tracked": torch.tensor(7),
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "flags": base > 0,
        "bytes": torch.arange(5, dtype=torch.uint8),
        "shorts": torch.arange(5, dtype=torch.int16),
        "transposed": base.t(),
        "shared": base,
        "part": base[2:4, 1:3],
        "nothing": torch.zeros(0, 3),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
    }


def array_tensors() -> dict[str, Tensor]:
    """What a zoo of numpy arrays holds."""
    generator = torch.Generator().manual_seed(5)
    return {
        "conv1_w": torch.randn(4, 3, 1, 3, 3, generator=generator),
        "large": torch.randn(150, 150, generator=generator),
        "iter": torch.tensor([12], dtype=torch.int64),
        "scale": torch.tensor(2.5),
        "bits": torch.arange(6).to(torch.uint16).view(2, 3),
    }


def paddle_tensors() -> dict[str, Tensor]:
    """The same and one in half precision, of which PaddlePaddle stores the bits."""
    return {**array_tensors(), "brain": torch.randn(3, 2, generator=torch.Generator().manual_seed(6)).bfloat16()}


class Foreign:
    """A class of another framework, whose instances lie about in training checkpoints."""

    def __init__(self) -> None:
        self.history = np.arange(3.0)
        self.methods = {"mean": self.mean}

    def mean(self) -> float:
        return float(self.history.mean())


def training_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """What a runner saves: the model among logs, schedulers, numpy scalars and optimizer states."""
    return {
        "meta": {"epoch": 3, "best": np.float64(0.5), "seed": np.int64(1), "config": "model = dict()\n", "flag": True},
        "state_dict": OrderedDict(tensors),
        "message_hub": {"log_scalars": {"loss": Foreign()}, "array": np.arange(4)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "param_schedulers": [{"milestones": Counter([32, 48]), "values": (1, 2.5, None, {1, 2}, b"raw")}],
    }


def save_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def save_legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(path: Path, tensors: Mapping[str, Tensor], protocol: int) -> None:
    """A dict of numpy arrays, as PaddlePaddle writes it: its table lists its own tensors, and not integers it lacks."""
    arrays = {
        name: (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in tensors.items()
    }
    listed = [name for name, tensor in tensors.items() if tensor.dtype != torch.uint16]
    table = {name: f"param_{position}" for position, name in enumerate(listed)}
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": table}, protocol))


def save_python2(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """``dict(blobs=...)`` as Python 2's pickler wrote it at protocol 2: strings and data are byte strings."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def array(tensor: Tensor) -> bytes:
        values = tensor.numpy()
        shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in values.shape) + b"t"
        code = text(values.dtype.str[1:].encode())
        dtype = (
            b"cnumpy\ndtype\n"
            + code
            + b"K\x00K\x01\x87R(K\x03"
            + text(b"<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        born = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        return born + b"(K\x01" + shape + dtype + b"\x89" + text(values.tobytes()) + b"tb"

    entries = b"".join(text(name.encode()) + array(tensor) for name, tensor in tensors.items())
    path.write_bytes(b"\x80\x02}" + text(b"blobs") + b"}(" + entries + b"us.")


def state_dict(
    checkpoint: readers.Checkpoint, *, ema: bool = False, sixteen_bit: SixteenBit | None = None
) -> dict[str, Tensor]:
    """`readers.state_dict` as torch's tensors."""
    arrays = readers.state_dict(checkpoint, ema=ema, sixteen_bit=sixteen_bit)
    return {name: as_tensor(array) for name, array in arrays.items()}


FORMS: dict[str, Callable[[Path], Mapping[str, Tensor]]] = {}
"""Name -> a function that writes a file and returns the tensors that it holds."""


def _form(name: str, save: Callable[[Path, dict[str, Tensor]], None], tensors: Callable[[], dict[str, Tensor]]) -> None:
    def write(path: Path) -> Mapping[str, Tensor]:
        held = tensors()
        save(path, held)
        return held

    FORMS[name] = write


_form("zip", save_zip, model_tensors)
_form("legacy", save_legacy, model_tensors)
_form("zip_training", lambda path, held: save_zip(path, training_checkpoint(held)), model_tensors)
_form("legacy_training", lambda path, held: save_legacy(path, training_checkpoint(held)), model_tensors)
_form("python2", save_python2, array_tensors)
for _protocol in range(6):
    _form(f"arrays_{_protocol}", lambda path, held, p=_protocol: save_pickle(path, held, p), paddle_tensors)  # type: ignore[misc]


def same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether names, order, dtypes, shapes and every bit agree."""
    return list(found) == list(expected) and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and found[name].is_contiguous()
        and bits(found[name]) == bits(tensor)
        for name, tensor in expected.items()
    )


def bits(tensor: Tensor) -> bytes:
    """The values as bytes in row-major order."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
