"""The vectorised simulator: N cars at once give what N single cars give."""

import functools
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import app.envs  # noqa: F401  (registers the simulator)
from app.envs.driving.lidar import Lidar
from app.envs.driving.lidar_batch import LidarBatch
from app.envs.driving.track_sim import make_config
from app.envs.tracks.track import make_track
from tests.helpers.driver import Driver

CARS, GAS = 4, np.array([1, -1, 0], np.float32)
SHORT = {"length": 300.0, "points": 60, "roughness": 0.1}  # a lap takes some 200 steps
COMMON = {"train_tracks": [1, 2, 3], "stall_steps": 25, "track": SHORT}


def make_pair(name: str, mode: AutoresetMode, **settings):
    """Return Gymnasium's vector of single cars and ours, with equal settings."""
    settings = COMMON | settings
    singles = gymnasium.make_vec(name, CARS, "sync", vector_kwargs={"autoreset_mode": mode}, **settings)
    return singles, gymnasium.make_vec(name, CARS, autoreset_mode=mode, **settings)


def assert_equal(one, other, where="result"):
    """Check that two results are equal in types, shapes and every bit."""
    if isinstance(one, (dict, tuple)):
        keys = one.keys() if isinstance(one, dict) else range(len(one))
        assert len(one) == len(other) and (isinstance(one, tuple) or one.keys() == other.keys()), where
        for key in keys:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other), where
    else:
        assert one == other, where


class Drivers:
    """Drives one car along its track, which finishes laps, and the others at random."""

    def __init__(self, singles):
        self._envs = [env.unwrapped for env in singles.envs]
        self._rng = np.random.default_rng(0)

    def act(self):
        actions = np.tanh(self._rng.normal([0.5, -1.2, 0.0], 0.6, (CARS, 3))).astype(np.float32)
        actions[0] = Driver(self._envs[0])()
        actions[1] *= 3.0  # beyond [-1, 1] at times
        return actions


@pytest.mark.parametrize(
    ("name", "mode", "settings"),
    [
        ("TrackSim-v0", AutoresetMode.NEXT_STEP, {}),
        ("TrackSimLidar-v0", AutoresetMode.SAME_STEP, {"lidar_fov": 300.0, "action_history": 0, "substeps": 2}),
    ],
)
def test_cars_equal_single_cars_bit_for_bit_over_whole_episodes(name, mode, settings):
    singles, vector = make_pair(name, mode, **settings)
    assert singles.observation_space == vector.observation_space and singles.action_space == vector.action_space
    assert_equal(singles.reset(seed=5), vector.reset(seed=5))
    drivers, outcomes = Drivers(singles), set()
    for step in range(600):
        actions = drivers.act()
        expected = singles.step(actions)
        assert_equal(expected, vector.step(actions), f"step {step}")
        infos = expected[4].get("final_info", expected[4])
        outcomes |= set(infos.get("outcome", [])) - {None}
        if step > 200 and {"lap", "off_track"} <= outcomes:
            break
    assert {"lap", "off_track"} <= outcomes
    assert_equal(singles.reset(seed=[3, None, 4, None]), vector.reset(seed=[3, None, 4, None]))


def test_cars_without_autoreset_equal_single_cars():
    singles, vector = make_pair("TrackSimLidar-v0", AutoresetMode.DISABLED, max_steps=30)
    assert_equal(singles.reset(seed=1), vector.reset(seed=1))
    drivers, resets = Drivers(singles), 0
    for _ in range(120):
        actions = drivers.act()
        result = singles.step(actions)
        assert_equal(result, vector.step(actions))
        ended = result[2] | result[3]
        if ended.any():
            resets += 1
            with pytest.raises(gymnasium.error.ResetNeeded):
                vector.step(actions)
            options = [{"reset_mask": ended.copy(), "start": 0.25} for _ in range(2)]
            assert_equal(singles.reset(options=options[0]), vector.reset(options=options[1]))
    assert resets > 3


def test_stalled_car_begins_anew():
    singles, vector = make_pair("TrackSimLidar-v0", AutoresetMode.NEXT_STEP)
    for env in (singles, vector):
        env.reset(seed=0)
    for _ in range(60):
        actions = np.array([[-1, -1, 0], [1, 1, 1], [0.01, -1, -1], [1, -1, 0]], np.float32)
        expected = singles.step(actions)
        assert_equal(expected, vector.step(actions))
    assert CARS == vector.num_envs


def test_single_car_in_a_vector_returns_arrays_of_the_caller():
    vector = gymnasium.make_vec("TrackSim-v0", 1)
    obs, _ = vector.reset(seed=0)
    kept = {part: rows.copy() for part, rows in obs.items()}
    for _ in range(5):
        vector.step(GAS[None])
    assert_equal(kept, obs)


@functools.cache
def lidars(fov: float):
    config = make_config("sim_lidar", {"lidar_fov": fov})
    track = make_track(config.track, 1)
    return track, Lidar(config, track), LidarBatch(config, [track])


@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(0.0, 0.999), offset=st.floats(-10.5, 10.5), turn=st.floats(-7.0, 7.0),
    fov=st.sampled_from([90.0, 180.0, 360.0]),
)  # fmt: skip
def test_lidar_of_many_cars_equals_that_of_one(share, offset, turn, fov):
    track, single, batch = lidars(fov)
    assume(abs(abs(offset) - track.half_width) > 1e-3)
    x, y, heading, edge = track.pose(share)
    x, y, heading = x - offset * math.sin(heading), y + offset * math.cos(heading), heading + turn
    edge, _, _ = track.project(x, y, edge)
    one = single.scan(x, y, heading, edge)
    (many,) = batch.scan(*(np.array([value]) for value in (0, edge, x, y, heading)))
    # a ray exactly through a corner may count for either side of it
    assert np.sort(np.abs(one - many))[:-1].max() < 1e-9


def test_misuse_is_refused():
    vector = gymnasium.make_vec("TrackSimLidar-v0", 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros((2, 3)))
    with pytest.raises(gymnasium.error.ResetNeeded, match="first reset"):
        vector.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="3 seeds for 2 cars"):
        vector.reset(seed=[1, 2, 3])
    vector.reset(seed=0)
    for mask in (np.zeros(2, bool), np.ones(3, bool), np.ones(2)):
        with pytest.raises(ValueError, match="2 bools"):
            vector.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match=r"cars \[1\] are not finite"):
        vector.step(np.array([GAS, [np.nan, 0, 0]]))
    vector.step(np.array([GAS, GAS]))
    with pytest.raises(ValueError, match="num_envs = 0"):
        gymnasium.make_vec("TrackSimLidar-v0", 0)
