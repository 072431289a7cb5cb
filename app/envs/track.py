"""Random closed tracks: the centre line, and where on it a car is."""

import math
from functools import lru_cache

import numpy as np

from app.config.schema import TrackConfig
from app.envs.spec import EnvError

_WAVES = np.arange(2, 7)  # k of the cosines that bend the circle
_FINE = 4000  # points at which a candidate curve is examined and, scaled to size, drawn
_ATTEMPTS = 2_000  # candidates before the parameters are called impossible


class Track:
    """A closed centre line and the road around it. Immutable; shared by all environments.

    Attributes:
        seed: The seed it was made from.
        length: Length of the centre line, m.
        half_width: Half the width of the road, m.
        centre: ``(points, 2)`` float64, m; driven in this order, counter-clockwise.
        along: ``(points,)`` float64, distance of each point from the first along the line, m.
        left: ``(points, 2)`` the left border, whose edges lie ``half_width`` off the line.
        right: ``(points, 2)`` the right border.
        curve: ``(fine points, 2)`` the smooth curve through the points, to draw from.
    """

    def __init__(
        self,
        seed: int,
        centre: np.ndarray,
        borders: tuple[np.ndarray, np.ndarray],
        curve: np.ndarray,
        half_width: float,
    ) -> None:
        """Measure a centre line.

        Args:
            seed: The seed it was made from.
            centre: ``(points, 2)`` float64, m.
            borders: The left and the right one, each ``(points, 2)`` float64, m, beside the points of the line.
            curve: ``(fine points, 2)`` float64, m.
            half_width: Half the width of the road, m.
        """
        edge = np.roll(centre, -1, axis=0) - centre
        edge_length = np.hypot(edge[:, 0], edge[:, 1])
        direction = edge / edge_length[:, None]
        self.seed = seed
        self.length = float(edge_length.sum())
        self.half_width = half_width
        self.centre = centre
        self.along = np.concatenate([[0.0], np.cumsum(edge_length)[:-1]])
        self.left, self.right = borders
        self.curve = curve
        # plain lists: the per-step search reads single numbers, which NumPy makes slow
        self._edges = np.column_stack([centre, direction, edge_length]).tolist()
        self._along = self.along.tolist()

    def locate(self, x: float, y: float, near: int) -> tuple[int, float, float]:
        """Find the place on the centre line that is nearest to a point.

        The search walks downhill from ``near``, which is exact for points on the road: there the
        distance to the line has a single minimum within reach.

        Args:
            x: m.
            y: m.
            near: Index of an edge close by, such as that of the step before.

        Returns:
            Index of the edge, distance along the line in [0, length], and the signed distance
            from the edge's line (left is positive), both in m.
        """
        count = len(self._edges)
        best, best_at = self._distance(x, y, near)
        for direction in (1, -1):
            while True:
                index = (near + direction) % count
                distance, at = self._distance(x, y, index)
                if distance >= best:
                    break
                near, best, best_at = index, distance, at
        px, py, ux, uy, _ = self._edges[near]
        return near, self._along[near] + best_at, ux * (y - py) - uy * (x - px)

    def pose(self, share: float) -> tuple[float, float, float, int]:
        """Return the place at a share of the track: x and y in m, heading in rad, edge index."""
        at = (share % 1.0) * self.length
        index = int(np.searchsorted(self.along, at, side="right")) - 1
        px, py, ux, uy, _ = self._edges[index]
        rest = at - self._along[index]
        return px + rest * ux, py + rest * uy, math.atan2(uy, ux), index

    def _distance(self, x: float, y: float, index: int) -> tuple[float, float]:
        """Return the squared distance to an edge, and where on it the nearest point lies (m)."""
        px, py, ux, uy, length = self._edges[index]
        dx, dy = x - px, y - py
        at = min(max(dx * ux + dy * uy, 0.0), length)
        dx, dy = dx - at * ux, dy - at * uy
        return dx * dx + dy * dy, at


