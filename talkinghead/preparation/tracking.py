"""One face followed through the frames of a clip."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from talkinghead.preparation.crop import face_box
from talkinghead.preparation.detectors import Detector

Image = UInt8[np.ndarray, "_ _ 3"]  # frames of a list may differ in size


class Track(NamedTuple):
    """Where the face was found: frames (positions in the given list, ascending) and its landmarks there."""

    frames: list[int]
    points: Float[np.ndarray, "N 68 2"]


class Sight(NamedTuple):
    """One face in one frame."""

    frame: int
    box: Float[np.ndarray, " 4"]


def follow(images: Sequence[Image], detector: Detector, every: int = 1, max_gap: int = 3) -> Track:
    """Detect faces in every `every`-th frame, chain them, and find landmarks in each frame of the best chain.

    Between two detections that are not further than `max_gap` searched frames apart the box is interpolated. The best
    chain is the one with the largest sum of box sides: long before large. Frames whose landmarks do not agree
    with their box, or jump, are left out.
    """
    searched = sorted({*range(0, len(images), every), len(images) - 1}) if images else []
    sights = [[Sight(n, box) for box in detector.boxes(images[n])] for n in searched]
    chain = best_chain(sights, max_gap)
    frames: list[int] = []
    points: list[Float[np.ndarray, "68 2"]] = []
    for frame, box in _filled(chain):
        found = detector.landmarks(images[frame], box)
        if plausible(found, box):
            frames.append(frame)
            points.append(found)
    return Track(frames, np.array(points, float).reshape(-1, 68, 2))


def best_chain(sights: Sequence[Sequence[Sight]], max_gap: int) -> list[Sight]:
    """Link the faces of successive searched frames by overlap and return the chain with the largest sum of sides."""
    chains: list[tuple[int, list[Sight]]] = []  # (searched frame of the last sight, sights)
    for step, faces in enumerate(sights):
        open_chains = [n for n, (last, _) in enumerate(chains) if 0 < step - last <= max_gap]
        pairs = sorted(
            ((overlap(chains[n][1][-1].box, face.box), -n, -m) for n in open_chains for m, face in enumerate(faces)),
            reverse=True,
        )
        taken: set[int] = set()
        for value, minus_chain, minus_face in pairs:
            n, m = -minus_chain, -minus_face
            if value < 0.15 or m in taken or chains[n][0] == step:
                continue
            taken.add(m)
            chains[n] = (step, [*chains[n][1], faces[m]])
        chains += [(step, [face]) for m, face in enumerate(faces) if m not in taken]
    return max((sights for _, sights in chains), key=_weight, default=[])


def _weight(chain: list[Sight]) -> float:
    return float(sum(sight.box[2] - sight.box[0] for sight in chain))


def overlap(a: Float[np.ndarray, " 4"], b: Float[np.ndarray, " 4"]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def _filled(chain: Sequence[Sight]) -> list[Sight]:
    """The chain with a box for each frame between its first and its last."""
    if not chain:
        return []
    known = [sight.frame for sight in chain]
    frames = np.arange(known[0], known[-1] + 1)
    sides = [np.interp(frames, known, [sight.box[n] for sight in chain]) for n in range(4)]
    return [Sight(int(frame), box) for frame, box in zip(frames, np.stack(sides, -1), strict=True)]


def plausible(points: Float[np.ndarray, "68 2"], box: Float[np.ndarray, " 4"]) -> bool:
    """The landmarks lie about where the box is and are about as large."""
    if not np.isfinite(points).all():
        return False
    own = face_box(points)
    ratio = (own[2] - own[0]) / max(1e-6, (box[2:] - box[:2]).mean())
    return bool(0.5 < ratio < 2.0 and overlap(own, box) > 0.3)
