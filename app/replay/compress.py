"""What a rollout worker keeps of a step: the newest sensors and one frame, without the histories."""

from typing import Any

import numpy as np

from app.envs.observation import newest
from app.envs.spec import ObservationSpec

StoredStep = tuple[np.ndarray | None, dict[str, np.ndarray | None], float, bool, bool, dict[str, Any]]


class SampleCompressor:
    """The ``sample_compressor`` of a tmrl ``RolloutWorker``; ``ReplayMemory`` undoes it when it samples."""

    def __init__(self, spec: ObservationSpec) -> None:
        """Remember the contract that the observations fulfil.

        Args:
            spec: The environment's observation.
        """
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
        """Compress one step.

        Args:
            act: ``(action_dim,)`` the action that led to ``obs``; None after a reset.
            obs: The full observation.
            rew: The reward that came with ``obs``.
            terminated: Whether the step terminated the episode.
            truncated: Whether the step truncated it.
            info: Dropped: nothing in it is trained on.

        Returns:
            The same six values; ``obs`` is {"sensors": (sensors,) float32, "frame": (H, W) uint8 or None}.
        """
        sensors, frame = newest(obs, self._spec)
        return act, {"sensors": sensors, "frame": frame}, float(rew), bool(terminated), bool(truncated), {}
