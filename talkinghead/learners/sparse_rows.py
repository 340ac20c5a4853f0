"""W on several ranks: used rows and their gradients are exchanged, never the table (arXiv 1905.08233, Sec. 3.1)."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
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


@torch.no_grad()
def fill_rows(
    table: Float[Tensor, "R N"], visited: Bool[Tensor, " R"], rows: Int[Tensor, " B"], values: Float[Tensor, "B N"]
) -> None:
    """table[row] <- the mean of its values over all ranks, for rows not visited so far; the same bits on every rank.

    `visited`, on the CPU, is updated with the rows of all ranks.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        rows, values = _gather(rows, values.float(), _longest(rows))
    rows, values = rows.cpu(), values.float()
    for row in rows.unique().tolist():
        given = rows == row
        if not visited[row]:
            table[row] = values[given.to(values.device)].mean(0).to(table.dtype)
        visited[row] = True


def _longest(rows: Tensor) -> int:
    """The largest number of rows that a rank has."""
    count = torch.tensor(len(rows), device=rows.device)
    dist.all_reduce(count, dist.ReduceOp.MAX)
    return int(count)


def _gather(rows: Tensor, values: Tensor, count: int, missing: float | None = None) -> tuple[Tensor, Tensor]:
    """All ranks' rows and values, in the order of the ranks; `count` of each.

    Ranks may have different numbers of rows: they pad with their first row, and its values with `missing`.
    """
    extra = count - len(rows)
    rows = torch.cat([rows, rows[:1].expand(extra)])
    more = values[:1].expand(extra, -1) if missing is None else values.new_full((extra, values.shape[1]), missing)
    values = torch.cat([values, more])
    world = dist.get_world_size()
    all_rows = [torch.empty_like(rows) for _ in range(world)]
    all_values = [torch.empty_like(values) for _ in range(world)]
    dist.all_gather(all_rows, rows.contiguous())
    dist.all_gather(all_values, values.contiguous())
    return torch.cat(all_rows), torch.cat(all_values)


def _mean_over_ranks(gradient: Tensor) -> Tensor:
    """Sparse [videos, N] gradient of this rank -> the coalesced mean over the ranks."""
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values()
    all_rows, all_values = _gather(rows, values, _longest(rows), missing=0.0)
    return torch.sparse_coo_tensor(all_rows[None], all_values / dist.get_world_size(), gradient.shape).coalesce()
