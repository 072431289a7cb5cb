"""Environment of the game: rtgym keeps the time, the observation is this project's."""

import time
from typing import Any

import gymnasium
import numpy as np

from app.config.schema_env import TrackmaniaConfig
from app.core.tmrl_game import RTGYM_VERSION
from app.envs.observation import ObservationBuilder
from app.envs.spec import EnvError, make_car_spec
from app.envs.trackmania.interface import ImageLidarInterface
from app.envs.trackmania.safe_interface import SafeInterface
from app.envs.trackmania.timing import StepTiming
from app.envs.trackmania.trajectory import load_trajectory


class TrackmaniaEnv(gymnasium.Env):
    """Drive on the map that is loaded in the game.

    Actions are (gas, brake, steer) in [-1, 1]; gas and brake act above 0. An action acts during the step after the one
    whose observation it is returned with, which is why the observation contains the last actions. An episode terminates
    when tmrl's reward sees no progress; it is truncated at the end of the map, because no observation shows where that
    is, and after ``max_steps``. Every ``info`` has ``lap_share`` and ``speed``, the last one ``outcome`` too, and
    ``lap_time`` in s if the map was finished.

    The constructor reads the trajectory; the first reset connects to the game.

    Args:
        config: Parameters of the environment.

    Attributes:
        observation_spec: The observation contract.
        timing: Durations of the steps and latencies of the actor.

    Raises:
        EnvError: If there is no usable trajectory.
    """

    metadata = {"render_modes": []}
    render_mode = None  # the game has a window of its own

    def __init__(self, config: TrackmaniaConfig) -> None:
        self._config, self.observation_spec = config, make_car_spec(config)
        self._interface = ImageLidarInterface(config, load_trajectory(config.reward_file))
        self._safe_interface = SafeInterface(self._interface)
        self._rtgym_env = gymnasium.make(RTGYM_VERSION, config=self._rtgym_config(), disable_env_checker=True).unwrapped
        self._builder = ObservationBuilder(self.observation_spec)
        self.timing = StepTiming(config.step_s)
        self.observation_space = self.observation_spec.observation_space()
        self.action_space = self.observation_spec.action_space()
        self._steps = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Respawn at the start of the map.

        Args:
            seed: Has no effect on the game.
            options: Ignored.

        Returns:
            The first observation and its info.

        Raises:
            EnvError: If the game cannot be reached.
        """
        super().reset(seed=seed)
        rtgym_obs, _ = self._rtgym_env.reset()
        self._raise_interface_error()
        self._steps, self._running = 0, True
        obs = self._builder.reset(*self._sensors_and_frame(rtgym_obs))
        self.timing.record_reset(time.perf_counter())
        return obs, self._info(rtgym_obs)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Wait for the end of the present time step, and send an action for the next one.

        Args:
            action: ``(3,)`` in [-1, 1]; values outside are clipped.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and after an episode's end.
            ValueError: If the action is not finite.
            EnvError: If the game cannot be reached any more.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() before step()")
        action = np.asarray(action, np.float32)
        if not np.isfinite(action).all():
            raise ValueError(f"action {action} is not finite")
        action = np.clip(action, -1.0, 1.0)
        self.timing.record_action(time.perf_counter())
        rtgym_obs, reward, terminated, truncated, rtgym_info = self._rtgym_env.step(action)
        self._raise_interface_error()
        self._steps += 1
        outcome = _find_outcome(rtgym_info["finished"], terminated, truncated)
        obs = self._builder.append(*self._sensors_and_frame(rtgym_obs), action, float(reward))
        info = self._info(rtgym_obs)
        if outcome is None:
            self.timing.record_step(time.perf_counter())
        else:  # rtgym has meanwhile rested and closed the game's menu, so the duration says nothing about the timing
            self._running = False
            info["outcome"] = outcome
        if outcome == "lap":
            info["lap_share"], info["lap_time"] = 1.0, self._steps * self._config.step_s
        return obs, float(reward), outcome == "stalled", outcome in ("lap", "timeout"), info

    def find_game(self) -> None:
        """Look for the game, which the first reset connects to.

        Raises:
            EnvError: If it cannot be reached.
        """
        self._interface.find_game()

    def close(self) -> None:
        """Release the car's controls and disconnect from the game."""
        self._running = False
        self._rtgym_env.stop()
        self._interface.close()

    def _rtgym_config(self) -> dict[str, Any]:
        config = self._config
        return {
            "interface": lambda: self._safe_interface,
            "time_step_duration": config.step_s,
            "start_obs_capture": config.start_obs_capture_s,
            "time_step_timeout_factor": 1.0,  # a delay of less than a step is caught up
            "ep_max_length": config.max_steps,
            "act_in_obs": True,
            "act_buf_len": config.action_history,
            "reset_act_buf": True,
            "wait_on_done": True,  # the car rests while the finished episode is sent
            "benchmark": False,
        }

    def _sensors_and_frame(self, rtgym_obs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return sensors ``(22,)`` and newest image of a step; the observation builder keeps the histories."""
        speed, gear, rpm, images, lidar, *_ = rtgym_obs
        frame = images[-1] if self.observation_spec.image_shape is not None else None
        return np.concatenate([speed, gear, rpm, lidar]).astype(np.float32), frame

    def _info(self, rtgym_obs: tuple[np.ndarray, ...]) -> dict[str, Any]:
        return {"lap_share": self._interface.lap_share, "speed": float(rtgym_obs[0][0])}

    def _raise_interface_error(self) -> None:
        error = self._safe_interface.error
        if error is None:
            return
        self._running = False
        if isinstance(error, EnvError):
            raise error
        raise EnvError(
            f"env = {self._config.name}: the game cannot be driven: {type(error).__name__}: {str(error).rstrip('.')}. "
            "Run python app/doctor.py env=trackmania for the cause, and see docs/trackmania.md."
        ) from error


def _find_outcome(finished: bool, terminated: bool, truncated: bool) -> str | None:
    """Return why an episode ends, or None if it goes on."""
    if finished:
        return "lap"
    if terminated:
        return "stalled"
    return "timeout" if truncated else None
