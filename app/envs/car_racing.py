"""Gymnasium's CarRacing under the observation, reward and ends of the simulator.

Imports Box2D and pygame, so it is imported only when such an environment is made.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from app.config.schema import CarRacingConfig
from app.envs.racing_game import HALF_WIDTH, RacingGame
from app.envs.rng import pack_rng, unpack_rng
from app.envs.track import Track
from app.envs.track_env import Motion, TrackEnv

_RPM = 10_000.0  # of the rear wheels when they roll at the top speed


class CarRacing(TrackEnv):
    """A lap on one of CarRacing's tracks, in its car; a metre is one of its units.

    The car has a single gear; ``rpm`` are those of its rear wheels, so they show wheels that spin or lock. Every
    ``info`` holds ``native_return``, what the game itself has scored so far: 1000 for all tiles of the road, −0.1 a
    frame of 20 ms.
    """

    def __init__(self, cfg: CarRacingConfig, tracks: Sequence[int], seed: int) -> None:
        """Build the first world.

        Args:
            cfg: Parameters of the environment.
            tracks: Seeds of the tracks that an episode is drawn from; the tracks of ``CarRacing.reset(seed=...)``.
            seed: Seeds the draws of tracks and starts.
        """
        self._game: RacingGame | None = None
        super().__init__(cfg, tracks, seed)

    @property
    def motion(self) -> Motion:
        """Where the car is now."""
        x, y, heading, speed, wheel_speed = self._game.motion()
        return Motion(x, y, heading, speed, int(speed > 0.1), _RPM * wheel_speed / self._cfg.top_speed)

    def render(self) -> np.ndarray:
        """Return the game's own picture, ``(400, 600, 3)`` RGB uint8."""
        return self._game.render()

    def close(self) -> None:
        """Take the world down."""
        self._game.close()

    def get_state(self) -> dict[str, Any]:
        """Return what repeats the episode: where it began, its actions so far, and the random numbers to come.

        Box2D's world cannot be saved, but it comes to the same place by the same actions.
        """
        return {
            "running": self._running,
            "track": self.track.seed,
            "start": self._start,
            "actions": np.array(self._actions, np.float32).reshape(-1, 3),
            "rng": pack_rng(self.np_random),
        }

    def set_state(self, state: dict[str, Any]) -> dict[str, np.ndarray]:
        """Repeat the episode of ``get_state``; returns its newest observation."""
        observation = self._place(int(state["track"]), state["start"])
        for action in state["actions"]:
            observation, *_ = self.step(action)
        self._running = state["running"]
        unpack_rng(self.np_random, state["rng"])
        return observation

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step; see ``TrackEnv.step``."""
        result = super().step(action)
        self._actions.append(np.array(action, np.float32))
        return result

    def _make_track(self, seed: int) -> Track:
        if self._game is not None:
            self._game.close()
        self._game = RacingGame(seed)
        return _track(seed)

    def _put_car(self, x: float, y: float, heading: float) -> None:
        self._actions: list[np.ndarray] = []
        self._game.place(x, y, heading, self._cfg.step_s / self._cfg.substeps)

    def _drive(self, gas: float, brake: float, steer: float) -> None:
        self._game.drive(gas, brake, steer, self._cfg.step_s, self._cfg.substeps)

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"native_return": self._game.reward}


@lru_cache(maxsize=256)
def _track(seed: int) -> Track:
    """Measure the road of a seed; map and lidar hang on the object, so it is made once."""
    game = RacingGame(seed)
    centre, left, right = game.lines()
    game.close()
    return Track(seed, centre, (left, right), centre, HALF_WIDTH)
