"""The video: a follow camera above the track, heading up, with instruments on top."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.envs import hud
from app.envs.canvas import Canvas, Colour
from app.envs.scene import Scene
from app.envs.track import Track, offset_curve

_VIEW, _VIEW_PER_SPEED = 58.0, 0.9  # m across the picture at standstill, and more per m/s
_CAR_AT = 0.66  # share of the height at which the car is drawn
_CURB, _CURB_SPAN = 2, 16  # points, about 1 m each: length of a block, and over how many a bend is judged
_CURB_WIDTH, _CURB_RADIUS = 1.3, 80.0  # m; wider bends have no curb
_CHEQUERS = 12  # squares across the road
_TRAIL = 240  # steps
_STRIPE = 9.0  # m, width of the mown stripes
_GRASS, _GRASS_MOWN, _VERGE = (104, 156, 84), (97, 148, 78), (123, 166, 99)
_ASPHALT, _PAINT, _DASH = (74, 78, 88), (238, 240, 242), (96, 101, 112)
_RED = (206, 62, 58)
_BODY, _GLASS, _TYRE, _SHADOW = (248, 166, 32), (32, 40, 54), (24, 26, 32), (46, 50, 58)
# The car in m (forward, right), drawn larger than life to be seen.
_BIG = 1.2
_HULL = ((2.9, 0.45), (2.4, 0.75), (0.9, 0.95), (-1.2, 1.15), (-2.6, 1.1), (-2.6, -1.1), (-1.2, -1.15))
_HULL += ((0.9, -0.95), (2.4, -0.75), (2.9, -0.45))
_COCKPIT = ((0.9, 0.5), (-0.9, 0.68), (-1.5, 0.5), (-1.5, -0.5), (-0.9, -0.68), (0.9, -0.5))
_WING = ((-2.3, 1.35), (-2.9, 1.35), (-2.9, -1.35), (-2.3, -1.35))
_WHEEL = ((0.6, 0.28), (-0.6, 0.28), (-0.6, -0.28), (0.6, -0.28))
_AXLES = ((1.75, 1.15, True), (1.75, -1.15, True), (-1.75, 1.25, False), (-1.75, -1.25, False))
_WHEEL_TURN = 0.5  # rad at full steer


class VideoCamera:
    """Paints scenes as square RGB pictures."""

    def __init__(self, size: int) -> None:
        """Set the size.

        Args:
            size: Width and height in pixels.
        """
        self._size = size

    def shoot(self, scene: Scene) -> np.ndarray:
        """Paint one frame.

        Args:
            scene: What to show.

        Returns:
            ``(size, size, 3)`` uint8, RGB.
        """
        view = _VIEW + _VIEW_PER_SPEED * scene.speed
        canvas = Canvas(self._size, _GRASS, scene.pose, self._size / view, _CAR_AT)
        _paint_grass(canvas, scene.pose, view)
        _paint_road(canvas, scene.track, view)
        _paint_line(canvas, scene.track, scene.start)
        _paint_trail(canvas, scene)
        _paint_car(canvas, scene.controls)
        hud.paint(canvas.picture, scene)
        return canvas.picture


def _paint_grass(canvas: Canvas, pose: tuple[float, float, float], view: float) -> None:
    """Mow stripes that stay in place, so that motion is seen beside the road too."""
    x, y, _ = pose
    first = 2 * math.floor((x - view) / _STRIPE / 2)
    left = np.arange(first, math.ceil((x + view) / _STRIPE), 2) * _STRIPE
    right, low, high = left + _STRIPE, np.full(len(left), y - view), np.full(len(left), y + view)
    stripes = np.stack([left, low, right, low, right, high, left, high], axis=1).reshape(-1, 4, 2)
    canvas.fill_each(stripes, [_GRASS_MOWN] * len(stripes))


def _paint_road(canvas: Canvas, track: Track, view: float) -> None:
    paint = _road_paint(track)
    canvas.fill(paint.verge, _VERGE)
    seen = np.flatnonzero(canvas.sees(paint.curbs[:, 0], view))
    canvas.fill_each(paint.curbs[seen], [paint.curb_colours[index] for index in seen])
    canvas.fill(paint.edges, _PAINT)
    canvas.fill(paint.asphalt, _ASPHALT)
    dashes = paint.dashes[canvas.sees(paint.dashes[:, 0], view)]
    canvas.fill_each(dashes, [_DASH] * len(dashes))


def _paint_line(canvas: Canvas, track: Track, start: float) -> None:
    """Paint the chequered line where the lap begins and ends."""
    x, y, heading, _ = track.pose(start)
    side = 2.0 * track.half_width / _CHEQUERS
    forward = side * np.array([math.cos(heading), math.sin(heading)])
    right = np.array([forward[1], -forward[0]])
    row, column = np.indices((2, _CHEQUERS)).reshape(2, -1, 1)
    corner = (x, y) + (row - 1) * forward + (column - _CHEQUERS / 2) * right
    squares = np.stack([corner, corner + forward, corner + forward + right, corner + right], axis=1)
    canvas.fill_each(squares, [_PAINT if odd else _TYRE for odd in (row + column)[:, 0] % 2])


def _paint_trail(canvas: Canvas, scene: Scene) -> None:
    shown = scene.trail[-_TRAIL:]
    canvas.heat_line(shown[:, :2], shown[:, 2] / scene.fast, 0.8)


def _paint_car(canvas: Canvas, controls: tuple[float, float, float]) -> None:
    gas, brake, steer = controls
    canvas.fill_ahead(_BIG * (np.array(_HULL) * 1.06 + (-0.35, 0.35)), _SHADOW)
    for forward, right, steered in _AXLES:
        angle = steer * _WHEEL_TURN if steered else 0.0
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        canvas.fill_ahead(_BIG * (np.array(_WHEEL) @ turn + (forward, right)), _TYRE)
    canvas.fill_ahead(_BIG * np.array(_WING), _RED if brake > 0.05 else _GLASS)
    canvas.fill_ahead(_BIG * np.array(_HULL), _BODY)
    canvas.fill_ahead(_BIG * np.array(_COCKPIT), _GLASS)


@dataclass(frozen=True)
class _RoadPaint:
    """What is painted on and beside a road; every outline in m."""

    verge: list[np.ndarray]  # rings of two borders each, outside in
    edges: list[np.ndarray]
    asphalt: list[np.ndarray]
    dashes: np.ndarray  # (n, 4, 2)
    curbs: np.ndarray  # (n, 4, 2)
    curb_colours: list[Colour]


@lru_cache(maxsize=16)
def _road_paint(track: Track) -> _RoadPaint:
    """Lay out the paint, once per track."""
    curve = track.curve[:: max(len(track.curve) // round(track.length), 1)]  # a point per metre
    half = track.half_width
    rings = [[offset_curve(curve, sign * reach) for sign in (1, -1)] for reach in (half + 3.2, half, half - 0.4)]
    dashes = np.arange(0, len(curve) - 4, 12)
    blocks = [_curbs(curve, sign * half) for sign in (1, -1)]
    return _RoadPaint(
        verge=rings[0],
        edges=rings[1],
        asphalt=rings[2],
        dashes=_strip(curve, -0.12, 0.12, dashes, 4),
        curbs=np.concatenate([outlines for outlines, _ in blocks]),
        curb_colours=[colour for _, colours in blocks for colour in colours],
    )


def _strip(curve: np.ndarray, inner: float, outer: float, starts: np.ndarray, count: int) -> np.ndarray:
    """Cut quadrilaterals ``(n, 4, 2)``, ``count`` points long, out of the strip between two offsets."""
    near, far = offset_curve(curve, inner), offset_curve(curve, outer)
    ends = (starts + count) % len(curve)
    return np.stack([near[starts], near[ends], far[ends], far[starts]], axis=1)


def _curbs(curve: np.ndarray, border: float) -> tuple[np.ndarray, list[Colour]]:
    """Lay red and white blocks along one border, in bends."""
    edge = np.roll(curve, -1, axis=0) - curve
    heading = np.arctan2(edge[:, 1], edge[:, 0])
    turn = np.angle(np.exp(1j * (heading - np.roll(heading, _CURB_SPAN))))  # wrapped to (-pi, pi]
    bend = np.abs(turn) / (_CURB_SPAN * np.hypot(edge[:, 0], edge[:, 1]))  # curvature, 1/m
    starts = np.arange(0, len(curve) - _CURB, _CURB)
    starts = starts[bend[starts] > 1.0 / _CURB_RADIUS]
    outer = border + math.copysign(_CURB_WIDTH, border)
    colours = [_RED if start // _CURB % 2 else _PAINT for start in starts]
    return _strip(curve, border, outer, starts, _CURB), colours
