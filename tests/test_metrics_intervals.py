"""Intervals of means over people against scipy and the normal distribution."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from talkinghead.metrics.intervals import bootstrap_difference, bootstrap_interval, bootstrap_mean


def test_interval_agrees_with_scipy_and_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 50)
    ours = bootstrap_mean(values)
    reference = bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-3)
    half = 1.96 * values.std() / np.sqrt(50)
    assert (ours.low, ours.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-3)
    assert ours.people == 50
    assert bootstrap_interval(values) == ours[1:3]


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = [low < 0 < high for low, high in (bootstrap_interval(random.normal(size=40), 500) for _ in range(200))]
    assert 0.88 < np.mean(hits) < 0.99


def test_same_seed_same_interval_and_wider_at_a_higher_level() -> None:
    values, uneven = [0.1, 0.5, 0.4, 0.9], np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(uneven, seed=1) != bootstrap_mean(uneven, seed=2)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean(values, level=95.0)


def test_people_without_a_value_do_not_count() -> None:
    nan = float("nan")
    assert bootstrap_mean([0.1, nan, 0.5, nan, 0.3]) == bootstrap_mean([0.1, 0.5, 0.3])
    one = bootstrap_mean([nan, 0.5])
    assert one.mean == 0.5
    assert one.people == 1
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(bootstrap_mean([nan]).mean)


def test_paired_difference_sees_what_two_intervals_do_not() -> None:
    random = np.random.default_rng(2)
    a = random.uniform(0.3, 0.9, 30)  # people differ far more than methods
    b = a - 0.02 + random.normal(0, 0.01, 30)
    first, second, paired = bootstrap_mean(a), bootstrap_mean(b), bootstrap_difference(a, b)
    assert first.low < second.high
    assert 0 < paired.low < 0.02 < paired.high
    assert paired.mean == pytest.approx((a - b).mean())
    assert bootstrap_difference([1.0, float("nan"), 3.0], [0.0, 1.0, 1.0]).people == 2
    with pytest.raises(ValueError, match="same order"):
        bootstrap_difference([1.0, 2.0], [1.0])
