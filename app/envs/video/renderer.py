"""Video renderer: a follow camera above the track, heading up, with instruments on top."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.envs.tracks.track import Track, offset_curve
from app.envs.video.canvas import Canvas, Colour
from app.envs.video.hud import GHOST, draw_hud
from app.envs.video.render_state import RenderState

_VIEW, _VIEW_PER_SPEED = 58.0, 0.9  # width of the view: m at standstill, and m more per m/s
_CAR_HEIGHT = 0.66  # share of the height at which the car is drawn
_KERB_BLOCK, _KERB_SPAN = 2, 16  # points, about 1 m each: length of a block, and of the stretch whose bend is measured
_KERB_WIDTH, _KERB_MAX_RADIUS = 1.3, 80.0  # m; wider bends have no kerb
_CHEQUERS = 12  # squares across the road
_TRAIL_STEPS = 240
_STRIPE_WIDTH = 9.0  # m, of the mown stripes
_GRASS, _GRASS_MOWN, _VERGE = (104, 156, 84), (97, 148, 78), (123, 166, 99)
_ASPHALT, _PAINT, _DASH = (74, 78, 88), (238, 240, 242), (96, 101, 112)
_RED = (206, 62, 58)
_BODY, _GLASS, _TYRE, _SHADOW = (248, 166, 32), (32, 40, 54), (24, 26, 32), (46, 50, 58)
# outlines of the car in m (forward, right), enlarged by _CAR_SCALE to be seen
_CAR_SCALE = 1.2
_HULL = ((2.9, 0.45), (2.4, 0.75), (0.9, 0.95), (-1.2, 1.15), (-2.6, 1.1), (-2.6, -1.1), (-1.2, -1.15))
_HULL += ((0.9, -0.95), (2.4, -0.75), (2.9, -0.45))
_COCKPIT = ((0.9, 0.5), (-0.9, 0.68), (-1.5, 0.5), (-1.5, -0.5), (-0.9, -0.68), (0.9, -0.5))
_WING = ((-2.3, 1.35), (-2.9, 1.35), (-2.9, -1.35), (-2.3, -1.35))
_WHEEL = ((0.6, 0.28), (-0.6, 0.28), (-0.6, -0.28), (0.6, -0.28))
_WHEELS = ((1.75, 1.15, True), (1.75, -1.15, True), (-1.75, 1.25, False), (-1.75, -1.25, False))  # True: steered
_MAX_WHEEL_ANGLE = 0.5  # rad, at full steer


class VideoRenderer:
    """Renders states of an episode as square RGB images.

    Args:
        size: Width and height in pixels.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def render(self, state: RenderState) -> np.ndarray:
        """Return one frame ``(size, size, 3)`` uint8, RGB.

        Args:
            state: State to show.
        """
        view = _VIEW + _VIEW_PER_SPEED * state.speed
        canvas = Canvas(self._size, _GRASS, state.pose, self._size / view, _CAR_HEIGHT)
        _draw_grass(canvas, state.pose, view)
        _draw_road(canvas, state.track, view)
        _draw_start_line(canvas, state.track, state.start)
        _draw_trail(canvas, state)
        if state.ghost is not None:
            _draw_ghost(canvas, state.ghost)
        _draw_car(canvas, state.controls)
        draw_hud(canvas.image, state)
        return canvas.image


def _draw_grass(canvas: Canvas, pose: tuple[float, float, float], view: float) -> None:
    """Draw stripes that stay in place, so that motion is visible beside the road too."""
    x, y, _ = pose
    first = 2 * math.floor((x - view) / _STRIPE_WIDTH / 2)
    left = np.arange(first, math.ceil((x + view) / _STRIPE_WIDTH), 2) * _STRIPE_WIDTH
    right, low, high = left + _STRIPE_WIDTH, np.full(len(left), y - view), np.full(len(left), y + view)
    stripes = np.stack([left, low, right, low, right, high, left, high], axis=1).reshape(-1, 4, 2)
    canvas.fill_convex_polygons(stripes, [_GRASS_MOWN] * len(stripes))


def _draw_road(canvas: Canvas, track: Track, view: float) -> None:
    road = _road_outlines(track)
    canvas.fill_polygons(road.verge, _VERGE)
    near = np.flatnonzero(canvas.is_near(road.kerbs[:, 0], view))
    canvas.fill_convex_polygons(road.kerbs[near], [road.kerb_colours[index] for index in near])
    canvas.fill_polygons(road.edges, _PAINT)
    canvas.fill_polygons(road.asphalt, _ASPHALT)
    dashes = road.dashes[canvas.is_near(road.dashes[:, 0], view)]
    canvas.fill_convex_polygons(dashes, [_DASH] * len(dashes))


def _draw_start_line(canvas: Canvas, track: Track, start: float) -> None:
    """Draw the chequered line where the lap begins and ends."""
    x, y, heading, _ = track.pose(start)
    side = 2.0 * track.half_width / _CHEQUERS
    forward = side * np.array([math.cos(heading), math.sin(heading)])
    right = np.array([forward[1], -forward[0]])
    row, column = np.indices((2, _CHEQUERS)).reshape(2, -1, 1)
    corner = (x, y) + (row - 1) * forward + (column - _CHEQUERS / 2) * right
    squares = np.stack([corner, corner + forward, corner + forward + right, corner + right], axis=1)
    canvas.fill_convex_polygons(squares, [_PAINT if odd else _TYRE for odd in (row + column)[:, 0] % 2])


