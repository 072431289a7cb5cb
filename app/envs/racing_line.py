"""Closed lines around a track: the smooth centre line, and the one of minimum curvature."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.envs.track import Track

_SPACING = 1.0  # m between the points of the centre line
_COARSE = 3.0  # m between those of the minimum-curvature line: its Newton steps solve dense systems
_FEWEST = 200  # points, however short the track is
_BARRIERS = 10.0 ** -np.arange(6.0)  # shares of its first strength that the barrier takes
_NEWTON_STEPS = 15  # at most, for each of them


@dataclass(frozen=True, eq=False)
class Line:
    """A closed line around a track; point ``i`` of ``n`` lies beside the share ``i / n`` of the centre line.

    Attributes:
        points: ``(n, 2)`` float64, m; counter-clockwise.
        curvature: ``(n,)`` 1/m at the points, left is positive.
        steps: ``(n,)`` distance from each point to the next, m.
    """

    points: np.ndarray
    curvature: np.ndarray
    steps: np.ndarray

    @property
    def length(self) -> float:
        """Once around, m."""
        return float(self.steps.sum())


@lru_cache(maxsize=256)
def centre_line(track: Track) -> Line:
    """Return the smooth curve through the points of the centre line; cached."""
    return _measure(_resample(track.curve, _count(track, _SPACING)))


@lru_cache(maxsize=256)
def minimum_curvature_line(track: Track, margin: float = 0.0) -> Line:
    """Return the closed line with the least integral of its squared curvature inside the road; cached.

    Offsets from the centre line are the unknowns. A logarithmic barrier, weakened in turns, keeps them inside the
    road; each step is one of Gauss and Newton: it solves the quadratic programme that the problem looks like there.

    Args:
        track: The track.
        margin: Distance kept from the edges of the road, m, less than ``half_width``.
    """
    problem = _LeastBending(_resample(track.curve, _count(track, _COARSE)), track.half_width - margin)
    offset = np.zeros(len(problem.centre))
    # a whole circle is the least that a closed line bends: the first barrier is as strong, the last one is nothing
    for barrier in (2.0 * math.pi) ** 2 / track.length / len(offset) * _BARRIERS:
        for _ in range(_NEWTON_STEPS):
            step, decrease = problem.newton_step(offset, barrier)
            offset = offset + problem.step_size(offset, step, decrease, barrier) * step
            if decrease < 1e-4 * barrier * len(offset):
                break
    return _measure(problem.points(offset))


class _LeastBending:
    """Minimise the squared curvature of a closed line ``centre + offset · normal`` with ``|offset| < width``."""

    def __init__(self, centre: np.ndarray, width: float) -> None:
        """Set the problem up.

        Args:
            centre: ``(n, 2)`` float64, m; equidistant points of a closed line.
            width: m.
        """
        ahead = np.roll(centre, -1, axis=0) - np.roll(centre, 1, axis=0)
        self.centre, self._width = centre, width
        self._normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.hypot(*ahead.T)[:, None]

    def points(self, offset: np.ndarray) -> np.ndarray:
        """Return the line ``(n, 2)`` at these offsets ``(n,)``."""
        return self.centre + offset[:, None] * self._normal

    def newton_step(self, offset: np.ndarray, barrier: float) -> tuple[np.ndarray, float]:
        """Return the step ``(n,)`` to the least bending plus barrier as seen from here, and the decrease per size."""
        edge, length, turn, reach = _edges(self.points(offset))
        here = np.arange(len(offset))
        after = (here + 1) % len(offset)
        heading_by_offset, length_by_offset = np.zeros((2, len(offset), len(offset)))
        for vertex, sign in ((after, 1.0), (here, -1.0)):
            normal = self._normal[vertex]
            heading_by_offset[here, vertex] = sign * (edge[:, 0] * normal[:, 1] - edge[:, 1] * normal[:, 0]) / length**2
            length_by_offset[here, vertex] = sign * (edge * normal).sum(axis=1) / length
        turn_by_offset = heading_by_offset - np.roll(heading_by_offset, 1, axis=0)
        reach_by_offset = (length_by_offset + np.roll(length_by_offset, 1, axis=0)) / 2.0
        # bending = sum of residual²
        residual = turn / np.sqrt(reach)
        jacobian = (turn_by_offset - (0.5 * turn / reach)[:, None] * reach_by_offset) / np.sqrt(reach)[:, None]
        left, right = self._width - offset, self._width + offset
        gradient = 2.0 * jacobian.T @ residual + barrier * (1.0 / left - 1.0 / right)
        hessian = 2.0 * jacobian.T @ jacobian
        hessian[here, here] += barrier * (1.0 / left**2 + 1.0 / right**2)
        step = -np.linalg.solve(hessian, gradient)
        return step, float(-gradient @ step)

    def step_size(self, offset: np.ndarray, step: np.ndarray, decrease: float, barrier: float) -> float:
        """Return the share of a step, at most 1, that stays inside the road and lowers the objective as promised."""
        room = np.where(step > 0.0, self._width - offset, self._width + offset)
        size = min(1.0, 0.95 / max(float((np.abs(step) / room).max()), 1e-12))
        before = self._objective(offset, barrier)
        while size > 1e-9 and self._objective(offset + size * step, barrier) > before - 1e-4 * size * decrease:
            size /= 2.0
        return size

    def _objective(self, offset: np.ndarray, barrier: float) -> float:
        _, _, turn, reach = _edges(self.points(offset))
        return float((turn * turn / reach).sum() - barrier * np.log(self._width**2 - offset**2).sum())


def _measure(points: np.ndarray) -> Line:
    """Measure a closed polyline ``(n, 2)`` whose edges are short against its bends."""
    _, length, turn, reach = _edges(points)
    return Line(points, turn / reach, length)


def _edges(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return edges ``(n, 2)``, their lengths, and by vertex the angle it turns by and the length that belongs to it."""
    edge = np.roll(points, -1, axis=0) - points
    length = np.hypot(*edge.T)
    heading = np.arctan2(edge[:, 1], edge[:, 0])
    turn = (heading - np.roll(heading, 1) + math.pi) % (2.0 * math.pi) - math.pi
    return edge, length, turn, (length + np.roll(length, 1)) / 2.0


def _count(track: Track, spacing: float) -> int:
    return max(_FEWEST, round(track.length / spacing))


def _resample(curve: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` points equidistant along a closed smooth curve, between its points by a cubic.

    Straight chords between them would make steps in the curvature.
    """
    length = np.hypot(*(np.roll(curve, -1, axis=0) - curve).T)
    along = np.concatenate([[0.0], np.cumsum(length)])
    at = np.interp(np.arange(count) * (along[-1] / count), along, np.arange(len(along)))
    index = at.astype(int)
    t = (at - index)[:, None]
    before, here, after, beyond = (curve[(index + shift) % len(curve)] for shift in (-1, 0, 1, 2))
    outer = t * (t - 1.0) / 6.0 * ((t + 1.0) * beyond - (t - 2.0) * before)
    return outer + (t + 1.0) * (t - 2.0) / 2.0 * ((t - 1.0) * here - t * after)
