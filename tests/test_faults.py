"""Every fault that made an earlier agent collapse: healthy with the fixed value of its switch, sick with the broken.

Faults 10 and 11, which have no switch, are tested in test_models.py and test_replay.py.
"""

import re

import pytest
import torch
from omegaconf import OmegaConf

from app.config.faults import FAULTS, UPDATES_PER_EXPENSIVE_STEP, Fault, fault_warnings, faults_of
from app.config.rules import warnings
from app.replay.batch import random_batch
from tests.helpers.make import CONF, compose, make_agent

SWITCHED = [fault for fault in FAULTS if fault.switch is not None]
EXPERIMENT = [fault for fault in SWITCHED if fault.switch.experiment]  # what experiment=collapse breaks
WARNED = [fault for fault in SWITCHED if not fault.switch.experiment]
REPAIRS = {fault.switch.experiment for fault in EXPERIMENT}


def overrides(fault: Fault, value: str) -> list[str]:
    """Set every key of a fault's switch."""
    return [f"{key}={value}" for key in fault.switch.keys]


def all_broken(faults: list[Fault]) -> list[str]:
    """Bring several faults back."""
    return list(dict.fromkeys(override for fault in faults for override in overrides(fault, fault.switch.broken)))


def arms(number: int):
    """Run a test with the fixed and with the broken value of the first key of a fault."""
    switch = FAULTS[number - 1].switch
    key = next(iter(switch.keys))
    values = [(f"{key}={switch.fixed}", True), (f"{key}={switch.broken}", False)]
    return pytest.mark.parametrize(("override", "healthy"), values, ids=["fixed", "broken"])


def gradients(parameters) -> list[float]:
    """Largest absolute gradient of every parameter, 0 where there is none."""
    return [0.0 if p.grad is None else p.grad.abs().max().item() for p in parameters]


