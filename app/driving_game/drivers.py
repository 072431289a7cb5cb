"""Drivers of the game: a person with keyboard or gamepad, and the hand-written reference driver."""

from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

import numpy as np

from app.config.schema_commands import GamepadConfig
from app.config.schema_env import SimConfig
from app.envs.driving.reference_driver import ReferenceDriver
from app.envs.driving.sim_env import SimEnv

Controls = tuple[float, float, float]  # gas [0, 1], brake [0, 1], steer [-1, 1], right is positive

_SECONDS_TO_LOCK = 0.2  # from straight wheels to the whole steering lock, with keys


class Driver(Protocol):
    """Chooses the actions of a car."""

    def begin(self, env: SimEnv) -> None:
        """Prepare for the episode that has just begun."""

    def act(self, env: SimEnv) -> np.ndarray:
        """Return the action ``(3,)`` float32 for the next time step."""


class LineDriver:
    """The reference driver, which knows the car's true state; see ``ReferenceDriver``.

    Args:
        config: Parameters of the environment.
    """

    def __init__(self, config: SimConfig) -> None:
        self._config = config
        self._driver: ReferenceDriver | None = None

    def begin(self, env: SimEnv) -> None:
        """Plan the line of the track."""
        self._driver = ReferenceDriver(self._config, env.track)

    def act(self, env: SimEnv) -> np.ndarray:
        """Return the action for the next time step; components may lie outside [-1, 1]."""
        return self._driver.act(env.car)


class Gamepad:
    """Triggers, stick and buttons of a gamepad.

    Args:
        joystick: A joystick of pygame, or what has its ``get_axis`` and ``get_button``.
        config: Numbers of axes and buttons.
    """

    def __init__(self, joystick, config: GamepadConfig) -> None:
        self._joystick, self._config = joystick, config
        self._moved: set[int] = set()  # triggers that have been touched

    def controls(self) -> Controls:
        """Return what is pressed now."""
        config, steer = self._config, self._joystick.get_axis(self._config.steer_axis)
        if abs(steer) < config.dead_zone:
            steer = 0.0
        gas = max(self._trigger(config.gas_axis), float(self._joystick.get_button(config.gas_button)))
        brake = max(self._trigger(config.brake_axis), float(self._joystick.get_button(config.brake_button)))
        return gas, brake, steer

    def _trigger(self, axis: int) -> float:
        """Return how far a trigger is pressed, 0 to 1; it rests at -1, but SDL reports 0 until it is first touched."""
        value = self._joystick.get_axis(axis)
        if value != 0.0:
            self._moved.add(axis)
        return (value + 1.0) / 2.0 if axis in self._moved else 0.0


class HumanDriver:
    """A person: arrow keys or WASD, and every gamepad that is plugged in.

    Keys turn the wheels gradually, in ``_SECONDS_TO_LOCK`` to the lock; a stick steers directly.

    Args:
        pygame: The module pygame, whose window is open.
        gamepads: The gamepads.
        step_s: Duration of a time step in seconds.
    """

    def __init__(self, pygame: ModuleType, gamepads: Sequence[Gamepad], step_s: float) -> None:
        self._pygame, self._gamepads = pygame, gamepads
        self._max_turn = step_s / _SECONDS_TO_LOCK
        self._wheels = 0.0  # turned by keys

    def begin(self, env: SimEnv) -> None:
        """Straighten the wheels."""
        self._wheels = 0.0

    def act(self, env: SimEnv) -> np.ndarray:
        """Return what is pressed now as an action."""
        pads = [pad.controls() for pad in self._gamepads]
        gas, brake, turn = self._keys()
        self._wheels += float(np.clip(turn - self._wheels, -self._max_turn, self._max_turn))
        steer = max([self._wheels, *(pad_steer for *_, pad_steer in pads)], key=abs)
        gas, brake = (max([key, *(pad[i] for pad in pads)]) for i, key in enumerate((gas, brake)))
        return np.array([gas, brake, steer], np.float32)

    def _keys(self) -> Controls:
        pygame, held = self._pygame, self._pygame.key.get_pressed()
        up, down, left, right = (
            float(any(held[key] for key in keys))
            for keys in (
                (pygame.K_UP, pygame.K_w),
                (pygame.K_DOWN, pygame.K_s),
                (pygame.K_LEFT, pygame.K_a),
                (pygame.K_RIGHT, pygame.K_d),
            )
        )
        return up, down, right - left
