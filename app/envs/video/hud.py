"""Instruments of the video: map, speed, lap, time and the driver's controls."""

import cv2
import numpy as np

from app.envs.video.canvas import Colour, draw_closed_line, draw_heat_line, fill_polygons, heat_colour
from app.envs.video.render_state import RenderState

# All lengths are for an image of 480 pixels and grow with it: ``zoom`` is the size of the image divided by that.
DESIGN_SIZE = 480.0
_PANEL, _PANEL_ALPHA = (16, 20, 28), 0.72
TEXT, LABEL, _BAR_BACKGROUND = (244, 246, 248), (158, 168, 182), (58, 66, 80)
GHOST = (150, 120, 235)  # of a car that drives alongside
_GAS, _BRAKE, _STEER, _ROAD, _CAR = (88, 214, 120), (240, 84, 78), (92, 172, 255), (150, 160, 176), (248, 166, 32)
_BANNERS: dict[str, tuple[str, Colour]] = {
    "lap": ("LAP COMPLETE", _GAS),
    "off_track": ("OFF TRACK", _BRAKE),
    "stalled": ("STALLED", _BRAKE),
    "timeout": ("TIME OUT", LABEL),
}

Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_hud(image: np.ndarray, state: RenderState) -> None:
    """Draw all instruments in place.

    Args:
        image: ``(size, size, 3)`` uint8, RGB; a finished image of the world.
        state: State of the episode.
    """
    zoom = len(image) / DESIGN_SIZE
    _draw_map(image, state, zoom)
    draw_panel(image, (12, 396, 468, 468), zoom)
    _draw_speed(image, state, zoom)
    _draw_lap(image, state, zoom)
    _draw_controls(image, state.controls, zoom)
    if state.outcome is not None:
        text, colour = _BANNERS[state.outcome]
        draw_panel(image, (130, 24, 330, 64), zoom)
        draw_text(image, text, (230, 51), 0.72, colour, zoom, anchor=0.5)


def draw_caption(image: np.ndarray, text: str) -> None:
    """Write a line into the upper left corner, beside the map; of one that is too long, its end.

    Args:
        image: ``(H, W, 3)`` uint8, RGB; a finished image.
        text: The line, in ASCII.
    """
    zoom = len(image) / DESIGN_SIZE
    shown = text
    while text and _text_width(shown, 0.42, zoom) > 308 * zoom:
        text = text[1:]
        shown = f"...{text}"
    draw_panel(image, (12, 3, 28 + _text_width(shown, 0.42, zoom) / zoom, 22), zoom)
    draw_text(image, shown, (20, 17), 0.42, LABEL, zoom)


def _draw_map(image: np.ndarray, state: RenderState, zoom: float) -> None:
    left, top, right, bottom = 344, 12, 468, 136
    draw_panel(image, (left, top, right, bottom), zoom)
    low, high = state.track.centre.min(axis=0), state.track.centre.max(axis=0)
    scale = (right - left - 28) / (high - low).max()
    middle, centre = (low + high) / 2.0, np.array([(left + right) / 2.0, (top + bottom) / 2.0])

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return zoom * (centre + (points - middle) * scale * (1.0, -1.0))

    draw_closed_line(image, to_pixels(state.track.centre), _BAR_BACKGROUND, 7 * zoom)
    draw_closed_line(image, to_pixels(state.track.centre), _ROAD, 4 * zoom)
    trail = state.trail[::4]
    draw_heat_line(image, to_pixels(trail[:, :2]), trail[:, 2] / state.fast_speed, 3 * zoom)
    _draw_dot(image, to_pixels(np.array(state.track.pose(state.start)[:2])), 3.5, TEXT, zoom)
    if state.ghost is not None:
        _draw_dot(image, to_pixels(np.array(state.ghost[:2])), 4.5, GHOST, zoom)
    _draw_dot(image, to_pixels(np.array(state.pose[:2])), 6.5, _PANEL, zoom)
    _draw_dot(image, to_pixels(np.array(state.pose[:2])), 5.0, _CAR, zoom)


