"""Recorded trajectory of tmrl's reward, read without executing code from its pickle."""

import pickle
from pathlib import Path

import numpy as np

from app.envs.spec import EnvError

_MIN_POINTS = 100  # 10 m
_MAX_BYTES = 200_000_000
# Names in a pickled array of numbers under NumPy 1 and 2; any other name in a pickle could execute a program.
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


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array of numbers")


def load_trajectory(file: str) -> np.ndarray:
    """Read a reward file that tmrl has recorded.

    Args:
        file: Path of a pickled array; ``~`` is the user's home.

    Returns:
        The points ``(N, 3)`` float64, m.

    Raises:
        EnvError: If the file does not exist, is not such an array, or is too short to drive along.
    """
    path = Path(file).expanduser()
    points, problem = None, None
    try:
        if path.stat().st_size > _MAX_BYTES:
            problem = f"is larger than {_MAX_BYTES:,} bytes, which no trajectory is"
        else:
            with path.open("rb") as pickled:
                loaded = np.asarray(_ArrayUnpickler(pickled).load())
            if np.iscomplexobj(loaded):  # NumPy would drop a part of each number
                raise ValueError("its numbers are complex")
            points = loaded.astype(np.float64)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except Exception as error:  # a damaged pickle may raise anything
        problem = f"is no recorded trajectory: {error}"
    if problem := problem or _shape_problem(points):
        raise EnvError(
            f"env.reward_file = {path}: {problem}. Record one with python -m tmrl --record-reward "
            "(docs/trackmania.md), or set another env.reward_file."
        )
    return points


def _shape_problem(points: np.ndarray) -> str | None:
    """Return why an array is no usable trajectory, or None if it is one."""
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        return f"holds numbers of shape {points.shape}, and must hold finite ones of shape (N, 3)"
    if len(points) < _MIN_POINTS:
        return f"has {len(points)} points, and needs {_MIN_POINTS} or more"
    return None


def trajectory_length(points: np.ndarray) -> float:
    """Return the length of a trajectory ``(N, 3)``, m."""
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def full_lap_return(points: np.ndarray) -> float:
    """Return the reward that tmrl gives for a whole trajectory ``(N, 3)``: 1 for every 100 points."""
    return (len(points) - 1) / 100
