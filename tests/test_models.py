"""Networks: acting equals training, and parts equal their plain references."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from app.core.tmrl_api import RolloutWorker
from app.envs.env_factory import make_env, make_spec
from app.models.actor import DrivingActor
from app.models.backbone import Backbone
from app.models.factory import make_actor_critic
from app.models.layers import (
    DepthwiseConv,
    FiLMGenerator,
    PointwiseConv,
    StackedLayerNorm,
    StackedLinear,
    film,
    spectral_norm,
)
from app.models.trunk import ScaleInputs
from app.replay.batch import random_batch, random_observations
from app.replay.buffer import ReplayMemory
from app.replay.row_format import SampleCompressor
from app.replay.storage import MemoryStorage
from app.training.rollout import LocalInterface
from tests.helpers.make import NETWORK_OPTIONS, compose, make_agent, with_requirements

MODELS = ("droq_contextual", "droq", "shared_backbone", "mlp")


@pytest.mark.parametrize(
    ("model", "norm", "env"),
    [
        *itertools.product(MODELS[:3], ("group", "batch", "layer", "none"), ("sim",)),
        *itertools.product(MODELS, ("group",), ("sim_lidar",)),
    ],
)
def test_every_model_trains_on_every_norm_and_environment(model, norm, env):
    agent = make_agent(f"model={model}", f"norm={norm}", f"env={env}")
    metrics = agent.train(random_batch(agent.spec, 4, 3))
    assert np.isfinite(list(metrics.values())).all()
    assert sum(agent.model.parameter_counts().values()) == sum(p.numel() for p in agent.model.parameters())
    assert ("backbone" in agent.model.parameter_counts()) is (env == "sim" and model != "mlp")


@pytest.mark.parametrize("option", NETWORK_OPTIONS)
def test_every_option_that_a_network_depends_on_composes_builds_and_acts(option):
    config = compose(*with_requirements(option))
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    actor.copy_from(make_actor_critic(config, spec))
    assert actor.act(random_observations(spec, 1), test=True).shape == (spec.action_dim,)


def test_backbone_nano_downsamples_64_pixels_to_4():
    config = compose("backbone=effnet_nano")
    net = Backbone(config.backbone, config.norm, in_channels=4, out_dim=128)
    strides = [m.stride[0] for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1]
    assert len(strides) == 4  # stem and three stages: 64 pixels become 4
    assert net(torch.zeros(2, 4, 64, 64)).shape == (2, 128)
    assert net.features(torch.zeros(1, 4, 64, 64)).shape == (1, 1792, 4, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda bias: PointwiseConv(6, 8, bias),
        lambda bias: DepthwiseConv(6, 1, bias),
        lambda bias: DepthwiseConv(6, 2, bias),
    ],
    ids=["pointwise", "depthwise", "stride 2"],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 4), (5, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions_of_small_maps_equal_conv2d(make, size, bias):
    ours = make(bias)
    plain = nn.Conv2d(6, ours.out_channels, ours.kernel_size, ours.stride, ours.padding, groups=ours.groups, bias=bias)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(5, 6, *size).to(memory_format=torch.channels_last)
    results = []
    for conv in (ours, plain):
        copy = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = conv(copy)
        (y.square() / 2).sum().backward()
        results.append([y, copy.grad, *(p.grad for p in conv.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("env", ["sim", "sim_lidar"])
def test_fault_10_acting_equals_training_bit_for_bit(model, env):
    """Actions that the worker computes from the environment equal those that the trainer computes from the replay."""
    overrides = ("training=smoke", "replay.capacity=200", "replay.batch_size=16", "critic.dropout=0")
    overrides = (f"model={model}", f"env={env}", *overrides)
    config, agent = compose(*overrides), make_agent(*overrides)
    spec, net = agent.spec, agent.model
    worker = RolloutWorker(
        env_cls=lambda: make_env(config.env, (1,), 0),
        actor_module_cls=lambda **spaces: DrivingActor(**spaces, config=config, spec=spec),
        sample_compressor=SampleCompressor(spec),
        standalone=True,
    )
    worker.actor.copy_from(net)
    observed = []
    act = worker.actor.act_
    worker.actor.act_ = lambda obs, test: observed.append(obs) or act(obs, test)
    memory = ReplayMemory(spec, config.replay, 1, 0.99, (), 1, "cpu", 0, MemoryStorage())
    interface = LocalInterface(worker, lambda: 10, 0.0)
    for _ in range(3):
        memory.append(interface.retrieve_buffer())

    checked = 0
    for row in range(len(memory)):
        if not memory._is_complete(np.array([row]))[0]:
            continue
        rebuilt = {k: torch.from_numpy(v)[None] for k, v in memory.get_transition(row)[0].items()}
        features = net.train().forward_features(rebuilt)
        trained, _, _ = net.actor_from_features(features.features, features.film_params, deterministic=True)
        assert np.array_equal(trained[0].detach().numpy(), act(observed[checked], test=True))
        checked += 1
    assert checked == 30


def test_fault_11_next_observation_is_encoded_from_the_window_shifted_by_one_step():
    """The fault was to encode both observations of a transition with the same window."""
    config = compose("env=sim_lidar", "training=smoke", "replay.capacity=200", "replay.batch_size=16")
    env = make_env(config.env, (1,), 0)
    spec = env.observation_spec
    memory = ReplayMemory(spec, config.replay, 1, 0.99, (), 1, "cpu", 0, MemoryStorage())
    worker = RolloutWorker(lambda: env, lambda **_: _ConstantActor(), SampleCompressor(spec), standalone=True)
    memory.append(LocalInterface(worker, lambda: 20, 0.0).retrieve_buffer())
    batch = memory.sample()
    assert torch.equal(batch.next_obs["window"][:, :-1], batch.obs["window"][:, 1:])
    assert not torch.equal(batch.next_obs["window"], batch.obs["window"])
    assert torch.equal(batch.next_obs["window"][:, -1, -1], batch.reward)


class _ConstantActor:
    def to_device(self, device):
        return self

    def act_(self, obs, test):
        return np.array([0.5, -1.0, 0.0], np.float32)


def test_context_depends_on_the_window_and_on_where_the_car_is():
    agent = make_agent("env=sim_lidar")
    obs = random_observations(agent.spec, 2)
    z = agent.model.forward_features(obs).context
    for key in ("window", "floats"):
        changed = {**obs, key: obs[key] + 1}
        assert not torch.allclose(z, agent.model.forward_features(changed).context)


def test_film_scales_and_shifts_and_starts_as_the_identity():
    params = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])  # scale 1, 0; shift 0, 3
    assert film(torch.tensor([[5.0, 7.0]]), params).tolist() == [[10.0, 10.0]]
    assert FiLMGenerator(4, 8, 2, 16)(torch.randn(3, 4)).abs().max() == 0


def test_stacked_layers_equal_separate_ones():
    stacked, norm = StackedLinear(2, 5, 4), StackedLayerNorm(2, 4)
    x = torch.randn(2, 6, 5)
    for i in range(2):
        single = nn.Linear(5, 4)
        single.weight.data, single.bias.data = stacked.weight[i].T, stacked.bias[i, 0]
        torch.testing.assert_close(stacked(x)[i], single(x[i]))
        torch.testing.assert_close(norm(stacked(x))[i], nn.LayerNorm(4)(single(x[i])))
    torch.testing.assert_close(stacked(x[0])[1], stacked(x[:1].expand(2, -1, -1))[1])


def test_spectral_norm_limits_the_largest_singular_value_of_every_copy_to_one():
    layer = StackedLinear(2, 16, 16)
    layer.weight.data *= torch.tensor([3.0, 30.0])[:, None, None]
    spectral_norm(layer)
    for _ in range(200):
        layer(torch.randn(4, 16))
    assert torch.linalg.matrix_norm(layer.weight, 2).tolist() == pytest.approx([1.0, 1.0], rel=1e-2)
    agent = make_agent("env=sim_lidar", "critic.spectral_norm=true")
    agent.train(random_batch(agent.spec, 4, 3))


def test_inputs_are_scaled_by_the_scales_of_the_spec():
    spec = make_agent("env=sim").spec
    scale = ScaleInputs(spec)
    obs = random_observations(spec, 2)
    obs["images"][:] = 255
    assert scale.images(obs).max() == 1
    assert scale.images(obs).is_contiguous(memory_format=torch.channels_last)
    sensors = torch.tensor(spec.sensor_scale)
    torch.testing.assert_close(scale.floats(obs)[:, : spec.sensors] * sensors, obs["floats"][:, : spec.sensors])


def test_actor_is_deterministic_only_on_request():
    agent = make_agent("env=sim_lidar")
    actor, obs = agent.get_actor(), random_observations(agent.spec, 3)
    assert torch.equal(actor.actions(obs, deterministic=True), actor.actions(obs, deterministic=True))
    assert not torch.equal(actor.actions(obs, deterministic=False), actor.actions(obs, deterministic=False))
    assert actor.actions(obs, deterministic=False).abs().max() <= 1


def test_saved_actor_acts_as_before_when_loaded(tmp_path):
    agent = make_agent("env=sim_lidar", seed=1)
    actor = agent.get_actor()
    actor.save(tmp_path / "actor.tmod")
    other = make_agent("env=sim_lidar", seed=2).get_actor()
    obs = random_observations(agent.spec, 2)
    assert not torch.equal(actor.actions(obs, deterministic=True), other.actions(obs, deterministic=True))
    other.load(tmp_path / "actor.tmod", "cpu")
    assert torch.equal(actor.actions(obs, deterministic=True), other.actions(obs, deterministic=True))


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone"])
def test_q_starts_at_the_initial_q(model):
    values = {}
    for start in (0.0, 30.0):
        agent = make_agent(f"model={model}", "env=sim_lidar", f"critic.initial_q={start}")
        obs, action = random_observations(agent.spec, 8), torch.zeros(8, 3)
        for network in (agent.model, agent.target):
            features, film_params, _ = network.forward_features(obs)
            values.setdefault(start, []).append(network.q_from_features(features, film_params, action).mean().item())
    assert all(abs(value) < 3 for value in values[0.0])
    assert all(abs(value - 30) < 3 for value in values[30.0])
