"""What the methods share that are fine-tuned on a person's shots: passes over the shots, drawing in parts."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.types import Frames

BATCH = 8  # pictures at a time where nothing is learned


def shuffled_batches(
    shots: Frames, epochs: int, batch_size: int, max_steps: int | None = None
) -> Iterator[tuple[int, Float[Tensor, "B 3 H W"], Float[Tensor, "B 3 H W"]]]:
    """`epochs` passes in random order, in batches as equal as possible; each with the number of steps."""
    num_shots = len(shots.images)
    orders = (torch.randperm(num_shots).to(shots.images.device) for _ in range(epochs))
    steps = [chosen for order in orders for chosen in order.chunk(-(-num_shots // batch_size))][:max_steps]
    for chosen in steps:
        yield len(steps), shots.images[chosen], shots.landmarks[chosen]


@torch.no_grad()
def draw(generator: nn.Module, driving: Frames) -> Float[Tensor, "M 3 H W"]:
    """What a person's generator makes of the driving landmark images, `BATCH` at a time."""
    return torch.cat([generator(y) for y in driving.landmarks.split(BATCH)]).float()
