"""Numbers and pictures in the form in which a page carries them."""

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

MISSING = -(2**15)  # stands for NaN
_LARGEST = 2**15 - 1
_COLUMNS = 32  # frames beside one another in a sheet
_QUALITIES = (101, 80, 60, 40)  # of WebP; above 100 it is lossless


def pack_numbers(values: ArrayLike, step: float) -> dict[str, Any]:
    """Return numbers as little-endian int16, base64; ``unpack`` of ``viewer.js`` is the inverse.

    Args:
        values: Numbers of any shape; NaN is kept.
        step: Unit in which they are rounded; a larger one is taken where 16 bits do not hold the largest number.

    Returns:
        The step and the data, row by row.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    largest = np.abs(values[known]).max(initial=0.0)
    step = max(step, largest / _LARGEST)
    whole = np.where(known, np.round(np.where(known, values, 0.0) / step), MISSING)
    return {"step": step, "data": base64.b64encode(whole.astype("<i2").tobytes()).decode()}


def pack_shares(values: ArrayLike) -> str:
    """Return shares in [0, 1] as bytes from 0 to 255, base64, row by row."""
    return base64.b64encode(np.round(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8).tobytes()).decode()


def frame_sheets(films: Sequence[np.ndarray], budget: int) -> list[dict[str, Any]]:
    """Return every film as one WebP picture, a data URI, with its frames in rows of 32.

    They are lossless if all of them together keep the budget, and else as good as it allows.

    Args:
        films: Grey frames ``(n, H, W)`` uint8 of every film.
        budget: Bytes of all pictures.
    """
    sheets = [_sheet(film) for film in films]
    for quality in _QUALITIES:
        files = [cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes() for sheet in sheets]
        if sum(map(len, files)) <= budget:
            break
    return [
        {
            "source": f"data:image/webp;base64,{base64.b64encode(file).decode()}",
            "columns": _COLUMNS,
            "size": film.shape[1],
        }
        for film, file in zip(films, files, strict=True)
    ]


def _sheet(film: np.ndarray) -> np.ndarray:
    """Return the frames ``(n, H, W)`` of a film in rows, as one picture ``(rows · H, 32 · W)``."""
    count, height, width = film.shape
    rows = -(-count // _COLUMNS)
    full = np.zeros((rows * _COLUMNS, height, width), np.uint8)
    full[:count] = film
    return full.reshape(rows, _COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, _COLUMNS * width)
