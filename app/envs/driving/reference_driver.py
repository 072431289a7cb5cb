"""Hand-written driver that knows the car's true state: pure pursuit of a line, with a planned speed.

It shows what can be driven within the rules of an episode: 50 ms a step, wheels and yaw that respond with a delay, a
standing start on the centre line, and the car (a point) on the road at the end of every step.
"""

import dataclasses
import math

import numpy as np

from app.config.schema_env import SimConfig
from app.envs.driving.car import Car, steer_lock_share
from app.envs.tracks.lap_bound import flying_lap
from app.envs.tracks.racing_line import minimum_curvature_line
from app.envs.tracks.track import Track

# Found by trial: with 0.3 m and 0.99 it leaves the road from some starts.
EDGE_MARGIN = 0.6  # m between the line and the edges of the road, because the car does not follow it exactly
GRIP_SHARE = 0.97  # of the friction circle that the plan uses, so that some is left for corrections
_LOOKAHEAD_METRES, _LOOKAHEAD_SECONDS = 4.0, 0.2  # distance to the point that is steered for; the seconds at this speed


class ReferenceDriver:
    """Drives the simulator's car along the minimum-curvature line; a yardstick, not an agent.

    Args:
        config: Parameters of the environment.
        track: The track that is driven on.
    """

    def __init__(self, config: SimConfig, track: Track) -> None:
        self._config, self._track = config, track
        self._line = minimum_curvature_line(track, EDGE_MARGIN)
        careful = dataclasses.replace(config.car, grip=GRIP_SHARE * config.car.grip)
        self._planned_speed = flying_lap(self._line, careful).speed
        self._edge: int | None = None

    def act(self, car: Car) -> np.ndarray:
        """Return the action (gas, brake, steer) ``(3,)`` float32 for the next time step."""
        # wheels and yaw respond with a delay: steer for the pose at which they will have responded
        delay = 1.0 / self._config.car.yaw_lag
        heading = car.heading + car.yaw_rate * delay
        x = car.x + car.speed * delay * math.cos(car.heading + car.yaw_rate * delay / 2.0)
        y = car.y + car.speed * delay * math.sin(car.heading + car.yaw_rate * delay / 2.0)
        return np.array([*self._pedals(car), self._steer(x, y, heading, car.speed)], np.float32)

    def _pedals(self, car: Car) -> tuple[float, float]:
        """Return gas and brake that reach the planned speed in one time step."""
        config = self._config.car
        share = self._share(car.x, car.y) + car.speed * self._config.step_s / self._line.length
        shares = np.linspace(0.0, 1.0, len(self._planned_speed))
        target = float(np.interp(share % 1.0, shares, self._planned_speed))
        drag = config.drag_rolling + config.drag_air * car.speed**2
        pull = (target - car.speed) / self._config.step_s + drag
        engine = config.engine * (1.0 - car.speed / config.top_speed)
        return max(pull, 0.0) / max(engine, 1e-3), max(-pull, 0.0) / config.brake

    def _steer(self, x: float, y: float, heading: float, speed: float) -> float:
        """Return the steering, right is positive, of the arc to a point ahead on the line."""
        config, points = self._config.car, self._line.points
        ahead = _LOOKAHEAD_METRES + _LOOKAHEAD_SECONDS * speed
        target = (self._share(x, y) + ahead / self._line.length) * len(points)  # in points
        before = int(target)
        p, q = (points[i % len(points)] for i in (before, before + 1))
        target_x, target_y = p + (target - before) * (q - p)
        angle = math.atan2(target_y - y, target_x - x) - heading
        wheels = math.atan(2.0 * config.wheelbase * math.sin(angle) / math.hypot(target_x - x, target_y - y))
        return -wheels / (config.steer_lock * steer_lock_share(speed))

    def _share(self, x: float, y: float) -> float:
        """Return the share of the centre line at which a position is."""
        if self._edge is None:
            self._edge = int(np.hypot(*(self._track.centre - (x, y)).T).argmin())
        self._edge, arc_length, _ = self._track.project(x, y, self._edge)
        return arc_length / self._track.length
