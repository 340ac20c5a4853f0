"""Does one method beat another on the same people? Paired differences, corrected together, as a Markdown table.

The answer to a claim is yes or no only with at least `MIN_IDENTITIES` identities and `MIN_SEEDS` seeds, a difference of
the same sign for every seed, and p below 5 % after Holm's correction for all claims of the table; else "not clear".
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from talkinghead.evaluation.results import ALL_CLIPS
from talkinghead.reporting.intervals import Interval, difference_interval, holm
from talkinghead.reporting.summary import Method, by_identity, find_metric, number_in, seeds_of, shots_of
from talkinghead.storage import Row

MIN_IDENTITIES = 8
MIN_SEEDS = 2
LEVEL = 0.05


class Side(NamedTuple):
    """A method at a shot count."""

    method: Method
    shots: int

    def __str__(self) -> str:
        return f"{self.method.label} (T = {self.shots})"


class Claim(NamedTuple):
    """The claim that `better` is better than `worse` in these metrics (log names)."""

    better: Side
    worse: Side
    metrics: Sequence[str]


class Orderings(NamedTuple):
    """Claims about one data set; `name` is that of their block in README.md."""

    name: str
    data: str
    claims: Sequence[Claim]


class Gain(NamedTuple):
    """How much better the first side of a claim is, over identities; positive if the claim holds."""

    interval: Interval
    by_seed: dict[str, float]  # mean for each seed


def find_rows(rows: Iterable[Row], data: str, side: Side, metric: str) -> dict[tuple[str, str], Row]:
    """The rows of a side that have the metric, by (clip, seed)."""
    chosen = [row for row in rows if row["data"] == data and side.method.matches(row) and shots_of(row) == side.shots]
    known = [row for row in chosen if row["clip"] != ALL_CLIPS and number_in(row, metric) == number_in(row, metric)]
    return {(row["clip"], row.get("seed", "-")): row for row in known}


def find_gain(rows: Sequence[Row], data: str, claim: Claim, metric: str) -> Gain | None:
    """The gain over all clips and seeds that both sides were measured on; None if there are none."""
    better, worse = (find_rows(rows, data, side, metric) for side in (claim.better, claim.worse))
    both = sorted(better.keys() & worse.keys())
    if not both:
        return None
    sign = 1 if find_metric(metric).higher_is_better else -1

    def difference(keys: Sequence[tuple[str, str]]) -> Interval:
        first, second = (by_identity([side[key] for key in keys], metric) for side in (better, worse))
        return difference_interval([sign * first[one] for one in first], [sign * second[one] for one in first])

    seeds = seeds_of(better[key] for key in both)
    return Gain(difference(both), {seed: difference([key for key in both if key[1] == seed]).mean for seed in seeds})


def judge(gain: Gain, adjusted: float) -> str:
    """The answer to a claim: `yes`, `**no**` or `not clear`. `adjusted`: p after Holm's correction."""
    signs = {mean > 0 for mean in gain.by_seed.values()}
    enough = gain.interval.units >= MIN_IDENTITIES and len(gain.by_seed) >= MIN_SEEDS
    if not enough or len(signs) > 1 or not adjusted < LEVEL:
        return "not clear"
    return "yes" if gain.interval.mean > 0 else "**no**"


def build_orderings(orderings: Orderings, rows: Sequence[Row]) -> str:
    """The Markdown table: a line per claim and metric measured on at least two identities."""
    found = [
        (claim, name, gain)
        for claim in orderings.claims
        for name in claim.metrics
        if (gain := find_gain(rows, orderings.data, claim, name)) is not None and gain.interval.units > 1
    ]
    if not found:
        return "*Not run yet.*\n"
    adjusted = holm([gain.interval.p for _, _, gain in found])
    lines = [print_gain(*one, p) for one, p in zip(found, adjusted, strict=True)]
    header = "| is | better than | in | by | identities | seeds | p (Holm) | holds |\n" + "| --- " * 8 + "|\n"
    note = (
        "By: mean over the identities both were tested on, with the 95 % interval of the paired difference; positive "
        f"is better. p: corrected by Holm for the {len(found)} lines of the table. Not clear: p above {LEVEL}, fewer "
        f"than {MIN_IDENTITIES} identities or {MIN_SEEDS} seeds, or another sign with another seed (docs/metrics.md).\n"
    )
    return header + "".join(lines) + "\n" + note


def print_gain(claim: Claim, name: str, gain: Gain, adjusted: float) -> str:
    """One line of the table."""
    metric, interval = find_metric(name), gain.interval
    numbers = [f"{value:+.{metric.digits}f}" for value in interval[:3]]
    better = f"{numbers[0]} ({numbers[1]} to {numbers[2]})"
    p = f"{adjusted:.3f}" if adjusted >= 0.001 else "< 0.001"
    counts = f"{interval.units} | {len(gain.by_seed)} | {p}"
    return f"| {claim.better} | {claim.worse} | {metric.title} | {better} | {counts} | {judge(gain, adjusted)} |\n"
