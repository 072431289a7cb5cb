"""Closed lines around a track: the smooth centre line, and the line of minimum curvature."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.envs.tracks.track import Track

_CENTRE_LINE_SPACING = 1.0  # m between points
_MINIMUM_CURVATURE_SPACING = 3.0  # m between points: the Newton steps solve dense systems
_MIN_POINTS = 200  # however short the track is
_BARRIER_FACTORS = 10.0 ** -np.arange(6.0)  # of the barrier's initial strength, one after the other
_MAX_NEWTON_STEPS = 15  # for each strength of the barrier


@dataclass(frozen=True, eq=False)
class Line:
    """A closed line around a track; point ``i`` of ``n`` lies beside the share ``i / n`` of the centre line.

    Attributes:
        points: ``(n, 2)`` float64, m; counter-clockwise.
        curvature: ``(n,)`` float64 at the points, 1/m; left is positive.
        edge_lengths: ``(n,)`` float64, distance from each point to the next, m.
    """

    points: np.ndarray
    curvature: np.ndarray
    edge_lengths: np.ndarray

    @property
    def length(self) -> float:
        """Length of the line, m."""
        return float(self.edge_lengths.sum())


@lru_cache(maxsize=256)
def centre_line(track: Track) -> Line:
    """Return the smooth curve through the points of the centre line; cached."""
    return _line_through(_resample_cubic(track.curve, _point_count(track, _CENTRE_LINE_SPACING)))


@lru_cache(maxsize=256)
def minimum_curvature_line(track: Track, margin: float = 0.0) -> Line:
    """Return the closed line on the road with the least integral of its squared curvature; cached.

    Offsets from the centre line are the unknowns. A logarithmic barrier, weakened step by step, keeps them inside the
    road; each iteration is a Gauss-Newton step with a line search.

    Args:
        track: The track.
        margin: Distance kept from the edges of the road, m, less than ``half_width``.
    """
    points = _resample_cubic(track.curve, _point_count(track, _MINIMUM_CURVATURE_SPACING))
    problem = _MinimumCurvatureProblem(points, track.half_width - margin)
    offset = np.zeros(len(points))
    # (2π)² / length is the objective of a circle, the least of all closed lines: the barrier begins as strong as that
    for barrier in (2.0 * math.pi) ** 2 / track.length / len(offset) * _BARRIER_FACTORS:
        for _ in range(_MAX_NEWTON_STEPS):
            step, decrease = problem.newton_step(offset, barrier)
            offset = offset + problem.step_size(offset, step, decrease, barrier) * step
            if decrease < 1e-4 * barrier * len(offset):
                break
    return _line_through(problem.points(offset))


class _MinimumCurvatureProblem:
    """Minimise the squared curvature of a closed line ``centre + offset · normal`` with ``|offset| < width``.

    Args:
        centre: ``(n, 2)`` float64, m; equidistant points of a closed line.
        width: m.
    """

    def __init__(self, centre: np.ndarray, width: float) -> None:
        tangent = np.roll(centre, -1, axis=0) - np.roll(centre, 1, axis=0)
        self._centre, self._width = centre, width
        self._normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.hypot(*tangent.T)[:, None]

    def points(self, offset: np.ndarray) -> np.ndarray:
        """Return the line ``(n, 2)`` at these offsets ``(n,)``."""
        return self._centre + offset[:, None] * self._normal

    def newton_step(self, offset: np.ndarray, barrier: float) -> tuple[np.ndarray, float]:
        """Return a Gauss-Newton step of the objective.

        Args:
            offset: ``(n,)``, m.
            barrier: Strength of the barrier, 1/m.

        Returns:
            The step ``(n,)`` in m, and the decrease of the objective per share of the step, to first order.
        """
        edge, length, turn, vertex_length = _vertex_geometry(self.points(offset))
        here = np.arange(len(offset))
        after = (here + 1) % len(offset)
        d_heading, d_length = np.zeros((2, len(offset), len(offset)))  # of the edges, by offset
        for vertex, sign in ((after, 1.0), (here, -1.0)):
            normal = self._normal[vertex]
            d_heading[here, vertex] = sign * (edge[:, 0] * normal[:, 1] - edge[:, 1] * normal[:, 0]) / length**2
            d_length[here, vertex] = sign * (edge * normal).sum(axis=1) / length
        d_turn = d_heading - np.roll(d_heading, 1, axis=0)
        d_vertex_length = (d_length + np.roll(d_length, 1, axis=0)) / 2.0
        # the integral of the squared curvature is the sum of residual²
        residual = turn / np.sqrt(vertex_length)
        jacobian = d_turn - (0.5 * turn / vertex_length)[:, None] * d_vertex_length
        jacobian = jacobian / np.sqrt(vertex_length)[:, None]
        left, right = self._width - offset, self._width + offset
        gradient = 2.0 * jacobian.T @ residual + barrier * (1.0 / left - 1.0 / right)
        hessian = 2.0 * jacobian.T @ jacobian
        hessian[here, here] += barrier * (1.0 / left**2 + 1.0 / right**2)
        step = -np.linalg.solve(hessian, gradient)
        return step, float(-gradient @ step)

    def step_size(self, offset: np.ndarray, step: np.ndarray, decrease: float, barrier: float) -> float:
        """Return the share of a Newton step, at most 1, that stays on the road and lowers the objective enough.

        Args:
            offset: ``(n,)``, m.
            step: ``(n,)``, m.
            decrease: Decrease of the objective that the step promises.
            barrier: Strength of the barrier, 1/m.
        """
        room = np.where(step > 0.0, self._width - offset, self._width + offset)
        size = min(1.0, 0.95 / max(float((np.abs(step) / room).max()), 1e-12))
        before = self._objective(offset, barrier)
        while size > 1e-9 and self._objective(offset + size * step, barrier) > before - 1e-4 * size * decrease:
            size /= 2.0
        return size

    def _objective(self, offset: np.ndarray, barrier: float) -> float:
        _, _, turn, vertex_length = _vertex_geometry(self.points(offset))
        return float((turn * turn / vertex_length).sum() - barrier * np.log(self._width**2 - offset**2).sum())


def _line_through(points: np.ndarray) -> Line:
    """Return the line through points ``(n, 2)`` whose distances are short against its bends."""
    _, length, turn, vertex_length = _vertex_geometry(points)
    return Line(points, turn / vertex_length, length)


def _vertex_geometry(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return edges ``(n, 2)``, their lengths, and by vertex the turn (rad) and half the length of both its edges."""
    edge = np.roll(points, -1, axis=0) - points
    length = np.hypot(*edge.T)
    heading = np.arctan2(edge[:, 1], edge[:, 0])
    turn = (heading - np.roll(heading, 1) + math.pi) % (2.0 * math.pi) - math.pi
    return edge, length, turn, (length + np.roll(length, 1)) / 2.0


def _point_count(track: Track, spacing: float) -> int:
    return max(_MIN_POINTS, round(track.length / spacing))


def _resample_cubic(curve: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` points equidistant along a closed smooth curve, interpolated by a cubic between its points.

    Linear interpolation would make steps in the curvature.
    """
    length = np.hypot(*(np.roll(curve, -1, axis=0) - curve).T)
    arc_length = np.concatenate([[0.0], np.cumsum(length)])
    at = np.interp(np.arange(count) * (arc_length[-1] / count), arc_length, np.arange(len(arc_length)))
    index = at.astype(int)
    t = (at - index)[:, None]
    before, here, after, beyond = (curve[(index + shift) % len(curve)] for shift in (-1, 0, 1, 2))
    outer = t * (t - 1.0) / 6.0 * ((t + 1.0) * beyond - (t - 2.0) * before)
    return outer + (t + 1.0) * (t - 2.0) / 2.0 * ((t - 1.0) * here - t * after)
