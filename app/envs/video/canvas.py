"""Drawing in world coordinates on an image that turns with the car."""

import math

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB

SUBPIXEL_BITS = 4  # of OpenCV's fixed-point coordinates
_HEAT_STOPS = ((56, 120, 255), (60, 205, 225), (120, 225, 120), (250, 220, 70), (255, 140, 50), (240, 60, 60))
_HEAT_COLOURS = 24  # from the first to the last of _HEAT_STOPS
_PALETTE = [
    tuple(round(np.interp(place, range(len(_HEAT_STOPS)), channel)) for channel in zip(*_HEAT_STOPS, strict=True))
    for place in np.linspace(0, len(_HEAT_STOPS) - 1, _HEAT_COLOURS)
]


def heat_colour(share: float) -> Colour:
    """Return the colour of a share in [0, 1]: from blue over green and yellow to red."""
    return _PALETTE[round(min(max(share, 0.0), 1.0) * (_HEAT_COLOURS - 1))]


def to_fixed_point(points: np.ndarray) -> np.ndarray:
    """Convert pixel coordinates ``(..., 2)`` to OpenCV's fixed point, int32."""
    return np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)


def fill_polygons(image: np.ndarray, outlines: list[np.ndarray], colour: Colour) -> None:
    """Fill polygons in place; where two overlap, nothing is filled (even-odd rule).

    Args:
        image: ``(H, W, 3)`` uint8.
        outlines: One ``(n, 2)`` per polygon, in pixels.
        colour: RGB.
    """
    fixed = [to_fixed_point(outline) for outline in outlines]
    cv2.fillPoly(image, fixed, colour, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)


def draw_closed_line(image: np.ndarray, points: np.ndarray, colour: Colour, width: float) -> None:
    """Draw a closed line in place.

    Args:
        image: ``(H, W, 3)`` uint8.
        points: ``(n, 2)``, in pixels.
        colour: RGB.
        width: In pixels.
    """
    cv2.polylines(image, [to_fixed_point(points)], True, colour, _thickness(width), cv2.LINE_AA, SUBPIXEL_BITS)


def draw_heat_line(image: np.ndarray, points: np.ndarray, shares: np.ndarray, width: float) -> None:
    """Draw an open line in place, coloured by a share at each of its points.

    Args:
        image: ``(H, W, 3)`` uint8.
        points: ``(n, 2)``, in pixels.
        shares: ``(n,)``; see ``heat_colour``.
        width: In pixels.
    """
    colours = np.round(np.clip(shares, 0.0, 1.0) * (_HEAT_COLOURS - 1)).astype(int)
    fixed = to_fixed_point(points)
    runs = [0, *(np.flatnonzero(np.diff(colours)) + 1), len(points)]  # one polyline per run of one colour
    for first, end in zip(runs[:-1], runs[1:], strict=True):
        run, colour = fixed[max(first - 1, 0) : end], _PALETTE[colours[first]]
        cv2.polylines(image, [run], False, colour, _thickness(width), cv2.LINE_AA, SUBPIXEL_BITS)


def _thickness(width: float) -> int:
    return max(round(width), 1)


class Canvas:
    """Square image with a follow camera: the car has a fixed place, and its heading points up.

    Args:
        size: Width and height in pixels.
        background: Colour of the empty image.
        pose: The car's x and y in m and heading in rad.
        pixels_per_metre: Scale.
        car_height: Share of the height, from the top, at which the car is seen.

    Attributes:
        image: ``(size, size, 3)`` uint8, RGB.
    """

    def __init__(
        self,
        size: int,
        background: Colour,
        pose: tuple[float, float, float],
        pixels_per_metre: float,
        car_height: float,
    ) -> None:
        self.image = np.empty((size, size, 3), np.uint8)
        cv2.rectangle(self.image, (0, 0), (size, size), background, cv2.FILLED)
        self._car_position = np.array(pose[:2])
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        self._pixels_per_metre = pixels_per_metre
        self._rotation = np.array([[sin, -cos], [-cos, -sin]]).T * pixels_per_metre  # world (x, y) to (column, row)
        self._car_pixel = np.array([size / 2.0, car_height * size]) - 0.5

    def is_near(self, points: np.ndarray, distance: float) -> np.ndarray:
        """Return ``(n,)`` bool: whether points ``(n, 2)`` in m are within ``distance`` m of the car."""
        return np.hypot(*(points - self._car_position).T) < distance

    def fill_polygons(self, outlines: list[np.ndarray], colour: Colour) -> None:
        """Fill polygons ``(n, 2)`` in m, by the even-odd rule."""
        fill_polygons(self.image, [self._to_pixels(outline) for outline in outlines], colour)

    def fill_convex_polygons(self, outlines: np.ndarray, colours: list[Colour]) -> None:
        """Fill many convex polygons ``(n, corners, 2)`` in m, each with its colour."""
        for outline, colour in zip(to_fixed_point(self._to_pixels(outlines)), colours, strict=True):
            cv2.fillConvexPoly(self.image, outline, colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def fill_car_polygon(self, outline: np.ndarray, colour: Colour) -> None:
        """Fill a polygon ``(n, 2)`` in m forward and to the right of the car."""
        fill_polygons(self.image, [self._car_pixel + self._pixels_per_metre * outline[:, ::-1] * (1.0, -1.0)], colour)

    def draw_heat_line(self, points: np.ndarray, shares: np.ndarray, width: float) -> None:
        """Draw a line ``(n, 2)`` in the colours of the shares ``(n,)``; points and width in m."""
        draw_heat_line(self.image, self._to_pixels(points), shares, width * self._pixels_per_metre)

    def _to_pixels(self, points: np.ndarray) -> np.ndarray:
        return (points - self._car_position) @ self._rotation + self._car_pixel
