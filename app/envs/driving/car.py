"""Simulated car: a kinematic bicycle with a friction circle."""

import bisect
import math

from app.config.schema_env import CarConfig
from app.envs.spec import MAX_RPM

ZERO_LOCK_SPEED, MIN_LOCK_SHARE = 50.0, 0.15  # m/s; see steer_lock_share
GEAR_TOPS = (0.12, 0.24, 0.4, 0.6, 1.0)  # top of gears 1 to 5, as shares of the top speed
STANDING_SPEED = 0.1  # m/s, below which the gear is 0


class Car:
    """State and motion of the car; plain floats, so that runs are bit-equal and steps cheap.

    It stands at the origin until ``place`` is called.

    Args:
        config: Physics of the car.

    Attributes:
        x: m.
        y: m.
        heading: rad, counter-clockwise from the x axis; not wrapped.
        speed: m/s along the heading, never negative.
        steer: Angle of the front wheels, rad, right is positive.
        yaw_rate: rad/s, counter-clockwise.
    """

    STATE = ("x", "y", "heading", "speed", "steer", "yaw_rate")
    __slots__ = ("_config", *STATE)

    def __init__(self, config: CarConfig) -> None:
        self._config = config
        self.place(0.0, 0.0, 0.0)

    def place(self, x: float, y: float, heading: float) -> None:
        """Put the car at a pose (m, m, rad), standing, with straight wheels."""
        self.x, self.y, self.heading = x, y, heading
        self.speed = self.steer = self.yaw_rate = 0.0

    def drive(self, gas: float, brake: float, steer: float, seconds: float, substeps: int) -> None:
        """Move with constant controls.

        Args:
            gas: [0, 1].
            brake: [0, 1].
            steer: [-1, 1], right is positive.
            seconds: Duration.
            substeps: Number of integration steps.
        """
        config, dt = self._config, seconds / substeps
        x, y, heading, speed = self.x, self.y, self.heading, self.speed
        wheels, yaw_rate = self.steer, self.yaw_rate
        max_turn, lag = config.steer_rate * dt, min(config.yaw_lag * dt, 1.0)
        for _ in range(substeps):
            target = steer * config.steer_lock * steer_lock_share(speed)
            wheels += min(max(target - wheels, -max_turn), max_turn)
            yaw_rate -= (speed / config.wheelbase * math.tan(wheels) + yaw_rate) * lag
            pull = gas * config.engine * (1.0 - speed / config.top_speed) - brake * config.brake
            # the tyres share one grip between pulling and turning: beyond it the car runs wide
            demand = math.hypot(pull, speed * yaw_rate)
            if demand > config.grip:
                pull *= config.grip / demand
                yaw_rate *= config.grip / demand
            drag = config.drag_rolling + config.drag_air * speed * speed
            speed = max(speed + (pull - drag) * dt, 0.0)
            heading += yaw_rate * dt
            x += speed * math.cos(heading) * dt
            y += speed * math.sin(heading) * dt
        self.x, self.y, self.heading, self.speed = x, y, heading, speed
        self.steer, self.yaw_rate = wheels, yaw_rate

    def gear_and_rpm(self) -> tuple[int, float]:
        """Return the gear, 0 (standing) to 5, and the rpm, which rise to 10 000 within a gear."""
        share = self.speed / self._config.top_speed
        gear = bisect.bisect_right(GEAR_TOPS, share, hi=len(GEAR_TOPS) - 1)
        return (gear + 1 if self.speed >= STANDING_SPEED else 0), MAX_RPM * share / GEAR_TOPS[gear]


def steer_lock_share(speed: float) -> float:
    """Return the share of the steering lock that is available at a speed in m/s: 1 at standstill, then less."""
    return max(MIN_LOCK_SHARE, 1.0 - speed / ZERO_LOCK_SPEED)
