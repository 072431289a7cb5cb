"""The instruments of the video: map, speed, lap, time and the driver's controls."""

import cv2
import numpy as np

from app.envs.canvas import Colour, fill, heat, heat_line, line
from app.envs.scene import Scene

# All lengths are for a picture of 480 pixels and grow with it.
_DESIGN = 480.0
_PANEL, _PANEL_ALPHA = (16, 20, 28), 0.72
_TEXT, _DIM, _WELL = (244, 246, 248), (158, 168, 182), (58, 66, 80)
_GAS, _BRAKE, _STEER, _ROAD = (88, 214, 120), (240, 84, 78), (92, 172, 255), (150, 160, 176)
_BANNERS: dict[str, tuple[str, Colour]] = {
    "lap": ("LAP COMPLETE", _GAS),
    "off_track": ("OFF TRACK", _BRAKE),
    "stalled": ("STALLED", _BRAKE),
    "timeout": ("TIME OUT", _DIM),
}


def paint(picture: np.ndarray, scene: Scene) -> None:
    """Paint all instruments onto a finished picture of the world, in place."""
    unit = len(picture) / _DESIGN
    _paint_map(picture, scene, unit)
    _panel(picture, (12, 396, 468, 468), unit)
    _paint_speed(picture, scene, unit)
    _paint_lap(picture, scene, unit)
    _paint_controls(picture, scene.controls, unit)
    if scene.outcome:
        text, colour = _BANNERS[scene.outcome]
        _panel(picture, (130, 24, 330, 64), unit)
        _text(picture, text, (230, 51), 0.72, colour, unit, anchor=0.5)


def _paint_map(picture: np.ndarray, scene: Scene, unit: float) -> None:
    left, top, right, bottom = 344, 12, 468, 136
    _panel(picture, (left, top, right, bottom), unit)
    low, high = scene.track.centre.min(axis=0), scene.track.centre.max(axis=0)
    scale = (right - left - 28) / (high - low).max()
    middle, centre = (low + high) / 2.0, np.array([(left + right) / 2.0, (top + bottom) / 2.0])

    def place(points: np.ndarray) -> np.ndarray:
        return unit * (centre + (points - middle) * scale * (1.0, -1.0))

    line(picture, place(scene.track.centre), _WELL, 7 * unit, closed=True)
    line(picture, place(scene.track.centre), _ROAD, 4 * unit, closed=True)
    driven = scene.trail[::4]
    heat_line(picture, place(driven[:, :2]), driven[:, 2] / scene.fast, 3 * unit)
    _dot(picture, place(np.array(scene.track.pose(scene.start)[:2])), 3.5, _TEXT, unit)
    _dot(picture, place(np.array(scene.pose[:2])), 6.5, _PANEL, unit)
    _dot(picture, place(np.array(scene.pose[:2])), 5.0, (248, 166, 32), unit)


def _paint_speed(picture: np.ndarray, scene: Scene, unit: float) -> None:
    _text(picture, f"{scene.speed * 3.6:.0f}", (90, 440), 1.15, _TEXT, unit, anchor=1.0)
    _text(picture, "km/h", (96, 440), 0.48, _DIM, unit)
    share = scene.speed / scene.fast
    _bar(picture, (26, 450, 134, 458), 0.0, share, heat(share), unit)


def _paint_lap(picture: np.ndarray, scene: Scene, unit: float) -> None:
    _text(picture, "LAP", (158, 420), 0.42, _DIM, unit)
    _text(picture, f"{100 * scene.lap_share:.0f}%", (268, 438), 0.8, _TEXT, unit, anchor=1.0)
    _text(picture, f"{scene.seconds:.1f} s", (158, 438), 0.48, _TEXT, unit)
    _bar(picture, (158, 450, 268, 458), 0.0, scene.lap_share, _TEXT, unit)


def _paint_controls(picture: np.ndarray, controls: tuple[float, float, float], unit: float) -> None:
    gas, brake, steer = controls
    for row, (name, low, high, colour) in enumerate(
        [
            ("GAS", 0.0, gas, _GAS),
            ("BRAKE", 0.0, brake, _BRAKE),
            ("STEER", 0.5, 0.5 + steer / 2.0, _STEER),
        ]
    ):
        y = 408 + 20 * row
        _text(picture, name, (294, y + 9), 0.42, _DIM, unit)
        _bar(picture, (350, y, 456, y + 9), low, high, colour, unit)


def _bar(
    picture: np.ndarray,
    box: tuple[float, float, float, float],
    low: float,
    high: float,
    colour: Colour,
    unit: float,
) -> None:
    """Draw a well, filled between two shares of its width."""
    left, top, right, bottom = box
    _box(picture, box, _WELL, unit)
    low, high = (left + (right - left) * min(max(share, 0.0), 1.0) for share in sorted((low, high)))
    if high - low > 0.5:
        _box(picture, (low, top, high, bottom), colour, unit)


def _box(picture: np.ndarray, box: tuple[float, float, float, float], colour: Colour, unit: float) -> None:
    left, top, right, bottom = (round(edge * unit) for edge in box)
    picture[top:bottom, left:right] = colour


def _dot(picture: np.ndarray, centre: np.ndarray, radius: float, colour: Colour, unit: float) -> None:
    angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    fill(picture, [centre + radius * unit * np.stack([np.cos(angle), np.sin(angle)], axis=1)], colour)


def _panel(picture: np.ndarray, box: tuple[int, int, int, int], unit: float) -> None:
    """Darken a rectangle with round corners."""
    left, top, right, bottom = (round(edge * unit) for edge in box)
    area = picture[top:bottom, left:right]
    shade, radius = area.copy(), 10 * unit
    width, height = right - left, bottom - top
    angle = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    corner = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = np.sign(corner) * (width / 2 - radius, height / 2 - radius)
    fill(shade, [np.array([width, height]) / 2 - 0.5 + middle + radius * corner], _PANEL)
    area[:] = cv2.addWeighted(shade, _PANEL_ALPHA, area, 1.0 - _PANEL_ALPHA, 0.0)


def _text(
    picture: np.ndarray,
    text: str,
    at: tuple[float, float],
    scale: float,
    colour: Colour,
    unit: float,
    anchor: float = 0.0,
) -> None:
    """Write a line whose share ``anchor`` of its width lies at ``at``."""
    thickness = max(round(0.75 * unit), 1)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale * unit, thickness)
    place = (round(at[0] * unit - anchor * width), round(at[1] * unit))
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_DUPLEX, scale * unit, colour, thickness, cv2.LINE_AA)