@lru_cache(maxsize=256)
def make_track(cfg: TrackConfig, seed: int) -> Track:
    """Make the random track of a seed: the same for every process, cached within one.

    Args:
        cfg: The family of tracks.
        seed: Which of them.

    Returns:
        A track that obeys ``min_radius`` and ``clearance``.

    Raises:
        EnvError: If no curve of this family obeys them.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_ATTEMPTS):
        curve = _draw_curve(cfg, rng)
        if curve is not None:
            centre = _resample(curve, cfg.points)
            scale = cfg.length / _perimeter(centre)  # the corners cut off by resampling
            centre = centre * scale
            borders = offset_curve(centre, cfg.half_width), offset_curve(centre, -cfg.half_width)
            return Track(seed, centre, borders, curve * scale, cfg.half_width)
    raise EnvError(
        f"env.track: none of {_ATTEMPTS} random curves with length = {cfg.length} and "
        f"roughness = {cfg.roughness} keeps min_radius = {cfg.min_radius} and clearance = {cfg.clearance}. "
        "Use a longer or smoother track."
    )


def offset_curve(points: np.ndarray, distance: float) -> np.ndarray:
    """Shift a closed polyline ``(n, 2)`` sideways by ``distance`` m (left is positive)."""
    edge = np.roll(points, -1, axis=0) - points
    return points + distance * _mitres(edge / np.hypot(edge[:, 0], edge[:, 1])[:, None])


def _draw_curve(cfg: TrackConfig, rng: np.random.Generator) -> np.ndarray | None:
    """Draw one curve ``(4000, 2)`` of the wanted length, or None if it bends or closes up too much."""
    size = rng.uniform(-1.0, 1.0, len(_WAVES)) * cfg.roughness / np.sqrt(_WAVES)
    phase = rng.uniform(0.0, 2.0 * np.pi, len(_WAVES))
    angle = np.linspace(0.0, 2.0 * np.pi, _FINE, endpoint=False)
    turn = angle[:, None] * _WAVES + phase
    r = 1.0 + (size * np.cos(turn)).sum(axis=1)
    dr = -(size * _WAVES * np.sin(turn)).sum(axis=1)
    ddr = -(size * _WAVES**2 * np.cos(turn)).sum(axis=1)
    if r.min() <= 0.0:
        return None
    curve = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
    scale = cfg.length / _perimeter(curve)
    bend = np.abs(r * r + 2.0 * dr * dr - r * ddr) / (r * r + dr * dr) ** 1.5  # curvature of r(angle)
    if scale < cfg.min_radius * bend.max():
        return None
    curve *= scale
    return curve if _is_clear(_resample(curve, cfg.points), cfg.clearance) else None


def _is_clear(points: np.ndarray, clearance: float) -> bool:
    """Whether parts of the road keep their distance.

    Two places count as different parts when the road between them is longer than a half circle
    of that diameter: closer along the road, a bend alone brings them together.
    """
    step = _perimeter(points) / len(points)
    for apart in range(math.ceil(math.pi / 2.0 * clearance / step), len(points) // 2 + 1):
        gap = points - np.roll(points, -apart, axis=0)
        if (gap * gap).sum(axis=1).min() < clearance * clearance:
            return False
    return True


def _resample(curve: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` points that are equidistant along a closed curve."""
    closed = np.concatenate([curve, curve[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.arange(count) * (along[-1] / count)
    return np.stack([np.interp(at, along, closed[:, axis]) for axis in (0, 1)], axis=1)


def _perimeter(points: np.ndarray) -> float:
    return float(np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum())


def _mitres(direction: np.ndarray) -> np.ndarray:
    """Return per vertex the vector to the left that shifts both of its edges by 1 m."""
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    before = np.roll(normal, 1, axis=0)
    return (normal + before) / (1.0 + (normal * before).sum(axis=1, keepdims=True))
