"""How sure a mean over people is: intervals that cover at the few people in use, and Holm's correction of many claims.

Two intervals are made, and the wider bound of either is taken: Student's t, right for a few normal values, and the
bootstrap-t (Efron 1982; Hall 1988: second-order correct), right for skewed ones. The percentile bootstrap covers 80 %
at four people and 88 % at eight where it says 95. And how sure a share of answers is: Wilson's interval (1927).
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
    """A mean over units, and the bounds in which it lies with the given confidence. NaN: not known."""

    mean: float
    low: float
    high: float
    units: int  # who had a value: identities, unless a caller says otherwise
    p: float = float("nan")  # two-sided, of a mean of 0


def mean_interval(values: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of one value per unit, and where it would lie for other units of the same kind.

    Units without a value (NaN) are left out. One unit says nothing of others: both bounds are NaN. The same values and
    seed give the same bounds. `p` is the smallest 1 - level at which 0 is outside.

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
    """Two-sided: the larger of Student's and the bootstrap's, as the wider bound is the interval's."""
    extreme = (statistics >= statistic) if statistic > 0 else (statistics <= statistic)
    resampled = 2 * (extreme.sum() + 1) / (len(statistics) + 1)
    return float(min(1.0, max(resampled, 2 * student.sf(abs(statistic), count - 1))))


def difference_interval(a: Values, b: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of a - b over units, `a[n]` and `b[n]` two methods' values of one unit.

    Far narrower than two intervals side by side, because an easy person is easy for both. Several such differences in
    one table are judged by `holm` of their `p`.

    >>> difference = difference_interval([0.61, 0.32, 0.88, 0.47], [0.58, 0.30, 0.84, 0.45])
    >>> print(f"{difference.mean:.4f} ({difference.low:.4f} to {difference.high:.4f})")
    0.0275 (0.0123 to 0.1025)

    Raises:
        ValueError: where the two do not have as many units.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values of {first.shape} and {second.shape} units: give both in the same order")
    return mean_interval(first - second, resamples, seed, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): of those then below 0.05, one or more is chance alone in 5 % of tables.

    The k-th smallest of m is multiplied by m - k + 1, and is never smaller than one before it. NaN stays, uncounted.

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
    """Bounds of a probability of which `successes` in `trials` is known; within [0, 1], also for none and for all.

    With p = successes / trials and z the quantile of the normal distribution at (1 + level) / 2:
    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n). No trials say nothing: both bounds are NaN.

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
    """Those that are not NaN."""
    known = np.asarray(values, np.float64)
    return known[~np.isnan(known)]
