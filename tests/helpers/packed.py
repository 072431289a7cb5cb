"""Inverse of ``app.viewer.packed_data``, as ``viewer.js`` computes it."""

import base64
from typing import Any

import cv2
import numpy as np


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """Return packed numbers as float64; what is missing as NaN."""
    whole = np.frombuffer(base64.b64decode(packed["data"]), "<i2")
    return np.where(whole == -(2**15), np.nan, whole * packed["step"])


def bytes_of(text: str) -> np.ndarray:
    """Return the bytes of base64 text."""
    return np.frombuffer(base64.b64decode(text), np.uint8)


def picture_of(sheet: dict[str, Any]) -> np.ndarray:
    """Return the grey picture of a sheet of frames."""
    head, _, data = sheet["source"].partition(",")
    assert head == "data:image/webp;base64"
    return cv2.imdecode(bytes_of(data), cv2.IMREAD_GRAYSCALE)
