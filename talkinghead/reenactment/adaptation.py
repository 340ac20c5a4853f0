"""Landmark adaptation: the driver's pose and expression on the source's face shape.

The face model (face_model.py) is fitted to both (fitting.py), which separates identity from pose and expression; then
the source's identity gets the driver's motion. docs/adaptation.md has the maths and measurements.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.spatial.transform import Rotation

from talkinghead.reenactment.face_model import FaceModel, load_face_model
from talkinghead.reenactment.fitting import Fit, fit_clip, project, shapes

Mode = Literal["relative", "absolute", "raw"]
MODES: tuple[Mode, ...] = get_args(Mode)

RIDGE = 0.1  # regularisation of the source's own offsets: more shrinks what few views show
FEW = 5  # with more source frames, their place counts more than the crop rule's
OPEN = 0.85  # of the median opening of the eyes: less is a blink
UPPER_LID = 0.8  # its share of the movement in a blink
# Detectors see shut eyes half open. As shares of a clip's median opening, measured with dlib on blinks of synthetic and
# real people: at SHUT the lids touch, above AJAR the opening is right; a squint stays above BLINK.
SHUT, BLINK, AJAR = 0.62, 0.68, 0.85
# How far the head may go from the source frame: unchanged up to the first number, never beyond the second.
TURN = (np.deg2rad(15), np.deg2rad(28))
SHIFT = (0.25, 0.5)  # in units of the face model: the r.m.s. distance of the landmarks from their mean
# Upper and lower points of eyelids and inner lips, which touch but never cross.
LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])
EYES = (LIDS[:2], LIDS[2:4])


class Face(NamedTuple):
    """A person's fit, and constant offsets `own` of the landmarks that the model does not explain, in head axes."""

    model: FaceModel
    fit: Fit
    own: Float[np.ndarray, "68 3"]

    def draw(self, fit: Fit) -> Float[np.ndarray, "F 68 2"]:
        """The landmarks of this person with the pose and expression of `fit`, pixels."""
        return project(fit, shapes(self.model, fit) + self.own)


def adapt(
    driver: Float[np.ndarray, "F 68 2"], source: Float[np.ndarray, "*T 68 2"], mode: Mode = "relative", *,
    reference: int | None = None, anchor: int | None = None, middle: Float[np.ndarray, " 2"] | None = None,
    blinks: bool = False, limits: bool = False, model: FaceModel | None = None,
) -> Float[np.ndarray, "F 68 2"]:  # fmt: skip
    """Landmarks with the driver's motion and the source's face shape, in pixels of the source's crop.

    `mode` is one of:

    - absolute: the driver's pose and expression
    - relative: the source's own pose and expression plus the driver's changes since its frame `reference`
    - raw: the driver's points, unchanged (paper)

    Args:
        driver: landmarks of the driving frames
        source: landmarks of one frame or T frames of the person, from crops of the same framing
        reference: of mode relative; None: the frame most similar to the source frame in pose and expression
        anchor: the source frame that is shown: mode relative starts at its place and size, mode absolute has them on
            average over the clip. None: place and size are on average those of all source frames; mode relative
            starts from the source frame that is most similar to some driving frame
        middle: where the crop rule puts the middle of a clip's landmarks, pixels; it is trusted more than a few source
            frames. None: only the source frames count
        blinks: shut the eyes in blinks, where a detector sees them half open; False: for exact landmarks
        limits: in mode relative, keep the head as near to the source frame as one picture can show
        model: the face model; None: the one that ships

    Raises:
        ValueError: for landmarks that are not a face, and for frame numbers out of range.
    """
    source = source.reshape(-1, 68, 2)
    check(driver, source, mode, reference, anchor)
    if mode == "raw":
        return driver.copy()
    model = model or load_face_model()
    person, mover = face_of(model, source), fit_clip(model, driver)
    as_driver = replace(mover, identity=person.fit.identity, perspective=person.fit.perspective)
    shown = slice(None) if anchor is None else [anchor]
    size, place = float(np.median(person.fit.scale[shown])), usual_place(source[shown], middle)
    if mode == "absolute":
        moved = framed(person, as_driver, size, place)
        return uncrossed(blinking(moved, driver) if blinks else moved)
    shot, start = most_alike(person, as_driver, reference, anchor)
    own = since(as_driver, person.fit, shot, start)
    if limits:
        own = limited(own, person.fit.take([shot]))
    adapted = framed(person, own, size, place) if anchor is None else person.draw(own)
    closed = closing(adapted, standing(person, as_driver), own.scale, start)
    return uncrossed(blinking(closed, driver) if blinks else closed)