def _draw_speed(image: np.ndarray, state: RenderState, zoom: float) -> None:
    draw_text(image, f"{state.speed * 3.6:.0f}", (90, 440), 1.15, TEXT, zoom, anchor=1.0)
    draw_text(image, "km/h", (96, 440), 0.48, LABEL, zoom)
    share = state.speed / state.fast_speed
    _draw_bar(image, (26, 450, 134, 458), 0.0, share, heat_colour(share), zoom)


def _draw_lap(image: np.ndarray, state: RenderState, zoom: float) -> None:
    draw_text(image, "LAP", (158, 420), 0.42, LABEL, zoom)
    draw_text(image, f"{100 * state.lap_share:.0f}%", (268, 438), 0.8, TEXT, zoom, anchor=1.0)
    draw_text(image, f"{state.seconds:.1f} s", (158, 438), 0.48, TEXT, zoom)
    _draw_bar(image, (158, 450, 268, 458), 0.0, state.lap_share, TEXT, zoom)


def _draw_controls(image: np.ndarray, controls: tuple[float, float, float], zoom: float) -> None:
    gas, brake, steer = controls
    bars = [
        ("GAS", 0.0, gas, _GAS),
        ("BRAKE", 0.0, brake, _BRAKE),
        ("STEER", 0.5, 0.5 + steer / 2.0, _STEER),
    ]
    for row, (name, low, high, colour) in enumerate(bars):
        y = 408 + 20 * row
        draw_text(image, name, (294, y + 9), 0.42, LABEL, zoom)
        _draw_bar(image, (350, y, 456, y + 9), low, high, colour, zoom)


def _draw_bar(image: np.ndarray, box: Box, low: float, high: float, colour: Colour, zoom: float) -> None:
    """Draw a bar that is filled between two shares of its width."""
    left, top, right, bottom = box
    _draw_box(image, box, _BAR_BACKGROUND, zoom)
    low, high = (left + (right - left) * min(max(share, 0.0), 1.0) for share in sorted((low, high)))
    if high - low > 0.5:
        _draw_box(image, (low, top, high, bottom), colour, zoom)


def _draw_box(image: np.ndarray, box: Box, colour: Colour, zoom: float) -> None:
    left, top, right, bottom = (round(edge * zoom) for edge in box)
    image[top:bottom, left:right] = colour


def _draw_dot(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour, zoom: float) -> None:
    """Draw a filled circle around ``centre`` ``(2,)``, which is given in pixels of the image."""
    angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    fill_polygons(image, [centre + radius * zoom * np.stack([np.cos(angle), np.sin(angle)], axis=1)], colour)


def draw_panel(image: np.ndarray, box: Box, zoom: float) -> None:
    """Darken a rectangle with round corners."""
    left, top, right, bottom = (round(edge * zoom) for edge in box)
    area = image[top:bottom, left:right]
    darkened, radius = area.copy(), 10 * zoom
    width, height = right - left, bottom - top
    angle = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    corners = np.sign(circle) * (width / 2 - radius, height / 2 - radius)
    fill_polygons(darkened, [np.array([width, height]) / 2 - 0.5 + corners + radius * circle], _PANEL)
    area[:] = cv2.addWeighted(darkened, _PANEL_ALPHA, area, 1.0 - _PANEL_ALPHA, 0.0)


def draw_text(
    image: np.ndarray,
    text: str,
    position: tuple[float, float],
    font_scale: float,
    colour: Colour,
    zoom: float,
    anchor: float = 0.0,
) -> None:
    """Write a line of text, of whose width the share ``anchor`` is left of ``position``."""
    width = _text_width(text, font_scale, zoom)
    origin = (round(position[0] * zoom - anchor * width), round(position[1] * zoom))
    thickness = _thickness(zoom)
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_DUPLEX, font_scale * zoom, colour, thickness, cv2.LINE_AA)


def _text_width(text: str, font_scale: float, zoom: float) -> int:
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, font_scale * zoom, _thickness(zoom))[0][0]


def _thickness(zoom: float) -> int:
    return max(round(0.75 * zoom), 1)
