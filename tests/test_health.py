"""The health score, the objective and the rules of a collapse, at their ends."""

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import checks
from app.config.load import ConfigError
from app.health.collapse import collapse
from app.health.objective import is_better, objective, worst
from app.health.q_bounds import q_bounds
from app.health.score import (
    entropy_health,
    loss_smoothness,
    performance,
    positive_trend,
    return_consistency,
    stability,
)
from app.runs.fingerprint import fingerprint
from tests.make import compose as compose_config

RANGE = (0.0, 500.0)
FACTORS = (2.0, 10.0)
BAND = (0.002, 0.01, 0.12, 0.5)
STANDING = 0.01
ONE_STEP = ("env=sim_lidar", "agent.n_step=1")  # the numbers below are those of one-step targets
CONFIG = compose_config(*ONE_STEP, "critic.initial_q=0")
PARTS = ("loss_smoothness", "return_consistency", "entropy_health", "positive_trend", "performance")

# One epoch as a healthy run without images has it (seed 0, 4 000 updates).
EPOCH = {
    "updates": 500, "loss_critic": 0.3, "loss_actor": -17.8, "q_mean": 1.0, "alpha": 0.04, "entropy": -0.5,
    "reward_min": 0.0, "reward_max": 1.0, "return_test_det": 260.0, "return_test_stoch": 250.0,
}  # fmt: skip
# Seed 0 of experiment=collapse without images: q_mean, alpha and entropy of its first five epochs.
BROKEN = [(1.05, 0.093, 1.78), (4.09, 0.081, 0.68), (1.18, 0.083, -4.13), (-1.72, 0.092, -2.72), (-3.58, 0.086, 1.95)]


def history(count: int = 0, **columns) -> list[dict]:
    """Epochs like EPOCH, 500 updates each, with a list of values or one value for some metrics."""
    count = count or max(len(column) for column in columns.values() if isinstance(column, list))
    epochs = [EPOCH | {"updates": 500 * number} for number in range(1, count + 1)]
    for name, column in columns.items():
        for epoch, value in zip(epochs, column if isinstance(column, list) else [column] * count, strict=True):
            epoch[name] = value
    return epochs


def broken(*q_means: float) -> list[dict]:
    """The first epochs of a run with all faults; the last of them with other means of Q."""
    measured, alphas, entropies = map(list, zip(*BROKEN, strict=True))
    q = measured[: len(BROKEN) - len(q_means)] + list(q_means)
    return history(q_mean=q, alpha=alphas, entropy=entropies, reward_max=0.24, return_test_det=[1, 9, 2, 7, 3])


def config(**health):
    """The default configuration with other rules of a collapse."""
    rules = dataclasses.replace(CONFIG.health.collapse, **health)
    return dataclasses.replace(CONFIG, health=dataclasses.replace(CONFIG.health, collapse=rules))


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


def test_losses_may_rise_over_decades_as_long_as_they_take_their_time():
    assert loss_smoothness([(0.03 * 1.6**i, -1.0 * 1.4**i) for i in range(14)], FACTORS) == 1.0


def test_one_jump_among_many_epochs_costs_its_share():
    losses = [(0.1, -5.0)] * 5 + [(10.0, -5.0)] * 5
    assert loss_smoothness(losses, FACTORS) == pytest.approx(1 - 1 / 18)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_loss_that_is_not_finite_scores_0(odd, which):
    losses = [(0.1, -5.0)] * 9
    losses[4] = tuple(odd if i == which else value for i, value in enumerate(losses[4]))
    assert loss_smoothness(losses, FACTORS) == 0.0


def test_an_actor_loss_that_flips_its_sign_is_a_jump_and_noise_around_0_is_none():
    assert loss_smoothness([(0.04, -7.0), (0.04, 6.0)], FACTORS) == pytest.approx(0.5)  # the critic's half is smooth
    assert loss_smoothness([(0.04, -0.1), (0.04, 0.1)] * 4, FACTORS) == 1.0  # the critic errs by 0.2


def test_a_critic_loss_of_0_is_a_number_like_any_other():
    assert loss_smoothness([(0.0, 0.0)] * 3, FACTORS) == 1.0


def test_no_losses_score_0():
    assert loss_smoothness([], FACTORS) == 0.0


# ------------------------------------------------------------------------------------------ return consistency


@pytest.mark.parametrize("stands", [0.0, -0.4, 3.0, 5.0])
def test_a_car_that_always_stands_still_is_not_consistent(stands):
    assert return_consistency([stands] * 5, RANGE, STANDING) == 0.0


