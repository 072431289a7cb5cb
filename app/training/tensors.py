"""Arrays as tensors and back: a checkpoint that is read with ``weights_only=True`` holds no NumPy objects."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def as_tensors(value: Any) -> Any:
    """Return nested dicts with every array as a tensor and every NumPy scalar as a Python number."""
    if isinstance(value, Mapping):
        return {name: as_tensors(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def as_arrays(value: Any) -> Any:
    """Return nested dicts with every tensor as an array of its own."""
    if isinstance(value, Mapping):
        return {name: as_arrays(part) for name, part in value.items()}
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value
