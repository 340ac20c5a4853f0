"""The baseline every model must beat: the source frame with the nearest landmarks, as it is."""

import torch
from jaxtyping import Float
from torch import Tensor

from talkinghead.types import Episode


def nearest_frame(episode: Episode, num_shots: int) -> Float[Tensor, "B 3 H W"]:
    """Of the first `num_shots` shots, the one whose points are nearest to the target's in mean pixel distance.

    Raises ValueError when the episode holds fewer shots.
    """
    source = episode.take(num_shots)
    distance = (source.shots_points - episode.target_points[:, None]).float().norm(dim=-1).mean(dim=-1)  # [B, T]
    nearest = distance.argmin(dim=1)
    return source.shots[torch.arange(len(nearest), device=nearest.device), nearest]
