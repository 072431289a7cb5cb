"""Intervals of means, and verdicts on differences from the default."""

import statistics

import numpy as np
import pytest

from app.reporting.bootstrap import Precision
from app.sweep.validation.statistics import (
    compare,
    few_seeds_warning,
    mean_interval,
    required_seeds,
    same_sign_probability,
)

PRECISION = Precision(0.95, 2000)


def test_interval_of_constant_values_has_no_width():
    interval = mean_interval([2.5] * 4, Precision(0.95, 1000))
    assert (interval.low, interval.high) == (2.5, 2.5)


@pytest.mark.parametrize("values", [[], [3.0]])
def test_fewer_than_two_values_have_no_interval(values):
    assert mean_interval(values, Precision(0.95, 1000)) is None


def test_interval_is_reproducible_and_scales_with_the_values():
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    one, moved = (mean_interval(numbers, PRECISION) for numbers in (values, [10 * value - 3 for value in values]))
    assert one == mean_interval(values, PRECISION)
    assert (moved.low, moved.high) == pytest.approx((10 * one.low - 3, 10 * one.high - 3))
    assert one.low < statistics.fmean(values) < one.high


def test_interval_is_wider_for_more_confidence():
    values = list(np.random.default_rng(0).normal(size=12))
    widths = [mean_interval(values, Precision(share, 5000)) for share in (0.5, 0.8, 0.95, 0.99)]
    assert [w.high - w.low for w in widths] == sorted(w.high - w.low for w in widths)


def test_interval_of_many_values_agrees_with_normal_theory():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    interval = mean_interval(list(values), Precision(0.95, 20_000))
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


@pytest.mark.parametrize("size, low, high", [(3, 0.70, 0.82), (10, 0.86, 0.93), (30, 0.90, 0.96)])
def test_interval_holds_the_true_mean_as_often_as_documented(size, low, high):
    rng = np.random.default_rng(2)
    hits = sum(0.0 in mean_interval(rng.normal(size=size), Precision(0.95, 1000)) for _ in range(1000))
    assert low < hits / 1000 < high


def test_same_sign_probability_is_that_of_coin_flips():
    assert [same_sign_probability(pairs) for pairs in (1, 2, 3, 6)] == [1.0, 0.5, 0.25, 1 / 32]
    assert [required_seeds(confidence) for confidence in (0.5, 0.75, 0.9, 0.95, 0.99)] == [2, 3, 5, 6, 8]
    warning = few_seeds_warning([1, 2, 3], 0.95)
    assert "3 seeds are few" in warning and "25 % are ahead" in warning
    assert "From 6 seeds on" in few_seeds_warning([1], 0.95)
    assert few_seeds_warning(range(6), 0.95) is None


def test_difference_is_paired_by_seed():
    found = compare({1: 11.0, 2: 102.0, 4: 7.0}, {1: 10.0, 2: 100.0, 3: 50.0}, PRECISION)
    assert found.difference.values == {1: 1.0, 2: 2.0} and found.difference.mean == 1.5
    assert found.estimate.mean == 40.0  # of all its seeds
    assert found.difference.interval.low >= 1.0  # unpaired, the spread between seeds would hide it


def test_difference_whose_interval_holds_0_is_no_better():
    for values in ({1: 3.0, 2: -2.0, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 0.0}, {1: 0.0, 2: 0.0, 3: 5.0}):
        found = compare(values, {1: 0.0, 2: 0.0, 3: 0.0}, PRECISION)
        assert 0.0 in found.difference.interval
        assert found.verdict == "no better than the default that these seeds can show"


def test_difference_on_few_seeds_is_qualified():
    default = {seed: 0.0 for seed in range(6)}
    few, enough = (compare({seed: 5.0 + seed for seed in range(count)}, default, PRECISION) for count in (5, 6))
    assert few.verdict == "higher than the default, but on too few seeds to tell it from chance"
    assert enough.verdict == "higher than the default"
    assert compare({seed: -5.0 for seed in range(6)}, default, PRECISION).verdict == "lower than the default"


def test_missing_comparison_is_none():
    assert compare({1: 3.0}, {1: 1.0}, PRECISION).verdict == "one seed says nothing about chance"
    assert compare({1: 3.0}, {2: 1.0}, PRECISION).difference is None
    nothing = compare({}, {2: 1.0}, PRECISION)
    assert (nothing.estimate, nothing.difference, nothing.verdict) == (None, None, None)
    assert compare({1: 3.0}, None, PRECISION).difference is None  # the default itself
