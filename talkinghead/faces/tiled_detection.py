"""Small faces in large pictures: detectors shrink a picture first, so overlapping tiles are searched too."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.faces.detectors import Detector, WrappedDetector
from talkinghead.video.reader import spread

LEAST = 320  # smallest side of a tile, pixels; UpscalingDetector takes care of smaller pictures
PARTS = 3  # tiles along the longer side, if they did not overlap
STEP = 0.7  # between tiles, in their sides: a face of up to 0.3 sides is whole in one of them
ROOM = 2.0  # face sides around a found face that are searched in the next picture
SAMPLE = 8  # frames by which a video is judged to need tiles

Image = UInt8[np.ndarray, "_ _ 3"]
Window = tuple[int, int, int, int]  # left, top, right, bottom


class TiledDetector(WrappedDetector):
    """A `Detector` that searches tiles of a picture in which it finds no face as a whole.

    After finding faces in tiles, it first searches their surroundings in the next picture.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        self._near: list[Window] = []

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """As the detector's, in pixels of the picture."""
        height, width = image.shape[:2]
        found = self._search(image, self._near) if self._near else self.detector.boxes(image)
        if not len(found):
            found = self._search(image, tiles(width, height))
            self._near = [around(box, width, height) for box in found]
        return found

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """As the detector's, in pixels of the picture."""
        left, top, right, bottom = around(box, image.shape[1], image.shape[0])
        corner = np.array([left, top])
        part = np.ascontiguousarray(image[top:bottom, left:right])
        return self.detector.landmarks(part, box - np.tile(corner, 2)) + corner

    def _search(self, image: UInt8[np.ndarray, "H W 3"], windows: Iterable[Window]) -> Float[np.ndarray, "N 4"]:
        found: list[Float[np.ndarray, " 4"]] = []
        for left, top, right, bottom in windows:
            boxes = self.detector.boxes(np.ascontiguousarray(image[top:bottom, left:right]))
            found += list(boxes + np.array([left, top, left, top]))
        distinct: list[Float[np.ndarray, " 4"]] = []
        for box in sorted(found, key=lambda one: one[0] - one[2]):  # the largest first: cut-off duplicates are smaller
            if not any(covered(box, other) for other in distinct):
                distinct.append(box)
        return np.array(distinct, float).reshape(-1, 4)


def closer(
    read: Callable[[Sequence[int]], Iterable[tuple[int, Image]]], num_frames: int, detector: Detector
) -> Detector:
    """The detector itself or, if only tiles show faces in a sample of frames, a `TiledDetector` around it.

    Args:
        read: yields (number, picture) for ascending numbers
    """
    numbers = spread(num_frames, SAMPLE)
    if any(len(detector.boxes(image)) for _, image in read(numbers)):
        return detector
    tiled = TiledDetector(detector)
    return tiled if any(len(tiled.boxes(image)) for _, image in read(numbers)) else detector


def tiles(width: int, height: int) -> list[Window]:
    """Overlapping squares that cover a picture; none for a small one."""
    side = max(LEAST, ceil(max(width, height) / PARTS))
    if side >= max(width, height):
        return []
    return [
        (left, top, min(width, left + side), min(height, top + side))
        for top in starts(height, side)
        for left in starts(width, side)
    ]


def starts(length: int, side: int) -> list[int]:
    """First pixels of the tiles along a side."""
    count = 1 + max(0, ceil((length - side) / (STEP * side)))
    return np.linspace(0, max(0, length - side), count).round().astype(int).tolist()


def around(box: Float[np.ndarray, " 4"], width: int, height: int) -> Window:
    """The surroundings of a face box, clipped to the picture."""
    room = ROOM * float((box[2:] - box[:2]).max())
    left, top = np.floor(np.maximum(box[:2] - room, 0)).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(box[2:] + room, [width, height])).astype(int).tolist()
    return left, top, right, bottom


def covered(box: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"]) -> bool:
    """Whether at least half of `box` is inside `other`."""
    inner = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None).prod()
    return bool(inner > 0.5 * (box[2:] - box[:2]).prod())
