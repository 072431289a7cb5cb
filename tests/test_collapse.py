"""Collapse rules and the bounds of Q, at their limits."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ablation.evidence_runs import read_evidence
from app.health.collapse import collapse_reason, first_collapse
from app.health.q_bounds import q_bounds
from app.health.score import stability
from tests.helpers.histories import broken, history
from tests.helpers.make import compose as compose_config

RANGE = (0.0, 500.0)
ONE_STEP = ("env=sim_lidar", "agent.n_step=1")  # the numbers below are those of one-step targets
CONFIG = compose_config(*ONE_STEP, "critic.initial_q=0")


def config(**health):
    """The default configuration with other rules of a collapse."""
    rules = dataclasses.replace(CONFIG.health.collapse, **health)
    return dataclasses.replace(CONFIG, health=dataclasses.replace(CONFIG.health, collapse=rules))


def test_healthy_run_has_not_collapsed():
    returns = [17.6, 79.8, 11.3, 38.2, 208.5, 358.9, 261.7, 500.5, 93.7]
    run = history(return_test_det=returns, return_test_stoch=[value * 0.9 for value in returns])
    assert all(not collapse_reason(run[:end], CONFIG) for end in range(len(run) + 1))


@pytest.mark.parametrize("odd", [None, math.nan, math.inf])
def test_metric_that_is_not_finite_is_a_collapse(odd):
    assert (
        collapse_reason(history(q_mean=[1.0, odd], loss_actor=[-1.0, odd]), CONFIG) == "not finite: loss_actor, q_mean"
    )


def test_q_is_not_checked_without_one_of_its_metrics():
    run = broken(-50.0)
    assert collapse_reason(run, CONFIG)
    for missing in ("q_mean", "reward_min", "reward_max", "alpha", "entropy", "updates"):
        assert not collapse_reason([{key: epoch[key] for key in epoch if key != missing} for epoch in run], CONFIG)


def test_q_below_what_the_rewards_allow_is_a_collapse():
    """The fault table: a mean of −5.8 after 2 000 updates where rewards are progress. −1.7 may be low entropy."""
    assert "q_mean is -5.8, and the rewards and entropies seen allow -1.9" in collapse_reason(
        broken(-5.8, 0.0)[:4], CONFIG
    )
    assert collapse_reason(broken(-1.72, 0.0)[:4], CONFIG) is None


def test_recorded_broken_run_is_detected_in_its_fifth_epoch():
    reasons = [collapse_reason(broken()[:end], CONFIG) for end in range(1, 6)]
    assert reasons[:4] == [None] * 4 and "q_mean is -3.58" in reasons[4]


def test_q_above_what_the_rewards_allow_is_a_collapse():
    assert "q_mean is 160" in collapse_reason(history(q_mean=[1.0, 160.0]), CONFIG)
    assert "q_mean is 25" in collapse_reason(history(q_mean=[1.0, 25.0]), CONFIG)  # nor so fast
    assert not collapse_reason(history(q_mean=[1.0, 15.0]), CONFIG)


def test_rewards_below_0_allow_a_q_below_0():
    run = history(30, reward_min=-16.3, reward_max=0.0, q_mean=-200.0, return_test_det=-150.0, return_test_stoch=-160.0)
    run[0]["q_mean"] = -20.0
    assert not collapse_reason(run[:1], CONFIG) and not collapse_reason(run, CONFIG)
    assert collapse_reason(history(30, reward_min=-1.0, q_mean=-200.0), CONFIG)  # nothing below −1 / (1 − γ)


def test_entropy_above_its_target_excuses_a_low_q_and_below_it_does_not():
    def bound(entropy, *overrides):
        return q_bounds(
            history(200, entropy=entropy, alpha=0.1), compose_config(*ONE_STEP, *overrides).agent, initial_q=0.0
        )

    assert bound(1.0).low == 0.0
    assert bound(-1.0).low == pytest.approx(-9.9, rel=1e-3)
    assert bound(-1.5).low == bound(-9.0).low == pytest.approx(-14.85, rel=1e-3)
    assert bound(-9.0, "agent.auto_alpha=false").low == pytest.approx(-89.1, rel=1e-3)
    assert bound(-9.0, "agent.target_entropy=null").low == pytest.approx(-89.1, rel=1e-3)


def test_bounds_approach_the_discounted_sum_of_rewards_and_entropies():
    ends = q_bounds(history(400, entropy=1.0, alpha=0.1, reward_min=-1.0, reward_max=2.0), CONFIG.agent, initial_q=0.0)
    assert ends == pytest.approx((-100.0, 209.9, 3.099), rel=1e-3)


@pytest.mark.parametrize("polyak", [0.0, 0.98, 0.995])
@pytest.mark.parametrize("n_step", [1, 3])
def test_bounds_contain_every_critic_that_follows_its_target(polyak, n_step):
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


def test_run_that_begins_with_weights_may_begin_with_their_q(compose):
    begun = compose(*ONE_STEP, "critic.initial_q=0", "training.init_from=runs/x")
    assert collapse_reason(history(q_mean=[60.0]), CONFIG) and not collapse_reason(history(q_mean=[60.0]), begun)
    assert collapse_reason(history(q_mean=[-10.0]), begun)


def test_fresh_network_may_miss_its_initial_q_a_little():
    for q in (1.5, -1.5):  # heads drawn at random, judged after a few updates, by a car that has earned almost nothing
        assert not collapse_reason(history(q_mean=[q], reward_min=-0.001, reward_max=0.001), CONFIG)
    assert collapse_reason(history(q_mean=[9.0], reward_min=-0.001, reward_max=0.001), CONFIG)
    late = history(8, q_mean=[0.0] * 7 + [-5.2], reward_min=-0.01)
    assert collapse_reason(late, CONFIG)  # what it did not begin with excuses nothing


def test_q_is_not_checked_before_the_configured_number_of_updates():
    """A smoke run does eight updates; its Q is that of random weights, on either side of 0."""
    odd = {"reward_min": -0.001, "reward_max": 0.001, "q_mean": [1.5, -0.6]}
    early = [epoch | {"updates": 4 * number} for number, epoch in enumerate(history(2, **odd), start=1)]
    late = [epoch | {"updates": 1000 + number} for number, epoch in enumerate(early)]
    assert not collapse_reason(early, CONFIG) and collapse_reason(late, CONFIG)


def test_q_may_stay_at_its_initial_value_and_fall_from_there():
    begun = compose_config(*ONE_STEP, "critic.initial_q=30")
    for q in (29.0, 10.0, 0.1):
        assert not collapse_reason(history(q_mean=[q]), begun)
    assert collapse_reason(history(q_mean=[-2.0]), begun) and collapse_reason(history(q_mean=[45.0]), begun)
    assert collapse_reason(history(q_mean=[29.0]), CONFIG)


def test_q_is_not_checked_without_any_reward():
    assert collapse_reason(history(3, reward_min=0.0, reward_max=0.0, alpha=0.0, q_mean=-1e-3), CONFIG) is None


# the deterministic return is stuck ...


def test_car_that_stands_while_noise_drives_is_stuck():
    """return_test_det was −0.405, epoch after epoch, and the sampled actions scored by luck."""
    run = history(return_test_det=[-0.405] * 4, return_test_stoch=[20.0, 3.0, 41.0, 12.0])
    assert collapse_reason(run, CONFIG) == (
        "return_test_det is stuck at -0.405 for 4 epochs, while return_test_stoch went from 3 to 41"
    )
    assert collapse_reason(run[1:], CONFIG) is None  # three epochs are too few


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
def test_constant_return_without_better_noise_is_not_stuck(deterministic, stochastic):
    reason = collapse_reason(history(return_test_det=deterministic, return_test_stoch=stochastic), CONFIG)
    assert reason is None or "stuck" not in reason


# ... or the return has fallen after a success

ROOT = Path(__file__).resolve().parents[1]
# Seed 2 of the arm fix_2_norm, epochs 9 to 18: it learns the lap, and never drives again.
FALLEN = [6.0, 34.0, 12.0, 13.0, 487.0, 230.0, 57.0, 27.0, 6.0, 5.0]


def test_return_that_stays_low_after_a_success_is_a_collapse():
    run = history(return_test_det=FALLEN, return_test_stoch=[value + 9 for value in FALLEN])
    reasons = [collapse_reason(run[:end], CONFIG) for end in range(1, len(run) + 1)]
    assert reasons[:-1] == [None] * (len(run) - 1)
    assert reasons[-1] == (
        "return_test_det was 487, and is at most 57 for 4 epochs: less than 25% of what it had gained over 0"
    )


def test_fall_is_measured_from_the_lower_end_of_the_range(compose):
    pendulum = dataclasses.replace(CONFIG, env=compose("env=gym", "model=mlp", "env.return_range=[-1600,-100]").env)
    returns = [-200.0, -1300.0, -1400.0, -1350.0, -1270.0]
    run = history(return_test_det=returns, return_test_stoch=-1300.0)
    assert collapse_reason(run, pendulum) == (
        "return_test_det was -200, and is at most -1.27e+03 for 4 epochs: "
        "less than 25% of what it had gained over -1.6e+03"
    )
    run[-1]["return_test_det"] = -1240.0  # 360 of 1400
    assert collapse_reason(run, pendulum) is None


@pytest.mark.parametrize(
    "returns",
    [
        [500.0, 20.0, 9.0, 30.0, 126.0, 20.0, 9.0, 30.0],  # it comes back in between
        [500.0, 20.0, None, 30.0, 12.0],  # an epoch without an evaluation says nothing
        [240.0, 20.0, 9.0, 30.0, 12.0],  # it had not learned the task
        [500.0, 130.0, 126.0, 130.0, 140.0],  # it drives worse, and drives
    ],
)
def test_policy_that_drives_or_never_did_has_lost_nothing(returns):
    reason = collapse_reason(history(return_test_det=returns, return_test_stoch=200.0), CONFIG)
    assert reason is None


def test_loss_of_what_was_learned_is_not_checked_without_a_return_range(compose):
    unknown = dataclasses.replace(CONFIG, env=compose("env=gym", "model=mlp").env)
    assert collapse_reason(history(return_test_det=FALLEN), unknown) is None


def test_rules_find_the_collapses_of_all_recorded_runs_and_none_of_a_fixed_one():
    rules, found, recorded = compose_config("env=sim"), {}, {}
    for table in sorted((ROOT / "docs" / "evidence").glob("*/evidence.csv")):
        for run in read_evidence(table):
            names = run.metrics if run.epochs else ()
            lines = [
                {name: value for name in names if math.isfinite(value := float(run.metrics[name][epoch]))}
                for epoch in range(len(run.epochs))
            ]
            key, collapse = (table.parent.name, run.arm, run.seed), first_collapse(lines, rules)
            found |= {} if collapse is None else {key: collapse[0]}
            recorded |= {} if run.collapsed_at is None else {key: run.collapsed_at}
    assert found == recorded
    assert found.items() >= {("images", "fix_2_norm", 1): 9, ("images", "fix_2_norm", 2): 18}.items()
    assert "fixed" not in {arm for _, arm, _ in found}


# ... or the score is low


def low_scores(count: int) -> list[dict]:
    """Losses that jump, an entropy coefficient out of its band, a car that stands."""
    losses = [(0.1, -20.0) if number % 2 else (10.0, 60.0) for number in range(count)]
    critic, actor = map(list, zip(*losses, strict=True))
    return history(loss_critic=critic, loss_actor=actor, alpha=[0.9] * count, return_test_det=[0.0] * count)


def test_score_that_stays_low_is_a_collapse():
    rules = config(stuck_epochs=99, q_margin=1e9)
    scores = [stability(low_scores(count), rules.health, RANGE)["stability"] for count in range(1, 6)]
    assert scores[0] == 0.25 and max(scores[1:]) < 0.15  # a single epoch shows no jump
    assert collapse_reason(low_scores(3), rules) is None
    assert collapse_reason(low_scores(4), rules).startswith("the health score is below 0.15 for 3 epochs (0.")


def test_low_score_is_not_checked_without_a_return_range(compose):
    rules = config(stuck_epochs=99, q_margin=1e9)
    unknown = dataclasses.replace(rules, env=compose("env=gym", "model=mlp").env)
    assert collapse_reason(low_scores(9), rules) and not collapse_reason(low_scores(9), unknown)


def test_history_read_from_metrics_jsonl_gives_the_same_result_as_one_in_memory():
    run = broken()
    lines = [json.loads(json.dumps(epoch)) for epoch in run]
    assert collapse_reason(run, CONFIG) is not None
    assert collapse_reason(lines, CONFIG) == collapse_reason(run, CONFIG)
    assert stability(lines, CONFIG.health, RANGE) == stability(run, CONFIG.health, RANGE)


class Counted(dict):
    """Metrics of an epoch that count how often they are read."""

    reads = 0

    def __getitem__(self, name):
        Counted.reads += 1
        return super().__getitem__(name)


@pytest.mark.parametrize("known", [0, 5])
def test_search_for_the_first_collapse_reads_an_epoch_as_often_however_many_there_are(known):
    def reads(count: int) -> int:
        Counted.reads = 0
        assert first_collapse([Counted(epoch) for epoch in history(count)], CONFIG, known) is None
        return Counted.reads

    assert reads(400) - reads(300) == reads(200) - reads(100)


_METRICS = {
    "q_mean": st.floats(-20, 20), "return_test_det": st.floats(0, 500), "return_test_stoch": st.floats(0, 500),
    "loss_critic": st.floats(0, 10), "loss_actor": st.floats(-20, 20), "alpha": st.floats(0, 1),
    "entropy": st.floats(-10, 3), "reward_min": st.floats(-1, 0), "reward_max": st.floats(0, 1),
    "updates": st.integers(1, 5000),
}  # fmt: skip


@given(st.lists(st.fixed_dictionaries({}, optional=_METRICS), max_size=12), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_first_collapse_is_the_first_that_the_rules_find_in_a_history_cut_off_after_it(run, known):
    reasons = ((end, collapse_reason(run[:end], CONFIG)) for end in range(known + 1, len(run) + 1))
    expected = next(((end, reason) for end, reason in reasons if reason is not None), None)
    assert first_collapse(run, CONFIG, known) == expected


def test_first_collapse_is_that_of_the_shortest_collapsed_history():
    run = [*broken(), *broken()]
    reasons = [collapse_reason(run[:end], CONFIG) for end in range(1, len(run) + 1)]
    collapsed = [number for number, reason in enumerate(reasons, start=1) if reason is not None]
    assert len(collapsed) > 1 and first_collapse(run, CONFIG) == (collapsed[0], reasons[collapsed[0] - 1])
    assert first_collapse(run, CONFIG, collapsed[0]) == (collapsed[1], reasons[collapsed[1] - 1])
