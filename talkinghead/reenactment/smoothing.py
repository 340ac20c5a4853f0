"""Smoothing of driving landmarks without lag, for whole clips: jitter is removed, blinks and speech are kept.

Place, size and in-plane rotation of the head follow a smooth curve through the surrounding frames. The facial parts are
smoothed too, but a part that leaves its curve by more than the detector's noise, as in a blink, keeps that movement.
"""

import numpy as np
from jaxtyping import Complex, Float

from talkinghead.faces.landmark_image import PARTS

RIGID = [*range(27, 36), 36, 39, 42, 45]  # nose and eye corners: little moved by expressions
STILL = [*range(27, 36)]  # nose: movement relative to the head is noise
FACE_WINDOW = 0.6  # of the head's window: the face moves faster
NOISE = 3.0  # multiples of the typical noise energy up to which deviations are removed
# Noise of a detector's points beside that of the nose.
RATIO = {"jaw": 1.8, "left_eye": 1.3, "right_eye": 1.3, "outer_lip": 1.3, "inner_lip": 1.3}


def smooth(points: Float[np.ndarray, "F 68 2"], rate: float, strength: float = 1.0) -> Float[np.ndarray, "F 68 2"]:
    """Smooth the points of a clip of `rate` frames per second; strength 1: windows of +-0.2 s; 0: unchanged.

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
    """Complex factor (rotation and size) and place that map the clip's mean rigid points to each frame's."""
    rigid = z[:, RIGID]
    place = rigid.mean(1, keepdims=True)
    shape = (rigid - place) / np.abs(rigid - place).std(1, keepdims=True).clip(1e-9)
    mean = (shape * np.exp(-1j * np.angle((shape * shape[0].conj()).sum(1, keepdims=True)))).mean(0)
    factor = ((rigid - place) @ mean.conj())[:, None] / (np.abs(mean) ** 2).sum()
    return factor, place


def local_curve(values: Complex[np.ndarray, "F N"], reach: float) -> Complex[np.ndarray, "F N"]:
    """Local regression (LOESS): at each frame the value of a parabola fitted to its neighbours with weights."""
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
