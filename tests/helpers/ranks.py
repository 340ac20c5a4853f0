"""Two ranks on this machine, for what needs no Trainer: two processes of one group on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def on_two_ranks(work: Callable[..., Any], folder: Path, *args: Any) -> tuple[Any, Any]:
    """What `work(rank, *args)`, a function of a module, returns on each rank; `folder` is where they meet."""
    torch.multiprocessing.spawn(_run, (work, folder, args), nprocs=2)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    return first, second


def _run(rank: int, work: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank, *args), folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()
