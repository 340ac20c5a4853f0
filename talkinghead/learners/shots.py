"""What methods that are fine-tuned on shots share: passes over the shots, and drawing in batches."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.types import Frames

BATCH = 8  # pictures per forward pass without gradients


def shuffled_batches(
    shots: Frames, epochs: int, batch_size: int, max_steps: int | None = None
) -> Iterator[tuple[int, Frames]]:
    """`epochs` passes in random order, in batches of nearly equal size; yields (total number of steps, batch)."""
    num_shots = len(shots.images)
    orders = (torch.randperm(num_shots).to(shots.images.device) for _ in range(epochs))
    steps = [chosen for order in orders for chosen in order.chunk(-(-num_shots // batch_size))][:max_steps]
    for chosen in steps:
        yield len(steps), Frames(*(part[chosen] for part in shots))


def shown(generator: nn.Module, driving: Frames) -> Float[Tensor, "M C H W"]:
    """The input of a person's generator for driving frames: its own `condition`, else their landmark images."""
    condition = getattr(generator, "condition", None)
    return driving.landmarks if condition is None else condition(driving)


@torch.no_grad()
def draw(generator: nn.Module, driving: Frames) -> Float[Tensor, "M 3 H W"]:
    """x_hat of the driving frames by a person's generator, `BATCH` at a time; in [-1, 1]."""
    parts = zip(*(part.split(BATCH) for part in driving), strict=True)
    return torch.cat([generator(shown(generator, Frames(*part))) for part in parts]).float()


@torch.no_grad()
def draw_shares(generator: nn.Module, driving: Frames, shares: Float[Tensor, "M T"]) -> Float[Tensor, "M 3 H W"]:
    """x_hat by a generator that is shown shots: the mean over the shots, weighted by their shares; in [-1, 1]."""
    x_hat = torch.zeros_like(driving.images, dtype=torch.float32)
    for frames, shots in zip(*(part.split(BATCH) for part in shares.nonzero(as_tuple=True)), strict=True):
        drawn = generator(generator.condition(Frames(*(part[frames] for part in driving)), shots)).float()  # type: ignore[operator]
        x_hat.index_add_(0, frames, shares[frames, shots][:, None, None, None] * drawn)
    return x_hat
