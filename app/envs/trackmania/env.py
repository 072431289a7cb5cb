"""The game as an environment: rtgym's clock, this project's observation."""

import time
from typing import Any

import gymnasium
import numpy as np

from app.config.schema import TrackmaniaConfig
from app.envs.car_spec import car_spec
from app.envs.observation import ObservationBuilder
from app.envs.spec import EnvError
from app.envs.trackmania.guard import GuardedInterface
from app.envs.trackmania.health import RealTimeHealth
from app.envs.trackmania.interface import TM2020HybridInterface
from app.envs.trackmania.trajectory import load_trajectory
from app.tmrl_game import RTGYM_VERSION


class Trackmania(gymnasium.Env):
    """Drives on the map that is loaded in the game.

    Actions are (gas, brake, steer) in [-1, 1]; gas and brake act above 0. An action acts during the step after the one
    whose observation it is returned with, which is why the observation shows the last actions. An episode terminates
    when tmrl's reward sees no progress; it is truncated at the end of the map, because no observation shows where that
    is, and after ``max_steps``. ``info["outcome"]`` says which.

    Attributes:
        spec_: The observation contract.
        health: How well time is kept.
    """

    metadata = {"render_modes": []}
    render_mode = None  # the game shows itself

    def __init__(self, cfg: TrackmaniaConfig) -> None:
        """Read the trajectory; the game itself is looked for at the first reset.

        Args:
            cfg: Parameters of the environment.

        Raises:
            EnvError: There is no usable trajectory.
        """
        self._cfg, self.spec_ = cfg, car_spec(cfg)
        self._game = TM2020HybridInterface(cfg, load_trajectory(cfg.reward_file))
        self._guard = GuardedInterface(self._game)
        self._clock = gymnasium.make(RTGYM_VERSION, config=self._timing(), disable_env_checker=True).unwrapped
        self._builder = ObservationBuilder(self.spec_)
        self.health = RealTimeHealth(cfg.step_s)
        self.observation_space, self.action_space = self.spec_.space(), self.spec_.action_space()
        self._steps = 0
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Respawn at the start of the map; seed and options have no meaning to a game.

        Raises:
            EnvError: The game cannot be reached.
        """
        super().reset(seed=seed)
        seen, _ = self._clock.reset()
        self._look_for_trouble()
        self._steps, self._running = 0, True
        observation = self._builder.reset(*self._newest(seen))
        self.health.began(time.perf_counter())
        return observation, self._info(seen)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Send an action for the next time step, when the present one is over.

        Args:
            action: ``(3,)`` in [-1, 1]; values outside are clipped.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and after an episode's end.
            ValueError: The action is not finite.
            EnvError: The game is gone.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() before step()")
        action = np.asarray(action, np.float32)
        if not np.isfinite(action).all():
            raise ValueError(f"action {action} is not finite")
        action = np.clip(action, -1.0, 1.0)
        self.health.acted(time.perf_counter())
        seen, reward, gave_up, too_long, told = self._clock.step(action)
        self._look_for_trouble()
        self._steps += 1
        outcome = "lap" if told["finished"] else "stalled" if gave_up else "timeout" if too_long else ""
        observation = self._builder.append(*self._newest(seen), action, float(reward))
        info = self._info(seen)
        if outcome:  # rtgym has rested and closed the game's menu meanwhile: no measure of the rhythm
            self._running = False
            info["outcome"] = outcome
        else:
            self.health.handed_out(time.perf_counter())
        if outcome == "lap":
            info["lap_share"], info["lap_time"] = 1.0, self._steps * self._cfg.step_s
        return observation, float(reward), outcome == "stalled", outcome in ("lap", "timeout"), info

    def close(self) -> None:
        """Leave the game with the pedals released."""
        self._running = False
        self._clock.stop()
        self._game.close()

    def _timing(self) -> dict[str, Any]:
        cfg = self._cfg
        return {
            "interface": lambda: self._guard,
            "time_step_duration": cfg.step_s,
            "start_obs_capture": cfg.start_obs_capture_s,
            "time_step_timeout_factor": 1.0,  # a step may begin late by a whole one before the rhythm is given up
            "ep_max_length": cfg.max_steps,
            "act_in_obs": True,
            "act_buf_len": cfg.action_history,
            "reset_act_buf": True,
            "wait_on_done": True,  # the car rests while the finished episode is sent
            "benchmark": False,
        }

    def _newest(self, seen: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the sensors and the picture of a step; the histories are the builder's."""
        speed, gear, rpm, images, lidar, *_ = seen
        frame = images[-1] if self.spec_.image_shape is not None else None
        return np.concatenate([speed, gear, rpm, lidar]).astype(np.float32), frame

    def _info(self, seen: tuple[np.ndarray, ...]) -> dict[str, Any]:
        return {"lap_share": self._game.lap_share, "speed": float(seen[0][0])}

    def _look_for_trouble(self) -> None:
        error = self._guard.trouble
        if error is None:
            return
        self._running = False
        if isinstance(error, EnvError):
            raise error
        raise EnvError(
            f"env = {self._cfg.name}: the game cannot be driven: {type(error).__name__}: {str(error).rstrip('.')}. See "
            "what python app/doctor.py env=trackmania says, and docs/trackmania.md."
        ) from error