@arms(1)
def test_fault_1_standard_deviation_can_fall_below_one_per_cent(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    policy = agent.model.policy
    with torch.no_grad():
        policy.out.bias[3:] = -8.0
        policy.out.weight[3:] = 0.0
    features = torch.randn(4, agent.model.trunk.out_dim)
    film = torch.zeros(4, 2, 2, policy.embed.out_features)
    _, log_std = policy.gaussian(features, film)
    assert (log_std.exp().max().item() < 0.01) is healthy


@arms(2)
def test_fault_2_eval_mode_computes_the_function_that_was_trained(override, healthy):
    agent = make_agent("env=sim", "model=droq", "critic.dropout=0", override)
    batch = random_batch(agent.spec, 8, 3)
    for _ in range(3):
        agent.train(batch)
    trained = agent.model.forward_features(batch.obs).features
    evaluated = agent.model.eval().forward_features(batch.obs).features
    assert torch.equal(trained, evaluated) is healthy


@arms(3)
def test_fault_3_the_bellman_target_of_the_same_batch_is_the_same_twice(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    obs = random_batch(agent.spec, 8, 3).next_obs
    first, second = (agent.target.forward_features(obs).context for _ in range(2))
    assert agent.target.training  # DroQ's dropout in the Q-heads is meant to act here, the encoder's is not
    assert torch.equal(first, second) is healthy


@arms(4)
def test_fault_4_actor_loss_leaves_the_shared_backbone_alone(override, healthy):
    agent = make_agent("env=sim", "model=shared_backbone", override)
    batch = random_batch(agent.spec, 8, 3)
    before = [p.clone() for p in agent.model.trunk.parameters()]
    agent.update_actor(agent.model.forward_features(batch.obs))
    assert all(map(torch.equal, before, agent.model.trunk.parameters())) is healthy
    assert any(gradients(agent.model.trunk.parameters())) is not healthy


@arms(5)
def test_fault_5_actor_loss_leaves_film_and_context_encoder_alone(override, healthy):
    agent = make_agent("env=sim_lidar", override)
    batch = random_batch(agent.spec, 8, 3)
    for _ in range(2):  # FiLM's last layer starts at zero: the encoder behind it gets a gradient from the second step
        agent.update_actor(agent.model.forward_features(batch.obs))
    parts = [*agent.model.trunk.film.parameters(), *agent.model.trunk.context.parameters()]
    assert any(gradients(parts)) is not healthy


@arms(6)
def test_fault_6_short_horizon_is_warned_about(override, healthy):
    assert (not warnings(compose(override))) is healthy


@arms(7)
def test_fault_7_long_gradient_memory_is_warned_about_and_betas_reach_the_optimiser(override, healthy):
    assert (not warnings(compose(override))) is healthy
    betas = make_agent("env=sim_lidar", override).critic_optimizer.param_groups[0]["betas"]
    assert (betas == (0.9, 0.99)) is healthy


@arms(8)
def test_fault_8_too_many_updates_per_step_are_warned_about(override, healthy):
    assert (not warnings(compose(override))) is healthy


def test_fault_9_film_is_the_identity_at_start():
    agent = make_agent("env=sim_lidar")
    out = agent.model.forward_features(random_batch(agent.spec, 4, 3).obs)
    assert out.film_params.abs().max() == 0
    none = torch.zeros_like(out.film_params)
    action = torch.zeros(4, 3)
    agent.model.eval()
    with_film = agent.model.q_from_features(out.features, out.film_params, action)
    assert torch.equal(with_film, agent.model.q_from_features(out.features, none, action))


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

    batch = random_batch(agent.spec, 8, 3)
    before = {name: p.clone() for name, p in net.named_parameters()}
    for _ in range(3):
        agent.train(batch)
    unchanged = [name for name, p in net.named_parameters() if torch.equal(before[name], p)]
    assert unchanged == []


# --- the list of the faults, and what must agree with it -------------------------------------------------------


def test_faults_are_numbered_in_order():
    assert [fault.number for fault in FAULTS] == list(range(1, 13))
    assert [fault.number for fault in SWITCHED] == list(range(1, 9))
    assert [fault.number for fault in EXPERIMENT] == list(range(1, 6))


def test_defaults_are_the_fixed_values():
    assert all(state.fixed for state in faults_of(compose()))
    for fault in SWITCHED:
        assert compose(*overrides(fault, fault.switch.fixed)) == compose()


@pytest.mark.parametrize("fault", SWITCHED, ids=lambda fault: fault.name)
def test_broken_value_is_seen_as_this_fault_alone(fault):
    config = compose(*overrides(fault, fault.switch.broken))
    broken = {state.fault.number for state in faults_of(config) if state.fixed is False}
    assert broken == {other.number for other in SWITCHED if other.switch.keys == fault.switch.keys}
    (state,) = (state for state in faults_of(config) if state.fault is fault)
    assert set(state.settings.values()) == {fault.switch.broken}


@pytest.mark.parametrize("fault", SWITCHED, ids=lambda fault: fault.name)
def test_every_key_of_a_fault_is_seen(fault):
    for key in fault.switch.keys:
        config = compose(f"{key}={fault.switch.broken}")
        assert fault in [state.fault for state in faults_of(config) if state.fixed is False]


def test_faults_that_a_model_cannot_have_are_neither_fixed_nor_broken():
    lidar = {state.fault.number: state.fixed for state in faults_of(compose("env=sim_lidar", "experiment=collapse"))}
    assert lidar == {1: False, 2: None, 3: False, 4: False, 5: False, 6: True, 7: True, 8: True}
    mlp = {state.fault.number for state in faults_of(compose("model=mlp", "env=gym")) if state.fixed is None}
    assert mlp == {2, 3, 4, 5, 7}


@pytest.mark.parametrize("fault", WARNED, ids=lambda fault: fault.name)
def test_warning_names_key_value_reason_and_remedy(fault):
    (first, *others) = fault_warnings(compose(*overrides(fault, fault.switch.broken)))
    assert len(others) == len(fault.switch.keys) - 1
    key = next(iter(fault.switch.keys))
    assert first == f"{key} = {fault.switch.broken}: {fault.why} Use {fault.switch.healthy}."


def test_every_fix_experiment_belongs_to_a_fault():
    assert {path.stem for path in CONF.glob("experiment/fix_*.yaml")} == REPAIRS and len(REPAIRS) == 4


def test_collapse_experiment_breaks_faults_1_to_5():
    assert compose("experiment=collapse") == compose(*all_broken(EXPERIMENT))


@pytest.mark.parametrize("experiment", sorted(REPAIRS))
def test_fix_experiments_repair_one_switch_of_collapse(experiment):
    others = [fault for fault in EXPERIMENT if fault.switch.experiment != experiment]
    assert compose(f"experiment={experiment}") == compose(*all_broken(others))


def test_search_space_has_only_healthy_values():
    space = OmegaConf.load(CONF / "sweep" / "core.yaml").sweeper.params
    for key, faults in (("agent.gamma", 6), ("agent.betas_critic.1", 7), ("agent.betas_actor.1", 7)):
        for value in re.fullmatch(r"choice\((.*)\)", space[key])[1].split(", "):
            states = faults_of(compose(f"{key.removesuffix('.1')}={f'[0.9,{value}]' if faults == 7 else value}"))
            assert all(state.fixed for state in states), (key, value)


def test_updates_per_step_agree_between_search_warning_and_schedules():
    low, high = UPDATES_PER_EXPENSIVE_STEP
    key = "training.max_training_steps_per_env_step"
    assert OmegaConf.load(CONF / "sweep" / "core.yaml").sweeper.params[key] == f"range({low}, {high + 1})"
    assert not warnings(compose(f"{key}={high}")) and warnings(compose(f"{key}={high + 0.1}"))
    assert f"{low} to {high}" in FAULTS[7].switch.healthy
    assert low <= compose("training=full").training.max_training_steps_per_env_step <= high  # for the game
    assert compose().training.max_training_steps_per_env_step < low  # for a simulator, as the file says
    assert "simulator" in (CONF / "training" / "default.yaml").read_text("utf-8")


def test_readme_lists_the_faults_with_their_switches():
    lines = re.findall(r"^\| *(\d+) *\|(.*)\|$", (CONF.parent / "README.md").read_text("utf-8"), re.MULTILINE)
    rows = {int(number): [re.findall(r"`([^`]*)`", cell) for cell in cells.split("|")[1:4]] for number, cells in lines}
    assert rows == {
        fault.number: [list(fault.switch.keys), [fault.switch.fixed], [fault.switch.broken]] for fault in SWITCHED
    }
