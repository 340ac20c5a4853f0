"""Confidence intervals of means over a few people, of shares of answers, and Holm's correction for many claims.

Of two intervals, the wider bound on each side is used: Student's t, which is right for a few normal values, and the
bootstrap-t (Efron 1982; Hall 1988: second-order correct), which is right for skewed ones. (The percentile bootstrap's
nominal 95 % cover 80 % for four people and 88 % for eight.) Shares of answers get Wilson's interval (1927).
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

Values = Sequence[float] | Float[np.ndarray, " P"]
SMALLEST_SPREAD = 0.1  # of a resample, in spreads of the values: one of equal values alone has none, and t is infinite


class Interval(NamedTuple):
    """A mean over units, and the bounds of its confidence interval. NaN: unknown."""

    mean: float
    low: float
    high: float
    units: int  # who had a value: identities, unless a caller says otherwise
    p: float = float("nan")  # two-sided, of a mean of 0


def mean_interval(values: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of one value per unit, with a confidence interval for the mean over other such units.

    Units without a value (NaN) are left out. For a single unit, both bounds are NaN. Equal values and seed give equal
    bounds. `p` is the smallest 1 - level whose interval excludes 0.

    >>> interval = mean_interval([0.61, 0.55, 0.58, 0.64, float("nan")])
    >>> print(f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f}) over {interval.units}")
    0.595 (0.528 to 0.662) over 4
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    known = with_value(values)
    count = len(known)
    mean = float(known.mean()) if count else float("nan")
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    error = float(known.std(ddof=1)) / sqrt(count)
    if error <= 1e-12 * max(1e-300, abs(mean)):  # equal values
        return Interval(mean, mean, mean, count, 1.0 if mean == 0 else 0.0)
    statistics = bootstrap_t(known, resamples, seed)
    above, below = np.quantile(statistics, [(1 + level) / 2, (1 - level) / 2])
    half = float(student.ppf((1 + level) / 2, count - 1))
    low, high = mean - max(float(above), half) * error, mean - min(float(below), -half) * error
    return Interval(mean, low, high, count, p_value(mean / error, count, statistics))


def bootstrap_t(known: Float[np.ndarray, " K"], resamples: int, seed: int) -> Float[np.ndarray, " R"]:
    """(mean of a resample - mean) / its standard error, for resamples of the values; their spread is bounded below."""
    chosen = known[np.random.default_rng(seed).integers(len(known), size=(resamples, len(known)))]
    spread = np.maximum(chosen.std(axis=1, ddof=1), SMALLEST_SPREAD * known.std(ddof=1))
    return (chosen.mean(axis=1) - known.mean()) * sqrt(len(known)) / spread


def p_value(statistic: float, count: int, statistics: Float[np.ndarray, " R"]) -> float:
    """Two-sided p: the larger of Student's and the bootstrap's, in keeping with the wider of both intervals."""
    extreme = (statistics >= statistic) if statistic > 0 else (statistics <= statistic)
    resampled = 2 * (extreme.sum() + 1) / (len(statistics) + 1)
    return float(min(1.0, max(resampled, 2 * student.sf(abs(statistic), count - 1))))


def difference_interval(a: Values, b: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of a - b over units, where `a[n]` and `b[n]` are the values of two methods for one unit.

    It is far narrower than the intervals of a and b, because an easy person is easy for both methods. If a table has
    several such differences, correct their `p` by `holm`.

    >>> difference = difference_interval([0.61, 0.32, 0.88, 0.47], [0.58, 0.30, 0.84, 0.45])
    >>> print(f"{difference.mean:.4f} ({difference.low:.4f} to {difference.high:.4f})")
    0.0275 (0.0123 to 0.1025)

    Raises:
        ValueError: `a` and `b` differ in length.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values of {first.shape} and {second.shape} units: give both in the same order")
    return mean_interval(first - second, resamples, seed, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): if no claim is true, 5 % of tables have a corrected p below 0.05.

    The k-th smallest of m is multiplied by m - k + 1, then made no smaller than its predecessor. NaN stays NaN and is
    not counted in m.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not np.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a probability after `successes` in `trials`; within [0, 1], also for none and for all.

    With p = successes / trials and z the quantile of the normal distribution at (1 + level) / 2:
    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n). Without trials, both bounds are NaN.

    >>> [round(bound, 3) for bound in wilson_interval(20, 60)]  # chance among three pictures
    [0.227, 0.459]
    >>> [round(bound, 3) for bound in wilson_interval(0, 10)]
    [0.0, 0.278]
    """
    if not 0 < level < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} at level={level}: 0 <= successes <= trials and 0 < level < 1")
    if trials == 0:
        return float("nan"), float("nan")
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    middle = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def with_value(values: Values) -> Float[np.ndarray, " K"]:
    """The values that are not NaN."""
    known = np.asarray(values, np.float64)
    return known[~np.isnan(known)]
