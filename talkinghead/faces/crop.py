"""The crop rule for all faces: landmarks of a clip -> one fixed square crop, with VoxCeleb2's margin."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.images import rescale_points, resize
from talkinghead.options import Range, check_numbers

# Side of a face box, and height of its centre above that of the points, in larger extents of the 68 points: about the
# boxes of face detectors.
BOX_SIDE = 1.08
BOX_RAISE = 0.10
# A crop larger than the picture shrinks to fit, but not below this many face boxes.
LEAST_MARGIN = 1.4
FRAMING = {"margin": Range(0.5, 10, whole=False), "down": Range(-2, 2, whole=False)}


class Framing(NamedTuple):
    """A crop relative to a face box: side `margin`, and centre `down` below the box's, both in sides of the box.

    The default margin is VoxCeleb2's. Data sets that come cropped have their own framing, in dataset.json.
    """

    margin: float = 1.7
    down: float = 0.0

    def checked(self, prefix: str = "framing.") -> "Framing":
        """Itself. Raises ValueError for numbers out of range, named as the user types them."""
        check_numbers(self._asdict(), FRAMING, prefix)
        return self


class Crop(NamedTuple):
    """A square of the source frame, whole pixels; it may reach beyond the frame."""

    x: int
    y: int
    side: int


def face_box(points: Float[np.ndarray, "*F 68 2"]) -> Float[np.ndarray, "*F 4"]:
    """The square (x0, y0, x1, y1) that a face detector puts around a face with these landmarks."""
    low, high = points.min(-2), points.max(-2)
    extent = (high - low).max(-1, keepdims=True)
    centre = (low + high) / 2 - np.concatenate([0 * extent, BOX_RAISE * extent], -1)
    half = BOX_SIDE * extent / 2
    return np.concatenate([centre - half, centre + half], -1)


def clip_crop(points: Float[np.ndarray, "F 68 2"], width: int, height: int, framing: Framing | None = None) -> Crop:
    """The crop of a clip from the landmarks of its frames (pixels of the `width` x `height` source frames).

    Side: `margin` times the median face box. Centre: halfway between the extremes of the face's path, so that both
    ends of a movement keep their margin. The crop is moved into the frame, and made smaller (down to `LEAST_MARGIN`)
    where the frame is smaller than it.

    >>> points = np.zeros((2, 68, 2))
    >>> points[:, 1] = [100, 100]  # the face is 100 px large,
    >>> points[0] += [200, 150]
    >>> points[1] += [240, 150]  # and moves 40 px to the right
    >>> clip_crop(points, 640, 480)
    Crop(x=178, y=98, side=184)
    """
    margin, down = framing or Framing()
    boxes = face_box(points)
    face = float(np.median(boxes[:, 2] - boxes[:, 0]))
    side = max(2, round(min(margin * face, max(min(width, height), LEAST_MARGIN * face))))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + np.array([0.0, down * face])
    low, high = np.percentile(centres, [5, 95], axis=0)
    x, y = np.round((low + high) / 2 - side / 2 + 0.5).astype(int)
    return Crop(_inside(int(x), side, width), _inside(int(y), side, height), side)


def measure_framing(points: Float[np.ndarray, "F 68 2"], size: int) -> Framing:
    """The framing with which frames of `size` pixels were cropped, estimated from their landmarks."""
    boxes = face_box(points)
    face = float(np.median(boxes[:, 2] - boxes[:, 0]))
    return Framing(size / face, ((size - 1) / 2 - float(np.median(boxes[:, 1] + boxes[:, 3])) / 2) / face)


def _inside(start: int, side: int, extent: int) -> int:
    return min(max(start, 0), extent - side) if side <= extent else start


def cut(image: UInt8[np.ndarray, "H W 3"], crop: Crop, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The crop of a frame, resized to `size` x `size`; beyond the frame, border pixels are repeated."""
    height, width = image.shape[:2]
    left, top = max(0, -crop.x), max(0, -crop.y)
    right, bottom = max(0, crop.x + crop.side - width), max(0, crop.y + crop.side - height)
    if left or top or right or bottom:
        image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REPLICATE)
    patch = image[crop.y + top : crop.y + top + crop.side, crop.x + left : crop.x + left + crop.side]
    return np.ascontiguousarray(resize(patch, size, size))


def to_crop(points: Float[np.ndarray, "*F 68 2"], crop: Crop, size: int) -> Float[np.ndarray, "*F 68 2"]:
    """Landmarks of the source frame as pixels of the stored picture (pixel centres are whole numbers in both).

    >>> to_crop(np.full((68, 2), 31.5), Crop(x=0, y=0, side=64), 256)[0].tolist()  # the middle stays the middle
    [127.5, 127.5]
    """
    return rescale_points(points - np.array([crop.x, crop.y]), size / crop.side)
