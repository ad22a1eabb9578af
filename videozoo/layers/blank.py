"""Networks whose tensors will be replaced: built without the numbers that they would start with, then filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from videozoo.errors import CheckpointMismatch

_FILLS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})

_building_blank: ContextVar[bool] = ContextVar("videozoo_building_blank", default=False)


@contextmanager
def blank_networks() -> Iterator[None]:
    """Networks that are built meanwhile lie on the meta device, and no initialiser runs.

    To draw no normal numbers for meta tensors, torch would import a compiler: a second and 150 MB.
    """
    token = _building_blank.set(True)
    try:
        with _Blank():
            yield
    finally:
        _building_blank.reset(token)


class _Blank(TorchFunctionMode):
    """``torch.device("meta")`` and the missing initialisers in one mode: each costs every call of torch a detour."""

    def __init__(self) -> None:
        super().__init__()
        self._constructors = _device_constructors()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        if func in self._constructors:
            if named.get("device") is None:
                named = named | {"device": "meta"}
        elif func in _FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def repeated(make: Callable[[], nn.Module], count: int) -> list[nn.Module]:
    """``count`` modules that ``make`` would make.

    In a blank network only the first is made and the others are copies that share its tensors until they are filled:
    making modules is half of the time that a load takes.
    """
    if not _building_blank.get() or count < 2:
        return [make() for _ in range(count)]
    first = make()
    return [first, *(_copied(first) for _ in range(count - 1))]


def _copied(module: nn.Module) -> nn.Module:
    """The module anew, with the same tensors and its own modules; `copy.deepcopy` takes longer than making one."""
    copy = module.__new__(type(module))
    # Tables of tensors, modules and hooks become the copy's own; whatever else a module of ours holds does not change.
    copy.__dict__ = {
        name: value.copy() if isinstance(value, dict | set) else value for name, value in module.__dict__.items()
    }
    copy._modules = {name: None if child is None else _copied(child) for name, child in module._modules.items()}
    return copy


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put ``tensors`` in the places of a blank network's, as they are: no copy is made.

    What ``load_state_dict(assign=True)`` does, in a seventh of its time, which would be a third of a whole load.

    Args:
        network: of any device.
        tensors: one for every name of the network's state dict; others are left alone.

    Raises:
        CheckpointMismatch: there is no tensor for a name, or it has another shape.
    """
    for path, module in network.named_modules():
        scope = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                tensor = _fitting(tensors.get(scope + name), parameter, scope + name)
                module._parameters[name] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = _fitting(tensors.get(scope + name), buffer, scope + name)


def _fitting(tensor: Tensor | None, place: Tensor, name: str) -> Tensor:
    if tensor is None or tensor.shape != place.shape:
        found = "none" if tensor is None else str(tuple(tensor.shape))
        raise CheckpointMismatch(f"{name}: the network needs a tensor of {tuple(place.shape)}, there is {found}")
    return tensor if tensor.dtype == place.dtype else tensor.to(place.dtype)
