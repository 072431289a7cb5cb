"""Environments made of Gymnasium tasks."""

import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.config.schema_env import GymConfig
from app.core.errors import UserError
from app.envs.env_factory import EnvError, make_env, make_spec
from app.envs.gym_env import GymEnv
from app.envs.gym_task import import_named_module, import_task_module
from app.evaluation.episodes import Start, run_episodes
from app.training.run import train
from tests.helpers import own_tasks
from tests.helpers.runs import ROOT

OWN = f"{own_tasks.MODULE}:Own-v0"


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
        gymnasium.register(name, entry_point=lambda kwargs=kwargs: Probe(**kwargs), max_episode_steps=100)
    yield
    for name in probes:
        del gymnasium.registry[name]


def config(name: str, max_steps: int | None = None, **kwargs) -> GymConfig:
    return GymConfig(kind="gym", name="gym", id=name, kwargs=kwargs or None, max_steps=max_steps, return_range=None)


def deep(levels: int) -> dict:
    """A mapping in mappings."""
    return {"a": deep(levels - 1) if levels else 1}


def own(**behaviour) -> GymEnv:
    """The task of a user, begun, with some of its attributes."""
    env = make_env(config(OWN), [], 0)
    vars(env._task.unwrapped).update(behaviour)
    env.reset(seed=7)
    return env


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


def test_task_renders_a_picture(monkeypatch):
    for name in ("PYGAME_HIDE_SUPPORT_PROMPT", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    env = make_env(config("Pendulum-v1"), [], 0)
    env.reset()
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0
    assert os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] == "1"  # neither greets, nor does SDL miss a folder
    assert os.name != "posix" or os.path.isdir(os.environ["XDG_RUNTIME_DIR"])


@pytest.mark.parametrize("module", ["app.envs.driving.car_racing", "app.envs.gym_task"])
def test_pygame_does_not_greet(module, compose):
    pytest.importorskip("pygame")
    code = f"import {module} as m\n"
    if module.endswith("gym_task"):
        env = compose("env=gym", "model=mlp", "env.id=BipedalWalker-v3").env
        code += f"import pickle; m.open_task(pickle.loads({pickle.dumps(env)!r}))"
    plain = {name: value for name, value in os.environ.items() if name != "PYGAME_HIDE_SUPPORT_PROMPT"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.returncode == 0 and "pygame" not in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("ProbeDiscrete-v0", "action space is Discrete", "Box of floats"),
        ("ProbeUnbounded-v0", r"action space is Box\(-inf", "finite bounds"),
        ("ProbeIntegers-v0", "action space is Box", "Box of floats"),
        ("ProbeState-v0", "observation space is Discrete", "a Box"),
        ("NoSuchTask-v0", "doesn't exist", "Pendulum-v1"),
        (f"{own_tasks.MODULE}:NoSuchTask-v0", "doesn't exist", "Pendulum-v1"),
        (f"{own_tasks.MODULE}:other:Own-v0", "more than one module", "MODULE:NAME"),
        (f"{own_tasks.MODULE}:OwnEndless-v0", "no limit on the steps", "env.max_steps=1000"),
        ("not an id", "not an id", "Pendulum-v1"),
    ],
)
def test_unsupported_task_is_refused_with_a_message(name, problem, remedy):
    with pytest.raises(EnvError, match=problem) as caught:
        make_env(config(name), [], 0)
    assert isinstance(caught.value, UserError)
    assert f"env.id = {name}" in str(caught.value) and remedy in str(caught.value)


# --- a task of the user's own -----------------------------------------------------------------------------------------


def test_step_limit_can_be_given():
    env = make_env(config(f"{own_tasks.MODULE}:OwnEndless-v0", max_steps=2), [], 0)
    env.reset()
    assert [env.step(np.zeros(1))[3] for _ in range(2)] == [False, True]


def test_arguments_reach_the_task():
    env = make_env(config(OWN, gain=2.5, numbers=3), [], 0)
    assert len(env.reset()[0]["floats"]) == env.observation_spec.float_dim == 3
    assert env.step(np.zeros(1))[1] == 2.5


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"colour": "red"}, "cannot be made with env.kwargs = .*unexpected keyword argument 'colour'.$"),
        ({"fails": True}, r"cannot be made .*RuntimeError: no licence \(own_tasks.py, line \d+\).$"),
        ({"numbers": 0}, r"its observation space is Box.*\(0,\).*which holds no number"),
        ({"render_mode": "human"}, "^env.kwargs: render_mode is no argument of the task: leave it out"),
        ({"max_episode_steps": 3}, "max_episode_steps is no argument of the task: set env.max_steps"),
    ],
)
def test_task_that_cannot_be_made_is_one_sentence(kwargs, text):
    with pytest.raises(EnvError, match=text) as refusal:
        make_env(config(OWN, **kwargs), [], 0)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ({"observation": [1.0, np.nan]}, "component 1 of its observation is nan"),
        ({"observation": [np.inf, 0.0]}, "component 0 of its observation is inf"),
        ({"observation": [-1e300, 0.0]}, "component 0 of its observation is -inf as float32"),
        ({"observation": [1.0]}, r"its observation has the shape \(1,\), and its space says \(2,\)"),
        ({"observation": {"a": 1}}, "its observation holds something else than numbers"),
        ({"observation": ["a", "b"]}, "its observation holds something else than numbers"),
        ({"reward": np.nan}, "its reward is nan"),
        ({"reward": np.array([-np.inf])}, "its reward is -inf"),
        ({"reward": 1e39}, r"its reward is 1e\+39"),
        ({"reward": [1.0, 2.0]}, r"its reward is no single number \(list\)"),
        ({"reward": "much"}, r"its reward is no single number \(str\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_wrong_observation_or_reward_is_refused_at_its_step(behaviour, text):
    env = own(**behaviour)
    for _ in range(2):
        env.step(np.zeros(1))
    with pytest.raises(EnvError, match=rf"^env.id = {OWN}: at step 3 of an episode, {text}.*Correct the task.$"):
        env.step(np.zeros(1))


def test_run_on_a_task_that_gives_nan_ends_with_the_sentence_of_the_task(compose, tmp_path, monkeypatch):
    """It does not blame the learning rate, and raises, so that the command exits with code 1."""
    step = own_tasks.Own.step
    monkeypatch.setattr(own_tasks.Own, "step", lambda self, action: (*step(self, action)[:1], np.nan, False, False, {}))
    small = ("threads=1", "logger=quiet", "actor.hidden_dim=8", "critic.hidden_dim=8", "replay.capacity=2000")
    run = compose("model=mlp", "env=gym", f"env.id={OWN}", *small, f"runs_dir={tmp_path}")
    with pytest.raises(UserError, match="at step 1 of an episode, its reward is nan. Correct the task.$"):
        train(run)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ((np.zeros(2), 0.0, True, {}), "step fails with ValueError: not enough values"),
        ((np.zeros(2), 0.0, np.array([True, False]), False, {}), "step fails with ValueError"),
        ((np.zeros(2), 0.0, True, False, ["lap"]), r"its info is no dict \(list\)"),
    ],
)
def test_step_with_another_result_is_one_sentence(result, text):
    with pytest.raises(EnvError, match=rf"at step 1 of an episode, {text}"):
        own(result=result).step(np.zeros(1))


