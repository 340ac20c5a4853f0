"""Another person's landmarks for this person: the driver's pose and expression on the source's shape.

The face model (facemodel.py) is laid on both (fitting.py), which parts who it is from what it does; then the source's
identity is moved as the driver. docs/adaptation.md has the maths and what it gains.
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

RIDGE = 0.1  # of the source's own offsets: how much of what only one view shows is left out
FEW = 5  # source frames from which on their place counts more than the crop rule's
OPEN = 0.85  # of the usual opening of the eyes: less is a blink
UPPER_LID = 0.8  # its share of a blink
# Detectors see a shut eye half open. As shares of a clip's usual opening, measured with dlib on blinks of synthetic and
# real people: at SHUT the lids touch, from AJAR on the opening is right; what stays above BLINK is a squint.
SHUT, BLINK, AJAR = 0.62, 0.68, 0.85
# How far the head may go from the source frame: unchanged up to the first number, never beyond the second.
TURN = (np.deg2rad(15), np.deg2rad(28))
SHIFT = (0.25, 0.5)  # in units of the face model: the r.m.s. distance of the landmarks from their mean
# Upper and lower points of eyelids and inner lips, which touch but never cross.
LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)])
EYES = (LIDS[:2], LIDS[2:4])


class Face(NamedTuple):
    """A person's fit, and what of the landmarks is the person's own and beyond the model, in the head's axes."""

    model: FaceModel
    fit: Fit
    own: Float[np.ndarray, "68 3"]

    def draw(self, fit: Fit) -> Float[np.ndarray, "F 68 2"]:
        """The landmarks of this person in other poses and expressions."""
        return project(fit, shapes(self.model, fit) + self.own)


def adapt(
    driver: Float[np.ndarray, "F 68 2"], source: Float[np.ndarray, "*T 68 2"], mode: Mode = "relative", *,
    reference: int | None = None, anchor: int | None = None, middle: Float[np.ndarray, " 2"] | None = None,
    blinks: bool = False, limits: bool = False, model: FaceModel | None = None,
) -> Float[np.ndarray, "F 68 2"]:  # fmt: skip
    """Landmarks that move as the driver's and belong to the source's face, in pixels of the source's crop.

    `mode` is one of:

    - absolute: pose and expression are the driver's
    - relative: the source's own pose and expression, changed as the driver's since its frame `reference`
    - raw: the driver's points as they are (the paper's way)

    Args:
        source: one frame, or T frames of the person, from crops alike
        reference: of mode relative; None: the frame most like the source frame in pose and expression
        anchor: the source frame that is shown: mode relative starts at its place and size, mode absolute is there on
            average over the clip. None: of mode relative the source frame that some driving frame is most like; on
            average over the clip the face is where it is in all source frames, and as large
        blinks: the driver's landmarks are a detector's, which sees shut eyes half open: they are shut
        limits: in mode relative the head turns and moves no further from the source frame than one picture can show
        middle: where the crop rule puts the middle of a clip's landmarks, pixels: it is trusted more than a few source
            frames. None: the source tells

    Raises:
        ValueError: for landmarks that are none, and for a frame that is not there.
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
    """Raise ValueError where this cannot go well."""
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
    """Who the person of these frames is.

    What the fits leave over in all frames alike is a small offset of each point in space, by ridge regression: one
    view tells its part along the picture, several all of it.
    """
    fit = fit_clip(model, points)
    left = (points - project(fit, shapes(model, fit))) / fit.scale[:, None, None]
    flat = fit.rotation[:, :2].astype(np.float64)
    normal = np.einsum("fij,fik->jk", flat, flat) + RIDGE * np.eye(3)
    own = np.linalg.solve(normal, np.einsum("fij,fni->jn", flat, left)).T
    return Face(model, fit, own.astype(np.float32))


def most_alike(person: Face, moving: Fit, reference: int | None, anchor: int | None) -> tuple[int, int]:
    """The source frame and the driving frame that are most alike in pose and expression, where they are not given.

    Both are drawn with the source's shape, at one place and size: nothing else is compared. A blink is no frame to
    start from.
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
    """The landmarks at one place and size."""
    return person.draw(replace(fit, place=np.zeros_like(fit.place), scale=np.ones_like(fit.scale)))


def since(moving: Fit, own: Fit, shot: int, start: int) -> Fit:
    """The motion since frame `start`, beginning as frame `shot` of the person's own."""
    ratio = own.scale[shot] / moving.scale[start]
    return replace(
        moving,
        rotation=moving.rotation @ (moving.rotation[start].T @ own.rotation[shot]),
        expression=own.expression[shot] + moving.expression - moving.expression[start],
        scale=moving.scale * ratio,
        place=own.place[shot] + (moving.place - moving.place[start]) * ratio,
    )


