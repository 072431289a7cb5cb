"""Projection of many cars at once onto the centre lines of their tracks."""

from collections.abc import Sequence

import numpy as np

from app.envs.tracks.track import Track


class TrackBatch:
    """The centre lines of some tracks, joined into arrays; the numbers equal those of ``Track`` bit for bit.

    Args:
        tracks: Tracks with equally many points.

    Attributes:
        points: Number of points of every centre line.
        length: ``(tracks,)`` float64, m.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.points = len(tracks[0].centre)
        self.length = np.array([track.length for track in tracks])
        edges = np.concatenate([track.edges for track in tracks])
        self._x, self._y, self._ux, self._uy, self._edge_length = np.ascontiguousarray(edges.T)
        self._edge_start = np.concatenate([track.arc_length for track in tracks])

    def project(
        self, track: np.ndarray, x: np.ndarray, y: np.ndarray, nearby_edge: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the nearest places on the centre lines; see ``Track.project``.

        Args:
            track: ``(N,)`` int, index of the track of every car.
            x: ``(N,)`` float64, m.
            y: ``(N,)`` float64, m.
            nearby_edge: ``(N,)`` int, an edge close by.

        Returns:
            Edges ``(N,)`` int, arc lengths ``(N,)`` and signed distances from the edges' lines ``(N,)``, m.
        """
        first = track * self.points
        nearest = nearby_edge.copy()
        least, along = self._edge_distance(x, y, first + nearest)
        for direction in (1, -1):
            cars = np.arange(len(x))  # those that may still come closer in this direction
            while len(cars):
                edge = (nearest[cars] + direction) % self.points
                distance, along_edge = self._edge_distance(x[cars], y[cars], first[cars] + edge)
                closer = distance < least[cars]
                cars = cars[closer]
                nearest[cars], least[cars], along[cars] = edge[closer], distance[closer], along_edge[closer]
        at = first + nearest
        offset = self._ux[at] * (y - self._y[at]) - self._uy[at] * (x - self._x[at])
        return nearest, self._edge_start[at] + along, offset

    def _edge_distance(self, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances to edges (m²), and the nearest points as distances along the edges (m)."""
        ux, uy = self._ux[at], self._uy[at]
        dx, dy = x - self._x[at], y - self._y[at]
        along = np.minimum(np.maximum(dx * ux + dy * uy, 0.0), self._edge_length[at])
        dx, dy = dx - along * ux, dy - along * uy
        return dx * dx + dy * dy, along
