"""Another person's landmarks for this person: the driver's motion on the source's shape."""

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

from talkinghead.data.landmarks import PARTS

Mode = Literal["relative", "absolute"]

RIGID = [0, 1, 15, 16, *range(27, 36), 36, 39, 42, 45]  # ears, nose, eye corners: what no expression moves much
# Upper and lower points of eyelids and inner lips, which touch but never cross.
LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])


def adapt(
    driver: Float[np.ndarray, "F 68 2"], source: Float[np.ndarray, "68 2"], mode: Mode = "relative", reference: int = 0
) -> Float[np.ndarray, "F 68 2"]:
    """Landmarks that move as the driver's and belong to the source's face.

    absolute    the driver's points as they are (the paper's way): pose is exact, the shape is the driver's
    relative    the source's points plus the driver's way since its frame `reference`, turned and scaled as that frame
                has to be to lie on the source; each facial part moves along, and deforms in proportion to its size
    """
    if mode == "absolute":
        return driver.copy()
    moving, still = as_complex(driver), as_complex(source)
    factor = similarity(moving[reference, RIGID], still[RIGID])
    start = factor * moving[reference]
    way = factor * (moving - moving[reference])
    adapted = np.empty_like(way)
    for part in PARTS.values():
        chosen = list(part.points)
        middle = way[:, chosen].mean(1, keepdims=True)
        ratio = float(np.clip(still[chosen].std() / max(1e-9, start[chosen].std()), 0.5, 2.0))
        adapted[:, chosen] = still[chosen] + middle + ratio * (way[:, chosen] - middle)
    adapted = uncrossed(adapted)
    return np.stack([adapted.real, adapted.imag], -1)


def similarity(start: Complex[np.ndarray, " N"], goal: Complex[np.ndarray, " N"]) -> complex:
    """Scale and rotation, as one factor, that lay the centred points `start` on `goal` with the least squares."""
    a, b = start - start.mean(), goal - goal.mean()
    return complex(np.vdot(a, b) / np.vdot(a, a))


def most_alike(driver: Float[np.ndarray, "F 68 2"], source: Float[np.ndarray, "68 2"]) -> int:
    """The driver's frame whose pose and expression are nearest to the source's, whatever its place, turn and size."""
    goal = as_complex(source)
    goal = goal - goal.mean()
    moving = as_complex(driver)
    errors = [np.abs(similarity(face, goal) * (face - face.mean()) - goal).mean() for face in moving]
    return int(np.argmin(errors))


def as_complex(points: Float[np.ndarray, "*F 68 2"]) -> Complex[np.ndarray, "*F 68"]:
    """x + iy: a similarity is one multiplication then."""
    return points[..., 0] + 1j * points[..., 1]


def uncrossed(points: Complex[np.ndarray, "F 68"]) -> Complex[np.ndarray, "F 68"]:
    """Eyelids and lips that have passed each other meet halfway."""
    points = points.copy()
    across = points[:, 45] - points[:, 36]
    down = (1j * across / np.maximum(np.abs(across), 1e-9))[:, None]
    upper, lower = points[:, LIDS[:, 0]], points[:, LIDS[:, 1]]
    excess = np.minimum(0, ((lower - upper) * down.conj()).real) * down / 2
    points[:, LIDS[:, 0]], points[:, LIDS[:, 1]] = upper + excess, lower - excess
    return points
