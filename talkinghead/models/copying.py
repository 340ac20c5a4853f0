"""Baselines that train nothing: the nearest source frame, the same warped, the mean of all frames."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from talkinghead.models.guide import landmark_flow
from talkinghead.models.layers import resample
from talkinghead.models.nearest_frame import nearest_index
from talkinghead.types import Frames, Reenactor


@final
class NearestFrame:
    """The shot whose landmarks are nearest to the driver's in mean pixel distance."""

    def learn(self, shots: Frames) -> Reenactor:
        """A `Reenactor` that copies the shot with the nearest landmarks."""

        @torch.no_grad()
        def reenact(driving: Frames) -> Float[Tensor, "M 3 H W"]:
            return shots.images[nearest_index(driving.points, shots.points)]

        return reenact


@final
class WarpedFrame:
    """The nearest shot, warped to the driver's points by thin-plate splines (`talkinghead.models.guide`)."""

    def learn(self, shots: Frames) -> Reenactor:
        """A `Reenactor` that warps the shot with the nearest landmarks."""

        @torch.no_grad()
        def reenact(driving: Frames) -> Float[Tensor, "M 3 H W"]:
            nearest = nearest_index(driving.points, shots.points)
            picture = shots.images[nearest].float()
            return resample(picture, landmark_flow(shots.points[nearest], driving.points, picture.shape[-1]))

        return reenact


@final
class MeanFrame:
    """The mean of the shots, whatever the driver does."""

    def learn(self, shots: Frames) -> Reenactor:
        """A `Reenactor` that returns the mean of the shots for every driving frame."""
        mean = shots.images.mean(dim=0, keepdim=True)

        @torch.no_grad()
        def reenact(driving: Frames) -> Float[Tensor, "M 3 H W"]:
            return mean.expand(len(driving.images), -1, -1, -1)

        return reenact
