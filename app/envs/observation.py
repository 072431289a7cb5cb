"""Builds observations step by step, and takes them apart again for the replay."""

import numpy as np

from app.envs.spec import ObservationSpec

_SLACK = 64  # spare rows behind each history, so that it moves to the front only every 64 steps


class _History:
    """The last ``depth`` rows of a sequence, always contiguous in memory.

    Rows are written one behind the other into an array with slack; when it is full, the rows
    still needed move to the front. A snapshot is then a single copy of a slice.
    """

    def __init__(self, depth: int, row_shape: tuple[int, ...], dtype: type) -> None:
        self._depth = depth
        self._rows = np.zeros((depth + _SLACK, *row_shape), dtype)
        self._end = depth

    def fill(self, row: np.ndarray | float) -> None:
        self._end = self._depth
        self._rows[: self._end] = row

    def push(self) -> np.ndarray:
        """Return the next row, to be written by the caller."""
        if self._end == len(self._rows):
            keep = self._depth - 1
            self._rows[:keep] = self._rows[self._end - keep :]
            self._end = keep
        self._end += 1
        return self._rows[self._end - 1]

    def snapshot(self) -> np.ndarray:
        return self._rows[self._end - self._depth : self._end].copy()

    def restore(self, rows: np.ndarray) -> None:
        self._end = self._depth
        self._rows[: self._end] = rows


class ObservationBuilder:
    """Keeps the histories of one running episode and copies observations out of them."""

    def __init__(self, spec: ObservationSpec) -> None:
        """Allocate the histories.

        Args:
            spec: The observation to build.
        """
        self._spec = spec
        self._columns = np.array(spec.window_sensors, dtype=np.intp)
        self._floats = np.zeros(spec.float_dim, np.float32)  # sensors, then actions, oldest first
        self._images = None
        if spec.image_shape is not None:
            history, height, width = spec.image_shape
            self._images = _History(history, (height, width), np.uint8)
        self._window = _History(spec.window, (spec.window_dim,), np.float32) if spec.window else None

    def reset(self, sensors: np.ndarray, frame: np.ndarray | None) -> dict[str, np.ndarray]:
        """Begin an episode.

        Args:
            sensors: ``(sensors,)`` float32, physical units.
            frame: ``(H, W)`` uint8, or None without images.

        Returns:
            The first observation; its arrays belong to the caller.
        """
        self._floats.fill(0.0)
        self._floats[: self._spec.sensors] = sensors
        if self._images is not None:
            self._images.fill(frame)
        if self._window is not None:
            self._window.fill(0.0)
            self._write_row(sensors, 0.0, 0.0)
        return self._observation()

    def append(
        self, sensors: np.ndarray, frame: np.ndarray | None, action: np.ndarray, reward: float
    ) -> dict[str, np.ndarray]:
        """Add one step.

        Args:
            sensors: ``(sensors,)`` float32, read after the step.
            frame: ``(H, W)`` uint8 after the step, or None without images.
            action: ``(action_dim,)`` the action that led here.
            reward: The reward that came with it.

        Returns:
            The new observation; its arrays belong to the caller.
        """
        spec = self._spec
        self._floats[: spec.sensors] = sensors
        if spec.action_history:
            past = self._floats[spec.sensors :]
            past[: -spec.action_dim] = past[spec.action_dim :]
            past[-spec.action_dim :] = action
        if self._images is not None:
            self._images.push()[:] = frame
        if self._window is not None:
            self._write_row(sensors, action, reward)
        return self._observation()

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the running observation: all that the histories hold."""
        return self._observation()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what ``get_state`` returned."""
        self._floats[:] = state["floats"]
        if self._images is not None:
            self._images.restore(state["images"])
        if self._window is not None:
            self._window.restore(state["window"])

    def _write_row(self, sensors: np.ndarray, action: np.ndarray | float, reward: float) -> None:
        row = self._window.push()
        shown = len(self._columns)
        row[:shown] = sensors.take(self._columns)
        row[shown:-1] = action
        row[-1] = reward

    def _observation(self) -> dict[str, np.ndarray]:
        observation = {"floats": self._floats.copy()}
        if self._images is not None:
            observation["images"] = self._images.snapshot()
        if self._window is not None:
            observation["window"] = self._window.snapshot()
        return observation


def newest(obs: dict[str, np.ndarray], spec: ObservationSpec) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what one row of the replay stores of an observation.

    Args:
        obs: An observation that fulfils ``spec``.
        spec: The observation contract.

    Returns:
        The sensors ``(sensors,)`` float32 and the newest frame ``(H, W)`` uint8 (None without
        images), copied, so that they do not keep the whole observation alive.
    """
    frame = None if spec.image_shape is None else obs["images"][-1].copy()
    return obs["floats"][: spec.sensors].copy(), frame
