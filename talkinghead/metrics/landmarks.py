"""Landmark error: driving points against those detected on the output, divided by the inter-ocular distance."""

import functools
import importlib.util
import logging
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.faces.detectors import Dlib
from talkinghead.faces.landmark_image import interocular
from talkinghead.images import resize

_logger = logging.getLogger(__name__)


@runtime_checkable
class LandmarkDetector(Protocol):
    """Finds the 68 points of the largest face of an RGB picture, in its pixels; None where it sees no face."""

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "68 2"] | None: ...


class DlibLandmarks:
    """dlib's HOG face detector and 68-point predictor, from the `offline` extra; deterministic.

    The detector finds no face below 80 px, so every picture is first resized to `size` pixels and, where no face is
    found, to 1.5 times that.
    """

    def __init__(self, size: int = 256) -> None:
        self.size = size
        self._dlib = Dlib(longest=2 * size, threshold=0.0, jitters=1)
        self._dlib.check()

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "68 2"] | None:
        points = self._detect(image, self.size)
        return points if points is not None else self._detect(image, self.size * 3 // 2)

    def _detect(self, image: UInt8[np.ndarray, "H W 3"], size: int) -> Float[np.ndarray, "68 2"] | None:
        scale = size / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        resized = np.ascontiguousarray(resize(image, width, height))
        if not len(boxes := self._dlib.boxes(resized)):
            return None
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        points = self._dlib.landmarks(resized, largest).astype(np.float32)
        return (points + 0.5) / np.float32(scale) - 0.5


@functools.cache
def find_detector(size: int = 256) -> DlibLandmarks | None:
    """dlib's detector if it is installed, else None and one notice."""
    if importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None:
        _logger.warning("no landmark error (nme) without dlib; to have it: pip install 'talkinghead[offline]'")
        return None
    return DlibLandmarks(size)


def landmark_error(found: Float[np.ndarray, "68 2"], driver: Float[np.ndarray, "68 2"]) -> float:
    """nme = mean_n |found_n - driver_n| / |driver_36 - driver_45|, 0 is perfect.

    Raises:
        ValueError: where the driver's outer eye corners coincide.

    >>> driver = np.zeros((68, 2), np.float32)
    >>> driver[45, 0] = 50  # the outer eye corners are 50 px apart
    >>> landmark_error(driver + [3, 4], driver)  # every point is 5 px off
    0.1
    """
    apart = float(interocular(driver[None])[0])
    if not apart > 0:
        raise ValueError(f"the driver's outer eye corners are {apart} pixels apart: its landmarks are not a face")
    return float(np.linalg.norm(found - driver, axis=-1).mean()) / apart
