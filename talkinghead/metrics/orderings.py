"""Does one method beat another on the same people? Paired differences with bootstrap intervals, as a Markdown table."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from talkinghead.metrics.intervals import Interval, bootstrap_difference
from talkinghead.metrics.results import EVERYBODY, Row
from talkinghead.metrics.summary import Method, find_metric


class Side(NamedTuple):
    """A method at a shot count."""

    method: Method
    shots: int

    def __str__(self) -> str:
        return f"{self.method.label} (T = {self.shots})"


class Claim(NamedTuple):
    """`better` is better than `worse` in these metrics, by log name."""

    better: Side
    worse: Side
    metrics: Sequence[str]


class Orderings(NamedTuple):
    """Claims about one data set, and the block of README.md they stand in."""

    name: str
    data: str
    claims: Sequence[Claim]


def find_values(rows: Iterable[Row], data: str, side: Side, metric: str) -> dict[str, float]:
    """person -> number; those without one are left out."""
    wanted = {"data": data, "method": side.method.method, "variant": side.method.variant, "T": str(side.shots)}
    if side.method.config is not None:
        wanted["config"] = side.method.config
    chosen = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return {row["person"]: float(row[metric]) for row in chosen if row["person"] != EVERYBODY and row.get(metric)}


def find_gain(rows: Sequence[Row], data: str, claim: Claim, metric: str) -> Interval | None:
    """How much better, positive where the claim holds, over the people whom both have; None where there is nobody."""
    better, worse = (find_values(rows, data, side, metric) for side in (claim.better, claim.worse))
    people = sorted(better.keys() & worse.keys())
    if not people:
        return None
    sign = 1 if find_metric(metric).higher_is_better else -1
    return bootstrap_difference(
        [sign * better[person] for person in people], [sign * worse[person] for person in people]
    )


def judge(gain: Interval) -> str:
    """Whether 0 lies outside the interval."""
    if gain.low > 0:
        return "yes"
    return "**no**" if gain.high < 0 else "not clear"


def build_orderings(orderings: Orderings, rows: Sequence[Row]) -> str:
    """One line for each claim and metric that was measured."""
    lines = []
    for claim in orderings.claims:
        for name in claim.metrics:
            gain = find_gain(rows, orderings.data, claim, name)
            if gain is not None and gain.people > 1:
                metric = find_metric(name)
                numbers = [f"{value:+.{metric.digits}f}" for value in (gain.mean, gain.low, gain.high)]
                better = f"{numbers[0]} ({numbers[1]} to {numbers[2]})"
                lines.append(f"| {claim.better} | {claim.worse} | {metric.title} | {better} | {judge(gain)} |\n")
    if not lines:
        return "*Not run yet.*\n"
    return (
        "| is | better than | in | by | holds |\n| --- | --- | --- | --- | --- |\n"
        + "".join(lines)
        + "\nBy: mean over the people both were tested on, with the 95 % bootstrap interval of the paired difference; "
        "positive is better.\n"
    )
