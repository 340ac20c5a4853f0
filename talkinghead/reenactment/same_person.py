"""Whether all source frames show the same person: different people would be blended into one."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np

from talkinghead.metrics.identity import DlibIdentity, Recognizer
from talkinghead.reenactment.source import Portrait

# Distances of dlib's descriptors, for 178 clips of 112 real people, four frames each: of the pairs of one person 0.8 %
# are above 0.6, of those of two people 1.5 % below it; between 0.52 and 0.6 are 1.4 % and 1.3 %.
FURTHEST = 0.6  # largest distance within one person, also by dlib's authors
USUAL = 0.52  # half of a person's pictures are nearer than this to the most typical one


def check_one_person(
    portraits: Sequence[Portrait], recognizer: Recognizer | None, furthest: float = FURTHEST
) -> str | None:
    """Compare each portrait with the most typical one. Without recogniser, or for one portrait, do nothing.

    Returns:
        A line that names the most distant portrait, where it may show another person; else None.

    Raises:
        ValueError: that names the most distant portrait, where it shows another person.
    """
    if recognizer is None or len(portraits) < 2:
        return None
    rows = np.stack([recognizer(one.image[None], one.points[None])[0] for one in portraits])
    apart = np.linalg.norm(rows[:, None] - rows, axis=-1)
    usual = int(np.sort(apart, axis=1)[:, : len(rows) // 2 + 1].sum(1).argmin())  # nearest to half of them
    odd = int(apart[usual].argmax())
    others = np.delete(apart[usual], usual)
    mixed = len(others) > 2 and float(np.median(others)) > USUAL
    if apart[usual, odd] > furthest or mixed:
        strangers = int((others > (USUAL if mixed else furthest)).sum())
        more = "" if strangers < 2 else " (and one more)" if strangers == 2 else f" (and {strangers - 1} more)"
        raise ValueError(
            f"{portraits[odd].name}{more}: shows another person than {portraits[usual].name}, and they would be "
            "blended into one; leave it out, or give one_person=false if it is the same"
        )
    if apart[usual, odd] > USUAL:
        return (
            f"{portraits[odd].name} may show another person than {portraits[usual].name} (distance "
            f"{apart[usual, odd]:.2f}; above {furthest:g} it would be refused): if so, leave it out"
        )
    return None


@cache
def find_recognizer() -> Recognizer | None:
    """dlib's recogniser, if it is installed."""
    if find_spec("dlib") is None or find_spec("face_recognition_models") is None:
        return None
    return DlibIdentity()
