"""Agent: effects of an update, its state, and the averaged policy."""

import copy
import gc
import weakref

import pytest
import torch

from app.agents.finite_check import NonFiniteError
from app.agents.optimizer import clipped_step, make_adamw
from app.replay.batch import random_batch
from tests.helpers.make import make_agent


def test_agents_and_their_copies_are_freed_without_the_garbage_collector():
    agent = make_agent("env=sim_lidar")
    agent.train(random_batch(agent.spec, 4, 3))
    freed = [weakref.ref(agent), weakref.ref(copy.deepcopy(agent))]
    gc.disable()
    try:
        del agent
        assert [reference() for reference in freed] == [None, None]
    finally:
        gc.enable()


def test_target_follows_by_polyak_and_copies_buffers():
    agent = make_agent("env=sim", "model=droq", "norm=batch", "agent.polyak=0.9")
    batch = random_batch(agent.spec, 8, 3)
    before = [p.clone() for p in agent.target.parameters()]
    agent.train(batch)
    for old, new, source in zip(before, agent.target.parameters(), agent.model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source, rtol=1e-4, atol=1e-6)
    for (name, buffer), source in zip(agent.target.named_buffers(), agent.model.buffers(), strict=True):
        assert torch.equal(buffer, source), name
    assert not any(p.requires_grad for p in agent.target.parameters())


def test_training_stays_in_train_mode_and_the_actor_in_eval_mode():
    agent = make_agent("env=sim", "norm=batch", "encoder.dropout=0.1")
    batch = random_batch(agent.spec, 4, 3)
    for _ in range(2):
        agent.train(batch)
        actor = agent.get_actor()
        actor.actions(batch.obs, deterministic=True)
        actor.actions(batch.obs, deterministic=False)
    assert all(m.training for m in agent.model.modules())
    assert not any(m.training for m in actor.modules())


def test_acting_changes_no_running_statistic():
    agent = make_agent("env=sim", "norm=batch")
    actor = agent.get_actor()
    before = copy.deepcopy(actor.state_dict())
    actor.actions(random_batch(agent.spec, 4, 3).obs, deterministic=False)
    assert all(torch.equal(before[name], value) for name, value in actor.state_dict().items())


def test_update_encodes_each_observation_once():
    for detach, encodings in (("true", 1), ("false", 2)):  # the actor loss of faults 4 and 5 needs a second graph
        agent = make_agent("env=sim", f"actor.detach={detach}")
        calls = {"model": 0, "target": 0}
        agent.model.trunk.register_forward_hook(lambda *_, c=calls: c.__setitem__("model", c["model"] + 1))
        agent.target.trunk.register_forward_hook(lambda *_, c=calls: c.__setitem__("target", c["target"] + 1))
        agent.train(random_batch(agent.spec, 4, 3))
        assert calls == {"model": encodings, "target": 1}


def test_actor_loss_leaves_the_q_heads_unchanged():
    agent = make_agent("env=sim_lidar")
    features = agent.model.forward_features(random_batch(agent.spec, 4, 3).obs)
    before = [p.clone() for p in agent.model.q_heads.parameters()]
    agent.update_actor(features)
    assert all(map(torch.equal, before, agent.model.q_heads.parameters()))
    assert all(p.grad is None for p in agent.model.q_heads.parameters())


def test_alpha_stays_above_its_minimum_and_can_be_fixed():
    agent = make_agent("env=sim_lidar", "agent.alpha_min=0.05", "agent.lr_entropy=5", "agent.target_entropy=-1000")
    batch = random_batch(agent.spec, 4, 3)
    for _ in range(3):
        agent.train(batch)
    assert agent.alpha.item() == pytest.approx(0.05)
    fixed = make_agent("env=sim_lidar", "agent.auto_alpha=false")
    fixed.train(batch)
    assert fixed.alpha.item() == pytest.approx(0.1)


@pytest.mark.parametrize("max_norm", [0.5, 1e3, None])
def test_clipped_step_equals_clip_grad_norm_before_adamw(max_norm):
    start = [torch.randn(7, 5), torch.randn(33)]
    ours, plain = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    optimizers = [make_adamw(parameters, 1e-2, (0.9, 0.99), 0.1) for parameters in (ours, plain)]
    for step in range(1, 4):
        losses = [sum((step * p.square()).sum() for p in parameters) for parameters in (ours, plain)]
        norm = clipped_step(optimizers[0], ours, losses[0], max_norm)
        optimizers[1].zero_grad()
        losses[1].backward()
        expected = torch.nn.utils.clip_grad_norm_(plain, float("inf") if max_norm is None else max_norm)
        optimizers[1].step()
        torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_clipped_step_gives_other_parameters_no_gradient():
    trained, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    clipped_step(make_adamw([trained], 1e-2, (0.9, 0.99), 0.0), [trained], (trained * other).sum(), 1.0)
    assert other.grad is None
    assert not torch.equal(trained, torch.ones(3))


