"""Compact descriptors of frames and faces: to detect cuts, and to recognise a face that comes back."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.faces.crop import Crop, cut

SIDE = 16  # of thumbnails, pixels
ROOM = 1.5  # side of a patch in face boxes: hair and background tell more than skin alone
CUT_COLOURS, CUT_PIXELS = 0.3, 20.0  # a cut exceeds both; frames of one scene differ by at most 0.02 and 15
ALIKE = 0.4  # correlation from which two patches show the same face


class View(NamedTuple):
    """Descriptor of a whole picture: a thumbnail, and a histogram of colours."""

    thumbnail: UInt8[np.ndarray, "16 16 3"]
    colours: Float[np.ndarray, " 512"]  # square roots of shares


def view_of(image: UInt8[np.ndarray, "H W 3"]) -> View:
    """The descriptor of an RGB picture of any size."""
    small = cv2.resize(image, (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA)
    counts = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3).ravel()
    thumbnail = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return View(thumbnail, np.sqrt(counts / counts.sum()).astype(np.float32))


def is_cut(a: View, b: View) -> bool:
    """Whether two frames show different scenes. Movement changes pixels but not colours, lighting the reverse."""
    apart = 1 - float(a.colours @ b.colours)  # squared Hellinger distance
    return apart > CUT_COLOURS and float(cv2.absdiff(a.thumbnail, b.thumbnail).mean()) > CUT_PIXELS


def patch_of(image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> UInt8[np.ndarray, "16 16 3"]:
    """The face box (x0, y0, x1, y1; pixels) with surroundings, as thumbnail; border pixels are repeated."""
    side = max(2, round(float((box[2:] - box[:2]).mean()) * ROOM))
    left, top = np.round((box[:2] + box[2:]) / 2 - side / 2).astype(int).tolist()
    return cut(image, Crop(left, top, side), SIDE)


def likeness(a: UInt8[np.ndarray, "16 16 3"], b: UInt8[np.ndarray, "16 16 3"]) -> float:
    """Correlation of two patches: 1 where only brightness and contrast differ; 0 where one has a single colour."""
    a, b = (part.astype(np.float32).ravel() - part.mean() for part in (a, b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 1e-3 else 0.0
