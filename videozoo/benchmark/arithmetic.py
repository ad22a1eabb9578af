"""What the arithmetic of a machine gives: the measure of all contestants."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from videozoo.benchmark.task import Contestant, Task


class Machine(Contestant):
    """What the arithmetic of this machine gives: large products, by the libraries that torch calls.

    The bound of a network is its number of operations over the best of these rates, in the same rounds.
    """

    def build(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.cuda, dtype = task.device.startswith("cuda"), getattr(torch, task.dtype)
        size, batch = (8192, 64) if self.cuda else (1536, 4)
        weight = torch.randn(size, size, device=task.device, dtype=dtype)
        self.kernels: dict[str, tuple[float, Callable[[], object]]] = {
            f"{size} x {size} matrix product": (2 * size**3, lambda: weight @ weight)
        }
        for channels, pixels in ((256, 28), (128, 28), (512, 14)):
            conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=task.device, dtype=dtype)
            conv.requires_grad_(False).to(memory_format=torch.channels_last)
            maps = torch.randn(batch, channels, pixels, pixels, device=task.device, dtype=dtype)
            maps = maps.contiguous(memory_format=torch.channels_last)
            self.kernels[f"3 x 3 convolution of {channels} channels, {pixels} x {pixels} pixels"] = (
                2 * 9 * batch * (channels * pixels) ** 2,
                functools.partial(conv, maps),
            )

    def forward(self) -> Any:
        import torch

        for _, kernel in self.kernels.values():
            kernel()
        if self.cuda:
            torch.cuda.synchronize()
        return torch.zeros(0)

    def turn(self, forwards: int) -> dict[str, Any]:
        """Operations per second of each kernel: on the clock, and of processor time."""
        import torch

        rates = {}
        for name, (operations, kernel) in self.kernels.items():
            started, worked, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < 0.05:
                kernel()
                done += 1
                if self.cuda and done % 10 == 0:
                    torch.cuda.synchronize()
            if self.cuda:
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - started, time.process_time() - worked
            rates[name] = (done * operations / wall, done * operations / cpu)
        name = torch.cuda.get_device_name() if self.cuda else torch.backends.cpu.get_cpu_capability()
        return {"rates": rates, "arithmetic": name}
