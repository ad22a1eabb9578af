"""A network that is spread over two processes: its tensors, gathered and given back, and a whole training of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videozoo import create_model
from videozoo.synthetic import Motions
from videozoo.training.plan import make_plan
from videozoo.training.run import train

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


LOOP = """
import sys

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from videozoo.synthetic import Motions
from videozoo.training import run
from videozoo.training.plan import make_plan


class Sharded(Accelerator):
    # accelerate spreads networks over GPUs only: the same on processors

    distributed_type = DistributedType.FSDP
    is_fsdp2 = True

    def prepare(self, model, optimizer):
        names = {parameter: name for name, parameter in model.named_parameters()}
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        parts = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [parts[names[parameter]] for parameter in group["params"]]
        return model, AcceleratedOptimizer(optimizer, device_placement=False)

    def end_training(self):
        pass  # the processes train once more


run._accelerator = lambda *_: Sharded(cpu=True)
plan = make_plan("test_ircsn", Motions(32), "two", val=Motions(16, 1000), changes=sys.argv[1:])
first = run.train(plan, num_workers=0, device="cpu")
again = run.train(plan, num_workers=0, device="cpu", resume=True)
assert (again.loss, again.num_steps, again.best) == (None, first.num_steps, first.best)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_training_of_a_network_in_two_parts_is_that_of_one(tmp_path: Path) -> None:
    """Clipped in every step, by the norm of all gradients; batch norms are frozen, for they see a process's share."""
    changes = [
        "model.freeze=bn", "run.batch_size=8", "run.clips_at_once=2", "run.num_steps=6", "run.log_every=1",
        "optimizer.clip_norm=0.05",
    ]  # fmt: skip
    launch(tmp_path, LOOP, *changes)
    plan = make_plan("test_ircsn", Motions(32), tmp_path / "one", val=Motions(16, 1000), changes=changes)
    train(plan, num_workers=0, device="cpu")
    one, two = (
        [[float(value) for value in line.split(",")] for line in (tmp_path / out / "log.csv").read_text().split()[1:]]
        for out in ("one", "two")
    )
    assert len(one) == 6 and all(line[4] > 0.05 for line in one)
    for line, other in zip(one, two, strict=True):
        assert other == pytest.approx(line, rel=1e-4)
    whole, gathered = (create_model(f"local-dir:{tmp_path / out / 'last'}").state_dict() for out in ("one", "two"))
    assert all(torch.allclose(gathered[name], whole[name], rtol=1e-2, atol=1e-4) for name in whole)


@pytest.mark.slow
def test_a_network_in_two_parts_is_saved_whole_and_goes_on(tmp_path: Path) -> None:
    assert launch(tmp_path, CODE) == ["equal"]


def launch(tmp_path: Path, code: str, *arguments: str) -> list[str]:
    """What two processes print."""
    (tmp_path / "child.py").write_text(code)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [sys.executable, *torchrun, "child.py", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
