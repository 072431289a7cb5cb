"""Training on a GPU: CUDA graphs compute what the operations one by one compute. Skipped without a GPU."""

import copy
import gc
import math
import weakref

import pytest
import torch

from app.agents.finite_check import NonFiniteError
from app.agents.measures import measure
from app.core.cuda_graph import GraphedFunction
from app.core.torch_rng import forked_rng
from app.models.actor import DrivingActor
from app.models.graphed_actor import GraphedActor
from app.replay.batch import random_batch, random_observations
from app.replay.transfer import PackedTransfer
from app.training import run as run_module
from benchmarks.leanrl_peer import LeanSAC
from tests.helpers.make import make_agent
from tests.helpers.runs import result
from tests.helpers.stopped_runs import PENDULUM, configure, raise_at_safe_point

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "cuda:0"
UPDATES = 8  # the first three are not recorded
FIXED, BROKEN, PLAIN = (), ("experiment=collapse",), ("model=mlp", "env=gym", "env.id=Pendulum-v1")
SMALL_RUN = ("env=sim", "training=smoke", "env.max_steps=40", "logger=quiet", "threads=1", f"device={GPU}")


def train_on_gpu(*overrides):
    """Train an agent with batches that are the same in every call; return it with the metrics of all updates."""
    agent = make_agent(*overrides, device=GPU)
    horizons = len(agent.model.trunk.predict_rewards.bias) if hasattr(agent.model.trunk, "predict_rewards") else 0
    transfer, generator = PackedTransfer(GPU), torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    metrics = [
        agent.train(transfer(random_batch(agent.spec, 16, horizons, generator=generator))) for _ in range(UPDATES)
    ]
    return agent, metrics


@pytest.mark.parametrize("overrides", [FIXED, BROKEN, PLAIN], ids=["fixed", "broken", "mlp"])
def test_recorded_updates_equal_those_operation_by_operation(overrides):
    start = make_agent(*overrides, device=GPU)
    recorded, metrics = train_on_gpu(*overrides, "cuda_graphs=true")
    plain, expected = train_on_gpu(*overrides, "cuda_graphs=false")
    for one, other in zip(metrics, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)
    for network in ("model", "target", "averaged"):
        weights = [
            torch.cat([p.detach().flatten() for p in getattr(agent, network).parameters()])
            for agent in (start, recorded, plain)
        ]
        way = (weights[1] - weights[0]).norm()
        assert way > 0
        assert (weights[1] - weights[2]).norm() < 0.02 * way  # operations of a GPU may round differently each time


def test_every_replay_draws_new_random_numbers():
    inputs = torch.zeros(1000, device=GPU)
    draw = GraphedFunction(lambda _, x: torch.randn_like(x))
    values = [draw(None, inputs).clone() for _ in range(6)]
    assert all(not torch.equal(one, other) for i, one in enumerate(values) for other in values[:i])


def test_seed_decides_what_a_replay_draws():
    inputs = torch.zeros(1000, device=GPU)
    draw = GraphedFunction(lambda _, x: torch.randn_like(x))
    for _ in range(4):
        draw(None, inputs)
    values = []
    for _ in range(2):
        with forked_rng(7):
            values.append([draw(None, inputs).clone() for _ in range(2)])
    assert all(torch.equal(*pair) for pair in zip(*values, strict=True))


def test_other_inputs_are_recorded_anew():
    double = GraphedFunction(lambda _, x: 2 * x)
    for value in (1.0, 2.0):
        x = torch.full((3,), value, device=GPU)
        assert [double(None, x).tolist() for _ in range(6)] == [[2 * value] * 3] * 6


@pytest.mark.parametrize("overrides", [("env=sim",), ("env=sim_lidar",), PLAIN], ids=["images", "lidar", "mlp"])
def test_recorded_actor_equals_the_plain_one_at_every_batch_size(overrides):
    agent = make_agent(*overrides, device=GPU)
    graphed = agent.get_actor()
    assert isinstance(graphed, GraphedActor)
    plain = DrivingActor.actions.__get__(graphed)
    for rows in (1, 6, 4, 1, 6, 3, 6, 6, 6):
        obs = random_observations(agent.spec, rows, GPU)
        modes = torch.ones(rows, dtype=torch.bool, device=GPU)
        torch.testing.assert_close(graphed.actions(obs, modes), plain(obs, modes), rtol=1e-3, atol=1e-5)
        assert not torch.equal(graphed.actions(obs, ~modes), graphed.actions(obs, ~modes))


def test_recorded_actor_follows_new_weights():
    agent = make_agent("env=sim_lidar", device=GPU)
    actor, obs = agent.get_actor(), random_observations(agent.spec, 1, GPU)
    before = [actor.actions(obs, True) for _ in range(6)][-1]
    with torch.no_grad():
        agent.model.policy.out.bias += 1
    assert not torch.allclose(agent.get_actor().actions(obs, True), before)


