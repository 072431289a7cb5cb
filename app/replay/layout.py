"""Which arrays the replay keeps, and where each number of a step stands in its row."""

from dataclasses import dataclass

import numpy as np

from app.envs.spec import ObservationSpec

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


def arrays(spec: ObservationSpec, capacity: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array that a replay of this capacity keeps.

    Args:
        spec: The environment's observation.
        capacity: Number of rows.

    Returns:
        By name: "rows" (capacity, width) float32, "age" (capacity,) uint16 steps since the reset, "ends"
        (capacity, 2) bool terminated and truncated, and with images "frames" (capacity, H, W) uint8.
    """
    shapes = {
        "rows": ((capacity, RowLayout.of(spec).width), np.dtype(np.float32)),
        "age": ((capacity,), np.dtype(np.uint16)),
        "ends": ((capacity, 2), np.dtype(np.bool_)),
    }
    if spec.image_shape is not None:
        shapes["frames"] = ((capacity, *spec.image_shape[1:]), np.dtype(np.uint8))
    return shapes
