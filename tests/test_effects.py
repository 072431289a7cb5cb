"""Scores of runs, and the statistics over them."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from app.ablation.effects import (
    FALSE_CLAIMS,
    Claim,
    effect,
    estimate,
    improvement_probability,
    interquartile_mean,
)
from app.ablation.epoch_curves import epoch_curve
from app.ablation.evidence_runs import EvidenceRun
from app.ablation.run_scores import PRIMARY, SCORES
from app.reporting.bootstrap import Precision, bootstrap_interval

BY_NAME = {score.name: score for score in SCORES}


def run(*lap_shares: float, end: str = "finished", collapsed_at: int | None = None, **metrics) -> EvidenceRun:
    columns = {"lap_share_det": lap_shares, **metrics}
    arrays = {name: np.array(values, float) for name, values in columns.items()}
    return EvidenceRun("arm", 0, "sim", end, collapsed_at, tuple(range(1, len(lap_shares) + 1)), arrays)


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean(np.arange(20)) == 9.5  # scipy.stats.trim_mean, example of its documentation has 9.5
    assert interquartile_mean([0.0, 0.2, 0.4, 0.9, 100.0]) == pytest.approx(0.5)  # of 5 runs, the middle 3
    assert interquartile_mean([0.0, 0.3, 0.9]) == pytest.approx(0.4)  # of 3 runs, all
    assert interquartile_mean([[1, 2, 3, 9], [0, 4, 6, 7]]).tolist() == [2.5, 5.0]


def test_improvement_probability_counts_pairs_and_half_of_the_ties():
    assert improvement_probability([1, 2, 3], [0, 0, 0]) == 1.0
    assert improvement_probability([1, 2], [1, 2]) == 0.5
    assert improvement_probability([1, 5], [2, 1]) == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    males, females = [19, 22, 16, 29, 24], [20, 11, 17, 12]  # example of scipy.stats.mannwhitneyu: U = 17
    assert improvement_probability(males, females) == 17 / 20


def test_interval_is_that_of_scipy():
    sample = [0.2, 0.5, 0.3, 0.9, 0.4]
    found = bootstrap_interval([sample], np.mean, Precision(0.9, 1000))
    options = {"confidence_level": 0.9, "n_resamples": 1000, "method": "percentile", "rng": np.random.default_rng(0)}
    expected = stats.bootstrap((sample,), np.mean, **options).confidence_interval
    assert (found.low, found.high) == (expected.low, expected.high)


def test_runs_are_resampled_within_each_arm():
    # Pooled resampling would mix 0 and 1, and the interval of the difference would have a width.
    found = effect([0.0] * 4, [1.0] * 4, PRIMARY)
    assert (found.difference, found.interval.low, found.interval.high) == (-1.0, -1.0, -1.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "claim"),
    [
        ([0.1, 0.2, 0.3], [0.8, 0.9, 1.0], Claim.WORSE),
        ([0.8, 0.9, 1.0], [0.1, 0.2, 0.3], Claim.BETTER),
        ([0.1, 0.9, 0.5], [0.2, 0.8, 0.6], Claim.NOTHING),
        ([0.3] * 5, [0.3] * 3, Claim.NOTHING),
        ([0.1, 0.2], [0.8, 0.9, 1.0], Claim.TOO_FEW),
        ([0.1], [0.9], Claim.TOO_FEW),
    ],
)
def test_claim_needs_three_seeds_and_an_interval_without_0(ours, theirs, claim):
    assert effect(ours, theirs, PRIMARY).claim is claim


def test_less_is_better_where_the_score_says_so():
    found = effect([3.0, 4.0, 5.0], [9.0, 8.0, 7.0], BY_NAME["first"])
    assert (found.difference, found.claim, found.improvement) == (-4.0, Claim.BETTER, 1.0)


def test_claim_on_fewer_than_five_seeds_is_not_firm():
    assert not effect([0.1] * 3, [0.9] * 5, PRIMARY).is_firm
    assert effect([0.1] * 5, [0.9] * 5, PRIMARY).is_firm


def test_only_a_claim_is_weak():
    assert effect([0.1] * 3, [0.9] * 5, PRIMARY).is_weak and not effect([0.1] * 5, [0.9] * 5, PRIMARY).is_weak
    assert not effect([0.3] * 3, [0.3] * 3, PRIMARY).is_weak and not effect([0.1], [0.9], PRIMARY).is_weak


def test_share_of_collapsed_runs_is_a_mean():
    found = estimate({0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}, BY_NAME["collapsed"])
    assert found.centre == 0.25


def test_nothing_to_compare_is_none():
    assert effect([], [1.0], PRIMARY) is None and estimate({}, PRIMARY) is None
    assert estimate({3: 0.5}, PRIMARY).interval is None


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_arms_are_claimed_to_differ_as_often_as_documented(seeds):
    rng = np.random.default_rng(1)
    quick = Precision(0.95, 500)
    pairs = [(list(rng.normal(size=seeds)), list(rng.normal(size=seeds))) for _ in range(200)]
    claims = sum(effect(*pair, BY_NAME["mean"], quick).claim is not Claim.NOTHING for pair in pairs)
    assert claims / len(pairs) == pytest.approx(FALSE_CLAIMS[seeds], abs=0.08)


def test_scores_of_a_run_are_those_of_its_first_epochs():
    one = run(0.2, 1.0, 0.6, 1.0, 0.0, collapsed_at=5, lap_time_det=[math.nan, 30.0, math.nan, 28.0, math.nan])
    scores = {name: score.of(one, 4) for name, score in BY_NAME.items()}
    assert scores == pytest.approx(
        {"mean": 0.7, "held": 2 / 3, "last": 0.7, "worst": 0.6, "first": 2.0, "lap_time": 29.0, "collapsed": 0.0}
    )
    assert BY_NAME["collapsed"].of(one, 5) == 1.0


def test_run_that_never_laps_counts_as_one_epoch_more_and_has_no_lap_time():
    one = run(0.1, 0.2, 0.3)
    assert (BY_NAME["first"].of(one, 3), BY_NAME["held"].of(one, 3), BY_NAME["lap_time"].of(one, 3)) == (4.0, 0.0, None)


def test_run_that_became_nan_covers_nothing_from_then_on():
    one = run(1.0, 1.0, end="not finite: loss_critic")
    assert one.covers(4) and BY_NAME["mean"].of(one, 4) == 0.5 and BY_NAME["collapsed"].of(one, 4) == 1.0
    assert not run(1.0, 1.0, end="failed: the disk is full").covers(4)


def test_run_that_was_stopped_early_cannot_be_judged():
    stopped, pruned = run(1.0, 1.0, end="collapsed: stuck"), run(1.0, 1.0, end="pruned")
    assert not stopped.covers(2) and not pruned.covers(2) and not pruned.covers(4)
    collapsed = BY_NAME["collapsed"].of
    assert (collapsed(stopped, 4), collapsed(stopped, 1), collapsed(pruned, 4), collapsed(pruned, 2)) == (1, 0, None, 0)


def test_run_that_became_nan_before_its_first_epoch_covers_nothing():
    one = run(end="not finite: loss_critic")
    assert one.covers(3) and BY_NAME["mean"].of(one, 3) == 0.0 and BY_NAME["first"].of(one, 3) == 4.0


def test_collapse_of_a_peer_is_not_known():
    assert BY_NAME["collapsed"].of(dataclasses.replace(run(1.0, 1.0), is_peer=True), 2) is None


def test_curve_takes_the_runs_that_have_a_value():
    runs = [run(0.2, 0.4, 0.6), run(0.4, 0.6), run(0.6, math.nan)]
    curve = epoch_curve(runs, "lap_share_det")
    assert curve.epochs.tolist() == [1, 2, 3] and curve.runs.tolist() == [3, 2, 1]
    assert curve.centre == pytest.approx([0.4, 0.5, 0.6])
    assert curve.low[0] >= 0.2 and curve.high[1] == pytest.approx(0.6) and math.isnan(curve.low[2])
    assert epoch_curve(runs, "no_such_metric") is None
