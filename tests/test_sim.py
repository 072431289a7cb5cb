"""The track simulator. Every test is named after the bug that it forbids."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from app.config.schema import SimConfig
from app.envs.car import Car
from app.envs.factory import EnvError, make_env
from app.envs.lidar import Lidar
from app.envs.sim import TrackSim
from app.envs.track import Track, make_track
from tests.driver import Driver, drive, fingerprint
from tests.make import compose

ROOT = Path(__file__).resolve().parents[1]
GAS, IDLE, REVERSE = (np.array(action, np.float32) for action in ([1, -1, 0], [-1, -1, 0], [1, -1, 1]))
SIM: SimConfig = compose("env=sim").env
LIDAR: SimConfig = compose("env=sim_lidar").env


@pytest.fixture(scope="module", params=range(1, 7))
def track(request) -> Track:
    return make_track(LIDAR.track, request.param)


# Tracks


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), clearance=st.sampled_from([20.8, 120.0]))
@example(seed=6, clearance=120.0)  # its first candidate is too narrow
def test_track_is_neither_too_tight_nor_too_close_nor_of_another_length(seed, clearance):
    cfg = dataclasses.replace(LIDAR.track, clearance=clearance)
    track = make_track(cfg, seed)
    assert track.centre.shape == (cfg.points, 2)
    edge = np.roll(track.centre, -1, axis=0) - track.centre
    length = np.hypot(*edge.T)
    assert track.length == pytest.approx(cfg.length, rel=1e-9)
    assert length.min() > 0.98 * length.max()  # equidistant along the curve
    turn = np.angle(np.exp(1j * np.diff(np.arctan2(edge[:, 1], edge[:, 0]))))
    assert (length[1:] / np.abs(turn)).min() > 0.97 * cfg.min_radius  # chords instead of the curve itself
    gap = np.hypot(*(track.centre[:, None] - track.centre[None]).transpose(2, 0, 1))
    apart = np.abs(track.along[:, None] - track.along[None])
    far = np.minimum(apart, track.length - apart) > 0.5 * math.pi * cfg.clearance + length.max()
    assert gap[far].min() >= 0.999 * cfg.clearance


def test_track_is_not_made_twice():
    assert make_track(LIDAR.track, 3) is make_track(LIDAR.track, 3)


def test_impossible_tracks_are_not_sought_for_ever(monkeypatch):
    monkeypatch.setattr("app.envs.track._ATTEMPTS", 30)
    with pytest.raises(EnvError, match="min_radius = 200"):
        make_track(dataclasses.replace(LIDAR.track, min_radius=200.0), 0)


def test_evaluation_tracks_are_not_training_tracks():
    train, test = [make_track(LIDAR.track, seed) for seed in (1, 2, 3)], make_track(LIDAR.track, 101)
    assert all(np.abs(track.centre - test.centre).max() > 5.0 for track in train)


def test_place_on_the_track_is_not_lost(track):
    rng = np.random.default_rng(0)
    edge = 0
    for share in np.arange(0.0, 2.0, 0.002):  # two laps in steps of 2 m, anywhere across the road
        x, y, heading, _ = track.pose(share)
        beside = rng.uniform(-7.5, 7.5)
        x, y = x - beside * math.sin(heading), y + beside * math.cos(heading)
        edge, along, offset = track.locate(x, y, edge)
        assert abs(math.remainder(along - share * track.length, track.length)) < 3.0
        assert abs(offset) == pytest.approx(distance_to_line(track, x, y), abs=0.15)


def distance_to_line(track: Track, x: float, y: float) -> float:
    start = track.centre
    edge = np.roll(start, -1, axis=0) - start
    at = np.clip((((x, y) - start) * edge).sum(axis=1) / (edge**2).sum(axis=1), 0.0, 1.0)
    return float(np.hypot(*((x, y) - start - at[:, None] * edge).T).min())


# Sensors


def brute_force_scan(cfg: SimConfig, track: Track, x: float, y: float, heading: float) -> np.ndarray:
    """Solve every ray against every border edge, one by one."""
    result = []
    for degrees in np.linspace(cfg.lidar_fov / 2, -cfg.lidar_fov / 2, cfg.lidar_beams):
        angle = heading + math.radians(degrees)
        ray, nearest = (math.cos(angle), math.sin(angle)), cfg.lidar_range
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
    beside=st.floats(-10.5, 10.5),  # the last observation may be taken off the road
    turn=st.floats(-math.pi, math.pi),
    fov=st.sampled_from([90.0, 180.0, 360.0]),
)
def test_lidar_does_not_differ_from_brute_force(seed, share, beside, turn, fov):
    assume(abs(abs(beside) - LIDAR.track.half_width) > 1e-3)  # on the border, either side of it is right
    cfg = dataclasses.replace(LIDAR, lidar_fov=fov)
    track = make_track(cfg.track, seed)
    x, y, heading, edge = track.pose(share)
    x, y = x - beside * math.sin(heading), y + beside * math.cos(heading)
    edge, _, _ = track.locate(x, y, edge)
    scanned = Lidar(cfg, track).scan(x, y, heading + turn, edge)
    expected = brute_force_scan(cfg, track, x, y, heading + turn)
    # a ray exactly through a corner may count for either side of it
    assert np.sort(np.abs(scanned - expected))[:-1].max() < 1e-6


def test_lidar_is_not_mirrored(track):
    x, y, heading, edge = track.pose(0.25)
    x, y = x - 5.0 * math.sin(heading), y + 5.0 * math.cos(heading)  # 5 m to the left of the centre
    scan = Lidar(LIDAR, track).scan(x, y, heading, edge)
    assert scan[0] == pytest.approx(3.0, abs=0.6) and scan[-1] == pytest.approx(13.0, abs=0.6)


@pytest.mark.parametrize("start", [0.1, 0.4, 0.65, 0.9])
def test_image_does_not_contradict_the_lidar(start):
    env = TrackSim(dataclasses.replace(SIM, image_size=64), [1], 0)
    obs, _ = env.reset(options={"track": 2, "start": start})
    frame, lidar = obs["images"][-1], obs["floats"][3:22]
    assert frame.dtype == np.uint8 and frame.shape == (64, 64)
    row, column = 47.5, 31.5  # of the car: three quarters down, in the middle; 1 px/m
    seen = 0
    for angle, distance in zip(np.radians(np.linspace(90, -90, 19)), lidar, strict=True):
        at = round(row - distance * math.cos(angle)), round(column - distance * math.sin(angle))
        if 1 <= at[0] < 63 and 1 <= at[1] < 63:
            assert frame[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2].max() > 200  # the white border
            half = (
                round(row - 0.5 * distance * math.cos(angle)),
                round(column - 0.5 * distance * math.sin(angle)),
            )
            assert 90 < frame[half] < 200  # road
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize("size", [16, 31, 32, 64, 100])
def test_image_does_not_lose_the_car(size):
    env = TrackSim(dataclasses.replace(SIM, image_size=size), [1], 0)
    frame = env.reset(options={"start": 0.0})[0]["images"][-1]
    assert frame.shape == (size, size) and (frame == 190).sum() >= 4 and frame.max() > 240


def test_gear_and_rpm_do_not_leave_their_range():
    car = Car(LIDAR.car)
    seen = []
    for car.speed in np.arange(0.0, LIDAR.car.top_speed, 0.05).tolist():
        gear, rpm = car.engine()
        seen.append(gear)
        assert 0.0 <= rpm <= 10_000.0
    assert seen == sorted(seen) and set(seen) == set(range(6))


# Motion


def test_car_does_not_steer_the_wrong_way():
    env = TrackSim(LIDAR, [1], 0)
    env.reset(options={"start": 0.0})
    heading = env.car.heading
    for _ in range(20):
        env.step(np.array([1, -1, 0.3], np.float32))
    assert env.car.heading < heading - 0.05  # positive is right: clockwise


def test_tyres_do_not_grip_beyond_the_friction_circle():
    car = Car(LIDAR.car)
    car.speed = 30.0
    for _ in range(100):
        before = car.speed
        car.drive(0.0, 1.0, 1.0, 0.01, 1)
        braking = (before - car.speed) / 0.01 - LIDAR.car.drag_rolling - LIDAR.car.drag_air * before**2
        assert math.hypot(braking, before * car.yaw_rate) <= LIDAR.car.grip + 1e-6 or car.speed == 0.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_track_is_not_undrivable(seed):
    env = TrackSim(LIDAR, [seed], 0)
    _, rewards, (terminated, truncated, info) = drive(env, track=seed, start=0.35)
    print(f"track {seed}: lap in {info['lap_time']:.2f} s")
    assert (terminated, truncated, info["outcome"]) == (False, True, "lap")
    assert info["lap_share"] == 1.0 and 20.0 < info["lap_time"] == len(rewards) * LIDAR.step_s < 60.0


# Episodes


def test_reward_does_not_jump_at_the_line():
    env = TrackSim(LIDAR, [1], 0)
    _, rewards, _ = drive(env, track=1, start=0.97)  # crosses the first point of the track early on
    assert max(map(abs, rewards)) < 0.5 * LIDAR.car.top_speed * LIDAR.step_s * 1.5
    metres = env.track.length
    assert sum(rewards) == pytest.approx(LIDAR.reward_per_metre * metres, abs=0.5 * 3.0)


def test_reward_is_not_positive_backwards():
    env = TrackSim(dataclasses.replace(LIDAR, stall_steps=1000), [1], 0)
    env.reset(options={"start": 0.0})
    env.car.heading += math.pi
    rewards = [env.step(GAS)[1] for _ in range(20)]
    assert sum(rewards) < -2.0 and max(rewards) <= 0.0
    assert env.step(GAS)[4]["lap_share"] == 0.0


def test_standing_car_is_not_truncated_but_terminated():
    env = TrackSim(LIDAR, [1], 0)
    env.reset(options={"start": 0.2})
    ends = [env.step(IDLE)[2:] for _ in range(LIDAR.stall_steps)]
    assert not any(terminated or truncated for terminated, truncated, _ in ends[:-1])
    assert ends[-1][:2] == (True, False) and ends[-1][2]["outcome"] == "stalled"


def test_leaving_the_track_is_not_truncated_but_terminated():
    env = TrackSim(LIDAR, [1], 0)
    env.reset(options={"start": 0.2})
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(GAS)
    assert (terminated, truncated, info["outcome"]) == (True, False, "off_track")
    assert "lap_time" not in info


def test_time_out_is_not_terminated_but_truncated():
    env = TrackSim(dataclasses.replace(LIDAR, max_steps=30), [1], 0)
    env.reset(options={"start": 0.2})
    ends = [env.step(GAS)[2:] for _ in range(30)]
    assert ends[-1][:2] == (False, True) and ends[-1][2]["outcome"] == "timeout"
    assert "outcome" not in ends[-2][2]


def test_dead_episode_does_not_go_on():
    env = TrackSim(dataclasses.replace(LIDAR, max_steps=1), [1], 0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(GAS)
    env.reset()
    env.step(GAS)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(GAS)


def test_broken_action_does_not_poison_the_state():
    env = TrackSim(LIDAR, [1], 0)
    env.reset()
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([np.nan, 0, 0], np.float32))
    assert np.isfinite(env.step(GAS)[0]["floats"]).all()


# Resets


def test_options_are_not_ignored():
    env = TrackSim(LIDAR, [1, 2], 0)
    env.reset(options={"track": 7, "start": 0.5})
    x, y, heading, _ = make_track(LIDAR.track, 7).pose(0.5)
    assert (env.car.x, env.car.y, env.car.heading, env.car.speed) == (x, y, heading, 0.0)
    with pytest.raises(ValueError, match="start=1.0"):
        env.reset(options={"start": 1.0})


def test_episodes_do_not_all_begin_alike():
    env = TrackSim(LIDAR, [1, 2], 0)
    begun = set()
    for _ in range(12):
        env.reset()
        begun.add((env.track.seed, env.car.x))
    assert len(begun) == 12 and {seed for seed, _ in begun} == {1, 2}
    fixed = TrackSim(dataclasses.replace(LIDAR, random_start=False), [1], 0)
    fixed.reset()
    assert (fixed.car.x, fixed.car.y) == pytest.approx(tuple(fixed.track.centre[0]))


def test_seed_is_not_ignored():
    def begin(seed: int, reset_seed: int | None = None) -> float:
        env = TrackSim(LIDAR, [1], seed)
        env.reset(seed=reset_seed)
        return env.car.x

    assert begin(0) == begin(0) != begin(1)
    assert begin(0, reset_seed=4) == begin(1, reset_seed=4)


# Determinism

CHILD = """
import sys
from pydantic import TypeAdapter
from app.config.schema import SimConfig
from app.envs.sim import TrackSim
from tests.driver import fingerprint
print(fingerprint(TrackSim(TypeAdapter(SimConfig).validate_json(sys.argv[1]), [1, 2], seed=3), 400))
"""


def test_processes_do_not_differ():
    text = json.dumps(TypeAdapter(SimConfig).dump_python(SIM, mode="json"))
    here = fingerprint(TrackSim(SIM, [1, 2], seed=3), 400)
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, text], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert child.stdout.strip() == here, child.stderr


def test_restored_state_does_not_drift():
    env = TrackSim(SIM, [1, 2], seed=3)
    fingerprint(env, 37)
    state = env.get_state()
    assert all(isinstance(value, np.ndarray | int | float) for value in state.values())
    later, frame = fingerprint(env, 150), env.render()
    other = TrackSim(SIM, [1, 2], seed=99)
    other.set_state(state)
    for name, value in other.get_state().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)
    assert fingerprint(other, 150) == later
    np.testing.assert_array_equal(other.render(), frame)


def test_state_in_mid_episode_does_not_forget_histories():
    env, other = TrackSim(SIM, [1], seed=0), TrackSim(SIM, [1], seed=1)
    env.reset(options={"start": 0.3})
    for _ in range(10):
        env.step(GAS)
    other.set_state(env.get_state())
    for _ in range(100):
        mine, theirs = env.step(REVERSE), other.step(REVERSE)
        assert mine[1:] == theirs[1:]
        for part in mine[0]:
            np.testing.assert_array_equal(mine[0][part], theirs[0][part])
        if mine[2] or mine[3]:
            break


def test_observations_are_not_overwritten_by_later_steps():
    env = make_env(SIM, [1], 0)
    obs, _ = env.reset(options={"start": 0.1})
    copy = {part: rows.copy() for part, rows in obs.items()}
    driver = Driver(env)
    for _ in range(150):
        assert env.observation_space.contains(env.step(driver())[0])
    for part in obs:
        np.testing.assert_array_equal(obs[part], copy[part])


# Video


@pytest.mark.parametrize("size", [64, 480])
def test_video_frame_is_neither_blank_nor_of_another_size(size):
    env = TrackSim(LIDAR, [1], 0, render_size=size)
    drive(env, track=1, start=0.1)
    frame = env.render()
    assert frame.shape == (size, size, 3) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 50
