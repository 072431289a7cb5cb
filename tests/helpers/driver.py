"""Scripted driver for the simulator: pure pursuit of the centre line. Imports no torch."""

import hashlib
import math

import numpy as np

from app.envs.driving.sim_env import SimEnv

CORNERING, BRAKING = 15.0, 9.0  # m/s², well below the limits of the car


class Driver:
    """Follows the centre line as fast as the curves ahead allow."""

    def __init__(self, env: SimEnv) -> None:
        self._env = env
        self._edge = int(np.hypot(*(env.track.centre - (env.car.x, env.car.y)).T).argmin())

    def __call__(self) -> np.ndarray:
        car, track = self._env.car, self._env.track
        self._edge, position, _ = track.project(car.x, car.y, self._edge)
        pedals = 0.5 * (self._speed_limit(position) - car.speed)
        lookahead = 6.0 + 0.35 * car.speed
        x, y, _, _ = track.pose((position + lookahead) / track.length)
        heading_error = math.atan2(y - car.y, x - car.x) - car.heading
        wheel_angle = math.atan(2.0 * 3.0 * math.sin(heading_error) / lookahead)  # wheelbase 3 m
        max_angle = 0.5 * max(0.15, 1.0 - car.speed / 50.0)
        return np.clip([pedals, -pedals, -wheel_angle / max_angle], -1.0, 1.0).astype(np.float32)

    def _speed_limit(self, position: float) -> float:
        limits = []
        for ahead in range(0, 80, 4):
            heading = [self._env.track.pose((position + ahead + d) / self._env.track.length)[2] for d in (0.0, 8.0)]
            curvature = abs(math.remainder(heading[1] - heading[0], 2.0 * math.pi)) / 8.0
            limits.append(math.sqrt(CORNERING / max(curvature, 1e-3) + 2.0 * BRAKING * ahead))
        return min(limits)


def drive_episode(env: SimEnv, **options) -> tuple[list[dict], list[float], tuple[bool, bool, dict]]:
    """Drive one episode; return observations, rewards and the last (terminated, truncated, info)."""
    obs, _ = env.reset(options=options)
    driver, observations, rewards, end = Driver(env), [obs], [], (False, False, {})
    while not (end[0] or end[1]):
        obs, reward, *end = env.step(driver())
        observations.append(obs)
        rewards.append(reward)
    return observations, rewards, tuple(end)


def episode_hash(env: SimEnv, steps: int) -> str:
    """Return a hash of every number in steps with pseudo-random actions."""
    rng, digest = np.random.default_rng(5), hashlib.sha256()
    obs, info = env.reset()
    for _ in range(steps):
        digest.update(b"".join(obs[part].tobytes() for part in sorted(obs)) + repr(sorted(info.items())).encode())
        action = np.tanh(rng.normal([0.8, -1.0, 0.0], 0.5)).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        digest.update(repr((reward, terminated, truncated)).encode())
        if terminated or truncated:
            obs, info = env.reset()
    return digest.hexdigest()
