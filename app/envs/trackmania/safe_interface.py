"""rtgym interface that turns errors of another interface into the end of the episode."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from rtgym import RealTimeGymInterface

T = TypeVar("T")


class SafeInterface(RealTimeGymInterface):
    """Passes every call on to an interface; the first error ends the episode and is kept.

    rtgym calls its interface in a thread of its own. An exception there would be lost, and the caller of ``reset`` or
    ``step`` would wait forever.

    Args:
        interface: The interface that may raise.

    Attributes:
        error: First error since the last ``reset``, or None.
    """

    def __init__(self, interface: RealTimeGymInterface) -> None:
        self.error: Exception | None = None
        self._interface = interface
        space = interface.get_observation_space()
        self._last_observation = [np.zeros(part.shape, part.dtype) for part in space.spaces]

    def send_control(self, control: np.ndarray | None) -> None:
        """Apply an action ``(3,)`` float32: gas, brake, steer."""
        self._call(lambda: self._interface.send_control(control), None)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list, dict[str, Any]]:
        """Begin an episode; after an error the observation is the last one, or zeros."""
        self.error = None
        observation, info = self._call(lambda: self._interface.reset(seed, options), (self._last_observation, {}))
        self._last_observation = observation
        return observation, info

    def wait(self) -> None:
        """Rest between two episodes."""
        self._call(self._interface.wait, None)

    def get_obs_rew_terminated_info(self) -> tuple[list, float, bool, dict[str, Any]]:
        """Return observation, reward, terminated and info; after an error the last observation and terminated."""
        ended = (self._last_observation, 0.0, True, {"finished": False})
        if self.error is not None:
            return ended
        result = self._call(self._interface.get_obs_rew_terminated_info, ended)
        self._last_observation = result[0]
        return result

    def get_observation_space(self) -> spaces.Tuple:
        """Return the observation space of the interface."""
        return self._interface.get_observation_space()

    def get_action_space(self) -> spaces.Box:
        """Return the action space of the interface."""
        return self._interface.get_action_space()

    def get_default_action(self) -> np.ndarray:
        """Return the interface's action at rest."""
        return self._interface.get_default_action()

    def _call(self, function: Callable[[], T], fallback: T) -> T:
        try:
            return function()
        except Exception as error:  # of the gamepad's driver, the window, the socket: TrackmaniaEnv reports it
            self.error = self.error or error
            return fallback
