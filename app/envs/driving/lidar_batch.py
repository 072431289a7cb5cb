"""Simulated lidar of many cars at once."""

import math
from collections.abc import Sequence

import numpy as np

from app.config.schema_env import TrackEnvConfig
from app.envs.driving.lidar import nearby_borders
from app.envs.tracks.track import Track

_TURN = 2.0 * math.pi


class LidarBatch:
    """Measures what ``Lidar`` measures, with less work for each beam.

    ``Lidar`` tests every beam against every edge of the border. Here the direction of every border point tells between
    which two beams it lies, so that only the edges that a beam meets are intersected. Both are exact up to rounding. A
    beam through the very corner of a bend may count for either side of it.

    Args:
        config: Number of beams, field of view and range of the lidar; top speed and duration of a step.
        tracks: Tracks with equally many points, whose borders stop the beams.
    """

    def __init__(self, config: TrackEnvConfig, tracks: Sequence[Track]) -> None:
        self._beams, self._range = config.lidar_beams, config.lidar_range
        self._leftmost = math.radians(config.lidar_fov) / 2.0
        self._spacing = 2.0 * self._leftmost / (self._beams - 1)
        self._angles = np.linspace(self._leftmost, -self._leftmost, self._beams)
        self._points = len(tracks[0].centre)
        nearby = [
            near
            for track in tracks
            for near in nearby_borders(track, config.lidar_range, config.top_speed * config.step_s)
        ]
        self._count = np.array([points.shape[1] for points, _ in nearby])
        self._first = np.cumsum(self._count) - self._count
        self._y, self._x = np.concatenate([points for points, _ in nearby], axis=1)
        self._joined = np.concatenate([joined for _, joined in nearby])

    def scan(
        self, track: np.ndarray, edge: np.ndarray, x: np.ndarray, y: np.ndarray, heading: np.ndarray
    ) -> np.ndarray:
        """Measure the distances to the border.

        Args:
            track: ``(N,)`` int, index of the track of every car.
            edge: ``(N,)`` int, the edge of the centre line nearest to every car.
            x: ``(N,)`` float64, m.
            y: ``(N,)`` float64, m.
            heading: ``(N,)`` float64, rad.

        Returns:
            ``(N, beams)`` float64, m, at most the range.
        """
        car, index = self._nearby_points(track * self._points + edge)
        dx, dy = self._x.take(index) - x.take(car), self._y.take(index) - y.take(car)
        angle = np.arctan2(dy, dx) - heading.take(car)
        angle -= _TURN * np.rint(angle / _TURN)
        segment, beam = self._meetings(angle, self._joined.take(index)[:-1])
        px, py, qx, qy = (rows.take(at) for at in (segment, segment + 1) for rows in (dx, dy))
        target = car.take(segment) * self._beams + beam
        direction = (heading[:, None] + self._angles).ravel()
        # a ray r meets the edge from p to q at the distance (p x q) / (r x (q - p))
        slope = np.cos(direction).take(target) * (qy - py) - np.sin(direction).take(target) * (qx - px)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (px * qy - py * qx) / slope
        distances = np.full(len(direction), self._range)
        np.fmin.at(distances, target, np.maximum(distance, 0.0))
        return distances.reshape(-1, self._beams)

    def _nearby_points(self, edge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the border points near some edges ``(N,)``, one car behind the other: cars and points, as indices."""
        count = self._count[edge]
        ends = np.cumsum(count)
        index = np.arange(ends[-1]) + np.repeat(self._first[edge] - (ends - count), count)
        return np.repeat(np.arange(len(edge)), count), index

    def _meetings(self, angle: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the beams that meet each edge of the border.

        Args:
            angle: ``(points,)`` rad in [-pi, pi], the directions of the points from their car, left is positive.
            joined: ``(points - 1,)`` bool, whether an edge joins a point to the next.

        Returns:
            Edges, as indices of their first points, and beams; one element for each meeting.
        """
        # Beams to the left of each point: between two points of an edge lie those that only one of them counts.
        left = np.clip(np.ceil((self._leftmost - angle) / self._spacing), 0, self._beams).astype(np.intp)
        edges = np.flatnonzero(joined & (left[1:] != left[:-1]))
        one, other = left.take(edges), left.take(edges + 1)
        low, high = np.minimum(one, other), np.maximum(one, other)
        first, count = low, high - low
        behind = np.flatnonzero(np.abs(angle.take(edges) - angle.take(edges + 1)) > math.pi)
        if len(behind):  # an edge that passes behind the car meets the beams that lie outside its two points
            edges = np.concatenate([edges, edges[behind]])
            first = np.concatenate([first, high[behind]])
            first[behind] = 0
            count = np.concatenate([count, self._beams - high[behind]])
            count[behind] = low[behind]
        ends = np.cumsum(count)
        beam = np.arange(count.sum()) + np.repeat(first - (ends - count), count)
        return np.repeat(edges, count), beam
