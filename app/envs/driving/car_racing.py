"""Gymnasium's CarRacing with the observation, reward and episode ends of the simulator.

Imports Box2D and pygame, so it is imported only when such an environment is made.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from app.config.schema_env import CarRacingConfig
from app.core.system import hide_greeting_of_pygame, silence_pygame
from app.envs.driving.track_env import CarState, TrackEnv
from app.envs.rng_state import pack_rng, unpack_rng
from app.envs.spec import MAX_RPM
from app.envs.tracks.track import Track
from app.envs.video.hud import draw_hud

hide_greeting_of_pygame()
from gymnasium.envs.box2d import car_dynamics, car_racing  # noqa: E402  (imports pygame)

_HALF_WIDTH = car_racing.TRACK_WIDTH  # of the road
_BODY_ANGLE = math.pi / 2.0  # heading of a body at angle 0: it looks along its own y axis
_SOLVER_ITERATIONS = (180, 60)  # of Box2D for velocities and positions, as in CarRacing.step
_STANDING_SPEED = 0.1  # units/s, at and below which the gear is 0
_SQUARE = slice(100, 500)  # columns of the game's picture of 400 × 600 around the car
_INSTRUMENTS = slice(350, 400)  # rows of the game's own, which ours replace


class CarRacingGame(car_racing.CarRacing):
    """World of one episode: a road, a car, and the game's own score.

    Each episode takes a game of its own, so that nothing depends on earlier episodes. ``reward`` is the score: 1000 for
    all tiles of the road together, less 0.1 per frame. The road is that of ``CarRacing.reset(seed=seed)``.

    Args:
        seed: Seed of the road.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(render_mode="rgb_array")
        self.reset(seed=seed)

    def road_lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the centre line and the left and right border, each ``(tiles, 2)`` float64 in driving order."""
        tiles = np.array(self.track)  # angle around the origin, angle of the road, x, y
        across = _HALF_WIDTH * np.stack([np.cos(tiles[:, 1]), np.sin(tiles[:, 1])], axis=1)
        centre = tiles[:, 2:]
        return centre, centre - across, centre + across

    def place(self, x: float, y: float, heading: float, seconds: float) -> None:
        """Begin the episode at a pose: a new, standing car, no visited tiles, no score.

        Args:
            x: World units.
            y: World units.
            heading: rad, counter-clockwise from the x axis.
            seconds: Duration of the one step of physics in which the wheels come into contact with the road.
        """
        self.car.destroy()
        for tile in self.road:
            tile.road_visited = False
        self.reward, self.tile_visited_count, self.new_lap, self.t = 0.0, 0, False, 0.0
        self.car = car_dynamics.Car(self.world, heading - _BODY_ANGLE, x, y)
        self.world.Step(seconds, *_SOLVER_ITERATIONS)

    def drive(self, gas: float, brake: float, steer: float, seconds: float, substeps: int) -> None:
        """Move the car with constant controls.

        Args:
            gas: [0, 1].
            brake: [0, 1].
            steer: [-1, 1], right is positive; 1 is as far as the front wheels turn.
            seconds: Duration.
            substeps: Number of steps of physics.
        """
        car, dt = self.car, seconds / substeps
        car.steer(-steer * car.wheels[0].joint.upperLimit)
        car.brake(brake)
        for _ in range(substeps):
            car.gas(gas)  # in every step, because the car raises its gas gradually
            car.step(dt)
            self.world.Step(dt, *_SOLVER_ITERATIONS)
        self.t += seconds
        self.reward -= 0.1 * car_racing.FPS * seconds

    def car_motion(self) -> tuple[float, float, float, float, float]:
        """Return x, y, heading (rad, counter-clockwise from the x axis), speed along it, and that of the rear wheels.

        Positions are in world units, speeds in world units/s.
        """
        hull = self.car.hull
        x, y = hull.position
        heading = hull.angle + _BODY_ANGLE
        vx, vy = hull.linearVelocity
        wheel_speed = sum(wheel.omega * wheel.wheel_rad for wheel in self.car.wheels[2:]) / 2.0
        return x, y, heading, vx * math.cos(heading) + vy * math.sin(heading), wheel_speed

    def close(self) -> None:
        """Remove the bodies from the world, which would keep them in memory, and close the display."""
        self._destroy()
        super().close()

    def _render(self, mode: str) -> np.ndarray | None:
        """Render for a video, but not in every step."""
        return None if mode == "state_pixels" else super()._render(mode)


class CarRacingEnv(TrackEnv):
    """A lap on one of CarRacing's tracks, in its car; a metre is one of its units.

    The car has a single gear; ``rpm`` are those of its rear wheels, 10 000 when they roll at the top speed, so they
    show wheels that spin or lock. Every ``info`` has ``native_return``, the game's own score so far: 1000 for all tiles
    of the road, less 0.1 per frame of 20 ms.

    Args:
        config: Parameters of the environment.
        tracks: Seeds of the tracks that episodes are drawn from; the tracks of ``CarRacing.reset(seed=...)``.
        seed: Seed of the draws of tracks and starts.
        render_size: Width and height of a video frame in pixels.
    """

    def __init__(self, config: CarRacingConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> None:
        self._game: CarRacingGame | None = None
        self._render_size = render_size
        self._actions: list[np.ndarray] = []  # of the running episode
        super().__init__(config, tracks, seed)

    @property
    def car_state(self) -> CarState:
        """Present pose and instruments of the car."""
        x, y, heading, speed, wheel_speed = self._game.car_motion()
        return CarState(
            x, y, heading, speed, int(speed > _STANDING_SPEED), MAX_RPM * wheel_speed / self._config.top_speed
        )

    def render(self) -> np.ndarray:
        """Return the game's own picture under our instruments, ``(render_size, render_size, 3)`` uint8, RGB."""
        silence_pygame()
        square = self._game.render()[:, _SQUARE].copy()
        square[_INSTRUMENTS] = 0
        image = cv2.resize(square, (self._render_size, self._render_size), interpolation=cv2.INTER_LINEAR)
        draw_hud(image, self._render_state(self._config.top_speed))
        return image

    def close(self) -> None:
        """Close the game."""
        self._game.close()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step; see ``TrackEnv.step``."""
        result = super().step(action)
        self._actions.append(np.array(action, np.float32))
        return result

    def get_state(self) -> dict[str, Any]:
        """Return start and actions of the running episode, and the state of the random numbers.

        Box2D's world cannot be saved, but it reaches the same state by the same actions.
        """
        return {
            "running": self._running,
            "track": self.track.seed,
            "start": self._start,
            "actions": np.array(self._actions, np.float32).reshape(-1, 3),
            "rng": pack_rng(self.np_random),
        }

    def set_state(self, state: dict[str, Any]) -> dict[str, np.ndarray]:
        """Repeat the episode of ``get_state``.

        Args:
            state: The return value of ``get_state``.

        Returns:
            The newest observation.
        """
        observation = self._begin_episode(int(state["track"]), state["start"])
        for action in state["actions"]:
            observation, *_ = self.step(action)
        self._running = state["running"]
        unpack_rng(self.np_random, state["rng"])
        return observation

    def _make_track(self, seed: int) -> Track:
        if self._game is not None:
            self._game.close()
        self._game = CarRacingGame(seed)
        return _make_track(seed)

    def _place_car(self, x: float, y: float, heading: float) -> None:
        self._actions = []
        self._game.place(x, y, heading, self._config.step_s / self._config.substeps)

    def _drive(self, gas: float, brake: float, steer: float) -> None:
        self._game.drive(gas, brake, steer, self._config.step_s, self._config.substeps)

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"native_return": self._game.reward}


@lru_cache(maxsize=256)
def _make_track(seed: int) -> Track:
    """Return the track of a seed; cached, because the sensors are cached by track object."""
    game = CarRacingGame(seed)
    centre, left, right = game.road_lines()
    game.close()
    return Track(seed, centre, (left, right), centre, _HALF_WIDTH)
