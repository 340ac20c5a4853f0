"""Augmentation towards photographs and paintings: faults of a camera, brush strokes, errors of a landmark detector.

Properties of the picture or its camera are drawn once per episode, for all its frames; only the grain of the sensor and
the errors of the landmarks differ from frame to frame. What is drawn is a pure function of the episode's seed.
"""

from typing import final

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from talkinghead.faces.landmark_image import interocular

Images = UInt8[np.ndarray, "N H W 3"]
PARTS = ((0, 17), (17, 22), (22, 27), (27, 36), (36, 42), (42, 48), (48, 68))  # of the 68 points: jaw, brows, …, lips
GREY, SEPIA = np.array([0.30, 0.59, 0.11], np.float32), np.array([1.06, 0.98, 0.85], np.float32)
FULL_SIZE = 256  # side of the pictures, pixels, for which lengths in this file are given


@final
class Augmentation:
    """Changes the pictures and landmarks of an episode. Arguments are shares of episodes, in [0, 1], or strengths.

    Args:
        colours: exposure, contrast, saturation, colour cast; some of them black and white or sepia
        soft: out of focus, or sharpened
        grain: sensor noise
        jpeg: artefacts of strong compression
        painted: brush strokes, canvas and a yellowed varnish
        landmarks: standard deviation of the error of each landmark, and of each part of the face as a whole, in eye
            distances; it makes the exact points of rendered heads as inexact as a detector's
    """

    def __init__(
        self, colours: float = 1.0, soft: float = 0.35, grain: float = 0.3, jpeg: float = 0.3, painted: float = 0.25,
        landmarks: float = 0.006,
    ) -> None:  # fmt: skip
        shares = {"colours": colours, "soft": soft, "grain": grain, "jpeg": jpeg, "painted": painted}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"data.augmentation.{name}={share}: it is a share of the episodes, 0 … 1")
        if not 0 <= landmarks <= 0.1:
            raise ValueError(f"data.augmentation.landmarks={landmarks}: it is in eye distances, 0 … 0.1")
        self.shares, self.landmarks = shares, landmarks

    def points(self, points: Float[np.ndarray, "F 68 2"], seed: tuple[int, ...]) -> Float[np.ndarray, "F 68 2"]:
        """The points of a clip's frames plus random detection errors, pixels."""
        if not self.landmarks:
            return points
        rng = np.random.default_rng([*seed, 1])
        eye = self.landmarks * interocular(points)[:, None, None]
        found = points + rng.normal(0, 1, points.shape) * eye
        for first, last in PARTS:  # the outline of the jaw is known least well
            found[:, first:last] += rng.normal(0, 1 if first else 2, (len(points), 1, 2)) * eye
        return found.astype(np.float32)

    def images(self, images: Images, seed: tuple[int, ...]) -> Images:
        """The frames of one episode, all changed in the same way."""
        rng = np.random.default_rng([*seed, 2])
        chosen = {name: bool(rng.uniform() < share) for name, share in self.shares.items()}
        scale = images.shape[1] / FULL_SIZE
        if chosen["painted"]:
            images = paint(images, rng, scale)
        if chosen["colours"]:
            images = recolour(images, rng)
        if chosen["soft"]:
            images = refocus(images, rng, scale)
        if chosen["grain"]:
            images = add_grain(images, rng)
        if chosen["jpeg"]:
            quality = int(rng.integers(25, 75))
            images = np.stack([compress(image, quality) for image in images])
        return images


def recolour(images: Images, rng: np.random.Generator) -> Images:
    """Exposure, contrast and cast as one curve per channel; saturation, black and white, sepia as a mix of channels."""
    saturation = rng.uniform(0.5, 1.4) * (rng.uniform() >= 0.12)  # one in eight is black and white
    mix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * GREY
    if rng.uniform() < 0.1:
        mix = SEPIA[:, None] * mix
    gamma, contrast, brightness = np.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0.75, 1.3), rng.uniform(-0.08, 0.08)
    cast, middle = rng.uniform(0.85, 1.15, 3), float(images.mean()) / 255
    levels = np.linspace(0, 1, 256)[:, None] ** gamma * cast
    curve = np.clip((levels - middle) * contrast + middle + brightness, 0, 1) * 255
    table = np.rint(curve).astype(np.uint8)[None]
    return np.stack([cv2.transform(cv2.LUT(image, table), mix) for image in images])


