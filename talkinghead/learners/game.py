"""One move of the two-player game: collect named losses, then step on their weighted sum."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer


@contextmanager
def minimize(
    optimizers: Sequence[Optimizer], parameters: Iterable[nn.Parameter], weights: Mapping[str, float | int],
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Fill the dictionary with losses by name: then `optimizers` step on their weighted sum (weight 1 if unnamed).

    Of `parameters`, those of all players, whoever is not asked to move is frozen meanwhile. Spectrally normalised
    weights are computed once for all the passes inside.
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
            total = torch.stack(weighted).sum()
            # Autocast is for the forward pass: inside it, a backward written in fp32 would multiply in bf16.
            with torch.autocast(total.device.type, enabled=False):
                backward(total)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # it holds casts of the weights as they were before the step
