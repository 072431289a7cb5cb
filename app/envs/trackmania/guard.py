"""Keeps rtgym alive when the game is not: it calls its interface in a thread where nobody would see an error."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from rtgym import RealTimeGymInterface

T = TypeVar("T")


class GuardedInterface(RealTimeGymInterface):
    """Hands every call on to an interface; the first error ends the episode and is kept.

    An exception in rtgym's thread would leave the caller of ``reset`` or ``step`` waiting for ever.

    Args:
        interface: the one that may fail.

    Attributes:
        trouble: the first error since the last ``reset``; None: all is well.
    """

    def __init__(self, interface: RealTimeGymInterface):
        self.trouble: Exception | None = None
        self._interface = interface
        space = interface.get_observation_space()
        self._last = [np.zeros(part.shape, part.dtype) for part in space.spaces]

    def send_control(self, control: np.ndarray | None) -> None:
        """Press the pedals and turn the wheel."""
        self._try(lambda: self._interface.send_control(control), None)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list, dict[str, Any]]:
        """Begin an episode; after an error the observation is empty."""
        self.trouble = None
        obs, info = self._try(lambda: self._interface.reset(seed, options), (self._last, {}))
        self._last = obs
        return obs, info

    def wait(self) -> None:
        """Rest between two episodes."""
        self._try(self._interface.wait, None)

    def get_obs_rew_terminated_info(self) -> tuple[list, float, bool, dict[str, Any]]:
        """Return what there is to see; after an error the last observation again, and the episode's end."""
        if self.trouble is not None:
            return self._last, 0.0, True, {"finished": False}
        result = self._try(self._interface.get_obs_rew_terminated_info, (self._last, 0.0, True, {"finished": False}))
        self._last = result[0]
        return result

    def get_observation_space(self) -> Any:
        """Return the interface's space."""
        return self._interface.get_observation_space()

    def get_action_space(self) -> Any:
        """Return the interface's space."""
        return self._interface.get_action_space()

    def get_default_action(self) -> np.ndarray:
        """Return the interface's action at rest."""
        return self._interface.get_default_action()

    def _try(self, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:  # of the driver, the window, the socket: whatever it is, it is told elsewhere
            self.trouble = self.trouble or error
            return otherwise
