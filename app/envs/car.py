"""The simulated car: a kinematic bicycle with a friction circle."""

import math

from app.config.schema import CarConfig

# the steering lock shrinks with speed, from full at standstill to this share of it
_LOCK_SPEED = 50.0  # m/s at which it would reach zero
_LOCK_SHARE = 0.15
# top of gears 1 to 4 as shares of the top speed; below _STANDING the gear is 0
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
        dt = seconds / substeps
        for _ in range(substeps):
            self._turn_wheels(steer, dt)
            self._move(gas, brake, dt)

    def gear(self) -> int:
        """Return the gear, 0 (standing) to 5."""
        if self.speed < _STANDING:
            return 0
        share = self.speed / self._cfg.top_speed
        return 1 + sum(share >= top for top in _GEAR_TOPS[:-1])

    def rpm(self) -> float:
        """Return the engine's revolutions per minute: they rise to 10 000 within a gear."""
        top = _GEAR_TOPS[max(self.gear(), 1) - 1] * self._cfg.top_speed
        return _RPM * self.speed / top

    def _turn_wheels(self, steer: float, dt: float) -> None:
        cfg = self._cfg
        wanted = steer * cfg.steer_lock * max(_LOCK_SHARE, 1.0 - self.speed / _LOCK_SPEED)
        most = cfg.steer_rate * dt
        self.steer += min(max(wanted - self.steer, -most), most)

    def _move(self, gas: float, brake: float, dt: float) -> None:
        cfg = self._cfg
        wanted_yaw = -self.speed / cfg.wheelbase * math.tan(self.steer)
        self.yaw_rate += (wanted_yaw - self.yaw_rate) * min(cfg.yaw_lag * dt, 1.0)
        pull = gas * cfg.engine * (1.0 - self.speed / cfg.top_speed) - brake * cfg.brake
        # the tyres share one grip between pulling and turning: beyond it the car runs wide
        asked = math.hypot(pull, self.speed * self.yaw_rate)
        if asked > cfg.grip:
            pull *= cfg.grip / asked
            self.yaw_rate *= cfg.grip / asked
        drag = cfg.drag_rolling + cfg.drag_air * self.speed * self.speed
        self.speed = max(self.speed + (pull - drag) * dt, 0.0)
        self.heading += self.yaw_rate * dt
        self.x += self.speed * math.cos(self.heading) * dt
        self.y += self.speed * math.sin(self.heading) * dt
