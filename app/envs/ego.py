"""The simulated camera: a small grey picture of the road from above, turned with the car."""

import math

import cv2
import numpy as np

from app.envs.canvas import SUBPIXEL, to_fixed
from app.envs.track import Track

_FIELD = 64.0  # m that the picture is wide and high
_AHEAD = 0.75  # share of the height that lies ahead of the car
_GRASS, _ROAD, _BORDER, _CAR = 30, 110, 255, 190
_CAR_LENGTH, _CAR_WIDTH = 4.0, 2.0  # m
_FINER = 2  # pixels of the map per pixel of the picture, along each axis


class EgoCamera:
    """Cuts the picture out of a map of the track that was drawn once."""

    def __init__(self, track: Track, size: int) -> None:
        """Draw or look up the map.

        Args:
            track: The track to look at.
            size: Height and width of the picture in pixels; they span 64 m.
        """
        # OpenCV's threads cost more than they bring at this size, and compete with those of torch
        cv2.setNumThreads(1)
        self._size = size
        self._metre = size / _FIELD  # pixels
        self._map, self._left, self._top = _draw_map(track, self._metre * _FINER)
        self._row = _AHEAD * size - 0.5  # of the car; pixel centres lie at whole numbers
        self._column = (size - 1) / 2.0
        tall, wide = (max(round(metres * self._metre / 2.0), 1) for metres in (_CAR_LENGTH, _CAR_WIDTH))
        row, column = round(_AHEAD * size), size // 2
        self._car = slice(row - tall, row + tall), slice(column - wide, column + wide)

    def shoot(self, x: float, y: float, heading: float) -> np.ndarray:
        """Take a picture.

        Args:
            x: m.
            y: m.
            heading: rad; it points up in the picture.

        Returns:
            ``(size, size)`` uint8: grass dark, road grey, border white, car light grey.
        """
        cos, sin = _FINER * math.cos(heading), _FINER * math.sin(heading)
        scale = self._metre * _FINER
        # pixel of the map under pixel (column, row) of the picture; the map's rows run against y
        at_x = (x - self._left) * scale - 0.5 - sin * self._column + cos * self._row
        at_y = (self._top - y) * scale - 0.5 - cos * self._column - sin * self._row
        matrix = np.array([[sin, -cos, at_x], [cos, sin, at_y]])
        picture = cv2.warpAffine(
            self._map,
            matrix,
            (self._size, self._size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=_GRASS,
        )
        picture[self._car] = _CAR
        return picture


def _draw_map(track: Track, metre: float) -> tuple[np.ndarray, float, float]:
    """Draw a track from above.

    Args:
        track: The track.
        metre: Pixels.

    Returns:
        The map ``(rows, columns)`` uint8 and the world position (m) of its left and top edge.
    """
    corners = np.concatenate([track.left, track.right])
    left, top = corners[:, 0].min() - 2.0, corners[:, 1].max() + 2.0
    width, height = corners[:, 0].max() + 2.0 - left, top - corners[:, 1].min() + 2.0
    picture = np.full((math.ceil(height * metre), math.ceil(width * metre)), _GRASS, np.uint8)
    borders = [
        to_fixed(np.stack([side[:, 0] - left, top - side[:, 1]], axis=1) * metre - 0.5)
        for side in (track.left, track.right)
    ]
    cv2.fillPoly(picture, borders, _ROAD, lineType=cv2.LINE_8, shift=SUBPIXEL)  # even-odd: the ring between
    cv2.polylines(picture, borders, True, _BORDER, thickness=_FINER, lineType=cv2.LINE_AA, shift=SUBPIXEL)
    return picture, float(left), float(top)
