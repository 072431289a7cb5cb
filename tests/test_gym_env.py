"""Gymnasium tasks under this project's contract."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st

from app.config.schema import GymConfig
from app.envs.factory import EnvError, make_env, make_spec
from app.errors import UserError


class Probe(gymnasium.Env):
    """A task that remembers the action it got."""

    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or Box(-np.inf, np.inf, (2, 3), np.float64)
        self.action_space = action_space or Box(*np.array([[[-2.0, 0.0, 5.0]], [[2.0, 10.0, 6.0]]], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.arange(6.0).reshape(2, 3), {}

    def step(self, action):
        self.got = action
        return np.ones((2, 3)), np.float64(0.5), np.bool_(action[0, 0] == 2.0), False, {}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    kinds = {
        "Probe-v0": {},
        "ProbeDiscrete-v0": {"action_space": Discrete(3)},
        "ProbeUnbounded-v0": {"action_space": Box(-np.inf, np.inf, (2,))},
        "ProbeIntegers-v0": {"action_space": Box(0, 9, (2,), np.int64)},
        "ProbeState-v0": {"observation_space": Discrete(5)},
    }
    for name, kwargs in kinds.items():
        gymnasium.register(name, entry_point=lambda kwargs=kwargs: Probe(**kwargs))
    yield
    for name in kinds:
        del gymnasium.registry[name]


def config(name: str, max_steps: int | None = None) -> GymConfig:
    return GymConfig(kind="gym", name="gym", id=name, max_steps=max_steps, return_range=None)


@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3))
def test_action_does_not_leave_the_tasks_box(action):
    env = make_env(config("Probe-v0"), [], 0)
    env.reset()
    env.step(np.array(action, np.float32))
    got = env._task.unwrapped.got
    assert got.shape == (1, 3) and got.dtype == np.float32 and env._task.action_space.contains(got)
    clipped = np.clip(np.array(action, np.float32), -1.0, 1.0)
    np.testing.assert_allclose(got[0], [2.0 * clipped[0], 5.0 + 5.0 * clipped[1], 5.5 + 0.5 * clipped[2]], atol=1e-6)


def test_observation_is_not_left_in_its_own_shape_and_dtype():
    env = make_env(config("Probe-v0"), [], 0)
    obs, _ = env.reset()
    assert obs["floats"].dtype == np.float32 and obs["floats"].tolist() == [0, 1, 2, 3, 4, 5]
    assert env.observation_space.contains(obs) and env.action_space == Box(-1.0, 1.0, (3,), np.float32)
    assert make_spec(config("Probe-v0")) == env.spec_ and env.spec_.float_dim == 6
    assert env.render() is None


def test_end_of_an_episode_does_not_lack_its_outcome():
    env = make_env(config("Probe-v0", max_steps=3), [], 0)
    env.reset()
    infos = [env.step(np.zeros(3)) for _ in range(3)]
    assert infos[-1][2:4] == (False, True) and infos[-1][4]["outcome"] == "timeout"
    assert "outcome" not in infos[0][4]
    env.reset()
    terminated, truncated, info = env.step(np.ones(3))[2:]
    assert terminated is True and truncated is False and info["outcome"] == "terminated"


def test_own_limit_of_the_task_is_not_lost():
    env = make_env(config("Pendulum-v1"), [], 0)
    env.reset()
    steps = 1
    while not env.step(np.zeros(1))[3]:
        steps += 1
    assert steps == 200


def test_seed_is_not_ignored():
    first, again, other = (make_env(config("Pendulum-v1"), [], seed) for seed in (3, 3, 4))
    a, b, c = (env.reset()[0]["floats"] for env in (first, again, other))
    assert (a == b).all() and (a != c).any()
    assert (first.reset()[0]["floats"] != a).any()  # the second episode is another one
    assert (first.reset(seed=4)[0]["floats"] == c).all()


def test_video_of_a_task_is_not_blank():
    env = make_env(config("Pendulum-v1"), [], 0)
    env.reset()
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0


@pytest.mark.parametrize(
    ("name", "is_", "allowed"),
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
def test_unfit_task_is_not_a_traceback(name, is_, allowed):
    with pytest.raises(EnvError, match=is_) as caught:
        make_env(config(name), [], 0)
    assert isinstance(caught.value, UserError)
    assert f"env.id = {name}" in str(caught.value) and allowed in str(caught.value)
