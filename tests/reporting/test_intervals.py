"""Intervals of means over people: Student's t, the coverage they promise, and Holm's correction."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from talkinghead.reporting.intervals import difference_interval, holm, mean_interval

Draw = Callable[[np.random.Generator, int], np.ndarray]
KINDS: dict[str, Draw] = {  # all of mean 0
    "normal": lambda random, n: random.normal(size=n),
    "lognormal": lambda random, n: random.lognormal(0, 0.5, n) - np.exp(0.125),
    "exponential": lambda random, n: random.exponential(size=n) - 1,
}


@pytest.mark.parametrize("count", [4, 6, 8, 16, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_as_often_as_they_say(kind: str, count: int) -> None:
    """Of nominal 95 %; a percentile bootstrap has 80 % at n = 4, Student's t alone 87 % where values are skewed."""
    random = np.random.default_rng(0)
    found = [mean_interval(KINDS[kind](random, count), resamples=400) for _ in range(1500)]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.93
    rejected = np.mean([one.p < 0.05 for one in found])
    assert rejected <= 0.07, "the p-value says what the interval says"


def test_interval_is_students_at_least_and_not_much_more() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 50)
    ours, theirs = mean_interval(values), ttest_1samp(values, 0).confidence_interval()
    assert ours.low <= theirs.low < ours.mean < theirs.high <= ours.high
    assert ours.mean == pytest.approx(values.mean())
    assert ours.high - ours.low < 1.1 * (theirs.high - theirs.low)
    assert ours.units == 50
    shifted = values - 0.69
    assert mean_interval(shifted).p >= ttest_1samp(shifted, 0).pvalue


def test_zero_is_outside_where_p_is_below_the_level() -> None:
    random = np.random.default_rng(3)
    for _ in range(40):
        one = mean_interval(random.normal(0.7, 1, 9), resamples=2000)
        assert (one.p < 0.05) == (not one.low <= 0 <= one.high) or one.p == pytest.approx(0.05, abs=2e-3)


def test_same_seed_same_interval_and_wider_at_a_higher_level() -> None:
    values, uneven = [0.1, 0.5, 0.4, 0.9], np.random.default_rng(0).exponential(size=30)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(uneven, seed=1) != mean_interval(uneven, seed=2)
    narrow, wide = mean_interval(values, level=0.5), mean_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="level"):
        mean_interval(values, level=95.0)


def test_units_without_a_value_do_not_count() -> None:
    nan = float("nan")
    assert mean_interval([0.1, nan, 0.5, nan, 0.3]) == mean_interval([0.1, 0.5, 0.3])
    one = mean_interval([nan, 0.5])
    assert (one.mean, one.units) == (0.5, 1)
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(mean_interval([nan]).mean)
    assert mean_interval([0.5] * 4)[:3] == (0.5, 0.5, 0.5)


def test_paired_difference_sees_what_two_intervals_do_not() -> None:
    random = np.random.default_rng(2)
    a = random.uniform(0.3, 0.9, 30)  # people differ far more than methods
    b = a - 0.02 + random.normal(0, 0.01, 30)
    first, second, paired = mean_interval(a), mean_interval(b), difference_interval(a, b)
    assert first.low < second.high
    assert 0 < paired.low < 0.02 < paired.high
    assert paired.mean == pytest.approx((a - b).mean())
    assert difference_interval([1.0, float("nan"), 3.0], [0.0, 1.0, 1.0]).units == 2
    with pytest.raises(ValueError, match="same order"):
        difference_interval([1.0, 2.0], [1.0])


def test_holm_keeps_the_order_and_counts_what_there_is() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([float("nan"), 0.02])
    assert np.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def test_chance_alone_is_rarely_called_a_difference() -> None:
    """26 comparisons of nothing: without the correction most tables would claim something."""
    random = np.random.default_rng(4)
    tables = [[mean_interval(random.normal(size=8), resamples=400).p for _ in range(26)] for _ in range(60)]
    assert np.mean([min(holm(table)) < 0.05 for table in tables]) <= 0.1
    assert np.mean([min(table) < 0.05 for table in tables]) > 0.5
