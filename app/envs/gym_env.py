"""Any Gymnasium task with Box observations and Box actions, under this project's contract."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box

from app.config.schema import GymConfig
from app.envs.rng import pack_rng, unpack_rng
from app.envs.spec import EnvError, ObservationSpec


class GymTask(gymnasium.Env):
    """Flattens the task's observation to a float32 vector and rescales actions from [-1, 1].

    Attributes:
        spec_: The observation contract: sensors only, no images, no window.
    """

    def __init__(self, cfg: GymConfig, seed: int) -> None:
        """Open the task.

        Args:
            cfg: Which task, and how long an episode may be.
            seed: Seeds the first reset that is not given a seed of its own.

        Raises:
            EnvError: If there is no such task, or its spaces are not supported.
        """
        self._task = _open(cfg)
        if problem := _unsupported(self._task):
            self._task.close()
            raise EnvError(f"env.id = {cfg.id}: {problem}.")
        self._box: Box = self._task.action_space
        self._low = self._box.low.ravel().astype(np.float64)
        self._span = self._box.high.ravel().astype(np.float64) - self._low
        self._seed: int | None = seed
        self._began: np.ndarray | int = seed  # what the episode began with: a seed, or a state of the generator
        self._actions: list[np.ndarray] | None = None  # of the running episode; None: none has begun
        size = int(np.prod(self._task.observation_space.shape))
        self.spec_ = ObservationSpec(
            sensors=size,
            action_dim=self._low.size,
            action_history=0,
            image_shape=None,
            window=0,
            window_sensors=(),
            sensor_scale=(1.0,) * size,
            reward_scale=1.0,
        )
        self.observation_space = self.spec_.space()
        self.action_space = self.spec_.action_space()
        self.render_mode = self._task.render_mode
        self.metadata = self._task.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; ``options`` go to the task."""
        if seed is None:
            seed, self._seed = self._seed, None
        self._began = pack_rng(self._task.unwrapped.np_random) if seed is None else seed
        self._actions = []
        vector, info = self._task.reset(seed=seed, options=options)
        return _observe(vector), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take an action in [-1, 1]; at the episode's end ``info["outcome"]`` says why it ended."""
        self._actions.append(np.array(action, np.float32))
        vector, reward, terminated, truncated, info = self._task.step(self.to_task_action(action))
        if terminated or truncated:
            info = {**info, "outcome": "terminated" if terminated else "timeout"}
        return _observe(vector), float(reward), bool(terminated), bool(truncated), info

    def get_state(self) -> dict[str, Any]:
        """Return what repeats the episode: how it began, and its actions (N, action_dim) float32.

        Tasks have no common way to be saved, but a deterministic one comes to the same place by the same actions.
        """
        acted = self._actions is not None
        actions = np.array(self._actions if acted else [], np.float32).reshape(-1, self.spec_.action_dim)
        return {"acted": acted, "began": self._began, "actions": actions}

    def set_state(self, state: dict[str, Any]) -> dict[str, np.ndarray] | None:
        """Repeat the episode of ``get_state``; returns its newest observation, None if no episode had begun.

        It is the caller's to compare the observation with the one that was seen: a task may not be deterministic.
        """
        if not state["acted"]:
            return None
        seed = state["began"]
        if isinstance(seed, np.ndarray):
            unpack_rng(self._task.unwrapped.np_random, seed)
            seed = self._seed = None
        observation, _ = self.reset(seed=seed)
        self._seed = None
        for action in state["actions"]:
            observation, *_ = self.step(action)
        return observation

    def to_task_action(self, action: np.ndarray) -> np.ndarray:
        """Rescale an action ``(action_dim,)`` in [-1, 1] to the task's own Box, shape and dtype."""
        share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        scaled = (self._low + share * self._span).reshape(self._box.shape).astype(self._box.dtype)
        return np.clip(scaled, self._box.low, self._box.high)  # rounding may leave the Box by one ulp

    def render(self) -> np.ndarray | None:
        """Return the task's own picture, RGB uint8, or None if it has none."""
        return self._task.render() if self.render_mode else None

    def close(self) -> None:
        """Close the task."""
        self._task.close()


def _observe(vector: np.ndarray) -> dict[str, np.ndarray]:
    return {"floats": np.array(vector, np.float32).ravel()}


def _open(cfg: GymConfig) -> gymnasium.Env:
    try:
        creator = gymnasium.spec(cfg.id).entry_point
        if isinstance(creator, str):
            creator = load_env_creator(creator)
        # only tasks that can paint pictures need to know of render_mode
        pictures = "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ())
        kwargs = {"render_mode": "rgb_array"} if pictures else {}
        return gymnasium.make(
            cfg.id,
            max_episode_steps=cfg.max_steps,
            disable_env_checker=True,  # it costs time in every step and checks what we check here
            **kwargs,
        )
    except (gymnasium.error.Error, ImportError) as error:
        raise EnvError(
            f"env.id = {cfg.id}: {str(error).rstrip('.')}. "
            "Use an installed Gymnasium task with Box observations and actions, such as Pendulum-v1."
        ) from error


def _unsupported(task: gymnasium.Env) -> str:
    """Return what is wrong with the task's spaces, or an empty string."""
    observed, acted = task.observation_space, task.action_space
    if not isinstance(observed, Box):
        return f"its observation space is {observed}; allowed is only a Box"
    if not (isinstance(acted, Box) and np.issubdtype(acted.dtype, np.floating)):
        return f"its action space is {acted}; allowed is only a Box of floats"
    if not (np.isfinite(acted.low).all() and np.isfinite(acted.high).all()):
        return f"its action space is {acted}; allowed is only a Box with finite bounds"
    return ""
