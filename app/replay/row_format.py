"""Row format of a step: what a worker keeps of it, how it is sent, and how the replay stores it.

A worker compresses each step (``SampleCompressor``); ``RowFormat`` turns compressed steps into arrays and back. The
same arrays are sent over the network and stored in the ring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from app.envs.observation import newest_sensors_and_frame
from app.envs.spec import ObservationSpec

MAX_AGE = np.iinfo(np.uint16).max  # an age stays there: only "long ago" matters beyond the longest history


class StoredStep(NamedTuple):
    """Compressed step, in the order of tmrl's samples.

    Attributes:
        action: ``(action_dim,)`` float32, the action that led to ``obs``; None after a reset.
        obs: "sensors" ``(sensors,)`` float32 and "frame" ``(H, W)`` uint8, or None without images: the newest of each.
        reward: Reward that came with ``obs``.
        terminated: Whether the step terminated the episode.
        truncated: Whether the step truncated the episode.
        info: Empty.
    """

    action: np.ndarray | None
    obs: dict[str, np.ndarray | None]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class SampleCompressor:
    """``sample_compressor`` of a tmrl ``RolloutWorker``: keeps the newest sensors and one frame, without the histories.

    The histories are rebuilt from adjacent rows when the replay is sampled.

    Args:
        spec: Observation contract of the environment.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self._spec = spec

    def __call__(
        self,
        act: np.ndarray | None,
        obs: dict[str, np.ndarray],
        rew: float,
        terminated: bool,
        truncated: bool,
        info: dict[str, Any],
    ) -> StoredStep:
        """Compress one step; the arguments are those of tmrl.

        Args:
            act: ``(action_dim,)`` Action that led to ``obs``; None after a reset.
            obs: Complete observation.
            rew: Reward that came with ``obs``.
            terminated: Whether the step terminated the episode.
            truncated: Whether the step truncated the episode.
            info: Dropped, because nothing in it is trained on.
        """
        sensors, frame = newest_sensors_and_frame(obs, self._spec)
        return StoredStep(act, {"sensors": sensors, "frame": frame}, float(rew), bool(terminated), bool(truncated), {})


@dataclass(frozen=True)
class RowFormat:
    """Columns of a row: the sensors outside the context window, the window's sensors, the action, the reward.

    The columns of the context window are adjacent, so that a window is a slice of the stored rows and costs no
    second gather.

    Attributes:
        stored_sensors: For each sensor column of a row, the sensor that it holds.
        sensor_columns: For each sensor, the column that holds it.
        window: Columns that make up a row of the context window.
        action: Columns of the action that led to the step.
        reward: Column of the reward that came with the step.
        width: Number of columns.
        frame_shape: ``(H, W)`` of a frame; None without images.
    """

    stored_sensors: tuple[int, ...]
    sensor_columns: tuple[int, ...]
    window: slice
    action: slice
    reward: int
    width: int
    frame_shape: tuple[int, int] | None

    @classmethod
    def of(cls, spec: ObservationSpec) -> "RowFormat":
        """Return the row format for an observation contract."""
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
            frame_shape=None if spec.image_shape is None else spec.image_shape[1:],
        )

    def encode(self, steps: Sequence[StoredStep]) -> dict[str, np.ndarray]:
        """Return N steps, at least one, as arrays.

        Returns:
            By name: "rows" ``(N, width)`` float32; "ends" ``(N, 2)`` bool, terminated and truncated; with images
            "frames" ``(N, H, W)`` uint8. Action and reward of a reset are zero.
        """
        rows = np.zeros((len(steps), self.width), np.float32)
        sensors = np.stack([obs["sensors"] for _, obs, *_ in steps])
        rows[:, : len(self.stored_sensors)] = sensors[:, list(self.stored_sensors)]
        for row, (action, _, reward, *_) in zip(rows, steps, strict=True):
            if action is not None:
                row[self.action] = action
                row[self.reward] = reward
        ends = np.array([(terminated, truncated) for *_, terminated, truncated, _ in steps], np.bool_)
        arrays = {"rows": rows, "ends": ends}
        if self.frame_shape is not None:
            arrays["frames"] = np.stack([obs["frame"] for _, obs, *_ in steps])
        return arrays

    def decode(self, arrays: Mapping[str, np.ndarray]) -> list[StoredStep]:
        """Return the steps of one whole episode, whose first row is that of the reset.

        Args:
            arrays: As returned by ``encode``; the steps hold views of them.
        """
        rows, ends = arrays["rows"], arrays["ends"]
        sensors = rows[:, list(self.sensor_columns)]
        frames = [None] * len(rows) if self.frame_shape is None else arrays["frames"]
        return [
            StoredStep(
                action=row[self.action] if index else None,
                obs={"sensors": sensors[index], "frame": frames[index]},
                reward=float(row[self.reward]),
                terminated=bool(ends[index, 0]),
                truncated=bool(ends[index, 1]),
                info={},
            )
            for index, row in enumerate(rows)
        ]


def array_kinds(spec: ObservationSpec, rows: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array that a replay of so many rows stores.

    Args:
        spec: Observation contract of the environment.
        rows: Number of rows, the slack included.

    Returns:
        By name: the arrays of ``RowFormat.encode``, and "age" ``(rows,)`` uint16, steps since the reset.
    """
    row_format = RowFormat.of(spec)
    kinds = {
        "rows": ((rows, row_format.width), np.dtype(np.float32)),
        "age": ((rows,), np.dtype(np.uint16)),
        "ends": ((rows, 2), np.dtype(np.bool_)),
    }
    if row_format.frame_shape is not None:
        kinds["frames"] = ((rows, *row_format.frame_shape), np.dtype(np.uint8))
    return kinds
