"""Drawing in world coordinates on a picture that turns with the car."""

import math

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB

SUBPIXEL = 4  # bits of OpenCV's fixed-point coordinates
_HEAT = ((56, 120, 255), (60, 205, 225), (120, 225, 120), (250, 220, 70), (255, 140, 50), (240, 60, 60))
_SHADES = 24  # colours between the first and the last of _HEAT
_PALETTE = [
    tuple(round(np.interp(place, range(len(_HEAT)), channel)) for channel in zip(*_HEAT, strict=True))
    for place in np.linspace(0, len(_HEAT) - 1, _SHADES)
]


def heat(share: float) -> Colour:
    """Return the colour of a share in [0, 1]: from blue over green and yellow to red."""
    return _PALETTE[round(min(max(share, 0.0), 1.0) * (_SHADES - 1))]


def to_fixed(points: np.ndarray) -> np.ndarray:
    """Round pixel coordinates ``(n, 2)`` to OpenCV's fixed point."""
    return np.round(points * 2**SUBPIXEL).astype(np.int32)


def fill(picture: np.ndarray, outlines: list[np.ndarray], colour: Colour) -> None:
    """Fill polygons given in pixels; where two overlap, nothing is filled (even-odd)."""
    fixed = [to_fixed(outline) for outline in outlines]
    cv2.fillPoly(picture, fixed, colour, lineType=cv2.LINE_AA, shift=SUBPIXEL)


def line(picture: np.ndarray, points: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
    """Draw a line given in pixels."""
    thickness = max(round(width), 1)
    cv2.polylines(picture, [to_fixed(points)], closed, colour, thickness, cv2.LINE_AA, SUBPIXEL)


def heat_line(picture: np.ndarray, points: np.ndarray, shares: np.ndarray, width: float) -> None:
    """Draw a line given in pixels, ``(n, 2)``, in the colours of the shares ``(n,)`` at its points."""
    shade = np.round(np.clip(shares, 0.0, 1.0) * (_SHADES - 1)).astype(int)
    fixed, thickness = to_fixed(points), max(round(width), 1)
    change = [0, *(np.flatnonzero(np.diff(shade)) + 1), len(points)]  # one stroke per run of one colour
    for first, last in zip(change[:-1], change[1:], strict=True):
        stroke = fixed[max(first - 1, 0) : last]
        cv2.polylines(picture, [stroke], False, _PALETTE[shade[first]], thickness, cv2.LINE_AA, SUBPIXEL)


class Canvas:
    """A picture, and where in the world it looks.

    Attributes:
        picture: ``(size, size, 3)`` uint8, RGB.
    """

    def __init__(
        self, size: int, background: Colour, pose: tuple[float, float, float], metre: float, car_at: float
    ) -> None:
        """Place the camera.

        Args:
            size: Width and height in pixels.
            background: Colour to start from.
            pose: The car's x and y in m and heading in rad, which points up.
            metre: Pixels.
            car_at: Share of the height at which the car is seen.
        """
        self.picture = np.empty((size, size, 3), np.uint8)
        cv2.rectangle(self.picture, (0, 0), (size, size), background, cv2.FILLED)
        self._here = np.array(pose[:2])
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        self._metre = metre
        self._turn = np.array([[sin, -cos], [-cos, -sin]]).T * metre  # world (x, y) to pixel (column, row)
        self._centre = np.array([size / 2.0, car_at * size]) - 0.5

    def sees(self, points: np.ndarray, reach: float) -> np.ndarray:
        """Return per point ``(n, 2)`` whether it is within ``reach`` m of the car."""
        return np.hypot(*(points - self._here).T) < reach

    def fill(self, outlines: list[np.ndarray], colour: Colour) -> None:
        """Fill polygons ``(n, 2)`` given in m; even-odd."""
        fill(self.picture, [self._to_pixels(outline) for outline in outlines], colour)

    def fill_each(self, outlines: np.ndarray, colours: list[Colour]) -> None:
        """Fill many polygons ``(n, corners, 2)`` given in m, each in its colour."""
        for outline, colour in zip(to_fixed(self._to_pixels(outlines)), colours, strict=True):
            cv2.fillConvexPoly(self.picture, outline, colour, cv2.LINE_AA, SUBPIXEL)

    def fill_ahead(self, outline: np.ndarray, colour: Colour) -> None:
        """Fill a polygon ``(n, 2)`` given in m forward and to the right of the car."""
        fill(self.picture, [self._centre + self._metre * outline[:, ::-1] * (1.0, -1.0)], colour)

    def heat_line(self, points: np.ndarray, shares: np.ndarray, width: float) -> None:
        """Draw a line ``(n, 2)`` in the colours of the shares ``(n,)``; points and width in m."""
        heat_line(self.picture, self._to_pixels(points), shares, width * self._metre)

    def _to_pixels(self, points: np.ndarray) -> np.ndarray:
        return (points - self._here) @ self._turn + self._centre
