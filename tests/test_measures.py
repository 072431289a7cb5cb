"""Measures of an agent: values worked out by hand, and training that does not notice them."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from app.agents import measures
from app.agents.measures import (
    action_noise,
    cosine,
    dormant_share,
    effective_rank,
    mean_gap,
    measure,
    q_against_earned,
    soft_returns,
    train_eval_gap,
    trunk_gradients,
    unit_use,
)
from app.models.distributions import squashed_std
from app.replay.batch import Batch, random_batch
from app.training import run as run_module
from tests.helpers.make import make_agent
from tests.helpers.runs import first_difference, result
from tests.helpers.stopped_runs import PENDULUM, QUICK, Killed, configure, stop_and_resume

GAPS = {"train_eval_gap_q", "train_eval_gap_action"}
GRADIENTS = {"grad_trunk_critic", "grad_trunk_actor", "grad_trunk_cosine"}
VALUES = {"q_predicted", "q_earned"}
EVERYWHERE = GAPS | VALUES | {"action_noise", "dormant_share"}
ALL = EVERYWHERE | GRADIENTS | {"steering_noise", "feature_rank"}


def episode(agent, rewards, terminated=True) -> Batch:
    """Return a whole episode with these rewards, as the replay delivers it, and observations of noise."""
    agent_n, gamma, count = agent.cfg.n_step, agent.cfg.gamma, len(rewards)
    steps = [min(agent_n, count - t) for t in range(count)]
    sums = [sum(gamma**k * rewards[t + k] for k in range(m)) for t, m in enumerate(steps)]
    ends = torch.tensor([float(t + m == count) for t, m in enumerate(steps)])
    return random_batch(agent.spec, count, 3)._replace(
        reward=torch.tensor(sums),
        discount=torch.tensor([gamma**m for m in steps]),
        terminated=ends * terminated,
        truncated=ends * (not terminated),
    )


def without_entropy(agent):
    """Set the entropy coefficient to nearly 0; return the agent."""
    agent.log_alpha.data.fill_(-40.0)
    return agent


# --- pure functions ---


def test_gap_is_the_mean_absolute_difference():
    assert mean_gap(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[2.0, 0.0], [3.0, 3.0]])) == 1.0


def test_cosine_of_vectors_at_known_angles():
    right, up = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    assert [float(cosine(right, other)) for other in (right, -right, up)] == [1.0, -1.0, 0.0]
    assert float(cosine(right, right + right.norm() / 3 * up)) == pytest.approx(1 / math.sqrt(2))
    assert cosine(right, 0 * right).isnan()


def test_unit_is_dormant_if_it_is_active_less_than_tau_of_the_mean_of_its_layer():
    # One network, two states: mean |activations| 2, 0.04, 0 and 1.96, so 1 on average.
    layer = torch.tensor([[[2.0, 0.08, 0.0, 1.96], [-2.0, 0.0, 0.0, 1.96]]])
    assert dormant_share([layer], tau=0.039) == 0.25
    assert dormant_share([layer], tau=0.041) == 0.5
    assert dormant_share([torch.zeros(1, 2, 4)], tau=0.0) == 1.0
    assert dormant_share([layer, math.nan * layer], tau=0.041).isnan()


def test_layers_of_different_networks_and_depths_are_scaled_apart():
    quiet = torch.tensor([[[1.0, 1.0]], [[1e-3, 1e-3]]])  # two networks, one of them a thousand times quieter
    assert dormant_share([quiet, 1e-6 * quiet], tau=0.025) == 0.0


@pytest.mark.parametrize("delta, rank", [(0.11, 1), (0.1, 2), (0.01, 3), (0.001, 4)])
def test_effective_rank_counts_singular_values_up_to_their_share(delta, rank):
    values = torch.tensor([0.895, 0.09, 0.013, 0.002])  # sums 0.895, 0.985, 0.998, 1
    basis, other = (torch.linalg.qr(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)))[0] for n in (9, 4))
    assert effective_rank(basis @ values.diag() @ other.T, delta) == rank


def test_effective_rank_of_zeros_or_nan_is_unknown():
    assert effective_rank(torch.zeros(3, 2), 0.01).isnan()
    assert effective_rank(torch.tensor([[1.0, math.nan]]), 0.01).isnan()


def test_soft_return_of_single_steps_adds_reward_and_entropy_of_every_later_step():
    rewards, bonus = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([100.0, 10.0, 20.0])
    returns = soft_returns(rewards, torch.full((3,), 0.5), bonus, n_step=1, end=0.0)
    assert returns.tolist() == [1 + 0.5 * (2 + 10) + 0.25 * (4 + 20), 2 + 0.5 * (4 + 20), 4]
    returns = soft_returns(rewards, torch.full((3,), 0.5), bonus, n_step=1, end=8.0)
    assert returns.tolist() == [1 + 6 + 6 + 1, 2 + 12 + 2, 4 + 4]


def test_soft_return_of_n_steps_adds_the_entropy_where_the_target_bootstraps():
    # Five rewards of 1, gamma 0.5, n = 2: sums of two, the last one alone.
    sums, discounts = torch.tensor([1.5, 1.5, 1.5, 1.5, 1.0]), torch.tensor([0.25, 0.25, 0.25, 0.25, 0.5])
    bonus = torch.tensor([0.0, 0.0, 16.0, 0.0, 32.0])
    returns = soft_returns(sums, discounts, bonus, n_step=2, end=0.0)
    plain = [sum(0.5**k for k in range(5 - t)) for t in range(5)]
    expected = [0.25 * 16 + 0.0625 * 32, 0.0, 0.25 * 32, 0.0, 0.0]
    assert returns.tolist() == pytest.approx([a + b for a, b in zip(plain, expected, strict=True)])
    returns = soft_returns(sums, discounts, 0 * bonus, n_step=2, end=64.0)
    assert returns.tolist() == pytest.approx([value + 64 * 0.5 ** (5 - t) for t, value in enumerate(plain)])


def test_standard_deviation_of_the_squashed_gaussian_is_that_of_samples():
    mean, log_std = torch.tensor([[0.0, 1.5, -0.4, 0.3]]), torch.tensor([[-2.0, -0.7, 0.3, -9.0]])
    noise = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0))
    sampled = (mean + log_std.exp() * noise).tanh().std(0)
    torch.testing.assert_close(squashed_std(mean, log_std)[0], sampled, rtol=0.01, atol=0.0)
    assert float(squashed_std(torch.zeros(1, 1), torch.full((1, 1), -20.0))) < 1e-7


# --- measures of an agent ---


@pytest.mark.parametrize(
    "overrides, q, action",
    [
        (("critic.dropout=0",), False, False),
        (("critic.dropout=0.1",), True, False),  # DroQ's own dropout is in the Q-heads alone
        (("critic.dropout=0", "encoder.dropout=0.1"), True, True),  # fault 3
        (("critic.dropout=0", "env=sim", "norm=batch"), True, True),  # fault 2
        (("critic.dropout=0", "env=sim"), False, False),
    ],
    ids=["healthy", "Q-heads", "encoder", "batch norm", "group norm"],
)
def test_train_eval_gap_shows_dropout_and_batch_norm(overrides, q, action):
    agent = make_agent("env=sim_lidar", *overrides)
    batch = random_batch(agent.spec, 8, 3)
    for _ in range(3):
        agent.train(batch)
    gaps = train_eval_gap(agent.model, batch)
    assert (gaps["train_eval_gap_q"] > 0, gaps["train_eval_gap_action"] > 0) == (q, action)


def test_noise_is_the_mean_over_states_and_components_and_steering_that_of_cars():
    agent, plain = make_agent("env=sim_lidar"), make_agent("model=mlp", "env=gym")
    with torch.no_grad():  # the same Gaussian in every state
        agent.model.policy.out.weight.zero_()
        agent.model.policy.out.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -1.0, -2.0, -3.0]))
    stds = squashed_std(torch.zeros(1, 3), torch.tensor([[-1.0, -2.0, -3.0]]))[0]
    noise = action_noise(agent, random_batch(agent.spec, 4, 3))
    assert noise["steering_noise"] == pytest.approx(float(stds[2]), rel=1e-5)
    assert noise["action_noise"] == pytest.approx(float(stds.mean()), rel=1e-5)
    assert action_noise(plain, random_batch(plain.spec, 4, 3)).keys() == {"action_noise"}


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone"])
def test_gradients_on_the_trunk_do_not_depend_on_detach(model):
    found = []
    for detach in ("true", "false"):
        agent = make_agent("env=sim_lidar", f"model={model}", f"actor.detach={detach}")
        batch = random_batch(agent.spec, 8, 3, generator=torch.Generator().manual_seed(1))
        found.append(measure(agent, batch, [], seed=0))
    assert found[0] == found[1] and found[0].keys() >= GRADIENTS
    assert found[0]["grad_trunk_actor"] > 0 and abs(found[0]["grad_trunk_cosine"]) < 1


def test_gradients_on_the_trunk_are_those_of_the_update():
    agent = make_agent(
        "env=sim_lidar", "model=droq", "critic.dropout=0", "actor.detach=false", "agent.auto_alpha=false"
    )
    batch = random_batch(agent.spec, 8, 3)
    torch.manual_seed(5)
    measured = trunk_gradients(agent, batch)
    torch.manual_seed(5)
    shared = list(agent.model.shared_parameters())
    critic = torch.autograd.grad(agent.critic_loss(batch)[0], shared)
    agent.actor_optimizer.step = lambda: None  # the gradients alone are of interest
    agent.update_actor(agent.model.forward_features(batch.obs))
    critic, actor = (torch.cat([part.flatten() for part in parts]) for parts in (critic, [p.grad for p in shared]))
    torch.testing.assert_close(measured["grad_trunk_critic"], critic.norm())
    torch.testing.assert_close(measured["grad_trunk_actor"], actor.norm())
    torch.testing.assert_close(measured["grad_trunk_cosine"], critic @ actor / critic.norm() / actor.norm())


@pytest.mark.parametrize("value", ["scalar", "categorical"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_terminated_episode_earns_its_discounted_rewards_from_every_state(value, n_step):
    agent = without_entropy(make_agent("env=sim_lidar", f"value={value}", f"agent.n_step={n_step}", "agent.gamma=0.9"))
    whole = episode(agent, [1.0, 0.0, 2.0, 5.0])
    found = q_against_earned(agent, [whole])
    returns = [1 + 0.81 * 2 + 0.729 * 5, 0.9 * 2 + 0.81 * 5, 2 + 0.9 * 5, 5.0]
    assert found["q_earned"] == pytest.approx(np.mean(returns), rel=1e-5)
    features, film_params, _ = agent.model.eval().forward_features(whole.obs)
    q = agent.model.q_from_features(features, film_params, whole.action).detach()
    assert found["q_predicted"] == pytest.approx(float(q.mean()), rel=1e-5)


def test_earned_return_contains_the_entropy_bonus():
    agent = make_agent("env=sim_lidar", "agent.n_step=1", "agent.gamma=0.5")
    agent.log_alpha.data.fill_(math.log(2.0))
    with torch.no_grad():  # a policy with the same log-probability of every action, nearly: log_std is at its minimum
        agent.model.policy.out.weight.zero_()
        agent.model.policy.out.bias[:3] = 0.0
        agent.model.policy.out.bias[3:] = -3.0
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) - 3.0)
    found = [q_against_earned(agent, [episode(agent, [0.0, 0.0])]) for _ in range(300)]
    mean = np.mean([float(one["q_earned"]) for one in found])
    assert mean == pytest.approx(0.5 * (0.5 * 2.0 * entropy), rel=0.03)  # of two states, the first one earns γ α H


def test_truncated_episode_counts_states_far_from_its_end_and_bootstraps_there():
    agent = without_entropy(make_agent("env=sim_lidar", "agent.n_step=1", "agent.gamma=0.5"))
    cut = episode(agent, [1.0] * 7, terminated=False)
    features, film_params, _ = agent.target.eval().forward_features({k: part[-1:] for k, part in cut.next_obs.items()})
    found = measure(agent, random_batch(agent.spec, 4, 3), [cut], seed=0)
    # The states with at least two steps left count: 0.5² < 0.5.
    rewards = np.mean([2 - 0.5 ** (left - 1) for left in range(2, 8)])
    weight = np.mean([0.5**left for left in range(2, 8)])
    bootstrap = (found["q_earned"] - rewards) / weight
    actions = torch.rand(200, 3) * 2 - 1
    q = agent.target.q_from_features(features.expand(200, -1), film_params.expand(200, -1, -1, -1), actions).amin(0)
    assert q.min() - 0.1 <= bootstrap <= q.max() + 0.1


def test_truncated_episode_that_is_short_has_no_earned_value():
    agent = make_agent("env=sim_lidar", "agent.gamma=0.99")
    short, crash = episode(agent, [1.0] * 50, terminated=False), episode(agent, [1.0])
    assert q_against_earned(agent, [short]) == {} == q_against_earned(agent, [])
    assert q_against_earned(agent, [short, crash])["q_earned"] == pytest.approx(1.0)


def test_dead_unit_of_a_head_is_dormant():
    agent = make_agent("env=sim_lidar", "model=droq", "critic.layer_norm=false")
    batch, heads = random_batch(agent.spec, 64, 3), agent.model.q_heads
    before = float(unit_use(agent.model, batch)["dormant_share"])
    with torch.no_grad():
        for layer in (heads.embed, *heads.hidden):
            layer.bias[:, :, ::2] = -1e4
    units = sum(part.shape[-1] for part in (heads.embed.bias, *(layer.bias for layer in heads.hidden)))
    assert units == 2 * 384 and float(unit_use(agent.model, batch)["dormant_share"]) >= 0.5 > before


def test_activations_lead_to_the_outputs_of_the_heads():
    for model in ("droq_contextual", "droq"):
        heads = make_agent("env=sim_lidar", f"model={model}").model.eval().q_heads
        features = torch.randn(4, heads.embed.weight.shape[1] - 3)
        film_params = torch.zeros(4, len(heads.hidden), 2, heads.embed.weight.shape[2])
        layers = heads.activations(features, film_params, torch.zeros(4, 3))
        assert len(layers) == len(heads.hidden) + 1
        last = torch.stack(layers).sum(0) if heads.modulated else layers[-1]
        torch.testing.assert_close(heads.out(last), heads(features, film_params, torch.zeros(4, 3)))


# --- all of them ---

AGENTS = {
    "contextual": (("env=sim_lidar",), ALL),
    "images": (("env=sim", "norm=batch", "encoder.dropout=0.1"), ALL),
    "droq": (("env=sim", "model=droq", "critic.spectral_norm=true"), ALL),
    "shared_backbone": (("env=sim", "model=shared_backbone", "norm=batch", "value=scalar", "actor.detach=false"), ALL),
    "lidar": (("env=sim_lidar", "model=shared_backbone"), ALL),
    "mlp": (("env=sim_lidar", "model=mlp"), EVERYWHERE | {"steering_noise"}),
    "pendulum": (("env=gym", "model=mlp"), EVERYWHERE),
}


@pytest.mark.parametrize("overrides, names", AGENTS.values(), ids=AGENTS)
def test_measuring_changes_neither_the_agent_nor_random_numbers(overrides, names):
    agent = make_agent(*overrides)
    batch = random_batch(agent.spec, 6, 3)
    agent.train(batch)
    crash = episode(agent, [1.0] * 9)
    gradients = [None if p.grad is None else p.grad.clone() for p in agent.model.parameters()]
    state, rng = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    found = measure(agent, batch, [crash], seed=3)
    assert found.keys() == names and all(map(math.isfinite, found.values()))
    assert first_difference(state, agent.state_dict()) is None
    assert torch.equal(rng, torch.get_rng_state())
    assert all(m.training for network in (agent.model, agent.target) for m in network.modules())
    for p, gradient in zip(agent.model.parameters(), gradients, strict=True):
        assert (p.grad is None) == (gradient is None) and (gradient is None or torch.equal(p.grad, gradient))
    assert measure(agent, batch, [crash], seed=3) == found
    assert measure(agent, batch, [], seed=3).keys() == names - VALUES


def test_measure_that_is_not_finite_is_left_out():
    agent = make_agent("env=sim_lidar")
    with torch.no_grad():
        agent.model.policy.out.bias.fill_(math.nan)
    found = measure(agent, random_batch(agent.spec, 4, 3), [], seed=0)
    assert {"train_eval_gap_q", "dormant_share", "feature_rank"} <= found.keys()
    assert not {"action_noise", "steering_noise", "train_eval_gap_action", "grad_trunk_actor"} & found.keys()


def test_agent_full_of_nan_is_measured_without_an_error():
    agent = make_agent("env=sim")
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.fill_(math.nan)
    found = measure(agent, random_batch(agent.spec, 4, 3), [episode(agent, [1.0])], seed=0)
    assert found.keys() <= {"q_earned"}  # of a crash at once it is the reward alone


def test_glossary_explains_every_measure():
    glossary = (Path(__file__).parents[1] / "docs" / "glossary.md").read_text("utf-8")
    assert ALL <= set(re.findall(r"`([a-z_]+)`", glossary))


# --- training ---

FAULTY = (
    "env=sim", "env.image_size=32", "norm=batch", "encoder.dropout=0.1", "critic.spectral_norm=true",
    "backbone.stages=[{expand:2,channels:8,blocks:1,stride:2,se:true}]", "backbone.stem_channels=8",
    "backbone.head_channels=16",
)  # fmt: skip
RUNS = {"lidar": QUICK, "images": (*QUICK, *FAULTY), "pendulum": PENDULUM}
EXPECTED = {"lidar": ALL, "images": ALL, "pendulum": EVERYWHERE}


@pytest.mark.parametrize("name", RUNS)
def test_training_is_bit_equal_with_and_without_measures_and_when_killed(tmp_path, monkeypatch, name):
    overrides = (*RUNS[name], "training.epochs=2", "agent.gamma=0.8")  # so that episodes of 25 steps count
    runs = {count: configure(tmp_path / count, *overrides, f"health.measure_states={count}") for count in ("0", "32")}
    run_module.train(runs["0"])
    stop_and_resume(monkeypatch, runs["32"], 30, Killed())
    plain, measured = (result(tmp_path / count / "run") for count in runs)
    taken = [{name: line.pop(name) for name in ALL & line.keys()} for line in measured["metrics"]]
    assert len(taken) == 2 and set().union(*taken) == EXPECTED[name]
    assert first_difference(plain, measured) is None


def test_every_finished_episode_is_measured_in_its_own_epoch(tmp_path, monkeypatch):
    seen, original = [], measures.q_against_earned

    def record(agent, episodes):
        seen.append([len(one.reward) for one in episodes])
        return original(agent, episodes)

    monkeypatch.setattr(measures, "q_against_earned", record)
    run_module.train(configure(tmp_path, *PENDULUM, "replay.capacity=1000", "health.measure_states=32"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["env_steps"] for line in lines]
    assert [len(lengths) for lengths in seen] == np.diff([0, *(count // 25 for count in steps)]).tolist()
    assert all(length == 25 for lengths in seen for length in lengths) and sum(map(len, seen)) >= 4
