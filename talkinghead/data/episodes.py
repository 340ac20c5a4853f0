"""From a stored clip to an episode: K shots and one target (arXiv 1905.08233, Sec. 3.2).

Images stay uint8, channels last in memory, until the batch is on its device (`as_float`): a quarter of the bytes is
copied between processes, and the result is in channels_last format for free.
"""

import math
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from talkinghead.data.reader import StoredClip, UnusableClip
from talkinghead.faces.landmark_image import draw_landmarks, mirror_points
from talkinghead.images import rescale_points, resize
from talkinghead.pixels import to_float
from talkinghead.types import Episode

_LARGEST = 4096  # pixels; longest side of a stored frame
_FARTHEST = 2 * _LARGEST  # pixels; frames with landmarks beyond are unusable


class Sample(NamedTuple):
    """One episode before batching: K shots, then the target."""

    images: UInt8[np.ndarray, "K+1 H W 3"]
    landmarks: UInt8[np.ndarray, "K+1 H W 3"]
    points: Float[np.ndarray, "K+1 68 2"]
    video_index: int
    key: str


def usable_frames(points: Float[np.ndarray, "F 68 2"], needed: int, where: str) -> Int[np.ndarray, " n"]:
    """Numbers of the frames with finite, plausible landmarks; UnusableClip where there are fewer than `needed`."""
    usable = np.flatnonzero((np.abs(points) <= _FARTHEST).all(axis=(1, 2)))  # also false for NaN
    if len(usable) == 0:
        raise UnusableClip("no landmarks", where)
    if len(usable) < needed:
        raise UnusableClip("too few usable frames", f"{where}: {len(usable)}, an episode needs {needed}")
    return usable


def choose_frames(num_frames: int, num_shots: int, seed: tuple[int, ...], count: int) -> list[int]:
    """K shots and the target (last), all distinct: choice number `count` of the random sequence started by `seed`.

    No two choices of a sequence have both the same target and the same set of shots until every possible one has been
    made.

    >>> [choose_frames(num_frames=4, num_shots=1, seed=(0, 7), count=visit) for visit in range(3)]
    [[0, 2], [0, 1], [3, 2]]
    """
    random = Random(repr(seed))
    possible = math.comb(num_frames, num_shots) * (num_frames - num_shots)
    seen: set[tuple[int, frozenset[int]]] = set()
    for _ in range(count % possible + 1):
        choice = random.sample(range(num_frames), num_shots + 1)
        while (choice[-1], frozenset(choice[:-1])) in seen:
            choice = random.sample(range(num_frames), num_shots + 1)
        seen.add((choice[-1], frozenset(choice[:-1])))
    return choice


def make_sample(
    clip: StoredClip, points: Float[np.ndarray, "F 68 2"], frames: list[int], size: int, flip: bool
) -> Sample:
    """Decode the chosen frames (target last), resize them with their landmarks, mirror all of them or none."""
    names = clip.index.frames
    clip.read_ahead([names[frame] for frame in frames] + ["json"])
    images = np.empty((len(frames), size, size, 3), np.uint8)
    landmarks = np.empty_like(images)
    scaled = np.empty((len(frames), 68, 2), np.float32)
    for n, frame in enumerate(frames):
        image, factor = decode(clip, names[frame], size)
        scaled[n] = rescale_points(points[frame], factor)
        images[n] = cv2.flip(image, 1) if flip else image
        scaled[n] = mirror_points(scaled[n], size) if flip else scaled[n]
        landmarks[n] = draw_landmarks(scaled[n], size)
    video_index = clip.meta().get("video_index")
    if not isinstance(video_index, int) or not -1 <= video_index < 1 << 31:
        raise UnusableClip("no video_index", f"clip {clip.key} of {clip.file}")
    return Sample(images, landmarks, scaled, video_index, clip.key)


def decode(clip: StoredClip, name: str, size: int) -> tuple[UInt8[np.ndarray, "size size 3"], float]:
    """One frame at `size` pixels, and the factor by which it was scaled. UnusableClip where it cannot be decoded."""
    jpeg = clip.read(name)
    where = f"frame {name} of clip {clip.key} of {clip.file}"
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        if height != width:
            raise UnusableClip("frame not square", f"{where}: {width}x{height}")
        if height > _LARGEST:  # checked before memory of that size is allocated
            raise UnusableClip("frame too large", f"{where}: {width}x{height}")
        image = simplejpeg.decode_jpeg(jpeg, min_height=size, min_width=size)
    except ValueError as error:
        raise UnusableClip("corrupt JPEG", f"{where} ({error})") from error
    if image.shape[0] != size:
        image = resize(image, size, size)
    return image, size / height


def is_decodable(clip: StoredClip, frame: int) -> bool:
    """Whether a frame can be decoded and is square."""
    try:
        decode(clip, clip.index.frames[frame], size=1)
    except UnusableClip:
        return False
    return True


def collate(samples: list[Sample]) -> Episode:
    """A batch of uint8 [B, K, 3, H, W], channels last in memory; `as_float` converts it for the networks."""

    def stack(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    return Episode(
        shots=stack([s.images[:-1] for s in samples]).movedim(-1, -3),
        shots_landmarks=stack([s.landmarks[:-1] for s in samples]).movedim(-1, -3),
        target=stack([s.images[-1] for s in samples]).movedim(-1, -3),
        target_landmarks=stack([s.landmarks[-1] for s in samples]).movedim(-1, -3),
        shots_points=stack([s.points[:-1] for s in samples]),
        target_points=stack([s.points[-1] for s in samples]),
        video_index=torch.tensor([s.video_index for s in samples]),
        key=[s.key for s in samples],
    )


def as_float(episode: Episode) -> Episode:
    """Convert uint8 images to [-1, 1]; float images are left unchanged."""

    def convert(image: Tensor) -> Tensor:
        return to_float(image) if image.dtype == torch.uint8 else image

    return episode._replace(
        shots=convert(episode.shots),
        shots_landmarks=convert(episode.shots_landmarks),
        target=convert(episode.target),
        target_landmarks=convert(episode.target_landmarks),
    )
