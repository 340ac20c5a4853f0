"""One update of some players: collect named losses, then step on their weighted sum."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm, parametrize
from torch.optim import Adam, Optimizer


def fused_adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, betas: tuple[float, float],
    eps: float = 1e-8,
) -> Adam:  # fmt: skip
    """Adam in one pass over the weights, which takes a third of the time on a CPU.

    PyTorch's kernel goes through memory in order, whatever the strides: a gradient, or a mean out of a checkpoint, in
    another memory format than its weight would be taken for other elements. So they are brought into the weight's.
    """
    optimizer = Adam(parameters, lr, betas, eps, fused=True)
    optimizer.register_step_pre_hook(_align_strides)
    return optimizer


@torch.no_grad()
def _align_strides(optimizer: Optimizer, args: object, kwargs: object) -> None:
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        for name, value in optimizer.state[parameter].items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                optimizer.state[parameter][name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Share(NamedTuple):
    """The part of a batch that an update's losses are from, where the gradients of several parts add up.

    Attributes:
        of: size of the part relative to the batch, in (0, 1]
        first: whether it is the first part
        last: whether it is the last part, after which the optimizers step
    """

    of: float = 1.0
    first: bool = True
    last: bool = True


WHOLE = Share()


@contextmanager
def minimize(
    optimizers: Sequence[Optimizer], parameters: Iterable[nn.Parameter], weights: Mapping[str, float | int],
    backward: Callable[[Tensor], object] = Tensor.backward, share: Share = WHOLE,
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Yield a dictionary for losses by name; then `optimizers` step on their weighted sum (weight 1 if unnamed).

    Those of `parameters` that none of `optimizers` owns are frozen inside the block. Spectrally normalised weights are
    computed once for all forward passes in it.

    Args:
        optimizers: of the players that are updated
        parameters: of all players
        weights: by the names of the losses
        backward: computes the gradients of the weighted sum; a LightningModule passes `manual_backward`
        share: part of the batch that the losses are means of; before the last part, gradients add up without a step

    >>> g, d = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    >>> with minimize([torch.optim.SGD([g], lr=0.1)], [g, d], {"fm": 10}) as loss:
    ...     loss["adv"] = -g * d
    ...     loss["fm"] = g**2
    >>> round(g.item(), 4), d.item(), d.grad  # 1 - 0.1 * (-1 + 10 * 2); d was frozen
    (-0.9, 1.0, None)
    """
    movers = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    frozen = [p for p in parameters if p.requires_grad and id(p) not in movers]
    losses: dict[str, Tensor] = {}
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with parametrize.cached():
            yield losses
            weighted = [weights.get(name, 1.0) * value for name, value in losses.items()]
            total = torch.stack(weighted).sum() * share.of
            # Autocast is for the forward pass: inside it, a backward written in fp32 would multiply in bf16.
            with torch.autocast(total.device.type, enabled=False):
                backward(total)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    for optimizer in optimizers if share.last else ():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # it holds casts of the weights as they were before the step


@torch.no_grad()
def clip_gradients(optimizer: Optimizer, limit: float | int) -> Float[Tensor, ""]:
    """Scale the gradients of one optimizer's parameters to a norm of at most `limit`, as `clip_grad_norm_` does.

    The rows of a sparse gradient are clipped as well. Returns the norm before clipping.
    """
    values = []
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
        values.append(parameter.grad._values() if parameter.grad.is_sparse else parameter.grad)
    norm = get_total_norm(values)
    scale = (limit / (norm + 1e-6)).clamp(max=1)
    for value in values:
        value.mul_(scale)
    return norm
