"""The track simulator: tracks, sensors, motion, episodes, resets, determinism and video."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.config.schema_env import SimConfig
from app.envs.driving.car import Car
from app.envs.driving.lidar import Lidar
from app.envs.driving.sim_env import SimEnv
from app.envs.env_factory import EnvError, make_env
from app.envs.tracks.track import Track, make_track
from app.envs.video.hud import draw_caption
from tests.helpers.driver import Driver, drive_episode, episode_hash
from tests.helpers.make import compose
from tests.helpers.runs import ROOT

GAS, IDLE, GAS_RIGHT = (np.array(action, np.float32) for action in ([1, -1, 0], [-1, -1, 0], [1, -1, 1]))
SIM: SimConfig = compose("env=sim").env
LIDAR: SimConfig = compose("env=sim_lidar").env


@pytest.fixture(scope="module", params=range(1, 7))
def track(request) -> Track:
    return make_track(LIDAR.track, request.param)


# Tracks


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), clearance=st.sampled_from([20.8, 120.0]))
@example(seed=6, clearance=120.0)  # its first candidate is too narrow
def test_track_keeps_its_length_radius_and_clearance(seed, clearance):
    config = dataclasses.replace(LIDAR.track, clearance=clearance)
    track = make_track(config, seed)
    assert track.centre.shape == (config.points, 2)
    edge = np.roll(track.centre, -1, axis=0) - track.centre
    length = np.hypot(*edge.T)
    assert track.length == pytest.approx(config.length, rel=1e-9)
    assert length.min() > 0.98 * length.max()  # equidistant along the curve
    turn = np.angle(np.exp(1j * np.diff(np.arctan2(edge[:, 1], edge[:, 0]))))
    assert (length[1:] / np.abs(turn)).min() > 0.97 * config.min_radius  # chords instead of the curve itself
    gap = np.hypot(*(track.centre[:, None] - track.centre[None]).transpose(2, 0, 1))
    apart = np.abs(track.arc_length[:, None] - track.arc_length[None])
    far = np.minimum(apart, track.length - apart) > 0.5 * math.pi * config.clearance + length.max()
    assert gap[far].min() >= 0.999 * config.clearance


def test_track_of_a_seed_is_cached():
    assert make_track(LIDAR.track, 3) is make_track(LIDAR.track, 3)


def test_impossible_track_parameters_are_refused(monkeypatch):
    monkeypatch.setattr("app.envs.tracks.track._MAX_CANDIDATES", 30)
    with pytest.raises(EnvError, match="min_radius = 200"):
        make_track(dataclasses.replace(LIDAR.track, min_radius=200.0), 0)


def test_evaluation_tracks_differ_from_training_tracks():
    train, test = [make_track(LIDAR.track, seed) for seed in (1, 2, 3)], make_track(LIDAR.track, 101)
    assert all(np.abs(track.centre - test.centre).max() > 5.0 for track in train)


def test_projection_follows_a_car_anywhere_across_the_road(track):
    rng = np.random.default_rng(0)
    edge = 0
    for share in np.arange(0.0, 2.0, 0.002):  # two laps in steps of 2 m, anywhere across the road
        x, y = position_beside(track, share, rng.uniform(-7.5, 7.5))
        edge, along, offset = track.project(x, y, edge)
        assert abs(math.remainder(along - share * track.length, track.length)) < 3.0
        assert abs(offset) == pytest.approx(distance_to_line(track, x, y), abs=0.15)


def position_beside(track: Track, share: float, offset: float) -> tuple[float, float]:
    """Return x and y at an offset (m, left is positive) from the centre line."""
    x, y, heading, _ = track.pose(share)
    return x - offset * math.sin(heading), y + offset * math.cos(heading)


def distance_to_line(track: Track, x: float, y: float) -> float:
    start = track.centre
    edge = np.roll(start, -1, axis=0) - start
    at = np.clip((((x, y) - start) * edge).sum(axis=1) / (edge**2).sum(axis=1), 0.0, 1.0)
    return float(np.hypot(*((x, y) - start - at[:, None] * edge).T).min())


# Sensors


def brute_force_scan(config: SimConfig, track: Track, x: float, y: float, heading: float) -> np.ndarray:
    """Intersect every ray with every border edge, one by one."""
    result = []
    for degrees in np.linspace(config.lidar_fov / 2, -config.lidar_fov / 2, config.lidar_beams):
        angle = heading + math.radians(degrees)
        ray, nearest = (math.cos(angle), math.sin(angle)), config.lidar_range
        for side in (track.left, track.right):
            for p, q in zip(side, np.roll(side, -1, axis=0), strict=True):
                (ex, ey), (px, py) = q - p, p - (x, y)
                parallel = ray[0] * ey - ray[1] * ex
                if parallel:
                    t, u = (px * ey - py * ex) / parallel, (px * ray[1] - py * ray[0]) / parallel
                    if t >= 0.0 and 0.0 <= u <= 1.0:
                        nearest = min(nearest, t)
        result.append(nearest)
    return np.array(result)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(1, 6),
    share=st.floats(0.0, 0.999),
    offset=st.floats(-10.5, 10.5),  # the last observation may be taken off the road
    turn=st.floats(-math.pi, math.pi),
    fov=st.sampled_from([90.0, 180.0, 360.0]),
)
def test_lidar_equals_brute_force(seed, share, offset, turn, fov):
    assume(abs(abs(offset) - LIDAR.track.half_width) > 1e-3)  # exactly on the border both sides are right
    config = dataclasses.replace(LIDAR, lidar_fov=fov)
    track = make_track(config.track, seed)
    _, _, heading, edge = track.pose(share)
    x, y = position_beside(track, share, offset)
    edge, _, _ = track.project(x, y, edge)
    scanned = Lidar(config, track).scan(x, y, heading + turn, edge)
    expected = brute_force_scan(config, track, x, y, heading + turn)
    # a ray exactly through a corner may count for either side of it
    assert np.sort(np.abs(scanned - expected))[:-1].max() < 1e-6


def test_lidar_beams_go_from_left_to_right(track):
    _, _, heading, edge = track.pose(0.25)
    x, y = position_beside(track, 0.25, 5.0)  # to the left of the centre
    scan = Lidar(LIDAR, track).scan(x, y, heading, edge)
    assert scan[0] == pytest.approx(3.0, abs=0.6) and scan[-1] == pytest.approx(13.0, abs=0.6)


@pytest.mark.parametrize("start", [0.1, 0.4, 0.65, 0.9])
def test_image_shows_the_border_where_the_lidar_measures_it(start):
    env = SimEnv(dataclasses.replace(SIM, image_size=64), [1], 0)
    obs, _ = env.reset(options={"track": 2, "start": start})
    frame, lidar = obs["images"][-1], obs["floats"][3:22]
    assert frame.dtype == np.uint8 and frame.shape == (64, 64)
    row, column = 47.5, 31.5  # of the car: three quarters down, in the middle; 1 px/m
    checked = 0
    for angle, distance in zip(np.radians(np.linspace(90, -90, 19)), lidar, strict=True):
        at = round(row - distance * math.cos(angle)), round(column - distance * math.sin(angle))
        if 1 <= at[0] < 63 and 1 <= at[1] < 63:
            assert frame[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2].max() > 200  # the white border
            half = (
                round(row - 0.5 * distance * math.cos(angle)),
                round(column - 0.5 * distance * math.sin(angle)),
            )
            assert 90 < frame[half] < 200  # road
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize("size", [16, 31, 32, 64, 100])
def test_image_of_any_size_shows_the_car(size):
    env = SimEnv(dataclasses.replace(SIM, image_size=size), [1], 0)
    frame = env.reset(options={"start": 0.0})[0]["images"][-1]
    assert frame.shape == (size, size) and (frame == 190).sum() >= 4 and frame.max() > 240


def test_gear_rises_with_speed_and_rpm_stay_in_range():
    car = Car(LIDAR.car)
    gears = []
    for car.speed in np.arange(0.0, LIDAR.car.top_speed, 0.05).tolist():
        gear, rpm = car.gear_and_rpm()
        gears.append(gear)
        assert 0.0 <= rpm <= 10_000.0
    assert gears == sorted(gears) and set(gears) == set(range(6))


# Motion


def test_positive_steer_turns_right():
    env = SimEnv(LIDAR, [1], 0)
    env.reset(options={"start": 0.0})
    heading = env.car.heading
    for _ in range(20):
        env.step(np.array([1, -1, 0.3], np.float32))
    assert env.car.heading < heading - 0.05  # positive is right: clockwise


def test_tyre_forces_stay_within_the_friction_circle():
    car = Car(LIDAR.car)
    car.speed = 30.0
    for _ in range(100):
        before = car.speed
        car.drive(0.0, 1.0, 1.0, 0.01, 1)
        braking = (before - car.speed) / 0.01 - LIDAR.car.drag_rolling - LIDAR.car.drag_air * before**2
        assert math.hypot(braking, before * car.yaw_rate) <= LIDAR.car.grip + 1e-6 or car.speed == 0.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_track_can_be_driven_in_one_lap(seed):
    env = SimEnv(LIDAR, [seed], 0)
    _, rewards, (terminated, truncated, info) = drive_episode(env, track=seed, start=0.35)
    print(f"track {seed}: lap in {info['lap_time']:.2f} s")
    assert (terminated, truncated, info["outcome"]) == (False, True, "lap")
    assert info["lap_share"] == 1.0 and 20.0 < info["lap_time"] == len(rewards) * LIDAR.step_s < 60.0


# Episodes


def test_reward_is_continuous_across_the_first_point_of_the_track():
    env = SimEnv(LIDAR, [1], 0)
    _, rewards, _ = drive_episode(env, track=1, start=0.97)  # crosses the first point of the track early on
    assert max(map(abs, rewards)) < 0.5 * LIDAR.car.top_speed * LIDAR.step_s * 1.5
    metres = env.track.length
    assert sum(rewards) == pytest.approx(LIDAR.reward_per_metre * metres, abs=0.5 * 3.0)


def test_driving_backwards_gives_negative_reward():
    env = SimEnv(dataclasses.replace(LIDAR, stall_steps=1000), [1], 0)
    env.reset(options={"start": 0.0})
    env.car.heading += math.pi
    rewards = [env.step(GAS)[1] for _ in range(20)]
    assert sum(rewards) < -2.0 and max(rewards) <= 0.0
    assert env.step(GAS)[4]["lap_share"] == 0.0


def test_stalled_car_terminates_the_episode():
    env = SimEnv(LIDAR, [1], 0)
    env.reset(options={"start": 0.2})
    ends = [env.step(IDLE)[2:] for _ in range(LIDAR.stall_steps)]
    assert not any(terminated or truncated for terminated, truncated, _ in ends[:-1])
    assert ends[-1][:2] == (True, False) and ends[-1][2]["outcome"] == "stalled"


def test_leaving_the_track_terminates_the_episode():
    env = SimEnv(LIDAR, [1], 0)
    env.reset(options={"start": 0.2})
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(GAS)
    assert (terminated, truncated, info["outcome"]) == (True, False, "off_track")
    assert "lap_time" not in info


def test_step_limit_truncates_the_episode():
    env = SimEnv(dataclasses.replace(LIDAR, max_steps=30), [1], 0)
    env.reset(options={"start": 0.2})
    ends = [env.step(GAS)[2:] for _ in range(30)]
    assert ends[-1][:2] == (False, True) and ends[-1][2]["outcome"] == "timeout"
    assert "outcome" not in ends[-2][2]


def test_step_outside_an_episode_raises_reset_needed():
    env = SimEnv(dataclasses.replace(LIDAR, max_steps=1), [1], 0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(GAS)
    env.reset()
    env.step(GAS)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(GAS)


def test_non_finite_action_is_refused_and_leaves_the_state_intact():
    env = SimEnv(LIDAR, [1], 0)
    env.reset()
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan, 0, 0], np.float32))
    assert np.isfinite(env.step(GAS)[0]["floats"]).all()


# Resets


def test_options_select_track_and_start():
    env = SimEnv(LIDAR, [1, 2], 0)
    env.reset(options={"track": 7, "start": 0.5})
    x, y, heading, _ = make_track(LIDAR.track, 7).pose(0.5)
    assert (env.car.x, env.car.y, env.car.heading, env.car.speed) == (x, y, heading, 0.0)
    with pytest.raises(ValueError, match="start=1.0"):
        env.reset(options={"start": 1.0})


def test_tracks_and_starts_are_drawn_at_random():
    env = SimEnv(LIDAR, [1, 2], 0)
    starts = set()
    for _ in range(12):
        env.reset()
        starts.add((env.track.seed, env.car.x))
    assert len(starts) == 12 and {seed for seed, _ in starts} == {1, 2}
    fixed = SimEnv(dataclasses.replace(LIDAR, random_start=False), [1], 0)
    fixed.reset()
    assert (fixed.car.x, fixed.car.y) == pytest.approx(tuple(fixed.track.centre[0]))


def test_seed_decides_the_start():
    def first_x(seed: int, reset_seed: int | None = None) -> float:
        env = SimEnv(LIDAR, [1], seed)
        env.reset(seed=reset_seed)
        return env.car.x

    assert first_x(0) == first_x(0) != first_x(1)
    assert first_x(0, reset_seed=4) == first_x(1, reset_seed=4)


# Determinism

CHILD = """
import sys
from pydantic import TypeAdapter
from app.config.schema_env import SimConfig
from app.envs.driving.sim_env import SimEnv
from tests.helpers.driver import episode_hash
print(episode_hash(SimEnv(TypeAdapter(SimConfig).validate_json(sys.argv[1]), [1, 2], seed=3), 400))
"""


def test_two_processes_give_identical_episodes():
    text = json.dumps(TypeAdapter(SimConfig).dump_python(SIM, mode="json"))
    expected = episode_hash(SimEnv(SIM, [1, 2], seed=3), 400)
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, text], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert child.stdout.strip() == expected, child.stderr


def test_restored_environment_continues_bit_equal():
    env = SimEnv(SIM, [1, 2], seed=3)
    episode_hash(env, 37)
    state = env.get_state()
    assert all(isinstance(value, np.ndarray | int | float) for value in state.values())
    later, frame = episode_hash(env, 150), env.render()
    other = SimEnv(SIM, [1, 2], seed=99)
    other.set_state(state)
    for name, value in other.get_state().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)
    assert episode_hash(other, 150) == later
    np.testing.assert_array_equal(other.render(), frame)


def test_restored_state_contains_the_histories():
    env, other = SimEnv(SIM, [1], seed=0), SimEnv(SIM, [1], seed=1)
    env.reset(options={"start": 0.3})
    for _ in range(10):
        env.step(GAS)
    other.set_state(env.get_state())
    for _ in range(100):
        (obs, *rest), (other_obs, *other_rest) = env.step(GAS_RIGHT), other.step(GAS_RIGHT)
        assert rest == other_rest
        for part in obs:
            np.testing.assert_array_equal(obs[part], other_obs[part])
        if rest[1] or rest[2]:  # terminated or truncated
            break


def test_observations_belong_to_the_caller():
    env = make_env(SIM, [1], 0)
    obs, _ = env.reset(options={"start": 0.1})
    copy = {part: rows.copy() for part, rows in obs.items()}
    driver = Driver(env)
    for _ in range(150):
        assert env.observation_space.contains(env.step(driver())[0])
    for part in obs:
        np.testing.assert_array_equal(obs[part], copy[part])


# Video


@pytest.mark.parametrize("size", [16, 64, 480])
@pytest.mark.parametrize("text", ["mine, epoch 1", f"{'x' * 90}, epoch 1, track 101"], ids=["short", "long"])
def test_caption_of_any_length_stays_left_of_the_map(size, text):
    image = np.full((size, size, 3), 255, np.uint8)
    draw_caption(image, text)
    changed = (image != 255).any(axis=(0, 2)).nonzero()[0]
    assert 0 < len(changed) and changed.max() <= 344 / 480 * size


@pytest.mark.parametrize("size", [64, 480])
def test_video_frame_has_its_size_and_content(size):
    env = SimEnv(LIDAR, [1], 0, render_size=size)
    drive_episode(env, track=1, start=0.1)
    frame = env.render()
    assert frame.shape == (size, size, 3) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 50
