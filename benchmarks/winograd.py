"""What Winograd's convolutions gain in whole networks: optimised copies with and without them, by turns.

    python benchmarks/winograd.py [--rounds 7]

One thread, processor time, random weights, `reuse_heap`; "error" is the largest difference of a logit to the plain
network, in parts of the largest logit. "First clip" is what it takes more than the later ones: packing. What comes with
it counts, too: CSN's frames, which then come one by one, are pooled while they are in the cache.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor, nn

from videozoo import create_model, optimize_for_inference, reuse_heap
from videozoo.layers import winograd, winograd_time

CLIPS = {
    "ircsn_r50": (1, 3, 32, 224, 224),
    "tsn_r50": (1, 3, 25, 224, 224),
    "tsm_r50": (1, 3, 8, 224, 224),
    "tpn_tsm_r50": (1, 3, 8, 224, 224),
    "tpn_slowonly_r50": (1, 3, 8, 224, 224),
    "r2plus1d_34": (1, 3, 32, 112, 112),
}


def timed(network: nn.Module, x: Tensor, *, directly: bool) -> tuple[float, Tensor]:
    """CPU milliseconds and logits."""
    with ExitStack() as held:
        for way in (winograd, winograd_time) if directly else ():
            held.enter_context(patch.object(way, "works", lambda: False))
        started = time.process_time()
        logits = network(x)
        return 1000 * (time.process_time() - started), logits


def main() -> None:
    """Print medians and their ratio, network by network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    reuse_heap()
    winograd.works()
    winograd_time.works()
    for name, shape in CLIPS.items():
        plain, x = create_model(name).eval(), torch.randn(shape)
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.constant_(module.weight, 0.5)  # timm begins with zeros, behind which no error is seen
        copies = {directly: optimize_for_inference(plain) for directly in (True, False)}
        with torch.inference_mode():
            expected = plain(x)
            first = {directly: timed(network, x, directly=directly) for directly, network in copies.items()}
            later: dict[bool, list[float]] = {directly: [] for directly in copies}
            for _ in range(rounds):
                for directly, network in copies.items():
                    later[directly].append(timed(network, x, directly=directly)[0])
        ms = {directly: statistics.median(found) for directly, found in later.items()}
        print(f"{name} {'x'.join(map(str, shape))}: {ms[True] / ms[False]:.2f}x")
        for directly, (begun, logits) in first.items():
            error = float((logits - expected).abs().max() / expected.abs().max())
            print(
                f"  {'direct' if directly else 'Winograd':8} {ms[directly]:6.0f} ms CPU, first clip "
                f"+{begun - ms[directly]:.0f}, error {error:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
