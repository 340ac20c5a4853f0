"""Finding the chosen face in a still, and tracking it through a video without keeping all frames in memory."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from talkinghead.faces.detectors import Detector, WrappedDetector
from talkinghead.faces.tiled_detection import TiledDetector
from talkinghead.faces.tracking import ChainInterpolator, Detection, best_chain, detect, plausible

Image = UInt8[np.ndarray, "_ _ 3"]
NO_FACE = (
    "no face found: the video has to show one that looks into the camera, best filling a third of the height; crop it "
    "to head and shoulders, or try detector.threshold=-0.8 (dlib) or detector=face_alignment"
)


class UpscalingDetector(WrappedDetector):
    """A `Detector` that enlarges small pictures first, because HOG finds no face below 80 px.

    Args:
        least: pictures with a shorter longest side are enlarged to about this, by an integer factor
    """

    def __init__(self, detector: Detector, least: int = 256) -> None:
        super().__init__(detector)
        self.least = least

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """As the detector's, in pixels of the picture."""
        factor = self.factor(image)
        return self.detector.boxes(enlarge(image, factor)) / factor

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """As the detector's, in pixels of the picture."""
        factor = self.factor(image)
        return (self.detector.landmarks(enlarge(image, factor), box * factor) + 0.5) / factor - 0.5

    def factor(self, image: UInt8[np.ndarray, "H W 3"]) -> int:
        """Integer factor by which the picture is enlarged."""
        return max(1, -(-self.least // max(image.shape[:2])))


def enlarge(image: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture enlarged `factor` times, bicubically."""
    if factor == 1:
        return image
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def find_face(image: UInt8[np.ndarray, "H W 3"], detector: Detector, face: int = 1) -> Float[np.ndarray, "68 2"]:
    """Landmarks of the largest face of a picture, or of the `face`-th largest.

    Where no face is found, the picture is searched again enlarged, and then in tiles.

    Raises:
        ValueError: where there are fewer faces.
    """
    found: list[Any] = []
    glasses = {
        glass.factor(image): glass for glass in (UpscalingDetector(detector, least) for least in (1024, 512, 256))
    }
    looks: list[Detector] = [*(glasses[factor] for factor in sorted(glasses)), TiledDetector(detector)]
    for glass in looks:
        found = sorted(glass.boxes(image), key=lambda box: box[0] - box[2])
        if len(found) >= face:
            points = glass.landmarks(image, found[face - 1])
            if plausible(points, found[face - 1]):
                return points
    if not found:
        height, width = image.shape[:2]
        raise ValueError(
            f"no face found in {width} x {height} pixels, nor in parts of them: use one in which the face looks into "
            "the camera, crop it to head and shoulders, or try detector=face_alignment"
        )
    raise ValueError(f"{len(found)} faces found, face={face} asked for; for small faces try detector.longest=1280")


class TrackedFace(NamedTuple):
    """One face through a video: landmarks in every frame, and whether each was detected or interpolated."""

    points: Float[np.ndarray, "F 68 2"]
    seen: Bool[np.ndarray, " F"]


def track_face(
    read: Callable[[Sequence[int]], Any], num_frames: int, detector: Detector, *, face: int = 1, every: int = 1,
    max_gap: int = 3, tick: Callable[[], None] = lambda: None,
) -> TrackedFace:  # fmt: skip
    """Track the face that is large for longest, or the `face`-th such.

    Frames without landmarks are interpolated between their neighbours.

    Args:
        read: yields (number, picture) for ascending numbers; called twice
        every: faces are detected in every n-th frame, landmarks in all
        max_gap: number of searched frames within which a lost face may reappear elsewhere; at its old place it may
            reappear at any time
        tick: called `num_frames` times in total

    Raises:
        ValueError: where there is no such face.
    """
    searched = sorted({*range(0, num_frames, every), num_frames - 1})
    between = ChainInterpolator(chosen_chain([*detect(read(searched), detector)], face, max_gap))
    known: dict[int, np.ndarray] = {}
    for n, points in between.landmarks(read(range(num_frames)), detector):
        tick()
        if points is not None:
            known[n] = points
    if not known:
        raise ValueError("a face is seen, but its landmarks are not: the picture is too blurred or too small")
    return interpolated(known, num_frames)


def chosen_chain(detections: Sequence[Sequence[Detection]], face: int, max_gap: int) -> list[Detection]:
    """The best chain of detections, or the `face`-th best, found after removing the better ones."""
    left = [list(faces) for faces in detections]
    for number in range(1, face + 1):
        chain = best_chain(left, max_gap)
        if not chain:
            raise ValueError(NO_FACE if number == 1 else f"{number - 1} faces found, face={face} asked for")
        taken = {id(detection) for detection in chain}
        left = [[detection for detection in faces if id(detection) not in taken] for faces in left]
    return chain


def interpolated(known: dict[int, np.ndarray], num_frames: int) -> TrackedFace:
    """Landmarks for all frames, linear in time between known ones, constant before the first and after the last."""
    numbers = sorted(known)
    values = np.stack([known[n] for n in numbers]).reshape(len(numbers), -1)
    rows = np.stack([np.interp(np.arange(num_frames), numbers, column) for column in values.T], -1)
    return TrackedFace(rows.reshape(num_frames, 68, 2), np.isin(np.arange(num_frames), numbers))
