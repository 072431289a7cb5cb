"""State of environments and random generators as tensors and plain values, which a checkpoint can contain."""

import random
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
    """Return nested dicts with every tensor as a new array."""
    if isinstance(value, Mapping):
        return {name: as_arrays(part) for name, part in value.items()}
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


def get_rng_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's global generators."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what ``get_rng_state`` returned; the GPUs' generators only if the number of GPUs is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
