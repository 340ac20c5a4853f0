"""Helpers around a method in a few-shot evaluation: T shots, seeds, timing, autocast without its cache."""

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
    """A 32-bit seed, the hash of the names: equal on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "big")


def timed(device: torch.device, call: Callable[[], Value]) -> tuple[Value, float]:
    """The result of `call`, and the seconds until the device has finished it."""
    began = time.perf_counter()
    value = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return value, time.perf_counter() - began


@contextmanager
def uncached_autocast(device_type: str) -> Iterator[None]:
    """The trainer's autocast without its cache of cast weights.

    The cache is cleared only where autocast ends, here after the whole test step: a method that learns inside it would
    keep computing with the weights of its first step.
    """
    enabled, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    with torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False):
        yield