def test_a_driver_that_always_laps_is_consistent():
    assert return_consistency([500.0] * 5, RANGE, STANDING) == pytest.approx(0.99)


def test_returns_that_vary_as_much_as_they_amount_to_score_0():
    assert return_consistency([0.0, 500.0, 0.0, 500.0], RANGE, STANDING) == 0.0


def test_consistency_is_measured_from_the_lowest_return_not_from_0():
    assert return_consistency([-200.0, -180.0], (-1600.0, -100.0), STANDING) == pytest.approx(1 - 25 / 1410)


@pytest.mark.parametrize("returns", [[], [400.0], [400.0, math.nan]])
def test_too_few_returns_show_no_consistency(returns):
    assert return_consistency(returns, RANGE, STANDING) == 0.0


# ---------------------------------------------------------------------------------------------- entropy health


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, 0), (0.002, 0), (0.0044721, 0.5), (0.01, 1), (0.0339, 1), (0.12, 1), (0.2449489, 0.5), (0.5, 0), (9, 0),
        (math.nan, 0), (math.inf, 0),
    ],
)  # fmt: skip
def test_the_entropy_coefficient_is_healthy_inside_its_band(alpha, expected):
    assert entropy_health([alpha], BAND) == pytest.approx(expected, abs=1e-5)


def test_entropy_health_is_the_mean_of_the_epochs():
    assert entropy_health([0.03, 2.0], BAND) == 0.5
    assert entropy_health([], BAND) == 0.0


def test_what_the_old_sweep_called_collapsed_is_healthy_here():
    """Below 0.05 the prototype and the recorded healthy runs drive best."""
    assert entropy_health([0.0334], CONFIG.health.alpha_band) == 1.0


# ----------------------------------------------------------------------------------- positive trend, performance


def test_only_a_rise_is_a_positive_trend():
    rising = [i * 25.0 for i in range(21)]
    assert positive_trend(rising, RANGE) == pytest.approx(1.0)
    assert positive_trend([value / 2 for value in rising], RANGE) == pytest.approx(0.5)
    assert positive_trend([400.0] * 9, RANGE) == 0.0
    assert positive_trend(rising[::-1], RANGE) == 0.0


