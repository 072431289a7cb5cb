"""Reasons why a car stands still: each is told where its figures show it, and nowhere else."""

import dataclasses

import pytest

from app.health.standstill import standstill
from tests.helpers.make import compose

# An epoch of a car that does not move, and of which nothing else is wrong.
STILL = {
    "updates": 4000, "lap_share_det": 0.002, "lap_share_stoch": 0.01, "length_det": 60.0, "outcome_det/stalled": 1.0,
    "reward": 8.0, "reward_max": 1.0, "alpha": 0.05, "entropy": -1.5, "log_std_mean": -0.5, "q_mean": 5.0,
    "q_target_clipped": 0.0,
}  # fmt: skip
CAUSES = {  # change of that epoch: a part of the sentence
    "too early": ({"updates": 500}, "It has had 500 updates only"),
    "never moved": ({"reward_max": 0.01}, "No step has ever earned more than 0.01"),
    "noise pays": ({"alpha": 2.0, "entropy": 1.5, "reward": 0.5}, "The entropy bonus of a step is 3 (alpha 2 times"),
    "no noise": ({"log_std_mean": -6.0}, "almost no noise left (mean log-std -6"),
    "noise drives": ({"lap_share_stoch": 0.3}, "Sampled actions cover 30 % of the lap"),
    "low Q": ({"q_mean": -12.0}, "Q is -12 on average although rewards of up to 1"),
    "clipped": ({"q_target_clipped": 0.2}, "20 % of the Bellman targets lie outside"),
}


@pytest.fixture(scope="module")
def config():
    return compose("env=sim_lidar")


def test_fact_comes_first_with_the_mean_speed(config):
    first, *_ = standstill([STILL], config)
    metres, seconds = 0.002 * config.env.track.length, 60 * config.env.step_s
    assert f"covers 0.2 % of the lap, {metres / seconds:.2g} m/s on average, and 100 % of its episodes" in first


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_is_told_where_its_figures_show_it(config, cause):
    change, text = CAUSES[cause]
    _, *told = standstill([STILL | change], config)
    assert len(told) == 1 and text in told[0]


def test_figures_are_told_where_no_cause_shows(config):
    _, told = standstill([STILL], config)
    assert "None of the usual causes shows in the metrics (alpha 0.05, entropy -1.5, mean log-std -0.5, Q 5)" in told


def test_lost_lap_is_no_standstill_from_the_start(config):
    _, told = standstill([STILL | {"lap_share_det": 0.9}, STILL], config)
    assert told.startswith("It has driven before: 90 % of the lap after epoch 1.")


def test_epoch_of_a_lost_lap_is_its_own_where_earlier_ones_are_missing(config):
    _, told = standstill([STILL | {"lap_share_det": 0.9, "epoch": 6}, STILL | {"epoch": 7}], config)
    assert told.startswith("It has driven before: 90 % of the lap after epoch 6.")


def test_large_figures_have_no_exponent(config):
    told = " ".join(standstill([STILL | {"lap_share_stoch": 1.0, "q_mean": -1234.5}], config))
    assert "Sampled actions cover 100 % of the lap" in told and "Q is -1,234 on average" in told


def test_faults_of_the_configuration_are_named(config):
    broken = dataclasses.replace(config, agent=dataclasses.replace(config.agent, gamma=0.95))
    assert standstill([STILL], broken)[-1].endswith("agents collapse: 6 (short horizon).")


@pytest.mark.parametrize(
    "change",
    [
        {"lap_share_det": 1.0, "outcome_det/stalled": 0.0},
        {"lap_share_det": 0.05, "outcome_det/stalled": 0.0},  # it drives, and leaves the track
        {"lap_share_det": 0.5},
        {"lap_share_det": None},
    ],
)
def test_car_that_drives_stands_not_still(config, change):
    assert standstill([STILL | change], config) == []


def test_car_that_stalls_on_its_way_stands_still(config):
    assert standstill([STILL | {"lap_share_det": 0.1}], config)


def test_no_metric_is_needed(config):
    assert standstill([], config) == []
    assert standstill([{"return_test_det": 1.0}], config) == []  # no laps
    assert len(standstill([{"lap_share_det": 0.0}], config)) == 2
    nothing = {name: None for name in STILL} | {"lap_share_det": 0.0}
    assert len(standstill([nothing], config)) == 2
