"""What a few-shot evaluation does around a method: takes T shots, seeds, measures time, keeps autocast honest."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from talkinghead.types import Frames

Value = TypeVar("Value")


def take(frames: Frames, count: int) -> Frames:
    """The first `count` frames. Raises ValueError where there are fewer."""
    if not 1 <= count <= len(frames.images):
        raise ValueError(
            f"T={count}, but {len(frames.images)} frames of each clip are kept for learning: set "
            f"frame_choice.max_shots={count} (other hold-out frames: compare with rows of the same setting only)"
        )
    return Frames(*(part[:count] for part in frames))


def number_of(*names: object) -> int:
    """A seed of 32 bits."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "big")


def timed(device: torch.device, call: Callable[[], Value]) -> tuple[Value, float]:
    """What it returns, and the seconds it took, until the device is done with it."""
    began = time.perf_counter()
    value = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return value, time.perf_counter() - began


@contextmanager
def uncached_autocast(device_type: str) -> Iterator[None]:
    """The trainer's autocast without its cache of cast weights.

    It is emptied only where autocast ends, here after the whole test step: a method that learns inside would go on
    computing with the weights of its first step.
    """
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False):
        yield
