"""Values as scalars and as distributions over bins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.config.schema import ValueConfig
from app.models.value import (
    CategoricalValue,
    ScalarValue,
    bin_edges,
    cross_entropy,
    hl_gauss,
    squared_error,
    support_of_env,
    support_of_rewards,
)
from app.replay.batch import random_batch
from tests.helpers.make import compose, make_agent

EDGES = bin_edges(torch.tensor([-10.0, 90.0]), 50)
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2


def categorical(low=-10.0, high=90.0, bins=50):
    return CategoricalValue(ValueConfig("categorical", bins, 0.75, None), (low, high))


def test_squared_error_is_the_mean_over_heads_and_batch():
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert squared_error(q, torch.tensor([0.0, 1.0])).item() == (1 + 1 + 9 + 9) / 4


def test_bins_are_equally_wide_and_span_the_support():
    assert EDGES[0] == -10 and EDGES[-1] == 90
    torch.testing.assert_close(EDGES.diff(), torch.full((50,), 2.0), rtol=1e-5, atol=1e-5)


def test_hl_gauss_is_the_mass_of_a_normal_distribution_in_each_bin():
    mass = hl_gauss(torch.tensor([33.3]), EDGES, sigma=0.75)[0]
    normal = torch.distributions.Normal(33.3, 0.75 * 2.0)
    torch.testing.assert_close(mass, normal.cdf(EDGES[1:]) - normal.cdf(EDGES[:-1]), rtol=1e-3, atol=1e-6)


@given(st.floats(-5, 85))
def test_hl_gauss_keeps_the_mean_of_its_target(target):
    mass = hl_gauss(torch.tensor([target]), EDGES, sigma=0.75)[0]
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    assert float(mass @ CENTRES) == pytest.approx(target, abs=0.02)


@pytest.mark.parametrize("target", [-1000.0, -10.0, 90.0, 1e6])
def test_hl_gauss_clamps_targets_to_the_support(target):
    mass = hl_gauss(torch.tensor([target]), EDGES, sigma=0.75)[0]
    assert torch.isfinite(mass).all()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    assert int(mass.argmax()) == (0 if target < 0 else 49)


def test_cross_entropy_equals_torchs_with_soft_targets():
    logits, target = torch.randn(2, 6, 50), hl_gauss(torch.linspace(0, 80, 6), EDGES, 0.75)
    expected = torch.stack([torch.nn.functional.cross_entropy(head, target) for head in logits]).mean()
    torch.testing.assert_close(cross_entropy(logits, target), expected)


def test_categorical_gradient_of_a_large_error_is_no_larger_than_of_a_medium_one():
    """With the squared error the gradient grows with the error, so that one crash dominates a batch."""
    value = categorical()
    norms = {"categorical": [], "scalar": []}
    for error in (10.0, 60.0):
        logits = value.outputs_for(0.0).expand(1, 1, -1).clone().requires_grad_()
        value.loss(logits, torch.tensor([error])).backward()
        norms["categorical"].append(float(logits.grad.norm()))
        output = torch.zeros(1, 1, 1, requires_grad=True)
        ScalarValue().loss(output, torch.tensor([error])).backward()
        norms["scalar"].append(float(output.grad.norm()))
    assert norms["categorical"][1] < 1.1 * norms["categorical"][0]
    assert norms["scalar"][1] == pytest.approx(6 * norms["scalar"][0])


@pytest.mark.parametrize("q", [-5.0, 0.0, 30.0, 80.0])
def test_outputs_for_a_value_have_about_that_expectation(q):
    assert float(categorical().expectation(categorical().outputs_for(q))) == pytest.approx(q, abs=0.1)
    assert float(ScalarValue().expectation(ScalarValue().outputs_for(q))) == q


def test_share_of_clipped_targets_is_reported():
    target = torch.tensor([-11.0, 0.0, 50.0, 91.0])
    assert float(categorical().target_metrics(target)["q_target_clipped"]) == 0.5
    assert ScalarValue().target_metrics(target) == {}


def test_support_of_a_car_is_the_return_at_top_speed_without_end_with_entropy():
    config = compose("env=sim_lidar")
    low, high = support_of_env(config.env, config.agent, 3)
    horizon = 1 / (1 - config.agent.gamma)
    assert high == pytest.approx(horizon * (0.5 * 65 * 0.05 + config.agent.alpha * 3 * math.log(2)))
    assert low == pytest.approx(horizon * config.agent.alpha * config.agent.target_entropy)


def test_support_of_a_task_of_unknown_range_comes_from_the_rewards_seen():
    config = compose("model=mlp", "env=gym")
    assert support_of_env(config.env, config.agent, 1) is None
    low, high = support_of_rewards(-16.0, -1.0, config.env, config.agent, 1)
    assert low == pytest.approx(-1600 - 100) and high == pytest.approx(100 * math.log(2))


def test_support_is_widened_to_the_return_range():
    config = compose("model=mlp", "env=gym", "env.return_range=[-1600,-100]", "agent.alpha=1e-9")
    assert support_of_env(config.env, config.agent, 1) is None
    assert support_of_rewards(-3.0, 2.0, config.env, config.agent, 1) == pytest.approx((-1600, 200), abs=1e-3)


def test_support_uses_the_initial_entropy_coefficient():
    low, high = (
        support_of_env(config.env, config.agent, 3)
        for config in (compose("env=sim_lidar", "agent.alpha=0.1"), compose("env=sim_lidar", "agent.alpha_min=0.2"))
    )
    assert high[0] < low[0] and high[1] > low[1]


def test_support_can_be_set_by_hand():
    agent = make_agent("env=sim_lidar", "model=droq", "value.support=[-20,120]")
    assert agent.model.q_heads.value.support.tolist() == [-20, 120]


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone", "mlp"])
@pytest.mark.parametrize("value", ["categorical", "scalar"])
def test_every_model_learns_with_either_value(model, value):
    agent = make_agent(f"model={model}", "env=sim_lidar", f"value={value}")
    batch = random_batch(agent.spec, 8, 3)
    metrics = [agent.train(batch) for _ in range(3)]
    assert np.isfinite([list(row.values()) for row in metrics]).all()
    assert ("q_target_clipped" in metrics[0]) is (value == "categorical")


def test_support_fitted_to_rewards_is_set_once_saved_and_starts_at_the_initial_q():
    options = ("model=mlp", "env=sim_lidar", "value=categorical", "critic.initial_q=7", "env.return_range=null")
    agent = make_agent(*options)
    for network in (agent.model, agent.target, agent.averaged):  # as for a task of unknown range
        network.q_heads.value.support.fill_(math.nan)
        network.q_heads.out.bias.data.zero_()
    agent.fit_support(reward_min=-0.1, reward_max=0.5)
    support = agent.model.q_heads.value.support.clone()
    assert agent.target.q_heads.value.support.equal(support)
    agent.fit_support(reward_min=-10, reward_max=50)
    assert agent.model.q_heads.value.support.equal(support)
    batch = random_batch(agent.spec, 32, 3)
    features = agent.model.forward_features(batch.obs).features
    q = agent.model.q_from_features(features, None, batch.action).detach()
    assert float(q.mean()) == pytest.approx(7, abs=3)
    other = make_agent(*options, seed=5)
    other.load_state_dict(agent.state_dict())
    assert other.model.q_heads.value.support.equal(support)


@pytest.mark.parametrize("initial_q", [-500.0, 500.0])
def test_initial_q_beyond_a_derived_support_is_told(caplog, initial_q):
    make_agent("env=sim_lidar", "model=droq", f"critic.initial_q={initial_q}")
    (message,) = caplog.messages
    assert f"critic.initial_q = {initial_q:g} lies beyond the values from -15 to" in message
    caplog.clear()
    agent = make_agent("env=gym", "model=mlp", "value=categorical", f"critic.initial_q={initial_q}")
    assert not caplog.messages  # the support is not known yet
    agent.fit_support(reward_min=-1.0, reward_max=1.0)
    assert f"critic.initial_q = {initial_q:g} lies beyond" in caplog.messages[0] and len(caplog.messages) == 1


@pytest.mark.parametrize("options", [("value=scalar", "critic.initial_q=1e6"), ("critic.initial_q=30",)])
def test_initial_q_that_can_be_represented_is_not_told(caplog, options):
    make_agent("env=sim_lidar", "model=droq", *options)
    assert not caplog.messages
