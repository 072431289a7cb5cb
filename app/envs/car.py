"""The simulated car: a kinematic bicycle with a friction circle."""

import bisect
import math

from app.config.schema import CarConfig

# the steering lock shrinks with speed, from full at standstill to this share of it
LOCK_SPEED = 50.0  # m/s at which it would reach zero
LOCK_SHARE = 0.15
# top of gears 1 to 5 as shares of the top speed; below _STANDING the gear is 0
_GEAR_TOPS = (0.12, 0.24, 0.4, 0.6, 1.0)
_STANDING = 0.1  # m/s
_RPM = 10_000.0  # at the top of a gear


class Car:
    """State and motion of the car; plain floats, so that runs are bit-equal and steps cheap.

    Attributes:
        x: m.
        y: m.
        heading: rad, counter-clockwise from the x axis; not wrapped.
        speed: m/s along the heading, never negative.
        steer: Angle of the front wheels, rad, right is positive.
        yaw_rate: rad/s, counter-clockwise.
    """

    STATE = ("x", "y", "heading", "speed", "steer", "yaw_rate")
    __slots__ = ("_cfg", *STATE)

    def __init__(self, cfg: CarConfig) -> None:
        """Park a car at the origin.

        Args:
            cfg: Its physics.
        """
        self._cfg = cfg
        self.place(0.0, 0.0, 0.0)

    def place(self, x: float, y: float, heading: float) -> None:
        """Put the car somewhere, standing, wheels straight."""
        self.x, self.y, self.heading = x, y, heading
        self.speed = self.steer = self.yaw_rate = 0.0

    def drive(self, gas: float, brake: float, steer: float, seconds: float, substeps: int) -> None:
        """Hold the controls for a while.

        Args:
            gas: [0, 1].
            brake: [0, 1].
            steer: [-1, 1], right is positive.
            seconds: How long.
            substeps: In how many steps of integration.
        """
        cfg, dt = self._cfg, seconds / substeps
        x, y, heading, speed = self.x, self.y, self.heading, self.speed
        wheels, yaw_rate = self.steer, self.yaw_rate
        most, lag = cfg.steer_rate * dt, min(cfg.yaw_lag * dt, 1.0)
        for _ in range(substeps):
            wanted = steer * cfg.steer_lock * max(LOCK_SHARE, 1.0 - speed / LOCK_SPEED)
            wheels += min(max(wanted - wheels, -most), most)
            yaw_rate -= (speed / cfg.wheelbase * math.tan(wheels) + yaw_rate) * lag
            pull = gas * cfg.engine * (1.0 - speed / cfg.top_speed) - brake * cfg.brake
            # the tyres share one grip between pulling and turning: beyond it the car runs wide
            asked = math.hypot(pull, speed * yaw_rate)
            if asked > cfg.grip:
                pull *= cfg.grip / asked
                yaw_rate *= cfg.grip / asked
            drag = cfg.drag_rolling + cfg.drag_air * speed * speed
            speed = max(speed + (pull - drag) * dt, 0.0)
            heading += yaw_rate * dt
            x += speed * math.cos(heading) * dt
            y += speed * math.sin(heading) * dt
        self.x, self.y, self.heading, self.speed = x, y, heading, speed
        self.steer, self.yaw_rate = wheels, yaw_rate

    def engine(self) -> tuple[int, float]:
        """Return the gear, 0 (standing) to 5, and the rpm, which rise to 10 000 within a gear."""
        share = self.speed / self._cfg.top_speed
        gear = bisect.bisect_right(_GEAR_TOPS, share, hi=len(_GEAR_TOPS) - 1)
        return (gear + 1 if self.speed >= _STANDING else 0), _RPM * share / _GEAR_TOPS[gear]
