"""Recording of driven episodes as demonstrations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from app.config.schema_env import SimConfig
from app.core.errors import UserError
from app.envs.driving.sim_env import SimEnv
from app.evaluation.results import Episode
from app.replay.demonstrations import SUFFIX, write_demonstrations
from app.replay.row_format import SampleCompressor, StoredStep


class EpisodeRecorder(gymnasium.Wrapper):
    """Keeps the steps of the present episode as the replay stores them.

    Args:
        env: The simulator.

    Attributes:
        steps: The reset and the steps since.
    """

    def __init__(self, env: SimEnv) -> None:
        super().__init__(env)
        self._compress = SampleCompressor(env.observation_spec)
        self.steps: list[StoredStep] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode, and forget the one before."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.steps = [self._compress(None, obs, 0.0, False, False, {})]
        return obs, info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take a step and keep it."""
        action = np.clip(action, -1.0, 1.0).astype(np.float32)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps.append(self._compress(action, obs, reward, terminated, truncated, {}))
        return obs, reward, terminated, truncated, info


class DemonstrationFile:
    """A file of demonstrations that grows by whole episodes; it is complete after each of them.

    Args:
        path: The file; it must not exist.
        env: The simulator that is driven.
        config: Its parameters.

    Raises:
        UserError: The file exists, or has another suffix.
    """

    def __init__(self, path: Path, env: SimEnv, config: SimConfig) -> None:
        if path.suffix != SUFFIX:
            raise UserError(f"record = {path}: must end with {SUFFIX}, such as record=laps/mine{SUFFIX}.")
        if path.exists():
            raise UserError(
                f"record = {path}: exists already. Name another file; training.demonstrations takes a folder of them, "
                "too."
            )
        self._path, self._config, self._spec = path, config, env.observation_spec
        self._episodes: list[Sequence[StoredStep]] = []
        self._about: list[dict[str, Any]] = []

    def add(self, steps: Sequence[StoredStep], episode: Episode, driver: str) -> None:
        """Add an episode.

        Raises:
            UserError: The file cannot be written.
        """
        self._episodes.append(steps)
        self._about.append({"driver": driver, **vars(episode)})
        try:
            write_demonstrations(self._path, self._config, self._spec, self._episodes, self._about)
        except OSError as error:
            raise UserError(f"record = {self._path}: cannot be written ({error.strerror}).") from None
