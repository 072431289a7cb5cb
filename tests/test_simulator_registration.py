"""The simulator as Gymnasium's registry, Stable-Baselines3 and tmrl's pipeline see it."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FilterObservation, FlattenObservation, RescaleObservation

import app.envs  # noqa: F401  (registers the simulator)
from app.core.errors import UserError
from app.envs.driving.sim_env import SimEnv
from app.envs.driving.track_sim import make_config
from tests.helpers.driver import episode_hash
from tests.helpers.make import compose
from tests.helpers.runs import ROOT

IDS = {"TrackSim-v0": "sim", "TrackSimLidar-v0": "sim_lidar"}
GAS = np.array([1, -1, 0], np.float32)


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_import_registers_without_torch_hydra_and_the_simulator():
    code = (
        "import sys, app.envs, gymnasium; gymnasium.spec('TrackSim-v0'); gymnasium.spec('TrackSimLidar-v0');"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'tmrl', 'pydantic', 'cv2') if name in sys.modules]);"
        "gymnasium.make('TrackSimLidar-v0').reset();"
        "print([name for name in ('torch', 'hydra', 'tmrl', 'pygame') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stdout + done.stderr


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_has_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize(("name", "settings"), [("TrackSim-v0", {"image_size": 64}), ("TrackSimLidar-v0", {})])
def test_checker_of_stable_baselines3_passes(name, settings):
    checker = pytest.importorskip(
        "stable_baselines3.common.env_checker", reason="stable-baselines3 is no dependency of this project"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker.check_env(gymnasium.make(name, **settings).unwrapped)
    assert all("unconventional shape" in str(warning.message) for warning in caught)  # of the window, a matrix


@pytest.mark.parametrize("option", IDS.values())
def test_defaults_are_those_that_hydra_composes(option):
    assert make_config(option, {}) == compose(f"env={option}").env


@pytest.mark.parametrize(("name", "option"), IDS.items())
def test_registered_simulator_drives_as_that_of_a_run(name, option):
    settings = {"train_tracks": [1, 2], "max_steps": 60}
    config = make_config(option, settings)
    registered = gymnasium.make(name, **settings).unwrapped
    expected = SimEnv(config, config.train_tracks, seed=0)
    for env in (registered, expected):
        env.reset(seed=4)
    assert episode_hash(registered, 150) == episode_hash(expected, 150)


def test_settings_change_what_they_name_only():
    sim = gymnasium.make("TrackSim-v0", image_size=32, car={"grip": 10.0}, train_tracks=[7]).unwrapped
    default = compose("env=sim").env
    obs, _ = sim.reset()
    assert obs["images"].shape == (4, 32, 32) and sim.track.seed == 7
    assert (sim._config.car.grip, sim._config.car.brake) == (10.0, default.car.brake)


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_sise": 32}, "image_sise: there is no such key. Did you mean images or image_size?"),
        ({"image_size": 3}, "image_size = 3: must be"),
        ({"max_steps": "many"}, "max_steps = many: must be"),
        ({"car": {"grip": -1.0}}, "car.grip = -1.0: must be"),
        ({"train_tracks": []}, "train_tracks"),
        ({"option": "nothing"}, "option = nothing: must be one of sim, sim_lidar"),
        ({"option": "car_racing"}, "option = car_racing: must be one of sim, sim_lidar"),
    ],
)
def test_wrong_setting_is_refused_with_what_is_allowed(make, settings, message):
    with pytest.raises(UserError, match="^" + message.replace("?", r"\?").replace(".", r"\.")) as caught:
        make("TrackSim-v0", **settings)
    assert "--cfg" not in str(caught.value) and "\n" not in str(caught.value)


def test_settings_may_be_arrays_and_numbers_of_numpy():
    config = make_config(
        "sim", {"train_tracks": np.array([3, 4]), "image_size": np.int64(32), "car": {"grip": np.float64(9)}}
    )
    assert (config.train_tracks, config.image_size, config.car.grip) == ((3, 4), 32, 9.0)
    with pytest.raises(UserError, match="^step_s: must be made of numbers, texts, lists and mappings.$"):
        make_config("sim", {"step_s": object()})


def test_wrong_render_mode_and_size_are_refused():
    with pytest.raises(UserError, match="render_mode = ansi: must be"), pytest.warns(UserWarning, match="render_mode"):
        gymnasium.make("TrackSim-v0", render_mode="ansi")
    with pytest.raises(UserError, match="render_size = 5: must be"):
        gymnasium.make("TrackSim-v0", render_size=5)
    with pytest.raises(UserError, match='add vectorization_mode="sync"'):
        gymnasium.make_vec("TrackSim-v0", render_mode="rgb_array")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trak": 1}, "trak is unknown"),
        ({"start": 1.0}, "start=1.0"),
        ({"start": "a"}, "start=a"),
        ({"track": -1}, "track=-1"),
        ({"track": 1.5}, "track=1.5"),
    ],
)
def test_wrong_option_of_reset_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make("TrackSimLidar-v0").reset(options=options)


def test_observation_keeps_its_bounds_whatever_the_action():
    env = gymnasium.make("TrackSim-v0", stall_steps=1000, train_tracks=[1, 2, 3]).unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(600):
        obs, *_, terminated, truncated, _ = env.step(rng.normal([2.0, -3.0, 0.0], 1.5))
        assert env.observation_space.contains(obs)
        if terminated or truncated:
            env.reset()


def test_window_shows_an_episode_and_can_be_closed_twice():
    env = gymnasium.make("TrackSimLidar-v0", render_mode="human", render_size=128)
    env.reset(seed=0)
    pygame = env.unwrapped._window.pygame
    first = pygame.surfarray.array3d(pygame.display.get_surface())
    for _ in range(3):
        env.step(GAS)
    assert env.render() is None
    assert first.shape == (128, 128, 3) and (pygame.surfarray.array3d(pygame.display.get_surface()) != first).any()
    env.close()
    env.close()
    assert not pygame.display.get_init()


def test_frames_are_returned_where_they_are_asked_for():
    env = gymnasium.make("TrackSimLidar-v0", render_mode="rgb_array", render_size=96, step_s=0.1)
    env.reset()
    assert env.render().shape == (96, 96, 3) and env.metadata["render_fps"] == 10
    silent = gymnasium.make("TrackSimLidar-v0").unwrapped
    silent.reset()
    assert silent.render() is None


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_documented_wrappers_scale_the_observation():
    env = FlattenObservation(FilterObservation(gymnasium.make("TrackSimLidar-v0"), ["floats"]))
    env = RescaleObservation(env, -1.0, 1.0)
    obs, _ = env.reset(seed=0)
    for _ in range(30):
        obs, *_ = env.step(GAS)
        assert obs.shape == (28,) and np.abs(obs).max() <= 1.0


class RandomDriver:
    """Actor of tmrl that draws its actions."""

    def __init__(self, observation_space, action_space):
        self.action_space = action_space

    def to_device(self, device):
        return self

    def load(self, path, device):
        return self

    def act_(self, obs, test=False):
        return self.action_space.sample()


def test_tmrls_worker_collects_through_its_generic_environment():
    from app.core.tmrl_api import RolloutWorker  # isort: split
    from tmrl.envs import GenericGymEnv
    from tmrl.util import partial

    env_cls = partial(GenericGymEnv, id="app.envs:TrackSimLidar-v0", gym_kwargs={"max_steps": 30})
    worker = RolloutWorker(env_cls, RandomDriver, model_path="/dev/null", standalone=True)
    worker.collect_train_episode(max_samples=100)
    samples = worker.buffer.memory
    assert 1 < len(samples) <= 31
    action, obs, reward, terminated, truncated, info = samples[-1]
    assert action.shape == (3,) and set(obs) == {"floats", "window"} and terminated != truncated
    assert samples[0][0] is None or samples[0][0].shape == (3,)