def limited(moving: Fit, still: Fit) -> Fit:
    """The motion, softly held near a frame: as it is up to TURN[0] and SHIFT[0], never beyond TURN[1] and SHIFT[1].

    What a single picture does not show, the side of the head and what was behind it, has to be made up, and more of
    it the further the head goes.
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
    """Vectors as they are where shorter than `free`; longer ones approach the length `most`."""
    length = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    beyond = np.maximum(length - free, 0)
    return vectors * (np.minimum(length, free) + (most - free) * np.tanh(beyond / (most - free))) / length


def closing(
    points: Float[np.ndarray, "F 68 2"], absolute: Float[np.ndarray, "F 68 2"], scale: Float[np.ndarray, " F"],
    start: int,
) -> Float[np.ndarray, "F 68 2"]:  # fmt: skip
    """Relative landmarks whose eyes close as far as the driver's: a sum would leave wide eyes open in a blink.

    An eye is open at most by its opening in frame `start`, times the driver's beside the driver's in that frame.
    """
    shares = []
    for pairs in EYES:
        opening, drivers = opening_of(points, pairs) / scale, opening_of(absolute, pairs)
        most = opening[start] * np.minimum(1, drivers / max(drivers[start], 1e-6))
        shares.append(np.minimum(1, most / np.maximum(opening, 1e-6)))
    return with_lids(points, shares)


def blinking(points: Float[np.ndarray, "F 68 2"], driver: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, "F 68 2"]:
    """Landmarks whose eyes are shut where the driver's are, which a detector sees half open."""
    eyes = np.linalg.norm(driver[:, 36] - driver[:, 45], axis=-1)
    return with_lids(points, [shut(opening_of(driver, pairs) / eyes) for pairs in EYES])


def shut(opening: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
    """What share of a detected opening is there in the picture, by the clip's own norm: 0 from SHUT of it downwards.

    Only blinks are changed: stretches of frames below AJAR in which some frame is below BLINK.
    """
    share = np.maximum(opening / max(float(np.median(opening)), 1e-6), 1e-6)
    low = share < AJAR
    stretch = np.cumsum(np.diff(low, prepend=False))  # odd: the number of a stretch of low frames
    blink = low & np.isin(stretch, stretch[low & (share < BLINK)])
    return np.where(blink, AJAR * np.maximum(0, (share - SHUT) / (AJAR - SHUT)) / share, 1.0)


def opening_of(points: Float[np.ndarray, "F 68 2"], pairs: Int[np.ndarray, "P 2"]) -> Float[np.ndarray, " F"]:
    """Mean distance of the upper and lower points of an eye."""
    return np.linalg.norm(points[:, pairs[:, 1]] - points[:, pairs[:, 0]], axis=-1).mean(1)


def with_lids(
    points: Float[np.ndarray, "F 68 2"], shares: Sequence[Float[np.ndarray, " F"]]
) -> Float[np.ndarray, "F 68 2"]:
    """The landmarks with each eye open by that share of what it is."""
    moved = points.copy()
    for pairs, share in zip(EYES, shares, strict=True):
        upper, lower = pairs.T
        excess = (1 - share)[:, None, None] * (points[:, lower] - points[:, upper])
        moved[:, upper] += UPPER_LID * excess
        moved[:, lower] -= (1 - UPPER_LID) * excess
    return moved


def framed(person: Face, moving: Fit, size: float, place: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "F 68 2"]:
    """The motion of a face of that size around that place."""
    ratio = size / float(np.median(moving.scale))
    adapted = person.draw(replace(moving, scale=moving.scale * ratio, place=moving.place * ratio))
    return adapted + (place - centre(adapted)).astype(np.float32)


def usual_place(source: Float[np.ndarray, "T 68 2"], middle: Float[np.ndarray, " 2"] | None) -> Float[np.ndarray, " 2"]:
    """Where the face is on average, between what the source frames show and the crop rule's middle."""
    place = centre(source)
    return place if middle is None else middle + (place - middle) * len(source) / (len(source) + FEW)


def centre(points: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, " 2"]:
    """Middle of the landmarks' box, on average over the frames."""
    return ((points.min(1) + points.max(1)) / 2).mean(0)


def as_complex(points: Float[np.ndarray, "*F 68 2"]) -> Complex[np.ndarray, "*F 68"]:
    """x + iy: a rotation is one multiplication then."""
    return points[..., 0] + 1j * points[..., 1]


def uncrossed(points: Float[np.ndarray, "F 68 2"]) -> Float[np.ndarray, "F 68 2"]:
    """Eyelids and lips that have passed each other meet halfway."""
    z = as_complex(points)
    across = z[:, 45] - z[:, 36]
    down = (1j * across / np.maximum(np.abs(across), 1e-9))[:, None]
    upper, lower = z[:, LIDS[:, 0]], z[:, LIDS[:, 1]]
    excess = np.minimum(0, ((lower - upper) * down.conj()).real) * down / 2
    z[:, LIDS[:, 0]], z[:, LIDS[:, 1]] = upper + excess, lower - excess
    return np.stack([z.real, z.imag], -1)
