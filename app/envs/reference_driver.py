"""A hand-written driver with the car's true state: pure pursuit of a line, and the speed profile with a margin.

It shows what can be driven within the rules of an episode: 50 ms a step, wheels and yaw that answer late, a standing
start on the centre line, and the car (a point) on the road at the end of every step.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from app.config.schema import SimConfig
from app.envs.car import LOCK_SHARE, LOCK_SPEED, Car
from app.envs.factory import make_env
from app.envs.lap_bound import flying_lap
from app.envs.racing_line import minimum_curvature_line
from app.envs.track import Track

# Found by trying: with 0.3 m and 0.99 it leaves the road from some starts.
EDGE_MARGIN = 0.6  # m that the line keeps from the edges of the road, for the car to miss it by
GRIP_SHARE = 0.97  # of the friction circle that the plan uses, so that some is left for corrections
LOOKAHEAD_M, LOOKAHEAD_S = 4.0, 0.2  # distance of the point that is steered for: metres, and seconds at this speed


class ReferenceDriver:
    """Drive the simulator's car along the minimum-curvature line from its true state; a yardstick, not an agent."""

    def __init__(self, cfg: SimConfig, track: Track) -> None:
        """Plan the lap.

        Args:
            cfg: Parameters of the environment.
            track: The track that is driven on.
        """
        self._cfg, self._track = cfg, track
        self._line = minimum_curvature_line(track, EDGE_MARGIN)
        careful = dataclasses.replace(cfg.car, grip=GRIP_SHARE * cfg.car.grip)
        self._speed = flying_lap(self._line, careful).speed
        self._edge: int | None = None

    def act(self, car: Car) -> np.ndarray:
        """Return the action (gas, brake, steer) ``(3,)`` float32 for the next time step."""
        # wheels and yaw answer late: act for where the car will be by then
        late = 1.0 / self._cfg.car.yaw_lag
        heading = car.heading + car.yaw_rate * late
        x = car.x + car.speed * late * math.cos(car.heading + car.yaw_rate * late / 2.0)
        y = car.y + car.speed * late * math.sin(car.heading + car.yaw_rate * late / 2.0)
        return np.array([*self._pedals(car), self._steer(x, y, heading, car.speed)], np.float32)

    def _pedals(self, car: Car) -> tuple[float, float]:
        """Return gas and brake that bring the car to the planned speed one step from here."""
        cfg = self._cfg.car
        share = self._share(car.x, car.y) + car.speed * self._cfg.step_s / self._line.length
        wanted = float(np.interp(share % 1.0, np.linspace(0.0, 1.0, len(self._speed)), self._speed))
        drag = cfg.drag_rolling + cfg.drag_air * car.speed**2
        pull = (wanted - car.speed) / self._cfg.step_s + drag
        engine = cfg.engine * (1.0 - car.speed / cfg.top_speed)
        return max(pull, 0.0) / max(engine, 1e-3), max(-pull, 0.0) / cfg.brake

    def _steer(self, x: float, y: float, heading: float, speed: float) -> float:
        """Return the steering, right is positive, of the arc to a point ahead on the line."""
        cfg = self._cfg.car
        ahead = LOOKAHEAD_M + LOOKAHEAD_S * speed
        at = (self._share(x, y) + ahead / self._line.length) * len(self._line.points)
        before = int(at)
        p, q = (self._line.points[i % len(self._line.points)] for i in (before, before + 1))
        aim_x, aim_y = p + (at - before) * (q - p)
        off = math.atan2(aim_y - y, aim_x - x) - heading
        wheels = math.atan(2.0 * cfg.wheelbase * math.sin(off) / math.hypot(aim_x - x, aim_y - y))
        return -wheels / (cfg.steer_lock * max(LOCK_SHARE, 1.0 - speed / LOCK_SPEED))

    def _share(self, x: float, y: float) -> float:
        """Return the share of the centre line that a place is beside."""
        if self._edge is None:
            self._edge = int(np.hypot(*(self._track.centre - (x, y)).T).argmin())
        self._edge, along, _ = self._track.locate(x, y, self._edge)
        return along / self._track.length


def drive_lap(cfg: SimConfig, track: int, start: float) -> dict[str, Any]:
    """Drive one episode of the environment and return the ``info`` of its last step.

    Args:
        cfg: Parameters of the environment.
        track: Seed of the track.
        start: Share of the track at which the episode begins, in [0, 1).
    """
    env = make_env(cfg, [track], seed=0)
    env.reset(options={"track": track, "start": start})
    driver, ended, info = ReferenceDriver(cfg, env.track), False, {}
    while not ended:
        _, _, terminated, truncated, info = env.step(driver.act(env.car))
        ended = terminated or truncated
    env.close()
    return info
