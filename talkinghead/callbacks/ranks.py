"""Several ranks: how long they wait for each other, and the error if one of them does not answer."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as L
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

LOST = re.compile(r"gloo|nccl|timed? ?out|closed by peer|connection (was )?(closed|reset|refused)|broken pipe", re.I)


class RankLost(RuntimeError):
    """Another rank has died or does not answer; the message says how long this one has waited."""


def time_limit(minutes: float | int) -> timedelta:
    """The longest time that a rank waits for the others. Raises ValueError unless `minutes` is above 0."""
    if not minutes > 0:
        raise ValueError(f"trainer.strategy.timeout.minutes={minutes}: more than 0, please")
    return timedelta(minutes=minutes)


def gradients_as(dtype: str | None) -> Callable[..., Any] | None:
    """How GPUs send their gradients to each other (DDP's communication hook): as they are, or half as many bytes.

    Args:
        dtype: null, bf16 or fp16; the sum over the ranks is rounded to it

    Raises:
        ValueError: it is another one.
    """
    hooks = {None: None, "bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}
    if dtype not in hooks:
        raise ValueError(f"trainer.strategy.ddp_comm_hook.dtype={dtype}: choose null, bf16 or fp16")
    return hooks[dtype]


@contextmanager
def ranks_answer(trainer: L.Trainer) -> Iterator[None]:
    """Raise RankLost for errors of the process group about a lost rank, and end the ranks started by this process.

    A rank that hangs, or waits for a disk, would otherwise outlive the run.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not LOST.search(str(error)):
            raise
        for process in getattr(trainer.strategy.launcher, "procs", []):
            process.send_signal(signal.SIGKILL)
        limit = getattr(trainer.strategy, "_timeout", None)
        waited = f"within {limit.total_seconds() / 60:g} minutes " if isinstance(limit, timedelta) else ""
        raise RankLost(
            f"rank {trainer.global_rank} stops: another rank has died, or has not answered {waited}"
            f"(trainer.strategy.timeout.minutes). Its last lines say why. Here: {str(error).strip().splitlines()[0]}"
        ) from error