def check(
    driver: Float[np.ndarray, "F 68 2"], source: Float[np.ndarray, "T 68 2"], mode: str, reference: int | None,
    anchor: int | None,
) -> None:  # fmt: skip
    """Raise ValueError for an unknown mode, landmarks that are not a face, or frame numbers out of range."""
    if mode not in MODES:
        raise ValueError(f"adapt={mode}: choose {', '.join(MODES)}")
    for name, points in (("driver", driver), ("source", source)):
        if not len(points):
            raise ValueError(f"the {name} has no frames with landmarks")
        bad = np.flatnonzero(~np.isfinite(points).all((1, 2)) | (np.ptp(points, 1).min(-1) < 1e-3))
        if len(bad):
            raise ValueError(f"frame {bad[0]} of the {name} has no face: its landmarks are not finite, or one point")
    for name, number, count in (("reference", reference, len(driver)), ("anchor", anchor, len(source))):
        if number is not None and not 0 <= number < count:
            raise ValueError(f"{name}={number}: there are frames 0 to {count - 1}")


def face_of(model: FaceModel, points: Float[np.ndarray, "T 68 2"]) -> Face:
    """Fit the person of these frames.

    The common part of the residuals of all frames is taken for a small offset of each point in space, by ridge
    regression: one view determines its components in the image plane, several views all three.
    """
    fit = fit_clip(model, points)
    # Offset o of a point: R_xy o = residual in every frame, so (sum R_xy^T R_xy + ridge I) o = sum R_xy^T residual.
    left = (points - project(fit, shapes(model, fit))) / fit.scale[:, None, None]
    flat = fit.rotation[:, :2].astype(np.float64)
    normal = np.einsum("fij,fik->jk", flat, flat) + RIDGE * np.eye(3)
    own = np.linalg.solve(normal, np.einsum("fij,fni->jn", flat, left)).T
    return Face(model, fit, own.astype(np.float32))


def most_alike(person: Face, moving: Fit, reference: int | None, anchor: int | None) -> tuple[int, int]:
    """The source frame and the driving frame most similar in pose and expression, unless they are given.

    Both are drawn with the source's shape at one place and size, so that only pose and expression are compared. Blinks
    are excluded.
    """
    shots = [anchor] if anchor is not None else list(range(len(person.fit)))
    frames = [reference] if reference is not None else list(range(len(moving)))
    still, moved = (standing(person, fit) for fit in (person.fit.take(shots), moving.take(frames)))
    distances = np.stack([np.linalg.norm(moved - one, axis=-1).mean(-1) for one in still])
    open_eyes = np.linalg.norm(moved[:, LIDS[:4, 1]] - moved[:, LIDS[:4, 0]], axis=-1).mean(1)
    distances[:, open_eyes < OPEN * np.median(open_eyes)] = np.inf
    shot, frame = np.unravel_index(int(distances.argmin()), distances.shape)
    return shots[shot], frames[frame]


def standing(person: Face, fit: Fit) -> Float[np.ndarray, "F 68 2"]:
    """The landmarks with place 0 and scale 1: pose and expression alone."""
    return person.draw(replace(fit, place=np.zeros_like(fit.place), scale=np.ones_like(fit.scale)))


def since(moving: Fit, own: Fit, shot: int, start: int) -> Fit:
    """The driver's changes since frame `start`, applied to the person's frame `shot`: R_d(t) R_d(start)^T R_own, …"""
    ratio = own.scale[shot] / moving.scale[start]
    return replace(
        moving,
        rotation=moving.rotation @ (moving.rotation[start].T @ own.rotation[shot]),
        expression=own.expression[shot] + moving.expression - moving.expression[start],
        scale=moving.scale * ratio,
        place=own.place[shot] + (moving.place - moving.place[start]) * ratio,
    )


def limited(moving: Fit, still: Fit) -> Fit:
    """The motion, kept near a frame: unchanged up to TURN[0] and SHIFT[0], never beyond TURN[1] and SHIFT[1].

    A single picture shows neither the side of the head nor the background behind it; the further the head moves, the
    more has to be invented.
    """
    turns = Rotation.from_matrix(moving.rotation @ still.rotation[0].T).as_rotvec()
    shifts = (moving.place - still.place) / still.scale
    turns, shifts = softly(turns, *TURN), softly(shifts, *SHIFT)
    return replace(
        moving,
        rotation=(Rotation.from_rotvec(turns).as_matrix() @ still.rotation[0]).astype(np.float32),
        place=(still.place + shifts * still.scale).astype(np.float32),
    )


def softly(vectors: Float[np.ndarray, "F D"], free: float, most: float) -> Float[np.ndarray, "F D"]:
    """Vectors shorter than `free` unchanged; the length of longer ones approaches `most` as tanh does."""
    length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    beyond = np.maximum(length - free, 0)
    return vectors * (np.minimum(length, free) + (most - free) * np.tanh(beyond / (most - free))) / length


