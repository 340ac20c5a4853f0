"""Landmark adaptation inside the few-shot protocol: driving landmarks are adapted to the test person."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from talkinghead.reenactment.adaptation import Mode, adapt
from talkinghead.reenactment.source import landmark_images
from talkinghead.types import Frames, Person


@final
class AdaptedDriver:
    """Adapts the driving landmarks to the person's shots, and draws them; driving images are unchanged.

    Args:
        mode: see `adaptation.adapt`
        middle: where the crop rule puts the middle of a clip's landmarks, in sides of the picture; None: unknown
    """

    def __init__(self, mode: Mode, middle: Sequence[float] | None = None) -> None:
        self.mode, self.middle = mode, None if middle is None else np.array(middle, np.float64)

    def __call__(self, person: Person) -> Person:
        """The person with adapted driving frames; unchanged in mode raw."""
        if self.mode == "raw":
            return person
        driving, size = person.driving, person.driving.landmarks.shape[-1]
        middle = None if self.middle is None else self.middle * size - 0.5
        points = adapt(driving.points.cpu().numpy(), person.shots.points.cpu().numpy(), self.mode, middle=middle)
        landmarks = landmark_images(points, size).to(driving.landmarks)
        adapted = Frames(driving.images, landmarks, torch.from_numpy(points).to(driving.points))
        return person._replace(driving=adapted)
