"""Motion of many simulated cars at once."""

import math
from collections.abc import Callable

import numpy as np

from app.config.schema_env import CarConfig
from app.envs.driving.car import GEAR_TOPS, MIN_LOCK_SHARE, STANDING_SPEED, ZERO_LOCK_SPEED, Car
from app.envs.spec import MAX_RPM


class CarBatch:
    """State and motion of N cars; every number equals that of ``Car`` bit for bit.

    NumPy's own sine, cosine, tangent and hypotenuse may round otherwise than Python's, depending on the processor;
    those of Python are used instead, which takes about a tenth of the time of a step.

    Args:
        config: Physics of the cars.
        count: Number N of cars.

    Attributes:
        x: ``(N,)`` float64, m; the others are arrays of this form, too: see ``Car``.
    """

    def __init__(self, config: CarConfig, count: int) -> None:
        self._config = config
        for name in Car.STATE:
            setattr(self, name, np.zeros(count))

    def place(self, cars: np.ndarray, poses: np.ndarray) -> None:
        """Put some cars ``(n,)`` int at poses ``(n, 3)`` (m, m, rad), standing, with straight wheels."""
        self.x[cars], self.y[cars], self.heading[cars] = poses.T
        self.speed[cars] = self.steer[cars] = self.yaw_rate[cars] = 0.0

    def drive(self, gas: np.ndarray, brake: np.ndarray, steer: np.ndarray, seconds: float, substeps: int) -> None:
        """Move all cars with constant controls.

        Args:
            gas: ``(N,)`` in [0, 1].
            brake: ``(N,)`` in [0, 1].
            steer: ``(N,)`` in [-1, 1], right is positive.
            seconds: Duration.
            substeps: Number of integration steps.
        """
        config, dt = self._config, seconds / substeps
        speed, wheels, yaw_rate = self.speed, self.steer, self.yaw_rate
        max_turn, lag = config.steer_rate * dt, min(config.yaw_lag * dt, 1.0)
        for _ in range(substeps):
            lock_share = np.maximum(1.0 - speed / ZERO_LOCK_SPEED, MIN_LOCK_SHARE)
            target = steer * config.steer_lock * lock_share
            wheels = wheels + np.minimum(np.maximum(target - wheels, -max_turn), max_turn)
            yaw_rate = yaw_rate - (speed / config.wheelbase * exactly(math.tan, wheels) + yaw_rate) * lag
            pull = gas * config.engine * (1.0 - speed / config.top_speed) - brake * config.brake
            pull, yaw_rate = self._limit_to_grip(pull, yaw_rate, speed)
            drag = config.drag_rolling + config.drag_air * speed * speed
            speed = np.maximum(speed + (pull - drag) * dt, 0.0)
            self.heading = self.heading + yaw_rate * dt
            self.x = self.x + speed * exactly(math.cos, self.heading) * dt
            self.y = self.y + speed * exactly(math.sin, self.heading) * dt
        self.speed, self.steer, self.yaw_rate = speed, wheels, yaw_rate

    def gears_and_rpm(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the gears ``(N,)`` int, 0 (standing) to 5, and the rpm ``(N,)`` float64."""
        share, tops = self.speed / self._config.top_speed, np.array(GEAR_TOPS)
        gear = np.searchsorted(tops[:-1], share, side="right")
        return np.where(self.speed >= STANDING_SPEED, gear + 1, 0), MAX_RPM * share / tops[gear]

    def _limit_to_grip(
        self, pull: np.ndarray, yaw_rate: np.ndarray, speed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return pull and yaw rate within the friction circle."""
        grip, turn = self._config.grip, speed * yaw_rate
        near = np.flatnonzero(pull * pull + turn * turn > 0.999 * grip * grip)
        demand = exactly(math.hypot, pull[near], turn[near])
        beyond = demand > grip
        cars, share = near[beyond], grip / demand[beyond]
        pull[cars] *= share
        yaw_rate[cars] *= share
        return pull, yaw_rate


def exactly(function: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    """Return a function of Python's ``math`` of every element of arrays ``(N,)`` float64."""
    return np.array(list(map(function, *(column.tolist() for column in columns))), np.float64)
