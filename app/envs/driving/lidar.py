"""Simulated lidar: exact distances to the borders of the track."""

import math

import numpy as np

from app.config.schema_env import TrackEnvConfig
from app.envs.tracks.track import Track


class Lidar:
    """Intersects beams with the border edges near the car.

    Beams go from left to right over the field of view, the middle one straight ahead. Border points are
    grouped by edge of the centre line, so that a scan looks only at those within range.

    Args:
        config: Number of beams, field of view and range of the lidar; top speed and duration of a step.
        track: The track whose borders stop the beams.
    """

    def __init__(self, config: TrackEnvConfig, track: Track) -> None:
        half = math.radians(config.lidar_fov) / 2.0
        angle = np.linspace(half, -half, config.lidar_beams)
        cos, sin = np.cos(angle), np.sin(angle)
        # rows (x, -y) of the rays: cos(heading) times the first array plus sin(heading) times the second
        self._rays = np.stack([cos, -sin], axis=1), np.stack([-sin, -cos], axis=1)
        self._full_range = np.full(len(angle), config.lidar_range)
        self._nearby = [
            (points, np.tile(joined, len(angle))[:-1])
            for points, joined in nearby_borders(track, config.lidar_range, config.top_speed * config.step_s)
        ]

    def scan(self, x: float, y: float, heading: float, edge: int) -> np.ndarray:
        """Measure the distances to the border.

        Args:
            x: Position of the car, m.
            y: Position of the car, m.
            heading: rad.
            edge: Index of the edge of the centre line nearest to the car.

        Returns:
            ``(beams,)`` float64, m, at most the range.
        """
        points, joined = self._nearby[edge]
        count = points.shape[1]
        points = points - np.array([[y], [x]])
        rays = self._rays[0] * math.cos(heading) + self._rays[1] * math.sin(heading)
        # Side of every ray on which every point lies, rows end to end: where it changes, the ray's line cuts an edge.
        # (The product is far too small for BLAS to use threads, so it always rounds alike.)
        side = np.dot(rays, points).ravel()
        right = side < 0.0
        cut = ((right[1:] != right[:-1]) & joined).nonzero()[0]
        beam, start = np.divmod(cut, count)
        # a ray r meets the edge from p to q at the distance (p x q) / (r x (q - p))
        cross = points[1, :-1] * points[0, 1:] - points[0, :-1] * points[1, 1:]
        distance = cross[start] / (side[cut + 1] - side[cut])
        distance[distance < 0.0] = np.inf  # behind the car
        result = self._full_range.copy()
        np.minimum.at(result, beam, distance)
        return result


def nearby_borders(track: Track, reach: float, overshoot: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Collect per edge of the centre line the border points that a beam may need.

    Args:
        track: The track.
        reach: Range of the beams, m.
        overshoot: Largest distance from the road at which an episode may end, m.

    Returns:
        Per edge ``(2, n)`` the y and x (m) of points in runs along the borders, and ``(n,)`` bool:
        whether an edge of the border joins a point to the next.
    """
    borders = [np.concatenate([side, side[:1]]) for side in (track.left, track.right)]
    longest = max(np.hypot(*np.diff(border, axis=0).T).max() for border in borders)
    # the car is anywhere along its edge and across the road; a border edge that is hit needs both its ends
    margin = track.half_width + overshoot + 2.0 * longest
    points = np.concatenate(borders)
    follows = np.ones(len(points), bool)
    follows[len(borders[0]) - 1] = False  # the left border's end is not joined to the right border
    nearby = []
    for centre in track.centre:
        index = np.flatnonzero(np.hypot(*(points - centre).T) <= reach + margin)
        joined = (np.diff(index, append=-1) == 1) & follows[index]
        nearby.append((np.ascontiguousarray(points[index].T[::-1]), joined))
    return nearby
