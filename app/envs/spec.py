"""Observation contract of an environment: shape, dtype and meaning of every part."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from app.config.schema_env import TrackEnvConfig, TrackmaniaConfig
from app.core.errors import UserError

MAX_GEAR, MAX_RPM = 5, 10_000.0  # of the simulated cars; the game's are about the same
STEER = 2  # index of a car's steering among its actions


class EnvError(UserError, ValueError):
    """An environment cannot be built as configured, or its game cannot be reached; the message says what to do."""


@dataclass(frozen=True)
class ObservationSpec:
    """Observation contract of one environment.

    An observation is a dict of NumPy arrays in physical units; only the model scales them:

    - ``floats`` ``(float_dim,)`` float32: the sensors, then the last actions, oldest first (zeros
      before the episode began).
    - ``images`` ``(history, H, W)`` uint8, oldest first, if there is an ``image_shape``. The first
      frame is repeated at the start of an episode.
    - ``window`` ``(window, window_dim)`` float32, if ``window`` > 0. One row per step, the newest
      last: the window's sensors, the action that led to them, the reward that came with them. The
      row of a reset has zero action and reward; rows before the episode began are all zero.

    Attributes:
        sensors: Number of scalar sensors of one step.
        action_dim: Number of action components, each in [-1, 1].
        action_history: Number of past actions in ``floats``.
        image_shape: ``(history, H, W)``, or None without images.
        window: Number of rows of the context window; 0 for none.
        window_sensors: Indices of the sensors that the window contains.
        sensor_scale: One divisor per sensor that brings it to order 1.
        reward_scale: Divisor that brings the rewards in the window to order 1.
        one_sided_actions: Indices of the action components that have an effect above 0 only.
    """

    sensors: int
    action_dim: int
    action_history: int
    image_shape: tuple[int, int, int] | None
    window: int
    window_sensors: tuple[int, ...]
    sensor_scale: tuple[float, ...]
    reward_scale: float
    one_sided_actions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if the parts contradict each other."""
        if len(self.sensor_scale) != self.sensors:
            raise ValueError(f"{len(self.sensor_scale)} sensor scales for {self.sensors} sensors")
        if not all(0 <= column < self.sensors for column in self.window_sensors):
            raise ValueError(f"window_sensors {self.window_sensors} outside the {self.sensors} sensors")

    @property
    def float_dim(self) -> int:
        """Width of ``floats``."""
        return self.sensors + self.action_history * self.action_dim

    @property
    def window_dim(self) -> int:
        """Width of one row of ``window``."""
        return len(self.window_sensors) + self.action_dim + 1

    def observation_space(self) -> spaces.Dict:
        """Return the Gymnasium space of an observation."""
        parts = {"floats": spaces.Box(-np.inf, np.inf, (self.float_dim,), np.float32)}
        if self.image_shape is not None:
            parts["images"] = spaces.Box(0, 255, self.image_shape, np.uint8)
        if self.window:
            parts["window"] = spaces.Box(-np.inf, np.inf, (self.window, self.window_dim), np.float32)
        return spaces.Dict(parts)

    def action_space(self) -> spaces.Box:
        """Return the Gymnasium space of an action: ``(action_dim,)`` float32, every component in [-1, 1]."""
        return spaces.Box(-1.0, 1.0, (self.action_dim,), np.float32)


def make_car_spec(config: TrackEnvConfig | TrackmaniaConfig) -> ObservationSpec:
    """Return the observation contract of a car.

    Its sensors are speed, gear, rpm and the lidar beams from left to right, its actions gas, brake and steer. The
    window contains speed and lidar.

    Args:
        config: Parameters of the environment.
    """
    beams = config.lidar_beams
    image_shape = (config.image_history, config.image_size, config.image_size)
    return ObservationSpec(
        sensors=3 + beams,
        action_dim=3,
        action_history=config.action_history,
        image_shape=image_shape if config.images else None,
        window=config.window,
        window_sensors=(0, *range(3, 3 + beams)),
        sensor_scale=(config.top_speed, float(MAX_GEAR), MAX_RPM, *[config.lidar_range] * beams),
        reward_scale=config.reward_scale,
        one_sided_actions=(0, 1),  # gas and brake
    )