def closing(
    points: Float[np.ndarray, "F 68 2"], absolute: Float[np.ndarray, "F 68 2"], scale: Float[np.ndarray, " F"],
    start: int,
) -> Float[np.ndarray, "F 68 2"]:  # fmt: skip
    """Relative landmarks whose eyes close as far as the driver's; the plain sum leaves wide eyes open in a blink.

    The opening of an eye is at most that in frame `start` times the ratio of the driver's opening to its opening then.
    """
    shares = []
    for pairs in EYES:
        opening, drivers = opening_of(points, pairs) / scale, opening_of(absolute, pairs)
        most = opening[start] * np.minimum(1, drivers / max(drivers[start], 1e-6))
        shares.append(np.minimum(1, most / np.maximum(opening, 1e-6)))
    return with_lids(points, shares)


def blinking(points: Float[np.ndarray, "F 68 2"], driver: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, "F 68 2"]:
    """Shut the eyes where the driver's are shut, although a detector sees them half open.

    Both eyes together count: people blink with both, and one alone that seems to shut is mostly the detector's error.
    """
    eyes = np.linalg.norm(driver[:, 36] - driver[:, 45], axis=-1)
    share = shut(sum(opening_of(driver, pairs) for pairs in EYES) / eyes)
    return with_lids(points, [share, share])


def shut(opening: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
    """True share of each detected opening, relative to the clip's median: 0 at SHUT of the median and below.

    Only blinks are changed: stretches of frames below AJAR in which some frame is below BLINK.
    """
    share = np.maximum(opening / max(float(np.median(opening)), 1e-6), 1e-6)
    low = share < AJAR
    stretch = np.cumsum(np.diff(low, prepend=False))  # odd values number the stretches of low frames
    blink = low & np.isin(stretch, stretch[low & (share < BLINK)])
    return np.where(blink, AJAR * np.maximum(0, (share - SHUT) / (AJAR - SHUT)) / share, 1.0)


def opening_of(points: Float[np.ndarray, "F 68 2"], pairs: Int[np.ndarray, "P 2"]) -> Float[np.ndarray, " F"]:
    """Mean distance between the upper and lower points of an eye, pixels."""
    return np.linalg.norm(points[:, pairs[:, 1]] - points[:, pairs[:, 0]], axis=-1).mean(1)


def with_lids(
    points: Float[np.ndarray, "F 68 2"], shares: Sequence[Float[np.ndarray, " F"]]
) -> Float[np.ndarray, "F 68 2"]:
    """Scale the opening of each eye by its share, 0 … 1; the upper lid moves more than the lower."""
    moved = points.copy()
    for pairs, share in zip(EYES, shares, strict=True):
        upper, lower = pairs.T
        excess = (1 - share)[:, None, None] * (points[:, lower] - points[:, upper])
        moved[:, upper] += UPPER_LID * excess
        moved[:, lower] -= (1 - UPPER_LID) * excess
    return moved


def framed(person: Face, moving: Fit, size: float, place: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "F 68 2"]:
    """Landmarks of the motion, scaled to that median size and centred on that place."""
    ratio = size / float(np.median(moving.scale))
    adapted = person.draw(replace(moving, scale=moving.scale * ratio, place=moving.place * ratio))
    return adapted + (place - centre(adapted)).astype(np.float32)


def usual_place(source: Float[np.ndarray, "T 68 2"], middle: Float[np.ndarray, " 2"] | None) -> Float[np.ndarray, " 2"]:
    """Average place of the face: a mean of the source frames and the crop rule's middle, weighted by their number."""
    place = centre(source)
    return place if middle is None else middle + (place - middle) * len(source) / (len(source) + FEW)


def centre(points: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, " 2"]:
    """Centre of the landmarks' bounding box, averaged over the frames."""
    return ((points.min(1) + points.max(1)) / 2).mean(0)


def as_complex(points: Float[np.ndarray, "*F 68 2"]) -> Complex[np.ndarray, "*F 68"]:
    """x + iy, so that a rotation with scaling is one multiplication."""
    return points[..., 0] + 1j * points[..., 1]


def uncrossed(points: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, "F 68 2"]:
    """Move eyelids and lips that have crossed to their midpoint."""
    z = as_complex(points)
    across = z[:, 45] - z[:, 36]
    down = (1j * across / np.maximum(np.abs(across), 1e-9))[:, None]  # unit vector from the eyes to the mouth
    upper, lower = z[:, LIDS[:, 0]], z[:, LIDS[:, 1]]
    excess = np.minimum(0, ((lower - upper) * down.conj()).real) * down / 2  # half the negative part along `down`
    z[:, LIDS[:, 0]], z[:, LIDS[:, 1]] = upper + excess, lower - excess
    return np.stack([z.real, z.imag], -1)