@pytest.mark.parametrize("part", ["reward", "window", "floats"])
def test_first_quantity_that_is_nan_is_named(part):
    agent = make_agent("env=sim_lidar")
    batch = random_batch(agent.spec, 4, 3)
    (batch.reward if part == "reward" else batch.obs[part])[0] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        agent.train(batch)
    assert caught.value.quantity == ("reward" if part == "reward" else f"obs.{part}")


@pytest.mark.parametrize("overrides", [("env=sim",), ("env=sim_lidar", "model=mlp", "agent.auto_alpha=false")])
def test_metrics_of_an_update_do_not_contain_the_means_of_its_inputs(overrides):
    agent = make_agent(*overrides)
    metrics = agent.train(random_batch(agent.spec, 4, 3))
    assert {"reward", "loss_critic", "loss_actor", "alpha"} <= metrics.keys()
    assert not [name for name in metrics if "obs" in name or name == "action"]
    assert ("loss_entropy" in metrics) is agent.cfg.auto_alpha


def test_same_seed_gives_the_same_update():
    results = []
    for _ in range(2):
        agent = make_agent("env=sim_lidar", seed=3)
        batch = random_batch(agent.spec, 4, 3)
        results.append([agent.train(batch) for _ in range(2)])
    assert results[0] == results[1]


def test_state_is_loaded_without_pickle(tmp_path):
    agent = make_agent("env=sim_lidar")
    agent.train(random_batch(agent.spec, 4, 3))
    torch.save(agent.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert loaded["updates"] == 1
    assert all(torch.equal(loaded["model"][k], v) for k, v in agent.model.state_dict().items())


def test_image_branch_has_its_own_learning_rate():
    agent = make_agent("env=sim", "agent.lr_backbone=1e-5", "agent.lr_critic=2e-4")
    rest, images = agent.critic_optimizer.param_groups
    assert (rest["lr"], images["lr"]) == (2e-4, 1e-5)
    assert {id(p) for p in agent.model.trunk.backbone.parameters()} < {id(p) for p in images["params"]}
    assert len(make_agent("env=sim_lidar").critic_optimizer.param_groups) == 1


def test_image_branch_has_no_influence_until_it_is_trained():
    agent = make_agent("env=sim")
    obs = random_batch(agent.spec, 4, 3).obs
    other = {**obs, "images": 255 - obs["images"]}
    features = agent.model.forward_features
    assert torch.equal(features(obs).features, features(other).features)
    agent.train(random_batch(agent.spec, 4, 3))
    assert not torch.equal(features(obs).features, features(other).features)


def test_averaged_policy_is_the_moving_average_of_the_raw_weights():
    agent = make_agent("env=sim_lidar", "model=droq", "agent.policy_ema=0.9")
    batch, keys = random_batch(agent.spec, 8, 3), [name for name, _ in agent.model.named_parameters()]
    expected = {name: agent.model.state_dict()[name].clone() for name in keys}
    for update in range(1, 4):
        agent.train(batch)
        keep = min(0.9, update / (update + 10))
        expected = {name: keep * expected[name] + (1 - keep) * agent.model.state_dict()[name] for name in keys}
    for name in keys:
        torch.testing.assert_close(agent.averaged.state_dict()[name], expected[name], rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in agent.averaged.parameters())


def test_averaged_policy_averages_running_statistics_and_copies_counters():
    agent = make_agent("env=sim", "model=droq", "norm=batch", "agent.policy_ema=0.5")
    before = {name: buffer.clone() for name, buffer in agent.averaged.named_buffers()}
    agent.train(random_batch(agent.spec, 8, 3))
    keep, found = 1 / 11, dict(agent.averaged.named_buffers())
    for name, source in agent.model.named_buffers():
        expected = keep * before[name] + (1 - keep) * source if source.is_floating_point() else source
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_averaged_policy_equals_the_raw_one_without_averaging():
    agent = make_agent("env=sim_lidar", "model=droq", "agent.policy_ema=0")
    agent.train(random_batch(agent.spec, 8, 3))
    assert all(map(torch.equal, agent.averaged.parameters(), agent.model.parameters()))


def test_averaged_policy_is_part_of_the_state():
    agent = make_agent("env=sim_lidar", "model=droq")
    for _ in range(2):
        agent.train(random_batch(agent.spec, 8, 3))
    other = make_agent("env=sim_lidar", "model=droq", seed=1)
    other.load_state_dict(agent.state_dict())
    assert all(map(torch.equal, other.averaged.parameters(), agent.averaged.parameters()))
    other.load_weights(agent.averaged.state_dict())
    for network in (other.model, other.target, other.averaged):
        assert all(map(torch.equal, network.parameters(), agent.averaged.parameters()))


def test_default_learning_rate_of_the_actor_is_below_that_of_the_critic():
    agent = make_agent("env=sim_lidar")
    assert agent.actor_optimizer.param_groups[0]["lr"] < agent.critic_optimizer.param_groups[0]["lr"]
