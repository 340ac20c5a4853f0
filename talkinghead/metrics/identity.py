"""CSIM: cosine similarity of a face recogniser's embeddings of output and target (arXiv 1905.08233, Sec. 4)."""

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from talkinghead.faces.detectors import dlib_files
from talkinghead.images import rescale_points
from talkinghead.pixels import as_pictures
from talkinghead.pretrained import locate_for

# Places of both eyes, the tip of the nose and both corners of the mouth in ArcFace's pictures of 112 px.
ARCFACE_SIZE = 112
ARCFACE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)], np.float32
)
DLIB_SIZE, DLIB_PADDING = 150, 0.25  # of the pictures on which dlib's network was trained

_logger = logging.getLogger(__name__)


@runtime_checkable
class Recognizer(Protocol):
    """Embeddings of the faces in RGB pictures, whose 68 landmarks are given in pixels."""

    def __call__(
        self, images: UInt8[np.ndarray, "B H W 3"], points: Float[np.ndarray, "B 68 2"]
    ) -> Float[np.ndarray, "B D"]: ...


class IdentitySimilarity:
    """cos(R(x_hat), R(x)) of each pair, 1 where the recogniser R sees the same face; NaN where x_hat is not finite.

    Both pictures are aligned by the target's landmarks, not by detected ones, so every output counts: one without a
    face scores low instead of being left out. The embeddings of the last real batch are cached, because each method and
    shot count is compared with the same targets.

    Args:
        every: compare only every n-th image of a batch, where recognition is slow
    """

    def __init__(self, recognizer: Recognizer, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.recognizer = recognizer
        self.every = every
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # x, points, embeddings

    def __call__(
        self, x_hat: Float[Tensor, "B 3 H W"], x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]
    ) -> Float[Tensor, " b"]:
        """Similarities of images in [-1, 1]; `points`: the target's landmarks in pixels of them."""
        x_hat, x, points = (part[:: self.every] for part in (x_hat, x, points))
        similarity = torch.nn.functional.cosine_similarity(self._embed(x_hat, points), self._embed_real(x, points))
        return similarity.to(x.device).where(x_hat.isfinite().flatten(1).all(dim=1), torch.nan)

    def _embed(self, x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]) -> Float[Tensor, "B D"]:
        embeddings = self.recognizer(as_pictures(x), points.float().cpu().numpy())
        return torch.from_numpy(embeddings).float()

    def _embed_real(self, x: Float[Tensor, "B 3 H W"], points: Float[Tensor, "B 68 2"]) -> Float[Tensor, "B D"]:
        if self._last is None or not (same(self._last[0], x) and same(self._last[1], points)):
            self._last = x.clone(), points.clone(), self._embed(x, points)
        return self._last[2]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal and on the same device."""
    return a.device == b.device and torch.equal(a, b)


class ArcFace:
    """ArcFace (arXiv 1801.07698) as an ONNX session: RGB pictures of 112 px, (x - 127.5) / 127.5 -> 512 numbers."""

    def __init__(self, session: Any) -> None:
        self.session = session
        (self.input,) = (one.name for one in session.get_inputs())
        self.one_by_one = session.get_inputs()[0].shape[0] == 1  # so are some files; in others the size has a name

    def __call__(
        self, images: UInt8[np.ndarray, "B H W 3"], points: Float[np.ndarray, "B 68 2"]
    ) -> Float[np.ndarray, "B D"]:
        aligned = np.stack([align(image, face) for image, face in zip(images, points, strict=True)])
        batch = (aligned.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
        parts = np.split(batch, len(batch)) if self.one_by_one else [batch]
        return np.concatenate([self.session.run(None, {self.input: part})[0] for part in parts]).astype(np.float32)


def align(image: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "68 2"]) -> UInt8[np.ndarray, "112 112 3"]:
    """Rotate, scale and shift the face to ArcFace's five points; black beyond the picture."""
    matrix = similarity_transform(five_points(points), ARCFACE_POINTS)
    return cv2.warpAffine(image, matrix, (ARCFACE_SIZE, ARCFACE_SIZE), flags=cv2.INTER_LINEAR)


