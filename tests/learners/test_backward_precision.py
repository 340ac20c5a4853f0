"""Backward passes are computed outside autocast: what is fp32 forward stays fp32 backward, on every device."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from talkinghead.learners.minimize import minimize
from talkinghead.models import layers
from talkinghead.models.fsth import Generator

ROOT = Path(__file__).parents[2]


def projection_gradient(autocast: bool) -> Tensor:
    """Of P in one move, with the forward pass under autocast or without; P itself is always fp32."""
    torch.manual_seed(0)
    generator, e_hat = Generator(32, 16, (8, 16), 1, (16, 8), None, None), torch.randn(3, 16)
    optimizer = torch.optim.SGD(generator.projection.parameters(), 0.1)
    gradients: list[Tensor] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in generator.projection.parameters() if p.grad is not None)
    )
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        minimize([optimizer], generator.parameters(), {}) as loss,
    ):
        loss["square"] = generator.project(e_hat).square().sum()
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_the_projections_gradient_is_the_same_with_and_without_autocast() -> None:
    assert torch.equal(projection_gradient(True), projection_gradient(False))


def test_autocast_is_back_after_the_backward_pass() -> None:
    seen: dict[str, bool] = {}

    def backward(loss: Tensor) -> None:
        seen["backward"] = torch.is_autocast_enabled("cpu")
        loss.backward()

    layer = nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with minimize([torch.optim.SGD(layer.parameters(), 0.1)], [], {}, backward) as loss:
            loss["sum"] = layer(torch.ones(1, 2)).sum()
        seen["after"] = torch.is_autocast_enabled("cpu")
    assert seen == {"backward": False, "after": True}


class AutocastOf(TorchFunctionMode):
    """Notes of every operation whether it runs under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, bool] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[getattr(func, "__name__", str(func))] = torch.is_autocast_enabled("cpu")
        return func(*args, **(kwargs or {}))


FUNCTIONS = {
    layers.DivideByNorm: lambda: (torch.randn(8, 4, 3, 3), torch.tensor(2.0), torch.randn(8), torch.randn(36)),
    layers.NormalizeInstances: lambda: (torch.randn(2, 4, 5, 5), torch.ones(2, 4, 1, 1), torch.zeros(2, 4, 1, 1), 1e-5),
    layers.NormalizeInstancesOnCPU: lambda: (
        torch.randn(2, 4, 5, 5), torch.ones(2, 4, 1, 1), torch.zeros(2, 4, 1, 1), 1e-5,
    ),
}  # fmt: skip


def test_every_function_with_a_gradient_of_its_own_is_here() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "talkinghead").rglob("*.py"))
    assert set(re.findall(r"class (\w+)\((?:torch\.)?autograd\.Function\)", sources)) == {f.__name__ for f in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_gradients_written_by_hand_are_computed_outside_autocast_whoever_asks(function: Any) -> None:
    first, *others = FUNCTIONS[function]()
    out = function.apply(first.requires_grad_(), *others)
    ones = torch.ones_like(out)
    with torch.autocast("cpu", torch.bfloat16), AutocastOf() as operations:
        torch.cos(ones)
        outside = dict(operations.seen)
        operations.seen.clear()
        gradient = function.backward(out.grad_fn, ones)[0]
    assert outside == {"cos": True}
    assert len(operations.seen) > 1
    assert not any(operations.seen.values()), operations.seen
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("make", [layers.SpectralNorm, layers.RowNorm])
def test_norms_keep_their_vectors_where_the_weight_lies(make: Any) -> None:
    with FakeTensorMode():  # no CUDA is needed for a tensor without numbers
        norm = make(torch.randn(8, 4, device="cuda"))
    assert {buffer.device.type for buffer in norm.buffers()} == {"cuda"}


FAKE_DEVICE = """
import sys
import torch
import torch.utils.backend_registration as registration
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as make_device

make_device("pretend")
torch.pretend.get_amp_supported_dtype = lambda: [torch.bfloat16]
policy = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
fall = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
fall.fallback(torch.library.fallthrough_kernel)

def in_bf16(name):
    operator = getattr(torch.ops.aten, name).default
    def call(*args):
        half = [a.to(torch.bfloat16) if isinstance(a, torch.Tensor) and a.dtype == torch.float32 else a for a in args]
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operator(*half)
    policy.impl(name, call)

for name in ("mm", "addr", "linear"):  # some of those that CUDA's autocast computes in bf16
    in_bf16(name)

from talkinghead.learners.minimize import minimize
from talkinghead.models.layers import DivideByNorm

dtypes = {}
with FakeTensorMode():
    weight = torch.nn.Parameter(torch.empty(8, 4, 1, 1, device="pretend:0"))
    u, v = torch.empty(8, device="pretend:0"), torch.empty(4, device="pretend:0")
    def backward(loss):
        dtypes["autocast in backward"] = torch.is_autocast_enabled("pretend")
        (gradient,) = torch.autograd.grad(loss, weight_in)
        dtypes["gradient"] = gradient.dtype
    with torch.autocast("pretend", torch.bfloat16):
        assert torch.addr(torch.empty(8, 4, device="pretend:0"), u, v).dtype == torch.bfloat16, "the policy is on"
        with minimize([], [], {}, backward) as loss:
            # Autograd casts a leaf's gradient to the leaf's type: what the function itself returns is seen in between.
            weight_in = weight
            seen = []
            plain = DivideByNorm.backward
            def spy(ctx, *gradients):
                out = plain(ctx, *gradients)
                seen.append(out[0].dtype)
                return out
            DivideByNorm.backward = staticmethod(spy)
            loss["sum"] = DivideByNorm.apply(weight, torch.empty((), device="pretend:0"), u, v).sum()
print(dtypes, seen)
assert seen == [torch.float32], seen
"""


@pytest.mark.slow
def test_spectral_norms_gradient_is_fp32_on_a_device_that_multiplies_in_bf16() -> None:
    """On CUDA torch.addr is on autocast's list; a device without hardware that has it, too, shows it."""
    run = subprocess.run(
        [sys.executable, "-c", FAKE_DEVICE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
