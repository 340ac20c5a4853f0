"""How faithfully a clip follows its driver: lips, lids, stillness of the background, flicker.

A generator that copies well may still keep a mouth shut, which averages over pictures hardly show. Openings are
distances between inner lips or lids, divided by the distance of the outer eye corners.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LIPS, LIDS = ((61, 67), (62, 66), (63, 65)), ((37, 41), (38, 40), (43, 47), (44, 46))  # pairs of the 68 points
LEAST = 3  # frames with a face for a correlation, and consecutive frames for a second difference
STILL = 4 / 255  # images in [0, 1]: a target pixel is still if it and its neighbours change by less
MOTION = ("lip_correlation", "lip_gain", "lid_correlation", "lid_gain", "flicker")
STILLNESS = "stillness"


def opening(points: Float[np.ndarray, "F 68 2"], pairs: tuple[tuple[int, int], ...]) -> Float[np.ndarray, " F"]:
    """Mean distance of these pairs of points, in distances of the outer eye corners.

    >>> points = np.zeros((1, 68, 2))
    >>> points[0, 45, 0], points[0, [65, 66, 67], 1] = 100, 20  # lower inner lip 20 px below the upper one
    >>> opening(points, LIPS)
    array([0.2])
    """
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    return np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in pairs], axis=0) / eyes


def fidelity(found: Float[np.ndarray, " F"], driver: Float[np.ndarray, " F"]) -> tuple[float, float]:
    """Correlation of an opening with the driver's, and its gain: the slope of its regression on the driver's.

    NaN for too few frames, or where the driver does not move; a correlation of 0 where only the output does not.

    >>> fidelity(np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.2, 0.4]))
    (1.0, 0.5)
    """
    if len(found) < LEAST or np.ptp(driver) < 1e-6:
        return np.nan, np.nan
    covariance = np.mean((found - found.mean()) * (driver - driver.mean()))
    spread = found.std() * driver.std()
    return round(float(covariance / spread), 6) if spread > 1e-12 else 0.0, round(float(covariance / driver.var()), 6)


def flicker(found: Float[np.ndarray, "F 68 2"], driver: Float[np.ndarray, "F 68 2"]) -> float:
    """Mean length of the second difference over time of (output - driver) landmarks, in eye distances.

    A smooth or constant error does not count. NaN without three consecutive frames.

    >>> driver = np.zeros((5, 68, 2), np.float32)
    >>> driver[:, 45, 0] = 100  # eye distance
    >>> moved, trembling = driver.copy(), driver.copy()
    >>> moved += 7  # off, but steadily
    >>> trembling[1::2] += [1, 0]  # one pixel to and fro
    >>> flicker(moved, driver), round(flicker(trembling, driver), 4)
    (0.0, 0.02)
    """
    eyes = np.linalg.norm(driver[:, 36] - driver[:, 45], axis=-1)
    error = (found - driver) / eyes[:, None, None]
    second = error[2:] - 2 * error[1:-1] + error[:-2]
    lengths = np.linalg.norm(second, axis=-1).mean(-1) if len(error) >= LEAST else np.zeros(0)
    known = lengths[~np.isnan(lengths)]
    return float(known.mean()) if len(known) else np.nan


def motion(found: Float[np.ndarray, "F 68 2"], driver: Float[np.ndarray, "F 68 2"]) -> dict[str, float]:
    """All metrics in `MOTION`, from the landmarks found on a clip's outputs (NaN: no face) and the driver's."""
    seen = ~np.isnan(found[:, 0, 0])
    values = [
        value for pairs in (LIPS, LIDS) for value in fidelity(opening(found[seen], pairs), opening(driver[seen], pairs))
    ]
    return dict(zip(MOTION, [*values, flicker(found, driver)], strict=True))


@torch.no_grad()
def stillness(x_hat: Float[Tensor, "F 3 H W"], x: Float[Tensor, "F 3 H W"], points: Float[Tensor, "F 68 2"]) -> float:
    """Mean change of the output from frame to frame, outside the head and where the target is still; 0 is perfect.

    Images in [0, 1], points in pixels of them. The head is a circle around the 68 points with 1.3 times their extent as
    radius. NaN where no pixel is still.
    """
    size = x.shape[-1]
    low, high = points.amin(1), points.amax(1)
    middle, radius = (low + high) / 2, 1.3 * (high - low).amax(-1)
    steps = torch.arange(size, device=x.device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    outside = (grid - middle[:, None, None]).norm(dim=-1) > radius[:, None, None]
    change = (x[1:] - x[:-1]).abs().amax(1, keepdim=True)
    calm = (torch.nn.functional.max_pool2d(change, 5, 1, 2) < STILL)[:, 0] & outside[1:] & outside[:-1]
    moved = (x_hat[1:] - x_hat[:-1]).abs().mean(1)
    return float(moved[calm].mean()) if calm.any() else np.nan
