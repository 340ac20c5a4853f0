"""Tracking one face through the frames of a clip."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.faces.appearance import ALIKE, View, is_cut, likeness, patch_of, view_of
from talkinghead.faces.crop import face_box
from talkinghead.faces.detectors import Detector, boxes_of, landmarks_of

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size
LEAST_OVERLAP = 0.15  # intersection over union of the boxes of one face in successive searched frames
LOOKS = 4  # of a chain, spread over it, with which a face that may continue it is compared
LARGER = 1.6  # largest ratio of sides between a face that was lost and one that reappears


class Track(NamedTuple):
    """The frames in which the face was found (indices into the given list, ascending), and its landmarks there."""

    frames: list[int]
    points: Float[np.ndarray, "N 68 2"]


class Detection(NamedTuple):
    """One face in one frame, with descriptors of both if known."""

    frame: int
    box: Float[np.ndarray, " 4"]
    patch: UInt8[np.ndarray, "16 16 3"] | None = None
    view: View | None = None


def detect(pictures: Iterable[tuple[int, Image]], detector: Detector) -> Iterator[list[Detection]]:
    """All faces of each numbered picture."""
    for numbers, images in batches(pictures, detector):
        for frame, image, boxes in zip(numbers, images, boxes_of(images, detector), strict=True):
            view = view_of(image) if len(boxes) else None
            yield [Detection(frame, box, patch_of(image, box), view) for box in boxes]


def batches(pictures: Iterable[tuple[int, Image]], detector: Detector) -> Iterator[tuple[list[int], list[Image]]]:
    """Numbers and pictures, as many at a time as the detector takes."""
    rest = iter(pictures)
    while batch := list(islice(rest, getattr(detector, "batch_size", 1))):
        yield [number for number, _ in batch], [image for _, image in batch]


def follow(images: Sequence[Image], detector: Detector, every: int = 1, max_gap: int = 3) -> Track:
    """Detect faces in every `every`-th frame, chain them, and find landmarks in each frame of the best chain.

    Between two detections at most `max_gap` searched frames apart, the box is interpolated. The best chain is the one
    with the largest sum of box sides, so duration counts more than size. It ends at a cut of the film, and continues
    where the same scene shows the face again. Frames are left out whose patch does not look like the face in its
    neighbours, or whose landmarks do not match the box.
    """
    searched = sorted({*range(0, len(images), every), len(images) - 1}) if images else []
    between = ChainInterpolator(best_chain([*detect(((n, images[n]) for n in searched), detector)], max_gap))
    found = {n: points for n, points in between.landmarks(enumerate(images), detector) if points is not None}
    return Track([*found], np.array([*found.values()], float).reshape(-1, 68, 2))


def best_chain(detections: Sequence[Sequence[Detection]], max_gap: int) -> list[Detection]:
    """Link the faces of successive searched frames by overlap and return the chain with the largest sum of sides.

    Detections are not linked across cuts of the film. Chains further apart than `max_gap` are joined where place, size
    and scene agree.
    """
    chains: list[tuple[int, list[Detection]]] = []  # (searched frame of the last detection, detections)
    for step, faces in enumerate(detections):
        open_chains = [n for n, (last, _) in enumerate(chains) if 0 < step - last <= max_gap]
        pairs = sorted(
            ((_nearness(chains[n][1], face), -n, -m) for n in open_chains for m, face in enumerate(faces)),
            reverse=True,
        )
        taken: set[int] = set()
        for value, minus_chain, minus_face in pairs:
            n, m = -minus_chain, -minus_face
            if value <= 0 or m in taken or chains[n][0] == step:
                continue
            taken.add(m)
            chains[n] = (step, [*chains[n][1], faces[m]])
        chains += [(step, [face]) for m, face in enumerate(faces) if m not in taken]
    return max(joined([chain for _, chain in chains]), key=_weight, default=[])


def _nearness(chain: Sequence[Detection], face: Detection) -> float:
    """Score for a face that may continue a chain; 0: another face.

    Overlap with the box where the chain was last seen or, if more, where it was heading, and likeness to how it has
    looked all along: where two people cross, the last look alone is half the other one.
    """
    last = chain[-1]
    here, ahead = overlap(last.box, face.box), overlap(_heading(chain, face.frame), face.box)
    if max(here, ahead) < LEAST_OVERLAP or _cut_between(last, face):
        return 0.0
    looks = [chain[n].patch for n in sorted({*range(0, len(chain), max(1, len(chain) // LOOKS)), len(chain) - 1})]
    alike = [likeness(look, face.patch) for look in looks if look is not None and face.patch is not None]
    return max(here, ahead) + (max(0.0, sum(alike) / len(alike)) if alike else 0.0)


def _heading(chain: Sequence[Detection], frame: int) -> Float[np.ndarray, " 4"]:
    """The box in a later frame, if the face goes on moving as between its last two detections."""
    last = chain[-1]
    if len(chain) == 1:
        return last.box
    before = chain[-2]
    return last.box + (last.box - before.box) * (frame - last.frame) / (last.frame - before.frame)


def _cut_between(a: Detection, b: Detection) -> bool:
    return a.view is not None and b.view is not None and is_cut(a.view, b.view)


def joined(chains: Sequence[list[Detection]]) -> list[list[Detection]]:
    """Join chains where one begins, after any time, as another has ended; sorted by their beginnings."""
    whole: list[list[Detection]] = []
    for chain in sorted(chains, key=lambda one: one[0].frame):
        before = [one for one in whole if one[-1].frame < chain[0].frame and returns(one[-1], chain[0])]
        if before:
            max(before, key=lambda one: (one[-1].frame, _weight(one))).extend(chain)
        else:
            whole.append(list(chain))
    return whole


def returns(gone: Detection, come: Detection) -> bool:
    """Whether a face reappears: at the place of a lost one, of similar size and appearance, in the same scene."""
    if gone.patch is None or come.patch is None or not _alike(gone, come):
        return False
    ratio = float((come.box[2:] - come.box[:2]).mean() / max(1e-6, (gone.box[2:] - gone.box[:2]).mean()))
    return 1 / LARGER < ratio < LARGER and overlap(gone.box, come.box) >= LEAST_OVERLAP


def _alike(known: Detection, here: Detection) -> bool:
    """Whether scene and face look the same; unknown descriptors count as equal."""
    if known.patch is None or here.patch is None:
        return True
    return not _cut_between(known, here) and likeness(known.patch, here.patch) >= ALIKE


def _weight(chain: list[Detection]) -> float:
    return float(sum(detection.box[2] - detection.box[0] for detection in chain))


class ChainInterpolator:
    """A box for each frame between the first and the last detection of a chain, and landmarks where there is a face."""

    def __init__(self, chain: Sequence[Detection]) -> None:
        self.chain = chain
        self._known = [detection.frame for detection in chain]
        self.frames = range(self._known[0], self._known[-1] + 1) if chain else range(0)

    def box(self, frame: int) -> Float[np.ndarray, " 4"]:
        """The box (x0, y0, x1, y1) in a frame, detected or interpolated between detections."""
        after = bisect_left(self._known, frame)
        b = self.chain[after]
        if b.frame == frame:
            return b.box
        a = self.chain[after - 1]
        share = (frame - a.frame) / (b.frame - a.frame)
        return (1 - share) * a.box + share * b.box

    def landmarks(
        self, pictures: Iterable[tuple[int, Image]], detector: Detector
    ) -> Iterator[tuple[int, Float[np.ndarray, "68 2"] | None]]:
        """Landmarks in each numbered picture; None where it does not show the face, or they do not match its box."""
        for numbers, images in batches(pictures, detector):
            shown = [(frame, image) for frame, image in zip(numbers, images, strict=True) if self._shows(frame, image)]
            boxes = [self.box(frame) for frame, _ in shown]
            points = zip(shown, boxes, landmarks_of([image for _, image in shown], boxes, detector), strict=True)
            found = {frame: one for (frame, _), box, one in points if plausible(one, box)}
            yield from ((frame, found.get(frame)) for frame in numbers)

    def _shows(self, frame: int, image: Image) -> bool:
        """Whether the face was detected in this frame, or an interpolated box has something that looks like it."""
        if frame not in self.frames:
            return False
        box, after = self.box(frame), bisect_left(self._known, frame)
        if self.chain[after].frame == frame:
            return True
        here = Detection(frame, box, patch_of(image, box), view_of(image))
        return any(_alike(end, here) for end in self.chain[after - 1 : after + 1])


def overlap(a: Float[np.ndarray, " 4"], b: Float[np.ndarray, " 4"]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def plausible(points: Float[np.ndarray, "68 2"], box: Float[np.ndarray, " 4"]) -> bool:
    """Whether the landmarks are about at the place of the box, and about as large."""
    if not np.isfinite(points).all():
        return False
    own = face_box(points)
    ratio = (own[2] - own[0]) / max(1e-6, (box[2:] - box[:2]).mean())
    return bool(0.5 < ratio < 2.0 and overlap(own, box) > 0.3)