def five_points(points: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "5 2"]:
    """Both eyes (mean of six points each), tip of the nose, corners of the mouth; the picture's left ones first."""
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def similarity_transform(
    source: Float[np.ndarray, "P 2"], target: Float[np.ndarray, "P 2"]
) -> Float[np.ndarray, "2 3"]:
    """Rotation, scale and shift that map `source` to `target` with the least squared error, as a 2 x 3 matrix.

    With points as complex numbers p and q around their means, q = a p has the solution a = sum(conj(p) q) / sum(|p|^2).

    >>> square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    >>> similarity_transform(square, 2 * square + [5, 7]).tolist()  # twice as large, moved by (5, 7)
    [[2.0, -0.0, 5.0], [0.0, 2.0, 7.0]]
    """
    p, q = (points.astype(np.float64) @ (1, 1j) for points in (source, target))
    a = np.vdot(p - p.mean(), q - q.mean()) / max(float(np.vdot(p - p.mean(), p - p.mean()).real), 1e-12)
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


class DlibIdentity:
    """dlib's face recognition network, 128 numbers, from the `offline` extra. Trained for Euclidean distance.

    Pictures below `size` pixels are enlarged first, because dlib rounds landmarks to whole pixels.
    """

    def __init__(self, size: int = 256) -> None:
        self.dlib, models = dlib_files()
        self.size = size
        self.network = self.dlib.face_recognition_model_v1(models.face_recognition_model_location())

    def __call__(
        self, images: UInt8[np.ndarray, "B H W 3"], points: Float[np.ndarray, "B 68 2"]
    ) -> Float[np.ndarray, "B D"]:
        chips = [self._align(image, face) for image, face in zip(images, points, strict=True)]
        return np.array([np.array(vector) for vector in self.network.compute_face_descriptor(chips)], np.float32)

    def _align(
        self, image: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "68 2"]
    ) -> UInt8[np.ndarray, "150 150 3"]:
        scale = max(1.0, self.size / max(image.shape[:2]))
        if scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        pixels = np.round(rescale_points(points, scale)).astype(int).tolist()
        height, width = image.shape[:2]
        parts = [self.dlib.point(x, y) for x, y in pixels]
        face = self.dlib.full_object_detection(self.dlib.rectangle(0, 0, width - 1, height - 1), parts)
        return self.dlib.get_face_chip(np.ascontiguousarray(image), face, DLIB_SIZE, DLIB_PADDING)


def find_arcface(path: str | None = None, threads: int = 0, every: int = 1) -> IdentitySimilarity | None:
    """`csim` where ArcFace's file is found: `path`, the weights folder, torch's hub cache, ~/.insightface; else None.

    Needs onnxruntime (the extra `arcface`); without it None and one notice, or ImportError where `path` is given.

    Args:
        path: an ONNX file that takes RGB pictures of 112 px as (x - 127.5) / 127.5, as InsightFace's do
        threads: of the CPU; 0: as many as torch uses
    """
    file = locate_for("csim", "arcface", path)
    if file is None:
        return None
    if importlib.util.find_spec("onnxruntime") is None:
        if path is not None:
            raise ImportError("an ArcFace file needs onnxruntime: pip install 'talkinghead[arcface]'")
        _notice("no csim: %s is there, onnxruntime is not; pip install 'talkinghead[arcface]'", str(file))
        return None
    return IdentitySimilarity(_load_arcface(file, threads or torch.get_num_threads()), every)


@cache
def _load_arcface(file: Path, threads: int) -> ArcFace:
    import onnxruntime  # noqa: PLC0415 (an extra)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    shape = session.get_inputs()[0].shape
    if list(shape[1:]) != [3, ARCFACE_SIZE, ARCFACE_SIZE]:
        raise ValueError(f"{file} wants input {shape}, ArcFace has [batch, 3, {ARCFACE_SIZE}, {ARCFACE_SIZE}]")
    return ArcFace(session)


@cache
def find_dlib_identity(every: int = 1) -> IdentitySimilarity | None:
    """`csim_dlib` where dlib is installed, else None and one notice."""
    if importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None:
        _notice("no csim_dlib without dlib; to have it: pip install 'talkinghead[offline]'")
        return None
    return IdentitySimilarity(DlibIdentity(), every)


@cache
def _notice(message: str, *arguments: str) -> None:
    _logger.warning(message, *arguments)
