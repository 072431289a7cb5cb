"""Environment of any Gymnasium task with Box observations and Box actions."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box

from app.config.schema_env import GymConfig
from app.envs.rng_state import pack_rng, unpack_rng
from app.envs.spec import EnvError, ObservationSpec


class GymEnv(gymnasium.Env):
    """Flattens the task's observation to a float32 vector and rescales actions from [-1, 1].

    Args:
        config: Name of the task, and the longest episode.
        seed: Seed of the first reset that is not given a seed of its own.

    Attributes:
        observation_spec: The observation contract: sensors only, no images, no window.

    Raises:
        EnvError: If there is no such task, or its spaces are not supported.
    """

    def __init__(self, config: GymConfig, seed: int) -> None:
        self._task = _open_task(config)
        if problem := _space_problem(self._task):
            self._task.close()
            raise EnvError(f"env.id = {config.id}: {problem}.")
        self._task_action_space: Box = self._task.action_space
        self._low = self._task_action_space.low.ravel().astype(np.float64)
        self._span = self._task_action_space.high.ravel().astype(np.float64) - self._low
        self._next_seed: int | None = seed
        self._episode_start: np.ndarray | int = seed  # seed of the running episode, or its generator's packed state
        self._episode_actions: list[np.ndarray] | None = None  # None before the first episode
        size = int(np.prod(self._task.observation_space.shape))
        self.observation_spec = ObservationSpec(
            sensors=size,
            action_dim=self._low.size,
            action_history=0,
            image_shape=None,
            window=0,
            window_sensors=(),
            sensor_scale=(1.0,) * size,
            reward_scale=1.0,
        )
        self.observation_space = self.observation_spec.observation_space()
        self.action_space = self.observation_spec.action_space()
        self.render_mode = self._task.render_mode
        self.metadata = self._task.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of the task's random numbers; None continues them.
            options: Options of the task.

        Returns:
            The first observation and the task's info.
        """
        if seed is None:
            seed, self._next_seed = self._next_seed, None
        self._episode_start = pack_rng(self._task.unwrapped.np_random) if seed is None else seed
        self._episode_actions = []
        vector, info = self._task.reset(seed=seed, options=options)
        return _to_observation(vector), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: ``(action_dim,)`` in [-1, 1]; values outside are clipped.

        Returns:
            Observation, reward, terminated, truncated and the task's info, which at the end of an episode also has
            ``outcome``: "terminated" or "timeout".
        """
        self._episode_actions.append(np.array(action, np.float32))
        vector, reward, terminated, truncated, info = self._task.step(self.to_task_action(action))
        if terminated or truncated:
            info = {**info, "outcome": "terminated" if terminated else "timeout"}
        return _to_observation(vector), float(reward), bool(terminated), bool(truncated), info

    def get_state(self) -> dict[str, Any]:
        """Return the start of the running episode and its actions ``(steps, action_dim)`` float32.

        Tasks have no common way to be saved, but a deterministic one reaches the same state by the same actions.
        """
        acted = self._episode_actions is not None
        actions = np.array(self._episode_actions if acted else [], np.float32)
        return {
            "acted": acted,
            "began": self._episode_start,
            "actions": actions.reshape(-1, self.observation_spec.action_dim),
        }

    def set_state(self, state: dict[str, Any]) -> dict[str, np.ndarray] | None:
        """Repeat the episode of ``get_state``.

        Args:
            state: The return value of ``get_state``.

        Returns:
            The newest observation; None if no episode had begun. A task may not be deterministic: the caller must
            compare the observation with the original one.
        """
        if not state["acted"]:
            return None
        seed = state["began"]
        if isinstance(seed, np.ndarray):
            unpack_rng(self._task.unwrapped.np_random, seed)
            seed = self._next_seed = None
        observation, _ = self.reset(seed=seed)
        self._next_seed = None
        for action in state["actions"]:
            observation, *_ = self.step(action)
        return observation

    def to_task_action(self, action: np.ndarray) -> np.ndarray:
        """Rescale an action ``(action_dim,)`` from [-1, 1] to the shape, dtype and range of the task's action space."""
        space = self._task_action_space
        fraction = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        scaled = (self._low + fraction * self._span).reshape(space.shape).astype(space.dtype)
        return np.clip(scaled, space.low, space.high)  # rounding may leave the range by one ulp

    def render(self) -> np.ndarray | None:
        """Return the task's own picture ``(H, W, 3)`` uint8, RGB, or None if it has none."""
        return self._task.render() if self.render_mode else None

    def close(self) -> None:
        """Close the task."""
        self._task.close()


def _to_observation(vector: np.ndarray) -> dict[str, np.ndarray]:
    return {"floats": np.array(vector, np.float32).ravel()}


def _open_task(config: GymConfig) -> gymnasium.Env:
    try:
        creator = gymnasium.spec(config.id).entry_point
        if isinstance(creator, str):
            creator = load_env_creator(creator)
        # a task that cannot render may refuse the argument render_mode
        can_render = "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ())
        return gymnasium.make(
            config.id,
            max_episode_steps=config.max_steps,
            disable_env_checker=True,  # it takes time in every step, and the spaces are checked below
            **({"render_mode": "rgb_array"} if can_render else {}),
        )
    except (gymnasium.error.Error, ImportError) as error:
        raise EnvError(
            f"env.id = {config.id}: {str(error).rstrip('.')}. "
            "Use an installed Gymnasium task with Box observations and actions, such as Pendulum-v1."
        ) from error


def _space_problem(task: gymnasium.Env) -> str | None:
    """Return why the task's spaces are not supported, or None if they are."""
    observations, actions = task.observation_space, task.action_space
    if not isinstance(observations, Box):
        return f"its observation space is {observations}; only a Box is supported"
    if not (isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating)):
        return f"its action space is {actions}; only a Box of floats is supported"
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        return f"its action space is {actions}; only a Box with finite bounds is supported"
    return None
