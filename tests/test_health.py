"""The health score, its parts and the objective, at their limits."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import rules
from app.config.load import ConfigError
from app.health.collapse import collapse_reason
from app.health.score import (
    entropy_health,
    is_better,
    loss_smoothness,
    objective,
    performance,
    positive_trend,
    return_consistency,
    stability,
    worst_objective,
)
from app.runs.fingerprint import fingerprint
from tests.helpers.histories import history
from tests.helpers.make import compose as compose_config

RANGE = (0.0, 500.0)
FACTORS = (2.0, 10.0)
BAND = (0.002, 0.01, 0.12, 0.5)
STANDING = 0.01
CONFIG = compose_config("env=sim_lidar", "agent.n_step=1", "critic.initial_q=0")
PARTS = ("loss_smoothness", "return_consistency", "entropy_health", "positive_trend", "performance")


# --------------------------------------------------------------------------------------------- loss smoothness


@pytest.mark.parametrize("count", [1, 2, 9])
def test_constant_losses_are_smooth(count):
    assert loss_smoothness([(0.1, -3.0)] * count, FACTORS) == 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_losses_that_jump_tenfold_every_epoch_score_0(sign):
    up_and_down = [(0.1 * 10 ** (i % 2), sign * 10.0 * 10 ** (i % 2)) for i in range(6)]
    explosion = [(0.1 * 10**i, sign * 10.0 * 1e3**i) for i in range(6)]
    assert loss_smoothness(up_and_down, FACTORS) == pytest.approx(0.0, abs=1e-9)
    assert loss_smoothness(explosion, FACTORS) == pytest.approx(0.0, abs=1e-9)


def test_slow_rise_of_the_losses_over_decades_is_smooth():
    assert loss_smoothness([(0.03 * 1.6**i, -1.0 * 1.4**i) for i in range(14)], FACTORS) == 1.0


def test_one_jump_among_many_epochs_costs_its_share():
    losses = [(0.1, -5.0)] * 5 + [(10.0, -5.0)] * 5
    assert loss_smoothness(losses, FACTORS) == pytest.approx(1 - 1 / 18)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_loss_that_is_not_finite_scores_0(odd, which):
    losses = [(0.1, -5.0)] * 9
    losses[4] = tuple(odd if i == which else value for i, value in enumerate(losses[4]))
    assert loss_smoothness(losses, FACTORS) == 0.0


def test_actor_loss_with_a_flipped_sign_is_a_jump_and_noise_around_0_is_none():
    assert loss_smoothness([(0.04, -7.0), (0.04, 6.0)], FACTORS) == pytest.approx(0.5)  # the critic's half is smooth
    assert loss_smoothness([(0.04, -0.1), (0.04, 0.1)] * 4, FACTORS) == 1.0  # the critic errs by 0.2


def test_constant_losses_of_0_are_smooth():
    assert loss_smoothness([(0.0, 0.0)] * 3, FACTORS) == 1.0


def test_no_losses_score_0():
    assert loss_smoothness([], FACTORS) == 0.0


# ------------------------------------------------------------------------------------------ return consistency


@pytest.mark.parametrize("stands", [0.0, -0.4, 3.0, 5.0])
def test_car_that_always_stands_still_is_not_consistent(stands):
    assert return_consistency([stands] * 5, RANGE, STANDING) == 0.0


def test_driver_that_always_finishes_its_lap_is_consistent():
    assert return_consistency([500.0] * 5, RANGE, STANDING) == pytest.approx(0.99)


def test_returns_that_vary_as_much_as_they_amount_to_score_0():
    assert return_consistency([0.0, 500.0, 0.0, 500.0], RANGE, STANDING) == 0.0


def test_consistency_is_measured_from_the_lowest_return_not_from_0():
    assert return_consistency([-200.0, -180.0], (-1600.0, -100.0), STANDING) == pytest.approx(1 - 25 / 1410)


@pytest.mark.parametrize("returns", [[], [400.0], [400.0, math.nan]])
def test_too_few_returns_have_a_consistency_of_0(returns):
    assert return_consistency(returns, RANGE, STANDING) == 0.0


# ---------------------------------------------------------------------------------------------- entropy health


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, 0), (0.002, 0), (0.0044721, 0.5), (0.01, 1), (0.0339, 1), (0.12, 1), (0.2449489, 0.5), (0.5, 0), (9, 0),
        (math.nan, 0), (math.inf, 0),
    ],
)  # fmt: skip
def test_entropy_health_is_a_trapezoid_over_the_logarithm_of_alpha(alpha, expected):
    assert entropy_health([alpha], BAND) == pytest.approx(expected, abs=1e-5)


def test_entropy_health_is_the_mean_of_the_epochs():
    assert entropy_health([0.03, 2.0], BAND) == 0.5
    assert entropy_health([], BAND) == 0.0


def test_alpha_of_recorded_healthy_runs_is_healthy():
    """Recorded runs drive best with values below 0.05."""
    assert entropy_health([0.0334], CONFIG.health.alpha_band) == 1.0


# ----------------------------------------------------------------------------------- positive trend, performance


def test_only_a_rise_is_a_positive_trend():
    rising = [i * 25.0 for i in range(21)]
    assert positive_trend(rising, RANGE) == pytest.approx(1.0)
    assert positive_trend([value / 2 for value in rising], RANGE) == pytest.approx(0.5)
    assert positive_trend([400.0] * 9, RANGE) == 0.0
    assert positive_trend(rising[::-1], RANGE) == 0.0


def test_trend_does_not_depend_on_where_the_range_begins():
    assert positive_trend([-1600.0, -850.0, -100.0], (-1600.0, -100.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("returns", [[], [400.0], [0.0, math.nan], [0.0, math.inf]])
def test_too_few_returns_have_a_trend_of_0(returns):
    assert positive_trend(returns, RANGE) == 0.0


@pytest.mark.parametrize(
    ("returns", "expected"),
    [([], 0), ([0], 0), ([-9], 0), ([250], 0.5), ([0, 500], 0.5), ([500], 1), ([501], 1), ([math.nan], 0)],
)
def test_performance_is_the_place_of_the_mean_in_the_range(returns, expected):
    assert performance(returns, RANGE) == expected


# --------------------------------------------------------------------------------------------------- the score


def test_score_is_the_weighted_sum_of_its_parts():
    scores = stability(history(return_test_det=[100.0, 200.0, 300.0]), CONFIG.health, RANGE)
    assert list(scores) == ["stability", *(f"stability_{name}" for name in PARTS)]
    weights = dataclasses.asdict(CONFIG.health.weights)
    assert tuple(weights) == PARTS and sum(weights.values()) == pytest.approx(1)
    assert scores["stability"] == pytest.approx(sum(weights[name] * scores[f"stability_{name}"] for name in PARTS))


def test_run_that_learned_to_lap_scores_more_than_one_that_stands_still_or_collapsed():
    learned = history(return_test_det=[0.0, 100.0, 300.0, 500.0, 500.0, 500.0, 500.0, 500.0])
    stands = history(8, return_test_det=0.0)
    collapsed = history(8, return_test_det=0.0, loss_critic=[0.1, 3.0] * 4, loss_actor=[-5.0, 60.0] * 4, alpha=0.001)
    scores = [stability(run, CONFIG.health, RANGE)["stability"] for run in (learned, stands, collapsed)]
    assert scores[0] > 0.9 and 0.4 < scores[1] < 0.5 and scores[2] < 0.1


def test_task_without_a_return_range_has_no_score():
    assert stability(history(3), CONFIG.health, None) == {}
    assert stability([], CONFIG.health, RANGE) == {}


def test_only_the_newest_returns_count_for_consistency_and_performance():
    run = history(return_test_det=[0.0] * 7 + [500.0] * 5)
    scores = stability(run, CONFIG.health, RANGE)
    assert scores["stability_return_consistency"] == pytest.approx(0.99) and scores["stability_performance"] == 1


anything = st.one_of(st.none(), st.floats(width=32), st.floats(-1e3, 1e3))
epochs = st.fixed_dictionaries(
    {"return_test_det": anything},
    optional={
        name: anything
        for name in ("loss_critic", "loss_actor", "alpha", "entropy", "q_mean", "reward_min", "reward_max")
    }
    | {"return_test_stoch": anything, "updates": st.just(0)},
)


@given(st.lists(epochs, max_size=8))
def test_scores_stay_between_0_and_1_whatever_a_run_reports(run):
    for number, epoch in enumerate(run):
        epoch.update({"updates": 700 * number} if "updates" in epoch else {})
    scores = stability(run, CONFIG.health, RANGE)
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    assert collapse_reason(run, CONFIG) != ""
    assert not math.isinf(objective("return_test_det", run, CONFIG.health, RANGE))
    assert bool(scores) == bool(run)


# -------------------------------------------------------------------------------------------------- objective


def test_objective_is_the_mean_of_the_last_evaluations():
    run = history(return_test_det=[500.0, 10.0, 20.0, 30.0])
    assert objective("return_test_det", run, CONFIG.health, RANGE) == 20.0
    assert objective("return_test_det", run[:1], CONFIG.health, None) == 500.0
    assert objective("return_test_det", history(return_test_det=[10.0, None]), CONFIG.health, RANGE) == 10.0
    assert objective("stability", run, CONFIG.health, RANGE) == stability(run, CONFIG.health, RANGE)["stability"]


@pytest.mark.parametrize("name", ["return_test_det", "stability"])
def test_objective_without_an_evaluation_is_nan(name):
    assert math.isnan(objective(name, [], CONFIG.health, RANGE))
    assert math.isnan(worst_objective(name, []))
    assert math.isnan(worst_objective(name, history(return_test_det=[None])))


def test_higher_return_is_better_until_every_episode_is_a_lap_then_the_faster_one_is():
    half = {"return_test_det": 250.0, "laps_det": 0.0}
    some = {"return_test_det": 450.0, "laps_det": 0.9, "lap_time_det": 20.0}
    slow = {"return_test_det": 500.6, "laps_det": 1.0, "lap_time_det": 30.0}
    fast = {"return_test_det": 500.1, "laps_det": 1.0, "lap_time_det": 25.0}
    ranking = [half, some, slow, fast]
    for worse, better in zip(ranking, ranking[1:], strict=False):
        assert is_better(better, worse) and not is_better(worse, better)
    assert is_better(half, {}) and not is_better(half, half)


def test_collapsed_run_counts_with_its_worst_and_a_finite_number():
    run = history(return_test_det=[500.0, 10.0, None, 30.0])
    assert worst_objective("return_test_det", run) == 10.0
    assert worst_objective("stability", run) == 0.0


# ------------------------------------------------------------------------------------------------ configuration

WRONG = [
    (
        ["objective=stability", "model=mlp", "env=gym"],
        "env.return_range = null: must be the lowest and the highest return to expect with objective=stability. "
        "Set it, such as env.return_range=[-1600,-100] for Pendulum-v1",
    ),
    (["env.return_range=[500,0]"], "env.return_range = [500.0, 0.0]: the first number must be less than the second"),
    (["env.return_range=[0,0]"], "env.return_range = [0.0, 0.0]: the first number must be less than the second"),
    (["env.return_range=[0]"], "env.return_range = [0]: must be a list of 2 numbers or null"),
    (["env.return_range=500"], "env.return_range = 500: must be a list of 2 numbers or null"),
    (["value.support=[5,5]"], "value.support = [5.0, 5.0]: must be the lowest and the highest value"),
    (["value.support=[0,inf]"], "value.support = [0, inf]: must be a list of 2 numbers or null"),
    (["value.support=[1,9]"], "critic.initial_q = 0: is outside value.support = [1.0, 9.0]. Widen the support"),
    (["value.bins=2"], "value.bins = 2: must be an integer at least 3"),
    (["value.sigma=0"], "value.sigma = 0: must be a number greater than 0"),
    (["agent.policy_ema=1"], "agent.policy_ema = 1: must be a number at least 0 and less than 1"),
    (["agent.deployed_policy=best"], "agent.deployed_policy = best: must be one of averaged, raw"),
    (["health.weights.performance=0.2"], "health.weights: must sum to 1, and the five sum to 1.05"),
    (["health.weights.performance=-1"], "health.weights.performance = -1: must be a number at least 0"),
    (["health.alpha_band=[0.1,0.1,1,2]"], "health.alpha_band = [0.1, 0.1, 1.0, 2.0]: each number must be greater"),
    (["health.alpha_band=[0,0.1,1,2]"], "health.alpha_band = [0, 0.1, 1, 2]: must be a list of 4 numbers greater"),
    (["health.loss_factors=[10,2]"], "health.loss_factors = [10.0, 2.0]: each number must be greater than the one"),
    (["health.on_collapse=die"], "health.on_collapse = die: must be one of warn, stop"),
    (["health.objective_window=0"], "health.objective_window = 0: must be an integer at least 1"),
    (["health.consistency_window=1"], "health.consistency_window = 1: must be an integer at least 2"),
    (["health.collapse.low_score=2"], "health.collapse.low_score = 2: must be a number at least 0 and at most 1"),
    (["health.collapse.stuck_epochs=1"], "health.collapse.stuck_epochs = 1: must be an integer at least 2"),
    (["objective=score"], "objective = score: must be one of return_test_det, stability"),
    (["+health.weighs=3"], "health.weighs: there is no such key. Did you mean health.weights?"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_invalid_value_is_refused_with_what_is_allowed(compose, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert message in str(caught.value) and len(caught.value.problems) == 1


def test_gym_task_can_be_scored_if_its_return_range_is_set(compose):
    told = compose("objective=stability", "model=mlp", "env=gym", "env.return_range=[-1600,-100]")
    assert told.env.return_range == (-1600.0, -100.0)


def test_return_range_that_does_not_end_at_a_full_lap_is_warned_about(compose):
    (warning,) = rules.warnings(compose("env.track.length=1200"))
    assert "env.return_range[1] = 500 is not what a full lap scores, 600" in warning
    assert not rules.warnings(compose("env.track.length=1200", "env.return_range=[0,600]"))


def test_return_range_is_not_in_the_fingerprint(compose):
    assert fingerprint(compose()) == fingerprint(compose("env.return_range=[-1,400]"))


def test_collapse_is_only_warned_about_by_default(compose):
    assert compose().health.on_collapse == "warn"
    assert compose("health.on_collapse=stop").health.on_collapse == "stop"
