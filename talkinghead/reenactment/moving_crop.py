"""Moving faces: the driver's crop follows them, and the driven face is kept inside the picture."""

import numpy as np
from jaxtyping import Float

from talkinghead.faces.crop import Crop, Framing, face_box

CALM = 0.5  # seconds: standard deviation of the Gaussian over which the crop's way is averaged
EDGE = 0.04  # margin around a bounded face, as a share of the picture
REACH = 0.5  # share of the way from the middle to the edge in which a face moves freely


def stays(points: Float[np.ndarray, "F 68 2"], crop: Crop) -> bool:
    """Whether a fixed crop shows the face: at least 90 % of the landmarks in 98 % of the frames."""
    low = np.array([crop.x, crop.y])
    inside = ((points >= low - 0.5) & (points <= low + crop.side - 0.5)).all(-1).mean(1) >= 0.9
    return bool(inside.mean() >= 0.98)


def walk(
    points: Float[np.ndarray, "F 68 2"], width: int, height: int, framing: Framing, fps: float
) -> Float[np.ndarray, "F 3"]:
    """x, y and side of a crop that follows the face smoothly, by the rule of `clip_crop`; pixels of the frames."""
    boxes = face_box(points)
    side = np.maximum(averaged(boxes[:, 2] - boxes[:, 0], CALM * fps), 2.0)
    centre = averaged((boxes[:, :2] + boxes[:, 2:]) / 2, CALM * fps)
    centre = centre + side[:, None] * np.array([0.0, framing.down])
    crop = framing.margin * side[:, None]
    room = np.array([width, height]) - crop
    corner = centre - crop / 2 + 0.5
    return np.concatenate([np.where(room > 0, np.clip(corner, 0, np.maximum(room, 0)), corner), crop], 1)


def averaged(values: Float[np.ndarray, "F ..."], width: float) -> Float[np.ndarray, "F ..."]:
    """Gaussian average over time; `width`: standard deviation in frames. Beyond the ends, trends are extrapolated."""
    if len(values) == 1:
        return values.astype(float)
    reach = max(1, round(3 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-6)) ** 2)
    columns = np.pad(values.reshape(len(values), -1), ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd").T
    means = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in columns]
    return np.stack(means, -1).reshape(values.shape)


def bounded(points: Float[np.ndarray, "F 68 2"], size: int) -> Float[np.ndarray, "F 68 2"]:
    """The landmarks (pixels of `size` x `size` pictures), each face within the picture and no larger than it.

    A face moves freely up to half of the way to the edge, and beyond that less and less, as tanh; it never jumps.
    """
    low, high = points.min(1), points.max(1)
    most = size * (1 - 2 * EDGE)
    shrunk = np.minimum(1, most / np.maximum((high - low).max(-1), 1e-6))[:, None]
    centre = (low + high) / 2
    half = (high - low) / 2 * shrunk
    room = np.maximum(size * (0.5 - EDGE) - half, 0)
    free = REACH * room
    away = centre - (size - 1) / 2
    beyond = np.maximum(np.abs(away) - free, 0)
    soft = (room - free) * np.tanh(beyond / np.maximum(room - free, 1e-6))
    place = (size - 1) / 2 + np.sign(away) * (np.minimum(np.abs(away), free) + soft)
    return ((points - centre[:, None]) * shrunk[:, None] + place[:, None]).astype(points.dtype)
