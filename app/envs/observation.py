"""Observation builder: keeps the histories of an episode and assembles observations from them."""

import numpy as np

from app.envs.spec import ObservationSpec

_SPARE_ROWS = 64  # behind each history, so that its rows move to the front only every 64 steps


class _History:
    """The last ``depth`` rows of a sequence, always contiguous in memory.

    Rows are written one behind the other into an array with spare rows; when it is full, the rows that are still
    needed move to the front. A snapshot is then a single copy of a slice.

    Args:
        depth: Number of rows to keep.
        row_shape: Shape of a row.
        dtype: Type of its elements.
    """

    def __init__(self, depth: int, row_shape: tuple[int, ...], dtype: type) -> None:
        self._depth = depth
        self._rows = np.zeros((depth + _SPARE_ROWS, *row_shape), dtype)
        self._end = depth

    def fill(self, rows: np.ndarray | float) -> None:
        """Replace all rows by ``rows``, which may be a single row or a number."""
        self._end = self._depth
        self._rows[: self._end] = rows

    def push(self) -> np.ndarray:
        """Drop the oldest row and return the newest, which the caller writes."""
        if self._end == len(self._rows):
            keep = self._depth - 1
            self._rows[:keep] = self._rows[self._end - keep :]
            self._end = keep
        self._end += 1
        return self._rows[self._end - 1]

    @property
    def rows(self) -> np.ndarray:
        """The rows ``(depth, *row_shape)``, oldest first; a view."""
        return self._rows[self._end - self._depth : self._end]

    def snapshot(self) -> np.ndarray:
        """Return a copy of the rows ``(depth, *row_shape)``, oldest first."""
        return self.rows.copy()


class ObservationBuilder:
    """Builds the observations of one running episode; the arrays it returns belong to the caller.

    Args:
        spec: The observation contract.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self._spec = spec
        self._window_columns = np.array(spec.window_sensors, dtype=np.intp)
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
            The first observation.
        """
        self._floats.fill(0.0)
        self._floats[: self._spec.sensors] = sensors
        if self._images is not None:
            self._images.fill(frame)
        if self._window is not None:
            self._window.fill(0.0)
            self._append_to_window(sensors, 0.0, 0.0)
        return self._observation()

    def append(
        self, sensors: np.ndarray, frame: np.ndarray | None, action: np.ndarray, reward: float
    ) -> dict[str, np.ndarray]:
        """Add one step.

        Args:
            sensors: ``(sensors,)`` float32, measured after the step.
            frame: ``(H, W)`` uint8, taken after the step, or None without images.
            action: ``(action_dim,)`` float32, the action of the step.
            reward: Reward of the step.

        Returns:
            The new observation.
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
            self._append_to_window(sensors, action, reward)
        return self._observation()

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the state of the histories, which is the newest observation."""
        return self._observation()

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore what ``get_state`` returned."""
        self._floats[:] = state["floats"]
        if self._images is not None:
            self._images.fill(state["images"])
        if self._window is not None:
            self._window.fill(state["window"])

    def _append_to_window(self, sensors: np.ndarray, action: np.ndarray | float, reward: float) -> None:
        row = self._window.push()
        count = len(self._window_columns)
        row[:count] = sensors.take(self._window_columns)
        row[count:-1] = action
        row[-1] = reward

    def _observation(self) -> dict[str, np.ndarray]:
        observation = {"floats": self._floats.copy()}
        if self._images is not None:
            observation["images"] = self._images.snapshot()
        if self._window is not None:
            observation["window"] = self._window.snapshot()
        return observation


class HistoryBatch:
    """Histories of many running episodes, and the observations made of them; see ``ObservationBuilder``.

    Args:
        spec: The observation contract of every episode.
        count: Number N of episodes.
    """

    def __init__(self, spec: ObservationSpec, count: int) -> None:
        self._spec, self._count = spec, count
        self._window_columns = list(spec.window_sensors)
        self._floats = np.zeros((count, spec.float_dim), np.float32)
        self._images = self._window = None
        if spec.image_shape is not None:
            history, height, width = spec.image_shape
            self._images = _History(history, (count, height, width), np.uint8)
        if spec.window:
            self._window = _History(spec.window, (count, spec.window_dim), np.float32)

    def reset(self, episodes: np.ndarray, sensors: np.ndarray, frames: np.ndarray | None) -> None:
        """Begin some episodes.

        Args:
            episodes: ``(n,)`` int, their indices.
            sensors: ``(n, sensors)`` float32, physical units.
            frames: ``(n, H, W)`` uint8, or None without images.
        """
        self._floats[episodes] = 0.0
        self._floats[episodes, : self._spec.sensors] = sensors
        if self._images is not None:
            self._images.rows[:, episodes] = frames
        if self._window is not None:
            rows = self._window.rows
            rows[:, episodes] = 0.0
            rows[-1, episodes, : len(self._window_columns)] = sensors[:, self._window_columns]

    def append(self, sensors: np.ndarray, frames: np.ndarray | None, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Add one step to every episode.

        Args:
            sensors: ``(N, sensors)`` float32, measured after the step.
            frames: ``(N, H, W)`` uint8, taken after the step, or None without images.
            actions: ``(N, action_dim)`` float32.
            rewards: ``(N,)``.
        """
        spec = self._spec
        self._floats[:, : spec.sensors] = sensors
        if spec.action_history:
            past = self._floats[:, spec.sensors :]
            past[:, : -spec.action_dim] = past[:, spec.action_dim :]
            past[:, -spec.action_dim :] = actions
        if self._images is not None:
            self._images.push()[:] = frames
        if self._window is not None:
            row, count = self._window.push(), len(self._window_columns)
            row[:, :count] = sensors[:, self._window_columns]
            row[:, count:-1] = actions
            row[:, -1] = rewards

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return the observations: arrays whose first axis is the episode; they belong to the caller."""
        observation = {"floats": self._floats.copy()}
        for part, history in (("images", self._images), ("window", self._window)):
            if history is not None:
                observation[part] = history.rows.swapaxes(0, 1).copy()
        return observation


def newest_sensors_and_frame(obs: dict[str, np.ndarray], spec: ObservationSpec) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the part of an observation that its step added, which is what the replay stores.

    Args:
        obs: An observation that fulfils ``spec``.
        spec: The observation contract.

    Returns:
        The sensors ``(sensors,)`` float32 and the newest frame ``(H, W)`` uint8 (None without
        images), copied, so that they do not keep the whole observation alive.
    """
    frame = None if spec.image_shape is None else obs["images"][-1].copy()
    return obs["floats"][: spec.sensors].copy(), frame
