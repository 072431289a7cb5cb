"""The simulated lidar: exact distances to the borders of the track."""

import math

import numpy as np

from app.config.schema import TrackEnvConfig
from app.envs.track import Track


class Lidar:
    """Casts rays against the border edges near the car.

    Beams go from left to right over the field of view, the middle one straight ahead. Edges are
    kept per edge of the centre line, so that a scan looks only at those within range.
    """

    def __init__(self, cfg: TrackEnvConfig, track: Track) -> None:
        """Sort the borders by place.

        Args:
            cfg: Number of beams, field of view in degrees, range in m; top speed and duration of a step.
            track: The track whose borders stop the beams.
        """
        half = math.radians(cfg.lidar_fov) / 2.0
        angle = np.linspace(half, -half, cfg.lidar_beams)
        cos, sin = np.cos(angle), np.sin(angle)
        # rows (x, -y) of the rays are heading's cosine times the first plus its sine times the second
        self._rays = np.stack([cos, -sin], axis=1), np.stack([-sin, -cos], axis=1)
        self._far = np.full(len(angle), cfg.lidar_range)
        self._nearby = [
            (points, np.tile(joined, len(angle))[:-1])
            for points, joined in _nearby_borders(track, cfg.lidar_range, cfg.top_speed * cfg.step_s)
        ]

    def scan(self, x: float, y: float, heading: float, edge: int) -> np.ndarray:
        """Measure the distances to the border.

        Args:
            x: m.
            y: m.
            heading: rad.
            edge: Index of the edge of the centre line nearest to the car.

        Returns:
            ``(beams,)`` float64, m, at most the range.
        """
        points, joined = self._nearby[edge]
        count = points.shape[1]
        points = points - np.array([[y], [x]])
        rays = self._rays[0] * math.cos(heading) + self._rays[1] * math.sin(heading)
        # Side of every point seen along every ray, rows end to end: where it changes, an edge is cut.
        # (The product is far too small for BLAS to use threads, so it always rounds alike.)
        side = np.dot(rays, points).ravel()
        right = side < 0.0
        cut = ((right[1:] != right[:-1]) & joined).nonzero()[0]
        beam, at = np.divmod(cut, count)
        # a ray r meets the edge from p to q at the distance (p x q) / (r x (q - p))
        across = points[1, :-1] * points[0, 1:] - points[0, :-1] * points[1, 1:]
        distance = across[at] / (side[cut + 1] - side[cut])
        distance[distance < 0.0] = np.inf  # behind the car
        result = self._far.copy()
        np.minimum.at(result, beam, distance)
        return result


def _nearby_borders(track: Track, reach: float, overshoot: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Collect per edge of the centre line the border points that a beam may need.

    Args:
        track: The track.
        reach: Range of the beams, m.
        overshoot: How far off the road the car may be when its episode ends, m.

    Returns:
        Per edge ``(2, n)`` the y and x (m) of points in runs along the borders, and ``(n,)`` bool:
        whether a point and the next are joined by an edge of the border.
    """
    borders = [np.concatenate([side, side[:1]]) for side in (track.left, track.right)]
    longest = max(np.hypot(*np.diff(border, axis=0).T).max() for border in borders)
    # the car is anywhere along its edge and across the road; an edge that is hit needs both its ends
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
