"""What the methods share that are fine-tuned on a person's shots: passes over the shots, drawing in parts."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.types import Frames

BATCH = 8  # pictures at a time where nothing is learned


def shuffled_batches(
    shots: Frames, epochs: int, batch_size: int, max_steps: int | None = None
) -> Iterator[tuple[int, Frames]]:
    """`epochs` passes in random order, in batches as equal as possible; each with the number of steps."""
    num_shots = len(shots.images)
    orders = (torch.randperm(num_shots).to(shots.images.device) for _ in range(epochs))
    steps = [chosen for order in orders for chosen in order.chunk(-(-num_shots // batch_size))][:max_steps]
    for chosen in steps:
        yield len(steps), Frames(*(part[chosen] for part in shots))


def shown(generator: nn.Module, driving: Frames) -> Float[Tensor, "M C H W"]:
    """What a person's generator is shown of driving frames: it says itself, else their landmark images."""
    condition = getattr(generator, "condition", None)
    return driving.landmarks if condition is None else condition(driving)


@torch.no_grad()
def draw(generator: nn.Module, driving: Frames) -> Float[Tensor, "M 3 H W"]:
    """What a person's generator makes of the driving frames, `BATCH` at a time."""
    parts = zip(*(part.split(BATCH) for part in driving), strict=True)
    return torch.cat([generator(shown(generator, Frames(*part))) for part in parts]).float()
