"""Random closed tracks: centre line, borders, and the projection of points onto the centre line."""

import math
from functools import lru_cache

import numpy as np

from app.config.schema_env import TrackConfig
from app.envs.spec import EnvError

_WAVE_NUMBERS = np.arange(2, 7)  # of the cosines that bend the circle
_CURVE_POINTS = 4000  # at which a candidate curve is checked and, scaled to size, drawn
_MAX_CANDIDATES = 2_000  # before the parameters are called impossible


class Track:
    """A closed centre line and the road around it. Immutable; shared by all environments.

    Args:
        seed: Seed that the track was made from.
        centre: ``(points, 2)`` float64, m; driven in this order, counter-clockwise.
        borders: Left and right border, each ``(points, 2)`` float64, m, beside the points of the centre line.
        curve: ``(curve points, 2)`` float64, m; a smooth curve through the points, to draw from.
        half_width: Half the width of the road, m.

    Attributes:
        seed: As given.
        length: Length of the centre line, m.
        half_width: As given.
        centre: As given.
        arc_length: ``(points,)`` float64, distance of each point from the first along the centre line, m.
        edges: ``(points, 5)`` float64, per edge its first point (x, y in m), unit direction (x, y) and length (m).
        left: Left border.
        right: Right border.
        curve: As given.
    """

    def __init__(
        self,
        seed: int,
        centre: np.ndarray,
        borders: tuple[np.ndarray, np.ndarray],
        curve: np.ndarray,
        half_width: float,
    ) -> None:
        edge = np.roll(centre, -1, axis=0) - centre
        edge_length = np.hypot(edge[:, 0], edge[:, 1])
        direction = edge / edge_length[:, None]
        self.seed = seed
        self.length = float(edge_length.sum())
        self.half_width = half_width
        self.centre = centre
        self.arc_length = np.concatenate([[0.0], np.cumsum(edge_length)[:-1]])
        self.left, self.right = borders
        self.curve = curve
        self.edges = np.column_stack([centre, direction, edge_length])
        # plain lists: the search in every step reads single numbers, which NumPy makes slow
        self._edges = self.edges.tolist()
        self._edge_starts = self.arc_length.tolist()

    def project(self, x: float, y: float, nearby_edge: int) -> tuple[int, float, float]:
        """Find the nearest place on the centre line.

        The search walks downhill from ``nearby_edge``, which is exact for points on the road: there the distance to
        the line has a single minimum within reach.

        Args:
            x: m.
            y: m.
            nearby_edge: Index of an edge close by, such as that of the previous step.

        Returns:
            Index of the edge, arc length in [0, length] in m, and signed distance from the edge's line in m (left is
            positive).
        """
        count = len(self._edges)
        nearest = nearby_edge
        least, along_edge = self._edge_distance(x, y, nearest)
        for direction in (1, -1):
            while True:
                index = (nearest + direction) % count
                distance, along = self._edge_distance(x, y, index)
                if distance >= least:
                    break
                nearest, least, along_edge = index, distance, along
        start_x, start_y, ux, uy, _ = self._edges[nearest]
        return nearest, self._edge_starts[nearest] + along_edge, ux * (y - start_y) - uy * (x - start_x)

    def pose(self, share: float) -> tuple[float, float, float, int]:
        """Return the pose on the centre line at a share of the track.

        Args:
            share: Share of the length; taken modulo 1.

        Returns:
            x and y in m, heading in rad, and index of the edge.
        """
        arc_length = (share % 1.0) * self.length
        index = int(np.searchsorted(self.arc_length, arc_length, side="right")) - 1
        start_x, start_y, ux, uy, _ = self._edges[index]
        along = arc_length - self._edge_starts[index]
        return start_x + along * ux, start_y + along * uy, math.atan2(uy, ux), index

    def _edge_distance(self, x: float, y: float, index: int) -> tuple[float, float]:
        """Return the squared distance to an edge (m²), and the nearest point as a distance along the edge (m)."""
        start_x, start_y, ux, uy, length = self._edges[index]
        dx, dy = x - start_x, y - start_y
        along = min(max(dx * ux + dy * uy, 0.0), length)
        dx, dy = dx - along * ux, dy - along * uy
        return dx * dx + dy * dy, along