def test_copied_agent_does_not_replay_into_the_original():
    agent, _ = train_on_gpu()
    twin = copy.deepcopy(agent)
    before = [p.clone() for p in agent.model.parameters()]
    for _ in range(UPDATES):
        twin.train(PackedTransfer(GPU)(random_batch(agent.spec, 16, 3)))
    assert all(torch.equal(*pair) for pair in zip(agent.model.parameters(), before, strict=True))


def test_measures_leave_a_recorded_agent_as_it_is():
    agent, _ = train_on_gpu()
    batch, state = random_batch(agent.spec, 16, 3, GPU), torch.cuda.get_rng_state()
    before = [p.clone() for p in agent.model.parameters()]
    assert all(math.isfinite(value) for value in measure(agent, batch, [batch], 0).values())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(agent.model.parameters(), before, strict=True))


def continue_training(agent, transfer):
    """Train with the same batches and random numbers in every call; return the metrics."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    return [agent.train(transfer(random_batch(agent.spec, 16, 3, generator=generator))) for _ in range(UPDATES)]


def test_state_that_is_loaded_into_a_recorded_agent_continues():
    agent, _ = train_on_gpu()
    twin, transfer = make_agent(device=GPU, seed=5), PackedTransfer(GPU)
    continue_training(twin, transfer)  # its update is recorded for this transfer
    twin.load_state_dict(copy.deepcopy(agent.state_dict()))
    for one, other in zip(
        continue_training(agent, PackedTransfer(GPU)), continue_training(twin, transfer), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)


def test_nan_in_a_recorded_update_is_named():
    agent = make_agent("env=sim_lidar", device=GPU)
    transfer = PackedTransfer(GPU)
    for _ in range(UPDATES):
        agent.train(transfer(random_batch(agent.spec, 16, 3)))
    batch = random_batch(agent.spec, 16, 3)
    with pytest.raises(NonFiniteError, match=rf"^reward = nan at update {UPDATES + 1}"):
        agent.train(transfer(batch._replace(reward=batch.reward * math.nan)))


def test_batches_arrive_whole_and_in_the_same_tensors():
    transfer, agent = PackedTransfer(GPU), make_agent("env=sim")
    arrived = []
    for size in (8, 8, 3, 8):
        batch = random_batch(agent.spec, size, 3)
        arrived.append(transfer(batch))
        for name in batch._fields:
            sent, received = getattr(batch, name), getattr(arrived[-1], name)
            pairs = zip(sent.values(), received.values(), strict=True) if isinstance(sent, dict) else [(sent, received)]
            assert all(torch.equal(one, other.cpu()) for one, other in pairs), name
    assert arrived[0] is arrived[1]
    assert arrived[1] is not arrived[3]


@pytest.mark.parametrize("overrides", [SMALL_RUN, (*PENDULUM, f"device={GPU}")], ids=["sim", "pendulum"])
def test_run_on_a_gpu_is_stopped_and_continued(tmp_path, monkeypatch, overrides):
    from app.training.stop import INTERRUPTED, Stopped

    config = configure(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        raise_at_safe_point(patch, 12, Stopped(INTERRUPTED))
        run_module.train(config)
    run_module.train(config)
    finished = result(tmp_path / "run")
    assert finished["summary"]["updates"] == config.training.updates


@pytest.mark.parametrize("devices", [(GPU, "cpu"), ("cpu", GPU)], ids="-then-".join)
def test_run_continues_on_the_other_device(tmp_path, devices):
    for epochs, device in enumerate(devices, start=1):
        run_module.train(configure(tmp_path, *SMALL_RUN, f"training.epochs={epochs}", f"device={device}"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_peer_of_the_benchmark_learns_from_recorded_updates():
    agent = make_agent("model=mlp", "env=sim_lidar", device=GPU)
    peer = LeanSAC(agent.spec.float_dim, agent.spec.action_dim, 16, compiled=False)
    batch = PackedTransfer(GPU)(random_batch(agent.spec, 16, 0))
    losses = [float(peer.update(batch)) for _ in range(200)]
    assert losses[-1] < losses[0]


def test_agent_is_freed_without_the_garbage_collector():
    agent, _ = train_on_gpu()
    agent.get_actor().actions(random_observations(agent.spec, 1, GPU), True)
    freed = weakref.ref(agent)
    gc.disable()
    try:
        del agent, _
        assert freed() is None
    finally:
        gc.enable()


def test_without_graphs_nothing_warns_and_the_actor_stays_on_the_cpu(recwarn):
    agent = make_agent("env=sim_lidar", "cuda_graphs=false", device=GPU)
    agent.train(random_batch(agent.spec, 16, 3, GPU))
    assert agent.get_actor().device == "cpu"
    assert not [warning for warning in recwarn if "capturable" in str(warning.message)]
