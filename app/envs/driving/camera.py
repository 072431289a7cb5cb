"""Simulated camera: a small grey image of the road from above, turned with the car."""

import math

import cv2
import numpy as np

from app.envs.tracks.track import Track
from app.envs.video.canvas import SUBPIXEL_BITS, to_fixed_point

_VIEW = 64.0  # m, width and height of the view
_CAR_HEIGHT = 0.75  # share of the height, from the top, at which the car is
_GRASS, _ROAD, _BORDER, _CAR = 30, 110, 255, 190
_CAR_LENGTH, _CAR_WIDTH = 4.0, 2.0  # m
_OVERSAMPLING = 2  # pixels of the map per pixel of the image, along each axis


class Camera:
    """Cuts images out of a map of the track, which is drawn once.

    Args:
        track: The track to look at.
        size: Height and width of the image in pixels; they span 64 m.
    """

    def __init__(self, track: Track, size: int) -> None:
        # OpenCV's threads cost more than they gain at this size, and compete with those of torch
        cv2.setNumThreads(1)
        self._size = size
        self._pixels_per_metre = size / _VIEW
        self._map, self._left, self._top = _draw_map(track, self._pixels_per_metre * _OVERSAMPLING)
        self._row = _CAR_HEIGHT * size - 0.5  # of the car; pixel centres lie at whole numbers
        self._column = (size - 1) / 2.0
        half_length, half_width = (
            max(round(metres * self._pixels_per_metre / 2.0), 1) for metres in (_CAR_LENGTH, _CAR_WIDTH)
        )
        row, column = round(_CAR_HEIGHT * size), size // 2
        self._car = slice(row - half_length, row + half_length), slice(column - half_width, column + half_width)

    def capture(self, x: float, y: float, heading: float, image: np.ndarray | None = None) -> np.ndarray:
        """Take an image.

        Args:
            x: Position of the car, m.
            y: Position of the car, m.
            heading: rad; it points up in the image.
            image: ``(size, size)`` uint8 that receives the image; None for a new one.

        Returns:
            ``(size, size)`` uint8: grass dark, road grey, border white, car light grey.
        """
        cos, sin = _OVERSAMPLING * math.cos(heading), _OVERSAMPLING * math.sin(heading)
        scale = self._pixels_per_metre * _OVERSAMPLING
        # pixel of the map under pixel (column, row) of the image; the map's rows run against y
        origin_x = (x - self._left) * scale - 0.5 - sin * self._column + cos * self._row
        origin_y = (self._top - y) * scale - 0.5 - cos * self._column - sin * self._row
        image = cv2.warpAffine(
            self._map,
            np.array([[sin, -cos, origin_x], [cos, sin, origin_y]]),
            (self._size, self._size),
            dst=image,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=_GRASS,
        )
        image[self._car] = _CAR
        return image


def _draw_map(track: Track, pixels_per_metre: float) -> tuple[np.ndarray, float, float]:
    """Draw a track from above.

    Args:
        track: The track.
        pixels_per_metre: Scale.

    Returns:
        The map ``(rows, columns)`` uint8 and the world position (m) of its left and top edge.
    """
    corners = np.concatenate([track.left, track.right])
    left, top = corners[:, 0].min() - 2.0, corners[:, 1].max() + 2.0
    width, height = corners[:, 0].max() + 2.0 - left, top - corners[:, 1].min() + 2.0
    image = np.full((math.ceil(height * pixels_per_metre), math.ceil(width * pixels_per_metre)), _GRASS, np.uint8)
    borders = [
        to_fixed_point(np.stack([side[:, 0] - left, top - side[:, 1]], axis=1) * pixels_per_metre - 0.5)
        for side in (track.left, track.right)
    ]
    cv2.fillPoly(image, borders, _ROAD, lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)  # even-odd: the ring between
    cv2.polylines(image, borders, True, _BORDER, thickness=_OVERSAMPLING, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
    return image, float(left), float(top)
