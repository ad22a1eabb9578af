"""From the file of a row to the numbers that its network gives, and whether they are the known ones.

The input is made from integers, the same on every machine; what a row should answer stands in the manifest as soon as
someone has measured it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videozoo import cache
from videozoo.cache import places, planning
from videozoo.errors import CheckpointError, DigestMismatch
from videozoo.files import sha256_file
from videozoo.manifest import Entry, Expectation, Protocol
from videozoo.models import create_model

NUM_LOGITS = 8
TOLERANCE = 0.0002
"""Of measured expectations, relative to the largest logit where that is above 1."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was hashed, what the network answered, and what that was compared with."""

    weights: str
    files: dict[str, str]
    """Path -> sha256 of every file of the row that was read: the one that is loaded, and the original in the cache."""
    input_shape: tuple[int, ...]
    measured: Expectation
    difference: float | None
    """Largest difference from the stored expectation; None where the row has none yet."""


def verify(entry: Entry, *, progress: bool = True) -> Verification:
    """Take or fetch the row's file, hash it, build the network and compare its logits with the row's expectation.

    Raises:
        FetchError: the file cannot be had, or is not the row's.
        CheckpointError: it cannot be used, or the logits differ by more than the row's tolerance.
    """
    files = _hashed(entry, cache.obtain(entry, progress=progress))
    network = create_model(entry.architecture, entry.tag).eval()
    clip = fixed_input(entry.protocol)
    with torch.inference_mode():
        answer = network(clip)[0].double()
    logits = tuple(round(value, 4) for value in answer[:NUM_LOGITS].tolist())
    peak = max(1.0, answer.abs().max().item())
    measured = Expectation(logits, float(f"{TOLERANCE * peak:.1g}"))
    difference = None if entry.expectation is None else _difference(entry, entry.expectation, logits)
    return Verification(entry.name, files, tuple(clip.shape), measured, difference)


def fixed_input(protocol: Protocol) -> Tensor:
    """One clip of the row's centred view, (1, 3, T, H, W) float32: whole numbers of 0 to 255, then normalised."""
    view = protocol.center
    sizes = (3, view.num_frames, view.crop_size, view.crop_size)
    c, t, y, x = np.ogrid[tuple(slice(size) for size in sizes)]
    pixels = (x * (c + 2) + y * (t % 8 + 3) + x * y // 16 + 16 * t + 85 * c) % 256
    mean, std = (
        np.array(values, np.float32).reshape(-1, 1, 1, 1) for values in (protocol.input.mean, protocol.input.std)
    )
    return torch.from_numpy((pixels.astype(np.float32) - mean) / std)[None]


def _hashed(entry: Entry, found: cache.Plan) -> dict[str, str]:
    """The digests of the row's files, each read in full: that nobody touched it since it was last read is not enough.

    Raises:
        DigestMismatch: one is not what the record, the lock or the manifest says.
    """
    remedy = f"remove it with `videozoo cache clean {entry.name}`"
    if found.path == places.cached(entry, "converted") and (problem := planning.converted_problem(entry)) is not None:
        raise DigestMismatch(f"{found.path}: {problem}; {remedy}")
    files = {str(found.path): sha256_file(found.path)}
    original = places.cached(entry, "original")
    if entry.file is not None and not entry.file.embedded and original.exists():
        look = planning.look_at_cached(entry, planning.wanted(entry))
        if look.problem is not None or look.sha256 is None:
            raise DigestMismatch(f"{original}: {look.problem}; {remedy}")
        files[str(original)] = look.sha256
    return files


def _difference(entry: Entry, expected: Expectation, logits: tuple[float, ...]) -> float:
    if len(logits) != len(expected.logits):
        raise CheckpointError(f"{entry.name} gives {len(logits)} logits, {len(expected.logits)} are expected")
    difference = max(abs(one - other) for one, other in zip(logits, expected.logits, strict=True))
    if not difference <= expected.tolerance:  # so that NaN does not pass
        raise CheckpointError(
            f"{entry.name}: a logit on the fixed input differs by {difference:.4g} from the stored expectation, "
            f"{expected.tolerance:g} is allowed: the file is right and the network is not; report it with your "
            "processor and torch version"
        )
    return difference
