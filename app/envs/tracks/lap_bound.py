"""Fastest lap of the simulator's car along a given line, from a quasi-steady-state speed profile.

The car of ``app.envs.driving.car`` never slips: it moves along its heading, and the tyres share one friction circle
between pulling and turning. On a fixed line it is therefore a point with a speed, and the fastest lap is the largest
speed profile that obeys, at every place,

- ``hypot(pull, speed² · curvature) <= grip``, with ``-brake <= pull <= engine · (1 - speed / top_speed)``;
- acceleration = pull - rolling drag - air drag, even at the limit of the grip: a car that turns with all of it slows
  down.

One pass backwards (where to brake) and one pass forwards (how soon to be fast again) find it; around a closed lap they
are repeated until nothing changes.

``app.envs.tracks.racing_line`` has two lines: the centre line, along which progress is measured, and the line of
minimum curvature within ``half_width`` of it, beyond which an episode ends. ``flying_lap`` crosses the start at speed.
``standing_lap`` is the lap of an episode, which begins standing and ends one lap later at any speed: it is the one to
compare ``lap_time`` with.

How far these are bounds, measured with the default car and tracks:

- *For a car that keeps to the line they are lower bounds.* Steering lock, steering rate, yaw lag, controls held for
  ``step_s`` and the end counted in whole steps only cost time and are left out. The lock binds in bends of less than
  8 m radius; tracks have 16 m at least. ``app.envs.driving.reference_driver``, which keeps 0.6 m of road and
  3 % of the grip in reserve, takes 1.6 % more than the bound on the line of minimum curvature (0.4 to 3 %, 280 laps);
  with 0.25 m of road and no grip in reserve 0.5 % more, where it stays on the road, and never less.
- *A car may leave the line.* The bound on the centre line is 9 to 24 % above that of minimum curvature (15 % on
  average). A driver that cuts the bends well is faster than it and has a ratio below 1: the reference driver 0.88 on
  average, 0.82 at the least.
- *Minimum curvature is not minimum time*: it prefers wide bends to a short way and long straights. A direct search on
  five tracks found lines that take 0.3 to 2.6 % less from a standing start, up to 4 % less for a flying lap. It is a
  strong reference, no proof. Its standing start lies on the line itself; an episode's lies on the centre line.
- *Discretisation* errs towards too fast: stations 1 m apart by less than 0.1 %, the points of the minimum-curvature
  line by up to 0.2 %. The simulator's own steps of 10 ms gain the car less than 0.1 % over continuous motion.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.config.schema_env import CarConfig
from app.envs.tracks.racing_line import Line, centre_line
from app.envs.tracks.track import Track

_STATION_SPACING = 1.0  # m between the stations of a speed profile
_MIN_STATIONS = 200  # however short the line is
_MAX_LAPS = 50  # in which a flying lap must converge


@dataclass(frozen=True, eq=False)
class Lap:
    """Duration and speed of a lap.

    Attributes:
        seconds: Duration; infinite for a car that cannot move.
        speed: ``(stations + 1,)`` m/s, at equal shares of the centre line from the start to the start again.
    """

    seconds: float
    speed: np.ndarray


@lru_cache(maxsize=1024)
def centre_line_bound(track: Track, car: CarConfig, start: float) -> float:
    """Return the seconds of the fastest lap along the centre line from a standing start; cached.

    Args:
        track: The track.
        car: Physics of the car.
        start: Share of the track at which the episode begins, in [0, 1).
    """
    return standing_lap(centre_line(track), car, start).seconds


def flying_lap(line: Line, car: CarConfig) -> Lap:
    """Return the fastest lap that ends as fast as it began.

    Args:
        line: The line to drive along.
        car: Physics of the car.

    Raises:
        RuntimeError: If the speed profile does not converge.
    """
    profile = _SpeedProfile(*_stations(line, 0.0), car)
    # the last station is the first one again: every lap begins with the speed at which the previous one ended
    for _ in range(_MAX_LAPS):
        before = profile.speed_squared.copy()
        profile.speed_squared[-1] = min(profile.speed_squared[0], profile.speed_squared[-1])
        profile.limit_by_brakes()
        profile.speed_squared[0] = min(profile.speed_squared[0], profile.speed_squared[-1])
        profile.limit_by_engine()
        if max(b - a for a, b in zip(profile.speed_squared, before, strict=True)) < 1e-9:
            return profile.to_lap()
    raise RuntimeError(f"the speed profile still changes after {_MAX_LAPS} laps")


def standing_lap(line: Line, car: CarConfig, start: float) -> Lap:
    """Return the fastest lap that begins standing and ends at any speed.

    Args:
        line: The line to drive along.
        car: Physics of the car.
        start: Share of the track at which it begins and ends.
    """
    profile = _SpeedProfile(*_stations(line, start), car)
    profile.limit_by_brakes()
    profile.speed_squared[0] = 0.0
    profile.limit_by_engine()
    return profile.to_lap()


class _SpeedProfile:
    """Squared speed at the stations of a lap, of which the first and the last are the same place.

    It begins at the speed that the bends and the engine allow for a moment; both passes only lower it. Both are
    implicit: the grip left for pulling is that at the station where the step ends, which is stable where it vanishes,
    and every step is the root of a quadratic equation. Plain floats: NumPy makes single numbers slow.

    Args:
        curvature: ``(n + 1,)`` at the stations, 1/m.
        distances: ``(n,)`` from each station to the next, m.
        car: Physics of the car.

    Attributes:
        speed_squared: By station, m²/s².
    """

    def __init__(self, curvature: np.ndarray, distances: np.ndarray, car: CarConfig) -> None:
        limit = np.minimum(car.grip / np.maximum(np.abs(curvature), 1e-9), terminal_speed(car) ** 2)
        self._car, self._distances = car, distances
        self._curvature_and_limit = list(zip(np.abs(curvature).tolist(), limit.tolist(), strict=True))
        self.speed_squared: list[float] = limit.tolist()

    def limit_by_brakes(self) -> None:
        """Lower every station to the speed from which braking reaches the next one slowly enough."""
        car, speed_squared, distances = self._car, self.speed_squared, self._distances.tolist()
        for i in range(len(distances) - 1, -1, -1):
            twice, after = 2.0 * distances[i], speed_squared[i + 1]
            coasted = after + twice * (car.drag_rolling + car.drag_air * after)
            curvature, limit = self._curvature_and_limit[i]
            by_grip = _speed_squared_at_grip_limit(1.0, coasted, twice, curvature, limit, car.grip)
            speed_squared[i] = min(speed_squared[i], coasted + twice * car.brake, by_grip)

    def limit_by_engine(self) -> None:
        """Lower every station to the speed that the engine reaches from the station before."""
        car, speed_squared = self._car, self.speed_squared
        fall = car.engine / car.top_speed
        for i, distance in enumerate(self._distances.tolist()):
            curvature, limit = self._curvature_and_limit[i + 1]
            before, twice = speed_squared[i], 2.0 * distance
            coasted = before - twice * car.drag_rolling
            drag = 1.0 + twice * car.drag_air
            by_grip = _speed_squared_at_grip_limit(drag, coasted, twice, curvature, limit, car.grip)
            # without a bend: the mean of the acceleration at both stations, a·v² + b·v = c
            a, b = 1.0 + distance * car.drag_air, distance * fall
            c = coasted + distance * (2.0 * car.engine - fall * math.sqrt(before) - car.drag_air * before)
            by_engine = (2.0 * c / (b + math.sqrt(b * b + 4.0 * a * c))) ** 2 if c > 0.0 else 0.0
            speed_squared[i + 1] = min(speed_squared[i + 1], by_grip, by_engine)

    def to_lap(self) -> Lap:
        """Return speeds and duration; between stations the acceleration is constant."""
        speed = np.sqrt(self.speed_squared)
        with np.errstate(divide="ignore"):
            return Lap(float((2.0 * self._distances / (speed[1:] + speed[:-1])).sum()), speed)


def _speed_squared_at_grip_limit(
    drag: float, coasted: float, twice: float, curvature: float, limit: float, grip: float
) -> float:
    """Return the squared speed w at a station that is reached with all the grip that its bend leaves.

    It solves ``drag · w - coasted = twice · sqrt(grip² - curvature² · w²)``, whose left side rises and whose right side
    falls; where they do not meet below ``limit``, it is the limit.
    """
    if coasted >= drag * limit:
        return limit
    bend = twice * curvature
    size = drag * drag + bend * bend
    root = size * grip * grip - curvature * curvature * coasted * coasted
    return min((drag * coasted + twice * math.sqrt(max(root, 0.0))) / size, limit)


def terminal_speed(car: CarConfig) -> float:
    """Return the speed in m/s at which the drag equals the pull of the engine; 0 if the car cannot even roll."""
    surplus, fall = car.engine - car.drag_rolling, car.engine / car.top_speed
    if surplus <= 0.0:
        return 0.0
    return 2.0 * surplus / (fall + math.sqrt(fall * fall + 4.0 * car.drag_air * surplus))


def _stations(line: Line, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curvature at the stations from ``start`` once around ``(n + 1,)``, and their distances ``(n,)``."""
    points = len(line.edge_lengths)
    count = max(_MIN_STATIONS, round(line.length / _STATION_SPACING))
    at = (start % 1.0) * points + np.linspace(0.0, points, count + 1)  # in points
    knots = np.arange(2 * points + 1)
    arc_length = np.concatenate([[0.0], np.cumsum(np.tile(line.edge_lengths, 2))])
    curvature = np.interp(at, knots, np.append(np.tile(line.curvature, 2), line.curvature[0]))
    return curvature, np.diff(np.interp(at, knots, arc_length))
