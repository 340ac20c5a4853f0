"""When frames are shown, from the time stamps of packets; a wrong stamp affects only its own frame."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

REORDER = 16  # packets by which B-frames may be stored out of order
WRONG = 0.1  # share of wrong stamps from which all are ignored
DISTINCT = 0.25  # share of distinct stamps below which all are ignored
FEW = 5  # frames, too few to know their usual distance in time


class Timeline(NamedTuple):
    """When each frame is shown, in units of `time_base` seconds: the rate may vary. `rate` is its mean."""

    pts: list[int]
    time_base: Fraction
    rate: Fraction


class Stamp(NamedTuple):
    """Time stamp of a packet's frame, if it has one, and whether decoding can start there (keyframe)."""

    pts: int | None
    is_key: bool


class Index(NamedTuple):
    """The frames of a file, numbered as they are shown.

    Attributes:
        timeline: presentation times, strictly increasing
        numbers: frames that have a time stamp; empty where stamps are ignored and frames are counted as they come
        starts: numbers of frames at which decoding can start, with their stamps; the first is the beginning
    """

    timeline: Timeline
    numbers: dict[int | None, list[int]]
    starts: list[tuple[int, int | None]]


def make_index(stamps: Sequence[Stamp], time_base: Fraction | None, rate: Fraction | None) -> Index:
    """The index of packets in stored order.

    Args:
        time_base: unit of the stamps, seconds; None: ignore the stamps
        rate: frames per second by the file; None: unknown
    """
    wrong = find_wrong([stamp.pts for stamp in stamps]) if time_base else None
    if not stamps or time_base is None or wrong is None:
        rate = rate or Fraction(25)
        return Index(Timeline(list(range(len(stamps))), 1 / rate, rate), {}, [(0, None)])
    order = shown_order([None if n in wrong else stamp.pts for n, stamp in enumerate(stamps)])
    times, finer = rising([None if n in wrong else stamps[n].pts for n in order])
    numbers: dict[int | None, list[int]] = {}
    for number, n in enumerate(order):
        numbers.setdefault(stamps[n].pts, []).append(number)
    starts = [
        (number, stamps[n].pts)
        for number, n in enumerate(order)
        if number and n not in wrong and stamps[n].is_key and len(numbers[stamps[n].pts]) == 1
    ]
    timeline = Timeline(times, time_base / finer, mean_rate(times, time_base / finer, rate))
    return Index(timeline, numbers, [(0, None), *starts])


def find_wrong(pts: Sequence[int | None]) -> set[int] | None:
    """Packets without a stamp, or with an impossible one; None where there are too many.

    Without B-frames, stamps increase in stored order, so those outside the longest increasing sequence are wrong. With
    B-frames, a packet is stored at most `REORDER` places from where it is shown.
    """
    known = [n for n, time in enumerate(pts) if time is not None]
    times = [time for time in pts if time is not None]
    if len(set(times)) < DISTINCT * len(pts):
        return None
    for rule in (out_of_order, out_of_place):
        wrong = set(range(len(pts))) - set(known) | {known[n] for n in (*rule(times), *lone_ends(times))}
        if len(wrong) <= max(1, WRONG * len(pts)):
            return wrong
    return None


def out_of_order(times: Sequence[int]) -> list[int]:
    """Positions outside a longest non-decreasing subsequence."""
    lowest: list[int] = []  # smallest last value of a subsequence of each length, and its position
    where: list[int] = []
    before: list[int] = []
    for n, time in enumerate(times):
        length = bisect_right(lowest, time)
        before.append(where[length - 1] if length else -1)
        lowest[length : length + 1], where[length : length + 1] = [time], [n]
    kept, n = set(), where[-1] if where else -1
    while n >= 0:
        kept.add(n)
        n = before[n]
    return [n for n in range(len(times)) if n not in kept]


def out_of_place(times: Sequence[int]) -> list[int]:
    """Positions further than `REORDER` from where sorting would put them."""
    order = sorted(range(len(times)), key=times.__getitem__)
    return [n for place, n in enumerate(order) if abs(place - n) > REORDER]


def lone_ends(times: Sequence[int]) -> list[int]:
    """The first or last frame, if it is further from its neighbour than all others span in time."""
    order = sorted(range(len(times)), key=times.__getitem__)
    if len(order) < FEW:
        return []
    first, second, *_, last_but_one, last = (times[n] for n in order)
    rest = last_but_one - second
    return [n for n, gap in ((order[0], second - first), (order[-1], last - last_but_one)) if gap > rest]


def shown_order(times: Sequence[int | None]) -> list[int]:
    """Packets in presentation order; those without a time are inserted near their place, in the largest gap."""
    stored = [n for n, time in enumerate(times) if time is not None]
    order = sorted(stored, key=lambda n: (times[n], n))
    if order == stored:
        return list(range(len(times)))
    known = [time for time in (times[n] for n in order) if time is not None]
    placed, inserted = list(order), Counter[int]()  # number inserted before each known packet
    for n in (n for n, time in enumerate(times) if time is None):
        around = bisect_left(stored, n)
        places = range(max(0, around - REORDER), min(len(order), around + REORDER) + 1)
        best = max(places, key=lambda place: room(known, place, inserted[place]))
        inserted[best] += 1
        placed.insert(placed.index(order[best]) if best < len(order) else len(placed), n)
    return placed


def room(known: Sequence[int], place: int, inserted: int) -> float:
    """Time left for one more frame before the known one at this place; none beyond the ends."""
    return (known[place] - known[place - 1]) / (inserted + 2) if 0 < place < len(known) else 0.0


def rising(times: Sequence[int | None]) -> tuple[list[int], int]:
    """Strictly increasing times, and the factor by which their unit is finer.

    Missing and repeated times are spread evenly over the time up to the next one.
    """
    fixed: list[int] = []
    for n, time in enumerate(times):
        if time is not None and (not fixed or time > (times[fixed[-1]] or 0)):
            fixed.append(n)
    known = [int(times[n] or 0) for n in fixed]
    step = median_low([b - a for a, b in pairwise(known)] or [1])
    fixed, known = [*fixed, len(times)], [*known, known[-1] + step * (len(times) - fixed[-1])]
    if fixed[0] > 0:
        fixed, known = [0, *fixed], [known[0] - step * fixed[0], *known]
    parts = list(zip(pairwise(fixed), pairwise(known), strict=True))
    finer = max(-(-(stop - start) // (to - since)) for (start, stop), (since, to) in parts)
    return [
        since * finer + (to - since) * finer * n // (stop - start)
        for (start, stop), (since, to) in parts
        for n in range(stop - start)
    ], finer


def mean_rate(times: Sequence[int], time_base: Fraction, told: Fraction | None) -> Fraction:
    """The frame rate in the file, unless it is far from that of its time stamps."""
    seconds = (times[-1] - times[0]) * time_base
    if not seconds:
        return told or Fraction(25)
    measured = ((len(times) - 1) / seconds).limit_denominator(1001)
    return told if told and measured / 2 <= told <= measured * 2 else measured or Fraction(25)
