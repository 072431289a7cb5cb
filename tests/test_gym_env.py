"""Environments made of Gymnasium tasks."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st

from app.config.schema_env import GymConfig
from app.core.errors import UserError
from app.envs.env_factory import EnvError, make_env, make_spec


class Probe(gymnasium.Env):
    """Task that remembers the action it received."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or Box(-np.inf, np.inf, (2, 3), np.float64)
        self.action_space = action_space or Box(*np.array([[[-2.0, 0.0, 5.0]], [[2.0, 10.0, 6.0]]], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.arange(6.0).reshape(2, 3), {}

    def step(self, action):
        self.received = action
        return np.ones((2, 3)), np.float64(0.5), np.bool_(action[0, 0] == 2.0), False, {}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    probes = {
        "Probe-v0": {},
        "ProbeDiscrete-v0": {"action_space": Discrete(3)},
        "ProbeUnbounded-v0": {"action_space": Box(-np.inf, np.inf, (2,))},
        "ProbeIntegers-v0": {"action_space": Box(0, 9, (2,), np.int64)},
        "ProbeState-v0": {"observation_space": Discrete(5)},
    }
    for name, kwargs in probes.items():
        gymnasium.register(name, entry_point=lambda kwargs=kwargs: Probe(**kwargs))
    yield
    for name in probes:
        del gymnasium.registry[name]


def config(name: str, max_steps: int | None = None) -> GymConfig:
    return GymConfig(kind="gym", name="gym", id=name, max_steps=max_steps, return_range=None)


@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3))
def test_action_is_rescaled_into_the_tasks_action_space(action):
    env = make_env(config("Probe-v0"), [], 0)
    env.reset()
    env.step(np.array(action, np.float32))
    received = env._task.unwrapped.received
    assert received.shape == (1, 3) and received.dtype == np.float32 and env._task.action_space.contains(received)
    clipped = np.clip(np.array(action, np.float32), -1.0, 1.0)
    np.testing.assert_allclose(
        received[0], [2.0 * clipped[0], 5.0 + 5.0 * clipped[1], 5.5 + 0.5 * clipped[2]], atol=1e-6
    )


def test_observation_is_a_flat_float32_vector():
    env = make_env(config("Probe-v0"), [], 0)
    obs, _ = env.reset()
    assert obs["floats"].dtype == np.float32 and obs["floats"].tolist() == [0, 1, 2, 3, 4, 5]
    assert env.observation_space.contains(obs) and env.action_space == Box(-1.0, 1.0, (3,), np.float32)
    assert make_spec(config("Probe-v0")) == env.observation_spec and env.observation_spec.float_dim == 6
    assert env.render() is None


def test_last_info_has_the_outcome():
    env = make_env(config("Probe-v0", max_steps=3), [], 0)
    env.reset()
    infos = [env.step(np.zeros(3)) for _ in range(3)]
    assert infos[-1][2:4] == (False, True) and infos[-1][4]["outcome"] == "timeout"
    assert "outcome" not in infos[0][4]
    env.reset()
    terminated, truncated, info = env.step(np.ones(3))[2:]
    assert terminated is True and truncated is False and info["outcome"] == "terminated"


def test_tasks_own_step_limit_holds():
    env = make_env(config("Pendulum-v1"), [], 0)
    env.reset()
    steps = 1
    while not env.step(np.zeros(1))[3]:
        steps += 1
    assert steps == 200


def test_seed_decides_the_first_episode():
    first, again, other = (make_env(config("Pendulum-v1"), [], seed) for seed in (3, 3, 4))
    a, b, c = (env.reset()[0]["floats"] for env in (first, again, other))
    assert (a == b).all() and (a != c).any()
    assert (first.reset()[0]["floats"] != a).any()  # the second episode differs
    assert (first.reset(seed=4)[0]["floats"] == c).all()


def test_task_renders_a_picture():
    env = make_env(config("Pendulum-v1"), [], 0)
    env.reset()
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0


@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("ProbeDiscrete-v0", "action space is Discrete", "Box of floats"),
        ("ProbeUnbounded-v0", r"action space is Box\(-inf", "finite bounds"),
        ("ProbeIntegers-v0", "action space is Box", "Box of floats"),
        ("ProbeState-v0", "observation space is Discrete", "a Box"),
        ("NoSuchTask-v0", "doesn't exist", "Pendulum-v1"),
        ("no_such_module:Task-v0", "no_such_module", "Pendulum-v1"),
        ("not an id", "not an id", "Pendulum-v1"),
    ],
)
def test_unsupported_task_is_refused_with_a_message(name, problem, remedy):
    with pytest.raises(EnvError, match=problem) as caught:
        make_env(config(name), [], 0)
    assert isinstance(caught.value, UserError)
    assert f"env.id = {name}" in str(caught.value) and remedy in str(caught.value)
