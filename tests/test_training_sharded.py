"""A network that is spread over two processes: its tensors, gathered and given back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CODE = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from videozoo.models import create_model
from videozoo.training.checkpoint import optimizer_tensors
from videozoo.training.recipe import LossSettings
from videozoo.training.network import WithLoss
from videozoo.training.sharded import gather_model, gather_optimizer, spread

dist.init_process_group("gloo")


def created(sharded):
    torch.manual_seed(0)
    model = WithLoss(create_model("test_ircsn", drop_rate=0.0), LossSettings()).train()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)


def learn(model, optimizer, seeds):
    for seed in seeds:
        clips = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))
        model(clips, torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
        optimizer.zero_grad()


model, optimizer = created(sharded=True)
plain, plain_optimizer = created(sharded=False)
learn(model, optimizer, [0, 1])
learn(plain, plain_optimizer, [0, 1])
found = [gather_model(model), gather_optimizer(model, optimizer)]
if dist.get_rank() == 0:
    for part, expected in zip(found, [plain.network.state_dict(), optimizer_tensors(plain.network, plain_optimizer)]):
        assert part.keys() == expected.keys()
        assert all(torch.allclose(part[name], expected[name], rtol=1e-5, atol=1e-7) for name in expected)
dist.broadcast_object_list(found, src=0)
again, again_optimizer = created(sharded=True)
spread(again, again_optimizer, weights=found[0], kept=found[1])
learn(model, optimizer, [2, 3])
learn(again, again_optimizer, [2, 3])
one, other = gather_model(model), gather_model(again)
if dist.get_rank() == 0:
    assert len(one) > 100 and all(torch.equal(one[name], other[name]) for name in one)
    print("equal")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_network_in_two_parts_is_saved_whole_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CODE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "child.py"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["equal"]