def test_reward_in_an_array_is_a_number():
    env = own(gain=np.array([0.25]))
    reward = env.step(np.zeros(1))[1]
    assert type(reward) is float and reward == 0.25


def test_words_of_this_program_in_a_tasks_info_are_left_out():
    """An episode of a task has no laps, whatever the task calls so."""
    env = own(info={"lap_time": "fast", "lap_share": [1], "native_return": "x", "outcome": 3, "other": 1})
    assert env.step(np.zeros(1))[4] == {"other": 1}
    (episode,) = run_episodes([env], [Start(seed=1)], lambda _, observations: [np.zeros(1)])
    assert (episode.lap_time, episode.native_return, episode.outcome) == (None, None, "timeout")
    assert np.isnan(episode.lap_share)


@pytest.mark.parametrize("generator", ["pcg64", "legacy"])
def test_running_episode_of_any_generator_is_continued(generator):
    env = make_env(config(OWN, generator=generator), [], 5)
    for _ in range(3):  # the third episode has no seed of its own
        first, _ = env.reset()
    observation = env.step(np.ones(1))[0]["floats"]
    again = make_env(config(OWN, generator=generator), [], 5)
    assert (again.set_state(env.get_state())["floats"] == observation).all()
    assert (again.reset()[0]["floats"] == env.reset()[0]["floats"]).all()
    assert (env.reset()[0]["floats"] != first["floats"]).all()


@pytest.mark.parametrize(
    "kwargs",
    [{}, {1: 2}, {"g": float("nan")}, {"a": [{"b": float("inf")}]}, {"a": b"x"}, {"a": Box}, deep(20), [1], "g"],
)
def test_arguments_that_are_no_plain_data_are_refused(kwargs):
    with pytest.raises(ValidationError, match="kwargs"):
        GymConfig(kind="gym", name="gym", id="Pendulum-v1", kwargs=kwargs, max_steps=None, return_range=None)


# --- modules ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of an importable module that registers a task, and says when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_tasks.py").write_text(
        "from gymnasium import register\nfrom tests.helpers.own_tasks import Own\nfrom pathlib import Path\n"
        "Path(__file__).with_name('imported').touch()\nregister('Imported-v0', Own, max_episode_steps=5)\n"
    )
    yield tmp_path / "imported_tasks.py"
    sys.modules.pop("imported_tasks", None)
    gymnasium.registry.pop("Imported-v0", None)


def test_module_of_a_task_is_imported_only_on_request(module):
    task = config("imported_tasks:Imported-v0")
    for make in (make_spec, lambda task: make_env(task, [], 0)):
        with pytest.raises(EnvError, match="comes from a file.* add env_module=imported_tasks"):
            make(task)
    assert not module.with_name("imported").exists()
    import_task_module(task)
    assert make_spec(task).float_dim == 2 and module.with_name("imported").exists()


def test_module_that_the_user_names_is_imported(module):
    import_named_module(None)
    assert not module.with_name("imported").exists()
    import_named_module("imported_tasks")
    assert make_spec(config("imported_tasks:Imported-v0")).float_dim == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module", "there is no module no_such_module. Correct its name, install it"),
        ("imported_tasks.sub", "there is no module imported_tasks.sub"),
        ("", "'' cannot be imported: ValueError: Empty module name"),
        (".relative", "'.relative' cannot be imported: TypeError"),
    ],
)
def test_missing_module_is_one_sentence(module, name, text):
    with pytest.raises(EnvError, match=f"^env.id = {name}:Task-v0: {text}") as refusal:
        import_task_module(config(f"{name}:Task-v0"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_module_that_fails_is_one_sentence_with_its_line(module, code, text):
    module.write_text(f"\n{code}\n")
    with pytest.raises(EnvError, match=rf"cannot be imported: {text}.* \(imported_tasks.py, line 2\)"):
        import_named_module("imported_tasks")
