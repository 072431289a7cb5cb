"""Losses and distributions, against values computed by hand and references of torch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from app.agents.finite_check import NonFiniteError, check_finite
from app.agents.losses import (
    actor_loss,
    bellman_target,
    entropy_loss,
    prediction_loss,
)
from app.models.distributions import DeterministicAction, squashed_gaussian


def test_bellman_target_bootstraps_unless_terminated():
    target = bellman_target(
        reward=torch.tensor([1.0, 2.0]),
        discount=torch.tensor([0.5, 0.25]),
        terminated=torch.tensor([0.0, 1.0]),
        next_q=torch.tensor([[10.0, 100.0], [20.0, 200.0]]),
        next_log_prob=torch.tensor([3.0, 7.0]),
        alpha=torch.tensor(2.0),
    )
    # row 0: 1 + 0.5 · (min(10, 20) − 2 · 3) = 3; row 1 terminated: its reward alone
    assert target.tolist() == [3.0, 2.0]


def test_actor_loss_uses_the_minimum_over_the_heads():
    q = torch.tensor([[1.0, 5.0], [2.0, 4.0]])
    loss = actor_loss(q, log_prob=torch.tensor([0.5, 1.5]), alpha=torch.tensor(2.0))
    assert loss.item() == ((2 * 0.5 - 1) + (2 * 1.5 - 4)) / 2


@pytest.mark.parametrize(("log_prob", "direction"), [(-1.0, 1), (3.0, -1)])
def test_alpha_rises_exactly_while_entropy_is_below_its_target(log_prob, direction):
    log_alpha = torch.tensor(0.3, requires_grad=True)
    entropy_loss(log_alpha, torch.tensor([log_prob, log_prob]), target_entropy=-2.0).backward()
    # gradient −(log_prob + target): entropy 1 is above −2, so alpha falls; entropy −3 is below, so it rises
    assert log_alpha.grad.item() == pytest.approx(-(log_prob - 2.0))
    assert math.copysign(1, log_alpha.grad.item()) == direction


def test_prediction_loss_ignores_rewards_that_do_not_exist():
    predicted, rewards = torch.tensor([[1.0, 9.0], [2.0, 5.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert prediction_loss(predicted, rewards, mask).item() == (1 + 16) / 2
    assert prediction_loss(predicted, rewards, torch.zeros(2, 2)).item() == 0


@settings(deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.lists(st.floats(-6, 1), min_size=3, max_size=3),
    st.lists(st.floats(-2.5, 2.5), min_size=3, max_size=3),
)
def test_log_prob_is_that_of_the_squashed_gaussian(mean, log_std, noise):
    mean, log_std, noise = (torch.tensor([x], dtype=torch.float64) for x in (mean, log_std, noise))
    action, log_prob = squashed_gaussian(mean, log_std, noise)
    u = mean + log_std.exp() * noise
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    assert torch.equal(action, u.tanh())
    expected = Normal(mean, log_std.exp()).log_prob(u) - reference.transforms[0].log_abs_det_jacobian(u, u.tanh())
    torch.testing.assert_close(log_prob, expected.sum(-1), rtol=1e-9, atol=1e-9)


def test_log_prob_is_not_clamped():
    _, log_prob = squashed_gaussian(torch.zeros(1, 3), torch.full((1, 3), -19.0), torch.zeros(1, 3))
    assert log_prob.item() > 50
    _, log_prob = squashed_gaussian(torch.full((1, 3), 40.0), torch.zeros(1, 3), torch.zeros(1, 3))
    assert log_prob.isfinite().all() and log_prob.item() > 200


def test_finite_check_names_the_first_bad_quantity():
    with pytest.raises(NonFiniteError, match="q_mean = nan at update 7") as caught:
        check_finite({"reward": 1.0, "q_mean": math.nan, "loss_critic": math.inf}, 7)
    assert caught.value.quantity == "q_mean"
    check_finite({"reward": 1.0}, 7)


def test_deterministic_action_of_a_one_sided_component_is_the_expected_effect_of_samples():
    mean, log_std = (
        torch.tensor([[0.3, -0.2, 0.5], [2.0, -3.0, -1.0]]),
        torch.tensor([[-0.5, -0.3, 0.0], [0.5, 0.5, -1]]),
    )
    action = DeterministicAction(3, one_sided=(0, 1))(mean, log_std)
    generator = torch.Generator().manual_seed(0)
    samples = (mean + log_std.exp() * torch.randn(200_000, 2, 3, generator=generator)).tanh()
    expected = torch.cat([samples[..., :2].relu().mean(0), mean[:, 2:].tanh()], -1)
    torch.testing.assert_close(action, expected, atol=1e-2, rtol=0)


def test_deterministic_action_without_noise_or_one_sided_components_is_the_mode():
    mean = torch.tensor([[0.3, -0.7]])
    assert torch.equal(DeterministicAction(2, one_sided=())(mean, torch.zeros(1, 2)), mean.tanh())
    almost = DeterministicAction(2, one_sided=(0, 1))(mean, torch.full((1, 2), -12.0))
    torch.testing.assert_close(almost, mean.tanh().relu(), atol=1e-4, rtol=0)
