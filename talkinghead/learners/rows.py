"""Gradients of W across ranks: the rows of the batch travel, never the table (arXiv 1905.08233, Sec. 3.1)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer


def average_rows(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a step: replace each sparse gradient by its mean over the ranks, the same bits on every rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = _mean_over_ranks(parameter.grad)


def _mean_over_ranks(gradient: Tensor) -> Tensor:
    """Sparse [videos, N] gradient of one rank -> the mean of all ranks', coalesced."""
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values()
    count = torch.tensor(len(rows), device=rows.device)
    dist.all_reduce(count, dist.ReduceOp.MAX)
    missing = int(count) - len(rows)
    # Ranks may use different numbers of rows: fill up with a row used anyway, and nothing to add to it.
    rows = torch.cat([rows, rows[:1].expand(missing)])
    values = torch.cat([values, values.new_zeros(missing, values.shape[1])])
    world = dist.get_world_size()
    all_rows = [torch.empty_like(rows) for _ in range(world)]
    all_values = [torch.empty_like(values) for _ in range(world)]
    dist.all_gather(all_rows, rows.contiguous())
    dist.all_gather(all_values, values.contiguous())
    mean = torch.cat(all_values) / world
    return torch.sparse_coo_tensor(torch.cat(all_rows)[None], mean, gradient.shape).coalesce()
