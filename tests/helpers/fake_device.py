"""A device that is not there, for tests: shapes, types and devices are computed, numbers are not.

PyTorch's PrivateUse1 backend gets a Python module for a device, and FakeTensorMode computes shapes, types and devices
instead of numbers. An operation on tensors of two devices fails as it would on a GPU, and so does a value that is read
back to the host, which on a GPU would make the host wait.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.utils.backend_registration
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric

DEVICE = "fakegpu"
HERE = f"{DEVICE}:0"
torch.utils.backend_registration._setup_privateuseone_for_python_backend(DEVICE)
getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16, torch.float32]
FALLTHROUGH = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
FALLTHROUGH.fallback(torch.library.fallthrough_kernel)
FakeTensorMode.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]  # of a network: the copy's tensors are of the same mode
MODE = FakeTensorMode(allow_non_fake_inputs=False)


def on_device(module: nn.Module, device: str = HERE) -> nn.Module:
    """The module with parameters and buffers of the same shapes on the device; `Module.to` cannot swap fakes in.

    `device`: "cpu" for a network that the code itself has to move.
    """
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in list(store.items()):
                if value is not None and not isinstance(value, FakeTensor):
                    store[name] = as_parameter(fake(value, device), value)
        for name in part._defaults if isinstance(part, Metric) else ():
            setattr(part, name, fake(getattr(part, name), device))
        for value in vars(part).values():  # a network hidden in a list, so that it is no part of the state
            for hidden in value if isinstance(value, list | tuple) else ():
                if isinstance(hidden, nn.Module):
                    on_device(hidden, device)
    return module


def fake(value: Tensor, device: str = HERE) -> Tensor:
    """A tensor of this shape, type and memory format on the device."""
    with MODE:
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=device)


def as_parameter(new: Tensor, like: Tensor) -> Tensor:
    """A parameter where the other is one."""
    return nn.Parameter(new, requires_grad=like.requires_grad) if isinstance(like, nn.Parameter) else new


def move(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`Module.to` for fakes: each tensor by itself."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in list(store.items()):
                if value is not None:
                    own = {k: v for k, v in kwargs.items() if k != "memory_format" or value.dim() == 4}
                    new = value.detach().to(*args, **own) if args or own else value
                    store[name] = as_parameter(new, value)
    return module


MAKE = torch.tensor


def made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    """`torch.tensor`, which would allocate on the device before there is a fake."""
    return MAKE(data, **kwargs).to(device)


class ListsOnOneDevice(TorchDispatchMode):
    """Refuses lists of numbers of two devices, as a GPU does; fake tensors let those of the CPU pass everywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.cat.default, torch.ops.aten.stack.default):
            devices = {str(part.device) for part in args[0]}
            if len(devices) > 1:
                raise RuntimeError(f"{func}: found at least two devices, {' and '.join(sorted(devices))}")
        return func(*args, **(kwargs or {}))


@contextmanager
def numbers_are_read() -> Iterator[None]:
    """Within a stage that reads numbers on purpose: every number is 1, and what is computed still keeps to its device.

    Shapes that depend on numbers, as of `x[x > 0]`, stay symbols.
    """
    readers = {name: lambda self, kind=kind: kind(1) for name, kind in
               {"item": float, "__float__": float, "__int__": int, "__bool__": bool}.items()}  # fmt: skip
    readers["tolist"] = lambda self: [1.0] * len(self)
    with ExitStack() as patches:
        for name, reader in readers.items():
            patches.enter_context(mock.patch.object(FakeTensor, name, reader, create=True))
        patches.enter_context(mock.patch.object(MODE, "shape_env", ShapeEnv()))
        yield


def by_hand(learner: Any, optimizers: list[torch.optim.Optimizer]) -> Any:
    """A learner that steps without a Trainer."""
    learner.step_optimizers = lambda: optimizers
    learner.optimizers = lambda *args, **kwargs: optimizers[0] if len(optimizers) == 1 else optimizers
    learner.manual_backward = lambda loss: loss.backward()
    learner.log_dict = learner.log = lambda *args, **kwargs: None
    return learner


def outcome(stage: Callable[[], Any], autocast: bool) -> str:
    """`ok`, or what failed and where in the package."""
    try:
        with (
            mock.patch.object(nn.Module, "to", move), mock.patch.object(torch, "tensor", made),
            MODE,
            ListsOnOneDevice(),
            torch.autocast(DEVICE, torch.bfloat16, enabled=autocast),
        ):  # fmt: skip
            stage()
    except Exception as error:
        where = [f for f in traceback.extract_tb(error.__traceback__) if "/talkinghead/" in f.filename]
        place = f" at {Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}{place}"
    return "ok"
