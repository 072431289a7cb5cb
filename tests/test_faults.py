"""One test for every fault that made the old agent collapse: healthy under the fix, sick under the fault."""

import pytest
import torch

from app.config import checks
from tests.make import compose, make_agent, make_batch


def arms(fixed: str, broken: str):
    """Run a test with the fixed and with the broken override."""
    return pytest.mark.parametrize(("override", "healthy"), [(fixed, True), (broken, False)], ids=["fixed", "broken"])


def gradients(parameters) -> list[float]:
    """Largest absolute gradient of every parameter, 0 where there is none."""
    return [0.0 if p.grad is None else p.grad.abs().max().item() for p in parameters]


@arms("log_std_min=-20", "log_std_min=-2")
def test_fault_1_std_can_fall_as_low_as_the_task_needs(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    policy = agent.model.policy
    with torch.no_grad():
        policy.out.bias[3:] = -8.0
        policy.out.weight[3:] = 0.0
    features = torch.randn(4, agent.model.trunk.out_dim)
    film = torch.zeros(4, 2, 2, policy.embed.out_features)
    _, log_std = policy.gaussian(features, film)
    assert (log_std.exp().max().item() < 0.01) is healthy


@arms("norm=group", "norm=batch")
def test_fault_2_eval_mode_computes_the_function_that_was_trained(override, healthy):
    agent = make_agent("env=sim", "model=droq", "critic.dropout=0", override)
    batch = make_batch(agent.spec, 8)
    for _ in range(3):
        agent.train(batch)
    trained = agent.model.forward_features(batch.obs).features
    evaluated = agent.model.eval().forward_features(batch.obs).features
    assert torch.equal(trained, evaluated) is healthy


@arms("encoder.dropout=0.0", "encoder.dropout=0.1")
def test_fault_3_the_bellman_target_of_the_same_batch_is_the_same_twice(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    obs = make_batch(agent.spec, 8).next_obs
    first, second = (agent.target.forward_features(obs).context for _ in range(2))
    assert agent.target.training  # DroQ's dropout in the Q-heads is meant to act here, the encoder's is not
    assert torch.equal(first, second) is healthy


@arms("actor.detach=true", "actor.detach=false")
def test_fault_4_actor_loss_leaves_the_shared_backbone_alone(override, healthy):
    agent = make_agent("env=sim", "model=shared_backbone", override)
    batch = make_batch(agent.spec, 8)
    before = [p.clone() for p in agent.model.trunk.parameters()]
    agent.update_actor(agent.model.forward_features(batch.obs))
    assert all(map(torch.equal, before, agent.model.trunk.parameters())) is healthy
    assert any(gradients(agent.model.trunk.parameters())) is not healthy


@arms("actor.detach=true", "actor.detach=false")
def test_fault_5_actor_loss_leaves_film_and_context_encoder_alone(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    batch = make_batch(agent.spec, 8)
    for _ in range(2):  # FiLM's last layer starts at zero: the encoder behind it gets a gradient from the second step
        agent.update_actor(agent.model.forward_features(batch.obs))
    parts = [*agent.model.trunk.film.parameters(), *agent.model.trunk.context.parameters()]
    assert any(gradients(parts)) is not healthy


@arms("agent.gamma=0.99", "agent.gamma=0.95")
def test_fault_6_a_short_horizon_is_pointed_out(override, healthy):
    assert (not checks.warnings(compose(override))) is healthy


@arms("agent.betas_critic=[0.9,0.99]", "agent.betas_critic=[0.9,0.999]")
def test_fault_7_a_long_gradient_memory_is_pointed_out_and_betas_reach_the_optimiser(override, healthy):
    assert (not checks.warnings(compose(override))) is healthy
    betas = make_agent("env=sim_lidar", override).critic_optimizer.param_groups[0]["betas"]
    assert (betas == (0.9, 0.99)) is healthy


@arms("training.max_training_steps_per_env_step=8", "training.max_training_steps_per_env_step=20")
def test_fault_8_too_many_updates_per_step_are_pointed_out(override, healthy):
    assert (not checks.warnings(compose(override))) is healthy


def test_fault_9_film_is_the_identity_at_start():
    agent = make_agent("env=sim_lidar")
    seen = agent.model.forward_features(make_batch(agent.spec, 4).obs)
    assert seen.film_params.abs().max() == 0
    bare = torch.zeros_like(seen.film_params)
    action = torch.zeros(4, 3)
    agent.model.eval()
    with_film = agent.model.q_from_features(seen.features, seen.film_params, action)
    assert torch.equal(with_film, agent.model.q_from_features(seen.features, bare, action))


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone", "mlp"])
@pytest.mark.parametrize("detach", ["true", "false"])
def test_fault_12_every_parameter_is_trained_by_the_loss_meant_for_it(model, detach):
    agent = make_agent("env=sim", f"model={model}", f"actor.detach={detach}")
    net = agent.model
    policy = {id(p) for p in net.policy.parameters()}
    trunk = {id(p) for n, p in net.trunk.named_parameters() if not n.startswith("predict_rewards")}
    predictor = {id(p) for n, p in net.trunk.named_parameters() if n.startswith("predict_rewards")}
    heads = {id(p) for p in net.q_heads.parameters()}
    critic = {id(p) for group in agent.critic_optimizer.param_groups for p in group["params"]}
    actor = {id(p) for group in agent.actor_optimizer.param_groups for p in group["params"]}
    assert critic == trunk | predictor | heads
    assert actor == policy | (trunk if detach == "false" else set())
    assert critic | actor == {id(p) for p in net.parameters()}

    batch = make_batch(agent.spec, 8)
    before = {name: p.clone() for name, p in net.named_parameters()}
    for _ in range(3):
        agent.train(batch)
    still = [name for name, p in net.named_parameters() if torch.equal(before[name], p)]
    assert still == []
