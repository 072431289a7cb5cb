"""What an environment shows: the shape and meaning of every part of an observation."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from app.errors import UserError


class EnvError(UserError, ValueError):
    """An environment that cannot be built as configured; the text says what is allowed."""


@dataclass(frozen=True)
class ObservationSpec:
    """The observation contract of one environment.

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
        action_history: How many past actions ``floats`` carries.
        image_shape: ``(history, H, W)``, or None without images.
        window: Number of rows of the context window; 0 for none.
        window_sensors: Which sensor columns the window shows.
        one_sided_actions: Action components that act above 0 only.
        sensor_scale: One divisor per sensor that brings it to order 1.
        reward_scale: The same for the reward in the window.
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
        """Reject a spec whose parts contradict each other."""
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

    def space(self) -> spaces.Dict:
        """Build the Gymnasium space of an observation."""
        parts = {"floats": spaces.Box(-np.inf, np.inf, (self.float_dim,), np.float32)}
        if self.image_shape is not None:
            parts["images"] = spaces.Box(0, 255, self.image_shape, np.uint8)
        if self.window:
            parts["window"] = spaces.Box(-np.inf, np.inf, (self.window, self.window_dim), np.float32)
        return spaces.Dict(parts)

    def action_space(self) -> spaces.Box:
        """Build the Gymnasium space of an action: every component in [-1, 1]."""
        return spaces.Box(-1.0, 1.0, (self.action_dim,), np.float32)
