"""The simulated lidar: exact distances to the borders of the track."""

import math

import numpy as np

from app.config.schema import SimConfig
from app.envs.track import Track


class Lidar:
    """Casts rays against the border edges near the car.

    Beams go from left to right over the field of view, the middle one straight ahead. Edges are
    kept per edge of the centre line, so that a scan looks only at those within range.
    """

    def __init__(self, cfg: SimConfig, track: Track) -> None:
        """Sort the borders by place.

        Args:
            cfg: Number of beams, field of view in degrees and range in m.
            track: The track whose borders stop the beams.
        """
        half = math.radians(cfg.lidar_fov) / 2.0
        angle = np.linspace(half, -half, cfg.lidar_beams)[:, None]
        self._cos, self._sin = np.cos(angle), np.sin(angle)
        self._range = cfg.lidar_range
        self._nearby = _nearby_borders(track, cfg.lidar_range, cfg.car.top_speed * cfg.step_s)

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
        px, py, joined = self._nearby[edge]
        px, py = px - x, py - y
        cos, sin = math.cos(heading), math.sin(heading)
        rx, ry = self._cos * cos - self._sin * sin, self._sin * cos + self._cos * sin
        # Side of each point seen along each ray: an edge is cut where the side changes. Products
        # and differences one by one, no BLAS: its rounding may depend on the machine's threads.
        side = rx * py
        side -= ry * px
        right = side < 0.0
        cut = (right[:, 1:] != right[:, :-1]) & joined
        beam, at = cut.nonzero()
        here, there = side[beam, at], side[beam, at + 1]
        share = here / (here - there)
        hit_x = px[at] + share * (px[at + 1] - px[at])
        hit_y = py[at] + share * (py[at + 1] - py[at])
        distance = rx[beam, 0] * hit_x + ry[beam, 0] * hit_y
        distance[distance < 0.0] = self._range  # behind the car
        result = np.full(len(rx), self._range)
        np.minimum.at(result, beam, distance)
        return result


def _nearby_borders(
    track: Track, reach: float, overshoot: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Collect per edge of the centre line the border points that a beam may need.

    Args:
        track: The track.
        reach: Range of the beams, m.
        overshoot: How far off the road the car may be when its episode ends, m.

    Returns:
        Per edge x ``(n,)`` and y ``(n,)`` of points in runs along the borders, in m, and
        ``(n - 1,)`` bool: whether a point and the next are joined by an edge of the border.
    """
    borders = [np.concatenate([side, side[:1]]) for side in (track.left, track.right)]
    longest = max(np.hypot(*np.diff(border, axis=0).T).max() for border in borders)
    # the car is anywhere along its edge and across the road; an edge that is hit needs both its ends
    margin = track.half_width + overshoot + 2.0 * longest
    points = np.concatenate(borders)
    count = len(track.centre) + 1
    nearby = []
    for centre in track.centre:
        close = np.hypot(*(points - centre).T) <= reach + margin
        index = np.flatnonzero(close)
        joined = (np.diff(index) == 1) & (index[1:] != count)  # the left border's end is no edge to the right
        nearby.append((points[index, 0].copy(), points[index, 1].copy(), joined))
    return nearby
