"""An unseen synthetic head as a painting, and what it would look like if it moved as a driver does."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("experiments/paintings/paint.py")

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from talkinghead.provenance import OriginStatement, marked
from talkinghead.storage import write_atomic
from talkinghead.synthetic.motion import Motion
from talkinghead.synthetic.scene import Picture
from talkinghead.tools.render_examples import DRIVERS, motion_of, portrait, show, still

SITTER, SIZE = 22, 512
PAINTING = Path(__file__).with_name("painting.jpg")
VARNISH, GROUND = np.array([1.0, 0.90, 0.68]), np.array([0.05, 0.035, 0.0])


def painted(image: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
    """Brush strokes, fewer colours, yellowed varnish, canvas: the same canvas for every frame."""
    size = len(image)
    x = strokes(strokes(image.astype(np.float32), max(2, size // 110)), max(1, size // 170))
    x = np.clip(x + 0.35 * (x - cv2.GaussianBlur(x, (0, 0), size / 40)), 0, 255) / 255
    grey = x.mean(-1, keepdims=True)
    x = (grey + 0.8 * (x - grey)) ** 1.15 * VARNISH + GROUND
    return np.clip(x * canvas(size)[..., None] * 255, 0, 255).astype(np.uint8)


def strokes(x: Float[np.ndarray, "S S 3"], radius: int) -> Float[np.ndarray, "S S 3"]:
    """Kuwahara's filter: each pixel is the mean of that one of its four neighbourhoods which varies least."""
    side = (radius + 1, radius + 1)
    mean = cv2.boxFilter(x, -1, side, borderType=cv2.BORDER_REFLECT)
    variance = (cv2.boxFilter(x * x, -1, side, borderType=cv2.BORDER_REFLECT) - mean**2).sum(-1)
    shifts = [np.array([[1, 0, right], [0, 1, down]]) * 1.0 for right in (-0.5, 0.5) for down in (-0.5, 0.5)]
    for shift in shifts:
        shift[:, 2] *= radius
    means, variances = (
        np.stack([cv2.warpAffine(a, m, a.shape[1::-1], borderMode=cv2.BORDER_REFLECT) for m in shifts])
        for a in (mean, variance)
    )
    return np.take_along_axis(means, variances.argmin(0)[None, ..., None], 0)[0]


def canvas(size: int) -> Float[np.ndarray, "S S"]:
    """Light on the weave and on the ridges of the paint, darker towards the corners."""
    rows = np.arange(size)
    weave = 0.012 * np.add.outer(np.sin(2 * np.pi * rows / 3.7), np.sin(2 * np.pi * rows / 3.3))
    ridges = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(size, size)), (0, 0), size / 60, sigmaY=size / 300)
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    return (1 + weave + 0.02 * ridges / ridges.std()) * (1 - 0.55 * (x**2 + y**2))


def reference(driver: str) -> int:
    """The driver's frame that corresponds to the painting: the head held most as the sitter holds hers, face calm."""
    motion = motion_of(DRIVERS[driver])
    away = np.abs(motion.pose - still(SITTER).pose).sum(1) + 10 * motion.actions.sum(1)  # degrees
    return int(away.argmin())


def truth(driver: str, every: int = 1) -> Picture:
    """The sitter, moved from the painted pose as the driver moves from its reference frame; every n-th frame."""
    motion, start, n = motion_of(DRIVERS[driver]), still(SITTER), reference(driver)
    way = (part[::every] - part[n] for part in (motion.actions, motion.pose, motion.sway))
    actions, pose, sway = (a + b for a, b in zip((start.actions, start.pose, start.sway), way, strict=True))
    picture = show(SITTER, Motion(actions.clip(0, 1), pose, sway), SIZE, camera=portrait(SITTER, SIZE).camera)
    return Picture(np.stack([painted(frame) for frame in picture.frames]), picture.landmarks, picture.camera)


if __name__ == "__main__":
    content = simplejpeg.encode_jpeg(painted(portrait(SITTER, SIZE).frames[0]), quality=92, colorspace="RGB")
    write_atomic(PAINTING, marked(content, OriginStatement(about={"method": "rendered"}, learned=False)))
    print(PAINTING, {driver: reference(driver) for driver in DRIVERS})