def test_a_trend_does_not_depend_on_where_the_range_begins():
    assert positive_trend([-1600.0, -850.0, -100.0], (-1600.0, -100.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("returns", [[], [400.0], [0.0, math.nan], [0.0, math.inf]])
def test_too_few_returns_have_no_trend(returns):
    assert positive_trend(returns, RANGE) == 0.0


@pytest.mark.parametrize(
    ("returns", "expected"),
    [([], 0), ([0], 0), ([-9], 0), ([250], 0.5), ([0, 500], 0.5), ([500], 1), ([501], 1), ([math.nan], 0)],
)
def test_performance_is_the_place_of_the_mean_in_the_range(returns, expected):
    assert performance(returns, RANGE) == expected


# --------------------------------------------------------------------------------------------------- the score


def test_the_score_is_the_weighted_sum_of_its_parts():
    scores = stability(history(return_test_det=[100.0, 200.0, 300.0]), CONFIG.health, RANGE)
    assert list(scores) == ["stability", *(f"stability_{name}" for name in PARTS)]
    weights = dataclasses.asdict(CONFIG.health.weights)
    assert tuple(weights) == PARTS and sum(weights.values()) == pytest.approx(1)
    assert scores["stability"] == pytest.approx(sum(weights[name] * scores[f"stability_{name}"] for name in PARTS))


def test_a_run_that_learned_to_lap_scores_more_than_one_that_stands_still_or_collapsed():
    learned = history(return_test_det=[0.0, 100.0, 300.0, 500.0, 500.0, 500.0, 500.0, 500.0])
    stands = history(8, return_test_det=0.0)
    collapsed = history(8, return_test_det=0.0, loss_critic=[0.1, 3.0] * 4, loss_actor=[-5.0, 60.0] * 4, alpha=0.001)
    scores = [stability(run, CONFIG.health, RANGE)["stability"] for run in (learned, stands, collapsed)]
    assert scores[0] > 0.9 and 0.4 < scores[1] < 0.5 and scores[2] < 0.1


def test_a_task_without_a_range_has_no_score():
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
def test_whatever_a_run_reports_scores_stay_between_0_and_1_and_nothing_raises(run):
    for number, epoch in enumerate(run):
        epoch.update({"updates": 700 * number} if "updates" in epoch else {})
    scores = stability(run, CONFIG.health, RANGE)
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    assert isinstance(collapse(run, CONFIG), str)
    assert not math.isinf(objective("return_test_det", run, CONFIG.health, RANGE))
    assert bool(scores) == bool(run)


# -------------------------------------------------------------------------------------------------- objective


def test_the_objective_is_the_mean_of_the_last_evaluations():
    run = history(return_test_det=[500.0, 10.0, 20.0, 30.0])
    assert objective("return_test_det", run, CONFIG.health, RANGE) == 20.0
    assert objective("return_test_det", run[:1], CONFIG.health, None) == 500.0
    assert objective("return_test_det", history(return_test_det=[10.0, None]), CONFIG.health, RANGE) == 10.0
    assert objective("stability", run, CONFIG.health, RANGE) == stability(run, CONFIG.health, RANGE)["stability"]


@pytest.mark.parametrize("name", ["return_test_det", "stability"])
def test_nothing_to_judge_is_nan(name):
    assert math.isnan(objective(name, [], CONFIG.health, RANGE))
    assert math.isnan(worst(name, []))
    assert math.isnan(worst(name, history(return_test_det=[None])))


def test_a_higher_return_is_better_until_every_episode_is_a_lap_then_a_faster_one_is():
    half = {"return_test_det": 250.0, "laps_det": 0.0}
    some = {"return_test_det": 450.0, "laps_det": 0.9, "lap_time_det": 20.0}
    slow = {"return_test_det": 500.6, "laps_det": 1.0, "lap_time_det": 30.0}
    fast = {"return_test_det": 500.1, "laps_det": 1.0, "lap_time_det": 25.0}
    ranking = [half, some, slow, fast]
    for worse, better in zip(ranking, ranking[1:], strict=False):
        assert is_better(better, worse) and not is_better(worse, better)
    assert is_better(half, {}) and not is_better(half, half)


def test_a_collapsed_run_counts_with_its_worst_and_a_finite_number():
    run = history(return_test_det=[500.0, 10.0, None, 30.0])
    assert worst("return_test_det", run) == 10.0
    assert worst("stability", run) == 0.0


# --------------------------------------------------------------------------------------------------- collapse


def test_a_healthy_run_has_not_collapsed():
    returns = [17.6, 79.8, 11.3, 38.2, 208.5, 358.9, 261.7, 500.5, 93.7]
    run = history(return_test_det=returns, return_test_stoch=[value * 0.9 for value in returns])
    assert all(not collapse(run[:end], CONFIG) for end in range(len(run) + 1))


@pytest.mark.parametrize("odd", [None, math.nan, math.inf])
def test_what_is_not_finite_is_a_collapse(odd):
    assert collapse(history(q_mean=[1.0, odd], loss_actor=[-1.0, odd]), CONFIG) == "not finite: loss_actor, q_mean"


def test_without_one_of_its_metrics_q_is_not_judged():
    run = broken(-50.0)
    assert collapse(run, CONFIG)
    for missing in ("q_mean", "reward_min", "reward_max", "alpha", "entropy", "updates"):
        assert not collapse([{key: epoch[key] for key in epoch if key != missing} for epoch in run], CONFIG)


def test_q_below_what_the_rewards_allow_is_a_collapse():
    """The fault table: a mean of −5.8 after 2 000 updates where rewards are progress. −1.7 may be low entropy."""
    assert "q_mean is -5.8, and the rewards and entropies seen allow -1.9" in collapse(broken(-5.8, 0.0)[:4], CONFIG)
    assert collapse(broken(-1.72, 0.0)[:4], CONFIG) == ""


def test_the_recorded_broken_run_is_told_from_its_fifth_epoch():
    verdicts = [collapse(broken()[:end], CONFIG) for end in range(1, 6)]
    assert verdicts[:4] == [""] * 4 and "q_mean is -3.58" in verdicts[4]


def test_q_above_what_the_rewards_allow_is_a_collapse():
    assert "q_mean is 160" in collapse(history(q_mean=[1.0, 160.0]), CONFIG)
    assert "q_mean is 25" in collapse(history(q_mean=[1.0, 25.0]), CONFIG)  # nor so fast
    assert not collapse(history(q_mean=[1.0, 15.0]), CONFIG)


def test_rewards_below_0_allow_a_q_below_0():
    run = history(30, reward_min=-16.3, reward_max=0.0, q_mean=-200.0, return_test_det=-150.0, return_test_stoch=-160.0)
    run[0]["q_mean"] = -20.0
    assert not collapse(run[:1], CONFIG) and not collapse(run, CONFIG)
    assert collapse(history(30, reward_min=-1.0, q_mean=-200.0), CONFIG)  # nothing below −1 / (1 − γ)


def test_entropy_above_its_target_excuses_a_low_q_and_below_it_does_not():
    def bound(entropy, *overrides):
        return q_bounds(
            history(200, entropy=entropy, alpha=0.1), compose_config(*ONE_STEP, *overrides).agent, start=0.0
        )

    assert bound(1.0).low == 0.0
    assert bound(-1.0).low == pytest.approx(-9.9, rel=1e-3)
    assert bound(-1.5).low == bound(-9.0).low == pytest.approx(-14.85, rel=1e-3)
    assert bound(-9.0, "agent.learn_entropy_coef=false").low == pytest.approx(-89.1, rel=1e-3)
    assert bound(-9.0, "agent.target_entropy=null").low == pytest.approx(-89.1, rel=1e-3)


def test_the_bounds_end_where_rewards_and_entropies_sum_to():
    ends = q_bounds(history(400, entropy=1.0, alpha=0.1, reward_min=-1.0, reward_max=2.0), CONFIG.agent, start=0.0)
    assert ends == pytest.approx((-100.0, 209.9, 3.099), rel=1e-3)


@pytest.mark.parametrize("polyak", [0.0, 0.98, 0.995])
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_bounds_hold_every_critic_that_follows_its_target(polyak, n_step):
    """Updates one by one: the critic fits its target at once, the target network takes its share of it."""
    agent = dataclasses.replace(CONFIG.agent, polyak=polyak, n_step=n_step)
    gamma, summed = agent.gamma**n_step, sum(agent.gamma**k for k in range(n_step))
    for reward, start in itertools.product((-1.0, 1.0), (0.0, None)):
        target, means = 0.0, []
        for _ in range(4):
            q = []
            for _ in range(500):
                q.append(summed * reward + gamma * target)
                target += (1 - polyak) * (q[-1] - target)
            means.append(sum(q) / len(q))
        run = history(4, reward_min=-1.0, reward_max=1.0, alpha=1e-9, q_mean=0.0)
        for end, mean in enumerate(means, 1):
            bounds = q_bounds(run[:end], agent, start)
            assert bounds.low - 0.05 * bounds.step <= mean <= bounds.high + 0.05 * bounds.step
            if start is not None:  # and they are no wider than that
                assert min(abs(mean - bounds.low), abs(mean - bounds.high)) < 0.05 * bounds.step


def test_a_run_that_begins_with_weights_may_begin_with_their_q(compose):
    begun = compose(*ONE_STEP, "critic.initial_q=0", "training.init_from=runs/x")
    assert collapse(history(q_mean=[60.0]), CONFIG) and not collapse(history(q_mean=[60.0]), begun)
    assert collapse(history(q_mean=[-10.0]), begun)


def test_a_fresh_network_that_says_a_little_more_than_0_is_no_collapse():
    for q in (1.5, -1.5):  # heads drawn at random, judged after a few updates, by a car that has earned almost nothing
        assert not collapse(history(q_mean=[q], reward_min=-0.001, reward_max=0.001), CONFIG)
    assert collapse(history(q_mean=[9.0], reward_min=-0.001, reward_max=0.001), CONFIG)
    late = history(8, q_mean=[0.0] * 7 + [-5.2], reward_min=-0.01)
    assert collapse(late, CONFIG)  # what it did not begin with excuses nothing


def test_a_short_run_is_told_that_it_collapsed():
    """A smoke run does eight updates; its Q is what was drawn, on either side of 0."""
    odd = {"reward_min": -0.001, "reward_max": 0.001, "q_mean": [1.5, -0.6]}
    early = [epoch | {"updates": 4 * number} for number, epoch in enumerate(history(2, **odd), start=1)]
    late = [epoch | {"updates": 1000 + number} for number, epoch in enumerate(early)]
    assert not collapse(early, CONFIG) and collapse(late, CONFIG)


def test_q_may_be_where_it_began_and_fall_from_there():
    begun = compose_config(*ONE_STEP, "critic.initial_q=30")
    for q in (29.0, 10.0, 0.1):
        assert not collapse(history(q_mean=[q]), begun)
    assert collapse(history(q_mean=[-2.0]), begun) and collapse(history(q_mean=[45.0]), begun)
    assert collapse(history(q_mean=[29.0]), CONFIG)


def test_without_any_reward_there_is_no_scale_for_q():
    assert collapse(history(3, reward_min=0.0, reward_max=0.0, alpha=0.0, q_mean=-1e-3), CONFIG) == ""


# the deterministic return is stuck ...


def test_a_car_that_stands_while_noise_drives_is_stuck():
    """return_test_det was −0.405, epoch after epoch, and the sampled actions scored by luck."""
    run = history(return_test_det=[-0.405] * 4, return_test_stoch=[20.0, 3.0, 41.0, 12.0])
    assert collapse(run, CONFIG) == (
        "return_test_det is stuck at -0.405 for 4 epochs, while return_test_stoch went from 3 to 41"
    )
    assert collapse(run[1:], CONFIG) == ""  # three epochs are too few


@pytest.mark.parametrize(
    ("deterministic", "stochastic"),
    [
        ([500.2] * 4, [480.0, 495.0, 500.0, 430.0]),  # a perfect driver at the ceiling
        ([500.2] * 4, [500.3, 500.9, 500.5, 500.6]),  # whose noise is lucky by a metre
        ([-150.0] * 4, [-149.0, -149.9, -149.5, -149.2]),
        ([0.0] * 4, [0.0] * 4),  # neither moves: nothing to compare with
        ([30.0] * 4, [20.0, 25.0, 15.0, 20.0]),  # better than the noise
        ([0.0, 9.0, 0.0, 0.0], [20.0, 3.0, 41.0, 12.0]),  # it moves
        ([0.0, 0.0, None, 0.0], [20.0, 3.0, 41.0, 12.0]),
    ],
)
def test_what_only_looks_stuck_is_not(deterministic, stochastic):
    reason = collapse(history(return_test_det=deterministic, return_test_stoch=stochastic), CONFIG)
    assert "stuck" not in reason


# ... or the score is low


def low_scores(count: int) -> list[dict]:
    """Losses that jump, an entropy coefficient out of its band, a car that stands."""
    losses = [(0.1, -20.0) if number % 2 else (10.0, 60.0) for number in range(count)]
    critic, actor = map(list, zip(*losses, strict=True))
    return history(loss_critic=critic, loss_actor=actor, alpha=[0.9] * count, return_test_det=[0.0] * count)


def test_a_score_that_stays_low_is_a_collapse():
    rules = config(stuck_epochs=99, q_margin=1e9)
    scores = [stability(low_scores(count), rules.health, RANGE)["stability"] for count in range(1, 6)]
    assert scores[0] == 0.25 and max(scores[1:]) < 0.15  # a single epoch shows no jump
    assert collapse(low_scores(3), rules) == ""
    assert collapse(low_scores(4), rules).startswith("the health score is below 0.15 for 3 epochs (0.")


def test_without_a_range_no_score_is_low(compose):
    rules = config(stuck_epochs=99, q_margin=1e9)
    unknown = dataclasses.replace(rules, env=compose("env=gym", "model=mlp").env)
    assert collapse(low_scores(9), rules) and not collapse(low_scores(9), unknown)


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
    (["value.support=[1,9]"], "critic.initial_q = 0: lies beyond value.support = [1.0, 9.0]. Widen the support"),
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
    (["health.last=0"], "health.last = 0: must be an integer at least 1"),
    (["health.recent=1"], "health.recent = 1: must be an integer at least 2"),
    (["health.collapse.low_score=2"], "health.collapse.low_score = 2: must be a number at least 0 and at most 1"),
    (["health.collapse.stuck_epochs=1"], "health.collapse.stuck_epochs = 1: must be an integer at least 2"),
    (["objective=score"], "objective = score: must be one of return_test_det, stability"),
    (["+health.lst=3"], "health.lst: there is no such key. Did you mean health.last?"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(compose, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert message in str(caught.value) and len(caught.value.problems) == 1


def test_a_gym_task_can_be_scored_when_its_range_is_told(compose):
    told = compose("objective=stability", "model=mlp", "env=gym", "env.return_range=[-1600,-100]")
    assert told.env.return_range == (-1600.0, -100.0)


def test_a_range_that_is_not_a_lap_is_warned_of(compose):
    (warning,) = checks.warnings(compose("env.track.length=1200"))
    assert "env.return_range[1] = 500 is not what a full lap scores, 600" in warning
    assert not checks.warnings(compose("env.track.length=1200", "env.return_range=[0,600]"))


def test_the_range_makes_no_data_poison(compose):
    assert fingerprint(compose()) == fingerprint(compose("env.return_range=[-1,400]"))


def test_by_default_a_run_is_warned_of_a_collapse_and_goes_on(compose):
    assert compose().health.on_collapse == "warn"
    assert compose("health.on_collapse=stop").health.on_collapse == "stop"


def test_a_history_read_from_metrics_jsonl_is_judged_like_one_in_memory():
    run = broken()
    lines = [json.loads(json.dumps(epoch)) for epoch in run]
    assert collapse(lines, CONFIG) == collapse(run, CONFIG) != ""
    assert stability(lines, CONFIG.health, RANGE) == stability(run, CONFIG.health, RANGE)
