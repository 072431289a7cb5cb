"""The recorded trajectory that tmrl's reward follows, read without letting it run code."""

import pickle
from pathlib import Path

import numpy as np

from app.envs.spec import EnvError

SPACING = 0.1  # m between two points that tmrl records
_LEAST = 100  # points: 10 m
_LARGEST = 200_000_000  # bytes
# What a pickled array of numbers names, under NumPy 1 and 2; everything else in a pickle could be a program.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _NumbersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array of numbers")


def load_trajectory(file: str) -> np.ndarray:
    """Return the points ``(N, 3)`` float64, m, of a reward file that tmrl has recorded.

    Args:
        file: a pickle of an array; ``~`` is the user's home.

    Raises:
        EnvError: there is none, it is not such an array, or too short to drive along.
    """
    remedy = "Record one with python -m tmrl --record-reward (docs/trackmania.md), or name another: env.reward_file."
    path = Path(file).expanduser()
    try:
        if path.stat().st_size > _LARGEST:
            raise EnvError(
                f"env.reward_file = {path}: is larger than {_LARGEST:,} bytes, which no trajectory is. {remedy}"
            )
        with path.open("rb") as pickled:
            points = np.asarray(_NumbersOnly(pickled).load(), np.float64)
    except OSError as error:
        raise EnvError(f"env.reward_file = {path}: cannot be read ({error.strerror}). {remedy}") from None
    except EnvError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise EnvError(f"env.reward_file = {path}: is no recorded trajectory: {error}. {remedy}") from None
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise EnvError(
            f"env.reward_file = {path}: holds {points.shape} numbers, and must hold (N, 3) finite ones. {remedy}"
        )
    if len(points) < _LEAST:
        raise EnvError(f"env.reward_file = {path}: has {len(points)} points, and needs {_LEAST} or more. {remedy}")
    return points


def length_of(points: np.ndarray) -> float:
    """Return the length of a trajectory, m."""
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def best_return(points: np.ndarray) -> float:
    """Return what tmrl's reward gives for the whole trajectory: 1 for every 100 points."""
    return (len(points) - 1) / 100
