"""Random poses and expressions of given faces, from the face model: landmarks for fine-tuning."""

from dataclasses import replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from talkinghead.reenactment.adaptation import check, face_of, uncrossed
from talkinghead.reenactment.face_model import load_face_model
from talkinghead.reenactment.fitting import turn

SPREAD = 1.5  # of expressions, in the model's standard deviations: lips open up to a fifth of the eye distance
TURN = np.array([0.08, 0.12, 0.06], np.float32)  # nod, turn and tilt: standard deviations, radians
SHIFT, RESIZE = 0.08, 0.04  # of the head: standard deviations; SHIFT in units of the face model


@final
class Expressions:
    """T frames of a person, to which the face model is fitted once.

    Raises:
        ValueError: for points that are not faces.
    """

    def __init__(self, points: Float[Tensor, "T 68 2"]) -> None:
        self._points = points.detach().cpu().float().numpy()
        check(self._points, self._points, "relative", None, None)
        self._face = face_of(load_face_model(), self._points)

    def sample(self, frames: Int[Tensor, " B"], pose: bool = False) -> Float[Tensor, "B 68 2"]:
        """The faces of these frames with random expressions and, with `pose`, random turns, shifts and sizes; pixels.

        Lips and lids touch but never cross.
        """
        chosen = frames.tolist()
        before = self._face.fit.take(chosen)
        after = replace(before, expression=SPREAD * normal(before.expression.shape))
        if pose:
            moves = normal((len(chosen), 6))
            after = replace(
                after,
                rotation=turn(moves[:, :3] * TURN) @ before.rotation,
                scale=before.scale * np.exp(RESIZE * moves[:, 3]),
                place=before.place + SHIFT * before.scale[:, None] * moves[:, 4:],
            )
        moved = self._points[chosen] + self._face.draw(after) - self._face.draw(before)
        return torch.from_numpy(uncrossed(moved).astype(np.float32))


def normal(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Standard normal numbers from torch's generator, which the seed of a run sets."""
    return torch.randn(shape).numpy()