@lru_cache(maxsize=256)
def make_track(config: TrackConfig, seed: int) -> Track:
    """Return the random track of a seed: the same in every process, cached within one.

    Args:
        config: Family of tracks.
        seed: Seed of the track.

    Returns:
        A track that keeps ``min_radius`` and ``clearance``.

    Raises:
        EnvError: If no curve of this family keeps them.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_MAX_CANDIDATES):
        curve = _draw_curve(config, rng)
        if curve is not None:
            centre = _resample_linear(curve, config.points)
            scale = config.length / _perimeter(centre)  # the resampled line cuts corners
            centre = centre * scale
            borders = offset_curve(centre, config.half_width), offset_curve(centre, -config.half_width)
            return Track(seed, centre, borders, curve * scale, config.half_width)
    raise EnvError(
        f"env.track: none of {_MAX_CANDIDATES} random curves with length = {config.length} and roughness = "
        f"{config.roughness} keeps min_radius = {config.min_radius} and clearance = {config.clearance}. "
        "Use a longer or smoother track."
    )


def offset_curve(points: np.ndarray, distance: float) -> np.ndarray:
    """Shift a closed polyline sideways.

    Args:
        points: ``(n, 2)``, m.
        distance: m; left is positive.

    Returns:
        ``(n, 2)``; every edge is parallel to the original one at ``distance``.
    """
    edge = np.roll(points, -1, axis=0) - points
    return points + distance * _mitre_vectors(edge / np.hypot(edge[:, 0], edge[:, 1])[:, None])


def _draw_curve(config: TrackConfig, rng: np.random.Generator) -> np.ndarray | None:
    """Draw one curve ``(_CURVE_POINTS, 2)`` of the configured length, or None if it violates radius or clearance.

    In polar coordinates it is a circle whose radius carries waves of random amplitude and phase.
    """
    amplitude = rng.uniform(-1.0, 1.0, len(_WAVE_NUMBERS)) * config.roughness / np.sqrt(_WAVE_NUMBERS)
    phase = rng.uniform(0.0, 2.0 * np.pi, len(_WAVE_NUMBERS))
    angle = np.linspace(0.0, 2.0 * np.pi, _CURVE_POINTS, endpoint=False)
    waves = angle[:, None] * _WAVE_NUMBERS + phase
    r = 1.0 + (amplitude * np.cos(waves)).sum(axis=1)
    dr = -(amplitude * _WAVE_NUMBERS * np.sin(waves)).sum(axis=1)
    ddr = -(amplitude * _WAVE_NUMBERS**2 * np.cos(waves)).sum(axis=1)
    if r.min() <= 0.0:
        return None
    curve = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
    scale = config.length / _perimeter(curve)
    curvature = np.abs(r * r + 2.0 * dr * dr - r * ddr) / (r * r + dr * dr) ** 1.5
    if scale < config.min_radius * curvature.max():
        return None
    curve *= scale
    return curve if _keeps_clearance(_resample_linear(curve, config.points), config.clearance) else None


def _keeps_clearance(points: np.ndarray, clearance: float) -> bool:
    """Return whether different parts of a closed line keep their distance.

    Two places belong to different parts when the line between them is longer than a half circle
    of that diameter: closer along the line, a bend alone brings them together.
    """
    spacing = _perimeter(points) / len(points)
    for shift in range(math.ceil(math.pi / 2.0 * clearance / spacing), len(points) // 2 + 1):
        gap = points - np.roll(points, -shift, axis=0)
        if (gap * gap).sum(axis=1).min() < clearance * clearance:
            return False
    return True


def _resample_linear(curve: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` points equidistant along a closed polyline, interpolated linearly between its points."""
    closed = np.concatenate([curve, curve[:1]])
    arc_length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.arange(count) * (arc_length[-1] / count)
    return np.stack([np.interp(at, arc_length, closed[:, axis]) for axis in (0, 1)], axis=1)


def _perimeter(points: np.ndarray) -> float:
    return float(np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum())


def _mitre_vectors(direction: np.ndarray) -> np.ndarray:
    """Return per vertex the vector that shifts both of its edges, given by unit directions, by 1 m to the left."""
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    before = np.roll(normal, 1, axis=0)
    return (normal + before) / (1.0 + (normal * before).sum(axis=1, keepdims=True))
