"""Networks whose tensors will be replaced: built without drawing the random numbers that they would start with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextmanager
def blank_networks() -> Iterator[None]:
    """Networks that are built meanwhile lie on the meta device, and no initialiser runs.

    To draw no normal numbers for meta tensors, torch would import a compiler: a second and 150 MB.
    """
    with torch.device("meta"), _WithoutInitialisers():
        yield


class _WithoutInitialisers(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)
