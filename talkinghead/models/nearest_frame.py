"""The baseline of every validation: the source frame with the nearest landmarks, copied."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from talkinghead.types import Episode


def nearest_index(driving: Float[Tensor, "M 68 2"], shots: Float[Tensor, "T 68 2"]) -> Int[Tensor, " M"]:
    """For each driving frame, the index of the shot whose points are nearest in mean pixel distance.

    >>> shots = torch.stack([torch.full((68, 2), value) for value in (0.0, 10.0, 20.0)])
    >>> nearest_index(torch.full((1, 68, 2), 13.0), shots)
    tensor([1])
    """
    return (driving[:, None] - shots[None]).float().norm(dim=-1).mean(dim=-1).argmin(dim=1)


def nearest_frame(episode: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
    """Of the first `num_shots` shots, the one whose points are nearest to the target's in mean pixel distance.

    Raises:
        ValueError: when the episode holds fewer shots.
    """
    source = episode.take(num_shots)
    pairs = zip(episode.target_points, source.shots_points, strict=True)
    nearest = torch.cat([nearest_index(target[None], points) for target, points in pairs])
    return source.shots[torch.arange(len(nearest), device=nearest.device), nearest]
