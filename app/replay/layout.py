"""Which arrays the replay keeps, and where each number of a step stands in its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.envs.spec import ObservationSpec

MIN_SLACK = 1024  # rows
SLACK_SHARE = 20  # one row in so many

MAX_AGE = np.iinfo(np.uint16).max  # an age stays there: only "long ago" matters beyond the longest history


@dataclass(frozen=True)
class RowLayout:
    """Columns of a stored row: the other sensors, the window's sensors, the action, the reward.

    The columns of the context window stand side by side, so that a window is a slice of the stored rows and
    costs no second gather.

    Attributes:
        stored_sensors: For each sensor column of a row, which sensor it holds.
        sensor_columns: For each sensor, the column that holds it.
        window: The columns that make up a row of the context window.
        action: The columns of the action that led to the step.
        reward: The column of the reward that came with the step.
        width: Number of columns.
    """

    stored_sensors: tuple[int, ...]
    sensor_columns: tuple[int, ...]
    window: slice
    action: slice
    reward: int
    width: int

    @classmethod
    def of(cls, spec: ObservationSpec) -> "RowLayout":
        """Lay out the rows for one observation contract."""
        hidden = tuple(sensor for sensor in range(spec.sensors) if sensor not in spec.window_sensors)
        stored = hidden + spec.window_sensors
        action = slice(len(stored), len(stored) + spec.action_dim)
        return cls(
            stored_sensors=stored,
            sensor_columns=tuple(stored.index(sensor) for sensor in range(spec.sensors)),
            window=slice(len(hidden), action.stop + 1),
            action=action,
            reward=action.stop,
            width=action.stop + 1,
        )

    def rows_of(self, steps: Sequence[tuple[Any, ...]]) -> np.ndarray:
        """Return the rows (N, width) float32 of N steps as ``SampleCompressor`` makes them."""
        rows = np.zeros((len(steps), self.width), np.float32)
        sensors = np.stack([step[1]["sensors"] for step in steps])
        rows[:, : len(self.stored_sensors)] = sensors[:, list(self.stored_sensors)]
        for row, step in zip(rows, steps, strict=True):
            if step[0] is not None:  # a reset has no action and no reward
                row[self.action] = step[0]
                row[self.reward] = step[2]
        return rows


def slack_of(capacity: int) -> int:
    """Return how many rows a replay in files holds beyond its capacity, for those that a checkpoint counts on.

    Steps that are collected after a checkpoint go there, so that the rows of the checkpoint stay as they are.

    Args:
        capacity: Number of rows that count.
    """
    return max(MIN_SLACK, capacity // SLACK_SHARE)


def capacity_of(rows: int) -> int:
    """Return the capacity of a replay that has so many rows with its slack; 0 if they are too few for any."""
    return max(0, min(rows - MIN_SLACK, rows * SLACK_SHARE // (SLACK_SHARE + 1)))


def arrays(spec: ObservationSpec, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array that a replay of so many rows keeps.

    Args:
        spec: The environment's observation.
        rows: Number of rows, the slack included.

    Returns:
        By name: "rows" (rows, width) float32, "age" (rows,) uint16 steps since the reset, "ends"
        (rows, 2) bool terminated and truncated, and with images "frames" (rows, H, W) uint8.
    """
    shapes = {
        "rows": ((rows, RowLayout.of(spec).width), np.dtype(np.float32)),
        "age": ((rows,), np.dtype(np.uint16)),
        "ends": ((rows, 2), np.dtype(np.bool_)),
    }
    if spec.image_shape is not None:
        shapes["frames"] = ((rows, *spec.image_shape[1:]), np.dtype(np.uint8))
    return shapes
