"""Environment of any Gymnasium task with Box observations and Box actions."""

from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from app.config.schema_env import GymConfig
from app.core.errors import error_with_place
from app.core.system import silence_pygame
from app.envs.gym_task import open_task
from app.envs.rng_state import pack_rng, unpack_rng
from app.envs.spec import EnvError, ObservationSpec

_LARGEST = float(np.finfo(np.float32).max)  # reward that the replay can hold
# Keys of an info that this program reads: a task may use these words for something else.
_OWN_INFO = frozenset({"lap_share", "lap_time", "lap_bound", "native_return", "outcome"})


class GymEnv(gymnasium.Env):
    """Flattens the task's observation to a float32 vector and rescales actions from [-1, 1].

    What the task returns is checked when it arrives: a NaN would otherwise be found in the networks, much later.

    Args:
        config: Id and arguments of the task, and the longest episode.
        seed: Seed of the first reset that is not given a seed of its own.

    Attributes:
        observation_spec: The observation contract: sensors only, no images, no window.

    Raises:
        EnvError: If there is no such task, or it is not supported. ``reset`` and ``step`` raise it, too, if the task
            fails, or returns something else than the observation, reward and info of a task.
    """

    def __init__(self, config: GymConfig, seed: int) -> None:
        self._id = config.id
        self._task = open_task(config)
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
        if seed is None and not self._has_packable_rng():
            seed = _following_seed(self._episode_start)
        self._episode_start = pack_rng(self._task.unwrapped.np_random) if seed is None else seed
        self._episode_actions = []
        try:
            vector, info = self._task.reset(seed=seed, options=options)
        except Exception as error:
            self._refuse(f"reset fails with {error_with_place(error)}", error)
        return self._to_observation(vector), self._to_info(info)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: ``(action_dim,)`` in [-1, 1]; values outside are clipped.

        Returns:
            Observation, reward, terminated, truncated and the task's info. It lacks the keys that mean something to
            this program, but for ``outcome`` at the end of an episode: "terminated" or "timeout".
        """
        self._episode_actions.append(np.array(action, np.float32))
        try:
            vector, reward, terminated, truncated, info = self._task.step(self.to_task_action(action))
            terminated, truncated = bool(terminated), bool(truncated)
        except Exception as error:
            self._refuse(f"step fails with {error_with_place(error)}", error)
        info = self._to_info(info)
        if terminated or truncated:
            info["outcome"] = "terminated" if terminated else "timeout"
        return self._to_observation(vector), self._to_reward(reward), terminated, truncated, info

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
        if not self.render_mode:
            return None
        silence_pygame()  # which most tasks draw with
        return self._task.render()

    def close(self) -> None:
        """Close the task."""
        self._task.close()

    def _to_observation(self, vector: Any) -> dict[str, np.ndarray]:
        try:
            floats = np.array(vector, np.float32).ravel()
        except (TypeError, ValueError) as error:
            self._refuse(f"its observation holds something else than numbers ({type(vector).__name__})", error)
        if floats.size != self.observation_spec.sensors:
            expected = self._task.observation_space.shape
            self._refuse(f"its observation has the shape {np.shape(vector)}, and its space says {expected}")
        if not np.isfinite(floats).all():
            index = int(np.flatnonzero(~np.isfinite(floats))[0])
            self._refuse(f"component {index} of its observation is {floats[index]} as float32")
        return {"floats": floats}

    def _to_reward(self, reward: Any) -> float:
        try:
            number = np.asarray(reward, np.float64).item()
        except (TypeError, ValueError) as error:
            self._refuse(f"its reward is no single number ({type(reward).__name__})", error)
        if not -_LARGEST <= number <= _LARGEST:  # NaN included
            self._refuse(f"its reward is {number}")
        return number

    def _to_info(self, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            self._refuse(f"its info is no dict ({type(info).__name__})")
        return {key: value for key, value in info.items() if key not in _OWN_INFO}

    def _refuse(self, problem: str, cause: Exception | None = None) -> NoReturn:
        """Raise an EnvError with the task and the step."""
        steps = len(self._episode_actions)
        place = f"at step {steps} of an episode" if steps else "at the start of an episode"
        raise EnvError(f"env.id = {self._id}: {place}, {problem}. Correct the task.") from cause

    def _has_packable_rng(self) -> bool:
        """Return whether the state of the task's generator can be kept; that of a ``RandomState`` cannot."""
        generator = getattr(self._task.unwrapped, "np_random", None)
        return isinstance(getattr(generator, "bit_generator", None), np.random.PCG64)


def _following_seed(start: np.ndarray | int) -> int:
    """Return the seed of the episode after one, given the seed or the packed generator that this one began with."""
    entropy = start.view(np.uint64).tolist() if isinstance(start, np.ndarray) else start
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
