"""Built-in track simulator: a simulated car on random tracks, and its video."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.config.schema_env import SimConfig
from app.envs.driving.car import Car
from app.envs.driving.track_env import CarState, TrackEnv
from app.envs.rng_state import pack_rng, unpack_rng
from app.envs.tracks.lap_bound import centre_line_bound
from app.envs.tracks.track import Track, make_track
from app.envs.video.renderer import VideoRenderer


class SimEnv(TrackEnv):
    """A lap on a random closed track in the simulated car.

    The ``info`` of a finished lap has ``lap_bound`` beside ``lap_time``: seconds of the fastest lap along the centre
    line from the same standing start.

    Args:
        config: Parameters of the environment.
        tracks: Seeds of the tracks that episodes are drawn from.
        seed: Seed of the draws of tracks and starts; None: a different one in every process.
        render_size: Width and height of a video frame in pixels.

    Attributes:
        car: The car on the track.
        ghost: Pose (x and y in m, heading in rad) at which the video shows another car; None: it shows none.
    """

    def __init__(self, config: SimConfig, tracks: Sequence[int], seed: int | None, render_size: int = 480) -> None:
        self.car = Car(config.car)
        self.ghost: tuple[float, float, float] | None = None
        self._renderer = VideoRenderer(render_size)
        super().__init__(config, tracks, seed)

    @property
    def car_state(self) -> CarState:
        """Present pose and instruments of the car."""
        car = self.car
        return CarState(car.x, car.y, car.heading, car.speed, *car.gear_and_rpm())

    def render(self) -> np.ndarray:
        """Return a video frame of the present state, ``(render_size, render_size, 3)`` uint8, RGB."""
        return self._renderer.render(self._render_state(self._config.car.top_speed, self.ghost))

    def get_state(self) -> dict[str, np.ndarray | float]:
        """Return all that decides the future, random numbers included, as arrays and numbers."""
        state: dict[str, np.ndarray | float] = {name: getattr(self, name) for name in self.EPISODE_STATE}
        state["track"] = self.track.seed
        state["car"] = np.array([getattr(self.car, name) for name in Car.STATE])
        state["controls"] = np.array(self._controls)
        state["trail"] = np.array(self._trail)
        state["rng"] = pack_rng(self.np_random)
        return state | {f"observation/{part}": rows for part, rows in self._builder.get_state().items()}

    def set_state(self, state: dict[str, np.ndarray | float]) -> dict[str, np.ndarray]:
        """Continue exactly where ``get_state`` was called, in this or another process.

        Args:
            state: The return value of ``get_state``.

        Returns:
            The newest observation.
        """
        self._load_track(int(state["track"]))
        for name in self.EPISODE_STATE:
            setattr(self, name, state[name])
        for name, value in zip(Car.STATE, state["car"].tolist(), strict=True):
            setattr(self.car, name, value)
        self._controls = tuple(state["controls"].tolist())
        self._trail = [tuple(point) for point in state["trail"].tolist()]
        unpack_rng(self.np_random, state["rng"])
        self._builder.set_state({part: state[f"observation/{part}"] for part in self.observation_space})
        return self._builder.get_state()

    def _lap_info(self) -> dict[str, Any]:
        bound = centre_line_bound(self.track, self._config.car, self._start)
        return super()._lap_info() | {"lap_bound": bound}

    def _make_track(self, seed: int) -> Track:
        return make_track(self._config.track, seed)

    def _place_car(self, x: float, y: float, heading: float) -> None:
        self.car.place(x, y, heading)

    def _drive(self, gas: float, brake: float, steer: float) -> None:
        self.car.drive(gas, brake, steer, self._config.step_s, self._config.substeps)
