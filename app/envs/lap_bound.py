"""Fastest lap of the simulator's car along a given line, from a quasi-steady-state speed profile.

The car of ``app.envs.car`` never slips: it moves along its heading, and what pulls it and what turns it share one
friction circle. On a fixed line it is therefore a point with a speed, and the fastest lap is the largest speed profile
that obeys, at every place,

- ``hypot(pull, speed² · curvature) <= grip``, with ``-brake <= pull <= engine · (1 - speed / top_speed)``;
- acceleration = pull - rolling drag - air drag, even at the limit of the grip: who turns with all of it slows down.

One pass backwards (how early to brake) and one forwards (how soon to be fast again) find it; around a closed lap they
are repeated until nothing changes.

``app.envs.racing_line`` knows two lines: the centre line, along which progress is measured, and the line of minimum
curvature within ``half_width`` of it, beyond which an episode ends. ``flying_lap`` crosses the start at speed.
``standing_lap`` is the lap of an episode, which begins standing and ends one lap later at any speed: the one to compare
``lap_time`` with.

How far these are bounds, measured with the default car and tracks:

- *For a car that keeps to the line they are lower bounds.* Steering lock, steering rate, yaw lag, controls held for
  ``step_s`` and the end counted in whole steps only cost time and are left out. The lock binds in bends of less than
  8 m radius; tracks have 16 m at least. ``app.envs.reference_driver``, which keeps 0.6 m of road and
  3 % of the grip in reserve, takes 1.6 % more than the bound on the line of minimum curvature (0.4 to 3 %, 280 laps);
  with 0.25 m and none of the grip 0.5 % more, where it stays on the road, and never less.
- *A car may leave the line.* The bound on the centre line is 9 to 24 % above that of minimum curvature (15 % on
  average). A driver that cuts the bends well is faster than it and has a ratio below 1: the reference driver 0.88 on
  average, 0.82 at the least.
- *Minimum curvature is not minimum time*: it prefers wide bends to a short way and long straights. A direct search on
  five tracks found lines that take 0.3 to 2.6 % less from a standing start, up to 4 % less for a flying lap. It is a
  strong reference, no proof. Against it, a standing start lies on the line instead of the centre line beside it.
- *Discretisation* errs towards too fast: stations 1 m apart by less than 0.1 %, the points of the minimum-curvature
  line by up to 0.2 %. The simulator's own steps of 10 ms win the car less than 0.1 % against continuous motion.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.config.schema import CarConfig
from app.envs.racing_line import Line, centre_line
from app.envs.track import Track

_SPACING = 1.0  # m between the stations of a speed profile
_FEWEST = 200  # stations, however short the line is
_LAPS = 50  # after which a profile that still changes is a bug


@dataclass(frozen=True, eq=False)
class Lap:
    """A lap of the speed profile.

    Attributes:
        seconds: Its duration; infinite for a car that cannot move.
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
        line: What the car drives along.
        car: Physics of the car.
    """
    curvature, steps = _stations(line, 0.0)
    profile = _Profile(curvature, steps, car)
    # from the last station to the first again; a second lap begins with what the first one found
    for _ in range(_LAPS):
        before = profile.energy.copy()
        profile.energy[-1] = min(profile.energy[0], profile.energy[-1])
        profile.brake()
        profile.energy[0] = min(profile.energy[0], profile.energy[-1])
        profile.accelerate()
        if max(b - a for a, b in zip(profile.energy, before, strict=True)) < 1e-9:
            return profile.lap()
    raise RuntimeError(f"the speed profile still changes after {_LAPS} laps")


def standing_lap(line: Line, car: CarConfig, start: float) -> Lap:
    """Return the fastest lap that begins standing and ends at any speed.

    Args:
        line: What the car drives along.
        car: Physics of the car.
        start: Share of the track at which it begins and ends.
    """
    profile = _Profile(*_stations(line, start), car)
    profile.brake()
    profile.energy[0] = 0.0
    profile.accelerate()
    return profile.lap()


class _Profile:
    """Squared speed at the stations of a lap, first and last being the same place; passes only ever lower it.

    Both passes are implicit: the grip left for pulling is that at the station they come to, which is stable where it
    vanishes, and every step is the root of a quadratic equation. Plain floats: NumPy makes single numbers slow.
    """

    def __init__(self, curvature: np.ndarray, steps: np.ndarray, car: CarConfig) -> None:
        """Begin at the speed that the bends and the engine allow for a moment.

        Args:
            curvature: ``(n + 1,)`` at the stations, 1/m.
            steps: ``(n,)`` m between them.
            car: Physics of the car.
        """
        limit = np.minimum(car.grip / np.maximum(np.abs(curvature), 1e-9), terminal_speed(car) ** 2)
        self._car, self._steps = car, steps
        self._rows = list(zip(np.abs(curvature).tolist(), limit.tolist(), strict=True))
        self.energy: list[float] = limit.tolist()  # speed², m²/s²

    def brake(self) -> None:
        """Lower every station to what braking until the next one takes away."""
        car, energy, steps = self._car, self.energy, self._steps.tolist()
        for i in range(len(steps) - 1, -1, -1):
            twice, after = 2.0 * steps[i], energy[i + 1]
            coasted = after + twice * (car.drag_rolling + car.drag_air * after)
            curvature, limit = self._rows[i]
            most = min(coasted + twice * car.brake, _with_grip(1.0, coasted, twice, curvature, limit, car.grip))
            energy[i] = min(energy[i], most)

    def accelerate(self) -> None:
        """Lower every station to what the engine can make of the one before."""
        car, energy = self._car, self.energy
        fall = car.engine / car.top_speed
        for i, step in enumerate(self._steps.tolist()):
            curvature, limit = self._rows[i + 1]
            before, twice = energy[i], 2.0 * step
            coasted = before - twice * car.drag_rolling
            most = _with_grip(1.0 + twice * car.drag_air, coasted, twice, curvature, limit, car.grip)
            # without a bend: the mean of the acceleration here and there, a·v² + b·v = c
            a, b = 1.0 + step * car.drag_air, step * fall
            c = coasted + step * (2.0 * car.engine - fall * math.sqrt(before) - car.drag_air * before)
            pulled = (2.0 * c / (b + math.sqrt(b * b + 4.0 * a * c))) ** 2 if c > 0.0 else 0.0
            energy[i + 1] = min(energy[i + 1], most, pulled)

    def lap(self) -> Lap:
        """Return speeds and duration: between stations the acceleration is constant."""
        speed = np.sqrt(self.energy)
        with np.errstate(divide="ignore"):
            return Lap(float((2.0 * self._steps / (speed[1:] + speed[:-1])).sum()), speed)


def _with_grip(drag: float, coasted: float, twice: float, curvature: float, limit: float, grip: float) -> float:
    """Return the squared speed w at a station that is reached with all the grip which its bend leaves.

    It solves ``drag · w - coasted = twice · sqrt(grip² - curvature² · w²)``, whose left side grows and whose right side
    falls; where they do not meet below ``limit``, it is the limit.
    """
    if coasted >= drag * limit:
        return limit
    bend = twice * curvature
    size = drag * drag + bend * bend
    root = size * grip * grip - curvature * curvature * coasted * coasted
    return min((drag * coasted + twice * math.sqrt(max(root, 0.0))) / size, limit)


def terminal_speed(car: CarConfig) -> float:
    """Return the speed at which the drag takes all that the engine gives, m/s; 0 if it cannot even roll."""
    surplus, fall = car.engine - car.drag_rolling, car.engine / car.top_speed
    if surplus <= 0.0:
        return 0.0
    return 2.0 * surplus / (fall + math.sqrt(fall * fall + 4.0 * car.drag_air * surplus))


def _stations(line: Line, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the curvature at the stations from ``start`` once around ``(n + 1,)``, and their distances ``(n,)``."""
    points = len(line.steps)
    count = max(_FEWEST, round(line.length / _SPACING))
    at = (start % 1.0) * points + np.linspace(0.0, points, count + 1)  # in points
    knots = np.arange(2 * points + 1)
    along = np.concatenate([[0.0], np.cumsum(np.tile(line.steps, 2))])
    curvature = np.interp(at, knots, np.append(np.tile(line.curvature, 2), line.curvature[0]))
    return curvature, np.diff(np.interp(at, knots, along))
