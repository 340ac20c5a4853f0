"""How sure a mean over people is: percentile bootstrap (Efron 1979), for one method and for two on the same people.

And how sure a share of answers is: Wilson's interval (1927).
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Values = Sequence[float] | Float[np.ndarray, " P"]


class Interval(NamedTuple):
    """A mean over people, and the bounds in which it lies with the given confidence. NaN: not known."""

    mean: float
    low: float
    high: float
    people: int  # who had a value


def bootstrap_interval(
    values: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bounds of the mean of one value per person: where it would lie for other people of the same kind.

    People without a value (NaN) are left out. One person says nothing of others: both bounds are NaN.
    The same values and seed give the same bounds.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    known = with_value(values)
    if len(known) < 2:
        return float("nan"), float("nan")
    chosen = np.random.default_rng(seed).integers(len(known), size=(resamples, len(known)))
    low, high = np.quantile(known[chosen].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_mean(values: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of one value per person with its bounds."""
    known = with_value(values)
    mean = float(known.mean()) if len(known) else float("nan")
    return Interval(mean, *bootstrap_interval(known, resamples, seed, level), len(known))


def bootstrap_difference(a: Values, b: Values, resamples: int = 10_000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of a - b over people, `a[n]` and `b[n]` two methods' values of one person.

    The methods differ where 0 is outside the bounds. Far narrower than two intervals side by side, because an easy
    person is easy for both. ValueError where the two do not have as many people.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values of {first.shape} and {second.shape} people: give both in the same order")
    return bootstrap_mean(first - second, resamples, seed, level)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds of a probability of which `successes` in `trials` is known; within [0, 1], also for none and for all.

    With p = successes / trials and z the quantile of the normal distribution at (1 + level) / 2:
    (p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n). No trials say nothing: both bounds are NaN.
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
