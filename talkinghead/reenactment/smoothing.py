"""Steadier landmarks without lag, for drivers that are known to their end: jitter goes, blinks and speech stay.

Place, size and turn of the head are one smooth curve through all frames around. What the face does besides is smoothed
too, part by part, but where a part moves away from its curve by more than a detector's noise, it keeps that movement
a blink does, noise does not.
"""

import numpy as np
from jaxtyping import Complex, Float

from talkinghead.faces.landmark_image import PARTS

RIGID = [*range(27, 36), 36, 39, 42, 45]  # nose and eye corners: what no expression moves much
STILL = [*range(27, 36)]  # nose: what moves here, beside the head, is noise
FACE_WINDOW = 0.6  # of the head's window: the face is quicker
NOISE = 3.0  # a gain of 0 up to so many times the typical noise energy
# Noise of a detector's points beside that of the nose.
RATIO = {"jaw": 1.8, "left_eye": 1.3, "right_eye": 1.3, "outer_lip": 1.3, "inner_lip": 1.3}


def smooth(points: Float[np.ndarray, "F 68 2"], rate: float, strength: float = 1.0) -> Float[np.ndarray, "F 68 2"]:
    """The points of a clip of `rate` frames per second; `strength` 1 looks 0.2 s to either side, 0 changes nothing.

    Raises:
        ValueError: for a strength below 0 and a rate that is not positive.
    """
    if strength < 0 or not rate > 0:
        raise ValueError(f"smooth={strength}, {rate} frames per second: at least 0, and more than 0")
    reach = 0.2 * strength * rate  # frames
    if reach < 1 or len(points) < 5:
        return points.copy()
    z = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    factor, place = head(z)
    face = (z - place) / factor
    factor, place = local_curve(factor, reach), local_curve(place, reach)
    calm = local_curve(face, max(1.0, FACE_WINDOW * reach))
    moved = face - calm
    noise = np.median((np.abs(moved[:, STILL]) ** 2).mean(1))
    for name, part in PARTS.items():
        chosen = list(part.points)
        energy = (np.abs(moved[:, chosen]) ** 2).mean(1, keepdims=True)
        limit = NOISE * noise * RATIO.get(name, 1.0) ** 2
        moved[:, chosen] *= np.maximum(0, 1 - (limit / np.maximum(energy, 1e-12)) ** 2)
    steady = place + factor * (calm + moved)
    return np.stack([steady.real, steady.imag], -1).astype(points.dtype)


def head(z: Complex[np.ndarray, "F 68"]) -> tuple[Complex[np.ndarray, "F 1"], Complex[np.ndarray, "F 1"]]:
    """Turn and size as one factor, and place, that lay the clip's mean rigid points on each frame's."""
    rigid = z[:, RIGID]
    place = rigid.mean(1, keepdims=True)
    shape = (rigid - place) / np.abs(rigid - place).std(1, keepdims=True).clip(1e-9)
    mean = (shape * np.exp(-1j * np.angle((shape * shape[0].conj()).sum(1, keepdims=True)))).mean(0)
    factor = ((rigid - place) @ mean.conj())[:, None] / (np.abs(mean) ** 2).sum()
    return factor, place


def local_curve(values: Complex[np.ndarray, "F N"], reach: float) -> Complex[np.ndarray, "F N"]:
    """At each frame a parabola through the frames around it, the nearer the more they count (LOESS)."""
    count, half = len(values), int(np.ceil(reach))
    offsets = np.arange(-half, half + 1)
    frames = np.arange(count)[:, None] + offsets
    weight = np.clip(1 - (np.abs(offsets) / (reach + 1)) ** 3, 0, None) ** 3 * ((frames >= 0) & (frames < count))
    powers = (offsets / half)[:, None] ** np.arange(3)
    moments = np.einsum("fw,wi,wj->fij", weight, powers, powers)
    rows = np.linalg.solve(moments, np.broadcast_to(np.eye(3)[:, :1], (count, 3, 1)))[..., 0]  # value at offset 0
    kernel = weight * (rows @ powers.T)
    result = np.zeros_like(values)
    for place, numbers in zip(range(len(offsets)), np.clip(frames, 0, count - 1).T, strict=True):
        result += kernel[:, place, None] * values[numbers]
    return result
