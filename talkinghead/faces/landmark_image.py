"""68 landmark points drawn as a landmark image y, each facial part in a fixed colour (arXiv 1905.08233, Sec. 3.1)."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8


class Part(NamedTuple):
    """One polyline of the landmark image."""

    points: tuple[int, ...]
    colour: tuple[int, int, int]
    closed: bool = False


# dlib's order (iBUG 300-W), left and right as seen in the picture.
PARTS = {
    "jaw": Part(tuple(range(17)), (0, 255, 0)),
    "left_brow": Part(tuple(range(17, 22)), (255, 0, 0)),
    "right_brow": Part(tuple(range(22, 27)), (255, 165, 0)),
    "nose_bridge": Part(tuple(range(27, 31)), (0, 0, 255)),
    "nose_base": Part(tuple(range(31, 36)), (0, 128, 255)),
    "left_eye": Part(tuple(range(36, 42)), (255, 0, 255), closed=True),
    "right_eye": Part(tuple(range(42, 48)), (0, 255, 255), closed=True),
    "outer_lip": Part(tuple(range(48, 60)), (255, 255, 0), closed=True),
    "inner_lip": Part(tuple(range(60, 68)), (255, 255, 255), closed=True),
}

_SUBPIXEL_BITS = 4

# Which point takes the place of each one when the picture is mirrored: y'[n] = mirror(y[MIRROR[n]]).
# fmt: off
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
])
# fmt: on


def draw_landmarks(points: Float[np.ndarray, "68 2"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Landmark image of `points` (pixels of a `size` x `size` picture): RGB on black, line width 2 at 256 px.

    Raises:
        ValueError: when a point is not finite.

    >>> points = np.full((68, 2), 8.0)
    >>> points[:17, 0] = np.linspace(2, 60, 17)  # the jaw, a line from left to right
    >>> y = draw_landmarks(points, 64)
    >>> y.shape, y[8, 40].tolist(), y[40, 40].tolist()  # on the line, off it
    ((64, 64, 3), [0, 255, 0], [0, 0, 0])
    """
    if not np.isfinite(points).all():
        raise ValueError("a landmark is NaN or infinite: skip this frame, or detect its face again")
    canvas = np.zeros((size, size, 3), np.uint8)
    scaled = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    thickness = max(1, round(2 * size / 256))
    for part in PARTS.values():
        polyline = scaled[list(part.points)].reshape(-1, 1, 2)
        cv2.polylines(canvas, [polyline], part.closed, part.colour, thickness, cv2.LINE_8, _SUBPIXEL_BITS)
    return canvas


def mirror_points(points: Float[np.ndarray, "*F 68 2"], size: int) -> Float[np.ndarray, "*F 68 2"]:
    """The landmarks of the horizontally flipped picture, in dlib's order again: point 0 stays the leftmost of the jaw.

    >>> points = np.zeros((68, 2))
    >>> points[0], points[16] = (10, 5), (90, 6)  # ends of the jaw
    >>> mirror_points(points, 100)[[0, 16]].tolist()
    [[9.0, 6.0], [89.0, 5.0]]
    """
    mirrored = points[..., MIRROR, :].copy()
    mirrored[..., 0] = (size - 1) - mirrored[..., 0]
    return mirrored


def interocular(points: Float[np.ndarray, "*F 68 2"]) -> Float[np.ndarray, "*F"]:
    """Distance between the outer eye corners, in pixels: what landmark errors are divided by.

    >>> points = np.zeros((3, 68, 2))
    >>> points[:, 45] = [30, 40]
    >>> interocular(points)
    array([50., 50., 50.])
    """
    return np.linalg.norm(points[..., 36, :] - points[..., 45, :], axis=-1)