def refocus(images: Images, rng: np.random.Generator, scale: float) -> Images:
    """Blur by up to two pixels of 256, or sharpen."""
    amount = rng.uniform(-0.8, 1.0)
    sigma = float(max(0.3, (0.9 if amount < 0 else 2.0 * amount) * scale))
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for image in images]
    if amount > 0:
        return np.stack(blurred)
    return np.stack([cv2.addWeighted(i, 1 - amount, b, amount, 0) for i, b in zip(images, blurred, strict=True)])


def add_grain(images: Images, rng: np.random.Generator) -> Images:
    """Noise of 1 to 6 % of white, new in every frame; grey as film's, or coloured as a sensor's."""
    strength, channels = rng.uniform(2.5, 15.0), int(rng.choice([1, 3]))
    tile = (rng.standard_normal((*images.shape[1:3], channels), np.float32) * strength).astype(np.int16)
    noisy = []
    for image in images:  # one tile, shifted and mirrored, is as good as new noise and ten times as fast
        moved = np.roll(tile, rng.integers(0, len(tile), 2), (0, 1))[:: rng.choice([-1, 1])]
        noisy.append(np.clip(image + moved, 0, 255).astype(np.uint8))
    return np.stack(noisy)


def compress(image: UInt8[np.ndarray, "H W 3"], quality: int) -> UInt8[np.ndarray, "H W 3"]:
    """The picture after JPEG compression of this quality, 1 … 100."""
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace="RGB")
    return simplejpeg.decode_jpeg(jpeg)


def paint(images: Images, rng: np.random.Generator, scale: float) -> Images:
    """Dabs of one colour with sharp borders (Kuwahara's filter), relief of canvas and strokes, a yellowed varnish."""
    radius = max(1, round(rng.uniform(0.6, 2.5) * scale))
    size = images.shape[1]
    grain = rng.standard_normal((size, size), np.float32)
    along = (1, int(rng.integers(3, 14))) if rng.uniform() < 0.5 else (int(rng.integers(3, 14)), 1)
    strokes = cv2.blur(grain, along) * np.sqrt(along[0] * along[1]) * rng.uniform(0, 9)
    threads = [np.sin(np.arange(size) * rng.uniform(1.2, 2.2)) for _ in range(2)]
    weave = np.add.outer(*threads)
    relief = (strokes + weave * rng.uniform(0, 5)).astype(np.int16)[..., None]
    varnish = np.array([1.0, rng.uniform(0.9, 1), rng.uniform(0.65, 1)], np.float32)
    tables = np.clip(np.arange(256)[:, None] * varnish, 0, 255).astype(np.uint8)[None]
    painted = [cv2.LUT(kuwahara(image, radius), tables) for image in images]
    return np.stack([np.clip(image + relief, 0, 255).astype(np.uint8) for image in painted])


def kuwahara(image: UInt8[np.ndarray, "H W 3"], radius: int) -> UInt8[np.ndarray, "H W 3"]:
    """Each pixel becomes the mean of that of the four squares at its corners which has the least variance of light."""
    side, around = 2 * radius + 1, 2 * radius
    wide = cv2.copyMakeBorder(image, around, around, around, around, cv2.BORDER_REFLECT_101)
    light = cv2.cvtColor(wide, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(wide, (side, side))
    spread = cv2.sqrBoxFilter(light, -1, (side, side)) - cv2.blur(light, (side, side)) ** 2
    height, width = image.shape[:2]
    best, least = np.empty_like(image), np.full((height, width), np.inf, np.float32)
    for row, column in ((radius, radius), (radius, 3 * radius), (3 * radius, radius), (3 * radius, 3 * radius)):
        here = (slice(row, row + height), slice(column, column + width))
        better = (spread[here] < least).astype(np.uint8)
        cv2.copyTo(np.ascontiguousarray(mean[here]), better, best)
        np.minimum(least, spread[here], out=least)
    return best