def _draw_trail(canvas: Canvas, state: RenderState) -> None:
    trail = state.trail[-_TRAIL_STEPS:]
    canvas.draw_heat_line(trail[:, :2], trail[:, 2] / state.fast_speed, 0.8)


def _draw_ghost(canvas: Canvas, pose: tuple[float, float, float]) -> None:
    """Draw the outline of another car, filled in one colour."""
    x, y, heading = pose
    forward = np.array([math.cos(heading), math.sin(heading)])
    right = np.array([forward[1], -forward[0]])
    for outline, colour in ((_HULL, GHOST), (_COCKPIT, _PAINT)):
        points = _CAR_SCALE * np.array(outline)
        canvas.fill_polygons([np.array([x, y]) + points[:, :1] * forward + points[:, 1:] * right], colour)


def _draw_car(canvas: Canvas, controls: tuple[float, float, float]) -> None:
    _, brake, steer = controls
    canvas.fill_car_polygon(_CAR_SCALE * (np.array(_HULL) * 1.06 + (-0.35, 0.35)), _SHADOW)
    for forward, right, steered in _WHEELS:
        angle = steer * _MAX_WHEEL_ANGLE if steered else 0.0
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        canvas.fill_car_polygon(_CAR_SCALE * (np.array(_WHEEL) @ rotation + (forward, right)), _TYRE)
    canvas.fill_car_polygon(_CAR_SCALE * np.array(_WING), _RED if brake > 0.05 else _GLASS)
    canvas.fill_car_polygon(_CAR_SCALE * np.array(_HULL), _BODY)
    canvas.fill_car_polygon(_CAR_SCALE * np.array(_COCKPIT), _GLASS)


@dataclass(frozen=True)
class _RoadOutlines:
    """Outlines in m of everything painted on and beside a road.

    Attributes:
        verge: Two borders ``(n, 2)``, the ring between which is filled.
        edges: Two borders ``(n, 2)``, likewise.
        asphalt: Two borders ``(n, 2)``, likewise.
        dashes: ``(n, 4, 2)``.
        kerbs: ``(n, 4, 2)``.
        kerb_colours: By block of the kerbs.
    """

    verge: list[np.ndarray]
    edges: list[np.ndarray]
    asphalt: list[np.ndarray]
    dashes: np.ndarray
    kerbs: np.ndarray
    kerb_colours: list[Colour]


@lru_cache(maxsize=16)
def _road_outlines(track: Track) -> _RoadOutlines:
    """Return the outlines of a track's road; cached."""
    curve = track.curve[:: max(len(track.curve) // round(track.length), 1)]  # a point per metre
    half = track.half_width
    rings = [[offset_curve(curve, sign * width) for sign in (1, -1)] for width in (half + 3.2, half, half - 0.4)]
    dashes = np.arange(0, len(curve) - 4, 12)
    kerbs = [_kerb(curve, sign * half) for sign in (1, -1)]
    return _RoadOutlines(
        verge=rings[0],
        edges=rings[1],
        asphalt=rings[2],
        dashes=_quadrilaterals(curve, -0.12, 0.12, dashes, 4),
        kerbs=np.concatenate([outlines for outlines, _ in kerbs]),
        kerb_colours=[colour for _, colours in kerbs for colour in colours],
    )


def _quadrilaterals(curve: np.ndarray, inner: float, outer: float, starts: np.ndarray, count: int) -> np.ndarray:
    """Cut quadrilaterals ``(n, 4, 2)`` out of the strip between two offsets of a closed curve.

    Args:
        curve: ``(points, 2)``, m.
        inner: Offset of one side, m; left is positive.
        outer: Offset of the other side, m.
        starts: ``(n,)`` int, indices of the points at which they begin.
        count: Length of each, in points.
    """
    near, far = offset_curve(curve, inner), offset_curve(curve, outer)
    ends = (starts + count) % len(curve)
    return np.stack([near[starts], near[ends], far[ends], far[starts]], axis=1)


def _kerb(curve: np.ndarray, border: float) -> tuple[np.ndarray, list[Colour]]:
    """Return red and white blocks ``(n, 4, 2)`` along one border (an offset in m) in bends, and their colours."""
    edge = np.roll(curve, -1, axis=0) - curve
    heading = np.arctan2(edge[:, 1], edge[:, 0])
    turn = np.angle(np.exp(1j * (heading - np.roll(heading, _KERB_SPAN))))  # wrapped to (-pi, pi]
    curvature = np.abs(turn) / (_KERB_SPAN * np.hypot(edge[:, 0], edge[:, 1]))
    starts = np.arange(0, len(curve) - _KERB_BLOCK, _KERB_BLOCK)
    starts = starts[curvature[starts] > 1.0 / _KERB_MAX_RADIUS]
    outer = border + math.copysign(_KERB_WIDTH, border)
    colours = [_RED if start // _KERB_BLOCK % 2 else _PAINT for start in starts]
    return _quadrilaterals(curve, border, outer, starts, _KERB_BLOCK), colours
