"""Bands of healthy runs and exits from them, on numbers made by hand and on many synthetic runs."""

import math

import numpy as np
import pytest

from app.ablation.evidence_panels import MEASURES
from app.ablation.evidence_runs import EvidenceRun, read_evidence
from app.ablation.health_bands import Side, find_exits, harmful_sides, make_bands
from tests.helpers.evidence import make_arm, synthetic_rows, write_rows


def run_of(values, metric="entropy", **more):
    series = {metric: values, **more}
    metrics = {name: np.array(found, dtype=float) for name, found in series.items()}
    return EvidenceRun("fixed", 0, "sim_lidar", "finished", None, tuple(range(1, len(values) + 1)), metrics)


def runs_of(*levels, epochs=10, metric="entropy"):
    return [run_of([level] * epochs, metric) for level in levels]


def ends(bands, metric="entropy"):
    return bands.bands[metric].low, bands.bands[metric].high


def test_band_holds_the_percentiles_and_the_margin_that_keeps_every_healthy_run_inside():
    low, high = ends(make_bands(runs_of(0.0, 1.0, 2.0, 3.0, 4.0)))
    # Constant runs, so the window changes nothing: np.percentile of each value as often as the window has epochs.
    five, ninety_five = np.percentile(np.repeat(np.arange(5.0), 5), (5, 95))
    # Without 0 the others go from 1 to 4, and 0 lies one third of their width below; 4 lies so far above.
    margin = 1 / 3 * (ninety_five - five)
    assert (low[5], high[5]) == pytest.approx((five - margin, ninety_five + margin))


def test_values_of_neighbouring_epochs_count():
    runs = [run_of([0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0]) for _ in range(3)]
    _, high = ends(make_bands(runs))
    assert [value > 5 for value in high] == [False, False, True, True, True, True, True, False, False, False]


def test_no_healthy_run_leaves_the_bands():
    rng = np.random.default_rng(0)
    runs = [run_of(rng.normal(size=30).cumsum()) for _ in range(5)]
    bands = make_bands(runs)
    assert [find_exits(run, bands) for run in runs] == [()] * 5


def test_first_two_epochs_in_a_row_outside_are_the_exit():
    bands = make_bands(runs_of(0.0, 1.0, 2.0))
    (found,) = find_exits(run_of([1, 9, 1, 9, 9, 1, 9, 9]), bands)
    assert (found.epoch, found.side, found.value, found.back) == (4, Side.HIGH, 9.0, 6)
    assert found.band == (bands.bands["entropy"].low[3], bands.bands["entropy"].high[3])


def test_one_epoch_outside_and_one_on_each_side_are_no_exit():
    bands = make_bands(runs_of(0.0, 1.0, 2.0))
    assert find_exits(run_of([1, 9, 1, 9, -9, 9, 1]), bands) == ()


def test_missing_values_are_no_epochs_in_a_row():
    bands = make_bands(runs_of(0.0, 1.0, 2.0))
    assert find_exits(run_of([9, math.nan, 9, math.nan, 9]), bands) == ()


def test_exits_come_in_the_order_of_epochs():
    healthy = [run_of([level] * 8, "entropy", q_predicted=[level] * 8) for level in (0.0, 1.0, 2.0)]
    sick = run_of([1, 1, 1, 1, 9, 9, 9, 9], "entropy", q_predicted=[1, 1, -9, -9, -9, -9, -9, -9])
    found = find_exits(sick, make_bands(healthy))
    assert [(one.metric, one.epoch, one.side) for one in found] == [
        ("q_predicted", 3, Side.LOW),
        ("entropy", 5, Side.HIGH),
    ]


def test_better_than_healthy_is_no_exit():
    bands = make_bands(runs_of(0.7, 0.8, 0.9, metric="lap_share_det"))
    assert find_exits(run_of([1.0] * 8, "lap_share_det"), bands) == ()
    assert [one.side for one in find_exits(run_of([0.1] * 8, "lap_share_det"), bands)] == [Side.LOW]
    assert harmful_sides("entropy") == (Side.LOW, Side.HIGH)


def test_measure_that_never_changes_has_a_band():
    bands = make_bands(runs_of(0.0, 0.0, 0.0, metric="train_eval_gap_action"))
    assert find_exits(run_of([0.0] * 8, "train_eval_gap_action"), bands) == ()
    assert len(find_exits(run_of([0.0, 0.01, 0.01], "train_eval_gap_action"), bands)) == 1


def test_logarithmic_measure_has_a_positive_band():
    low, high = ends(make_bands(runs_of(0.001, 0.01, 0.1, metric="alpha")), "alpha")
    assert (low > 0).all() and low[0] * high[0] == pytest.approx(0.01**2)


def test_last_band_holds_after_the_healthy_runs_end():
    bands = make_bands(runs_of(0.0, 1.0, 2.0, epochs=5))
    assert [one.epoch for one in find_exits(run_of([1] * 7 + [9, 9]), bands)] == [8]


def test_two_runs_make_no_band():
    assert make_bands(runs_of(0.0, 1.0)) is None
    assert not make_bands([*runs_of(0.0, 1.0), run_of([0.5] * 9, "alpha")]).bands


def test_few_healthy_runs_leave_the_bands_of_five_others(tmp_path):
    rows = synthetic_rows([make_arm("fixed", "reference", (), 25)], "sim_lidar", 20)
    runs = read_evidence(write_rows(tmp_path / "evidence.csv", rows))
    bands = make_bands(runs[:5])
    assert len(set(MEASURES) & bands.bands.keys()) > 15
    assert sum(bool(find_exits(run, bands)) for run in runs[5:]) <= 6  # of 15; every one would, without the margin
