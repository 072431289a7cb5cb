"""The built-in track simulator: our own car on our own random tracks, and its video."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.config.schema import SimConfig
from app.envs.car import Car
from app.envs.lap_bound import centre_line_bound
from app.envs.render import VideoCamera
from app.envs.rng import pack_rng, unpack_rng
from app.envs.scene import Scene
from app.envs.track import Track, make_track
from app.envs.track_env import OUTCOMES, Motion, TrackEnv

_FAST = 0.65  # share of the top speed that the video shows as fast


class TrackSim(TrackEnv):
    """A lap on a random closed track in the simulated car.

    The ``info`` of a finished lap holds ``lap_bound`` beside ``lap_time``: seconds of the fastest lap along the centre
    line from the same standing start.

    Attributes:
        car: The car on the track.
    """

    def __init__(self, cfg: SimConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> None:
        """Build the simulator.

        Args:
            cfg: Its parameters.
            tracks: Seeds of the tracks that an episode is drawn from.
            seed: Seeds the draws of tracks and starts.
            render_size: Width and height of a video frame in pixels.
        """
        self.car = Car(cfg.car)
        self._video = VideoCamera(render_size)
        super().__init__(cfg, tracks, seed)

    @property
    def motion(self) -> Motion:
        """Where the car is now."""
        car = self.car
        return Motion(car.x, car.y, car.heading, car.speed, *car.engine())

    def render(self) -> np.ndarray:
        """Paint the present for a video: ``(render_size, render_size, 3)`` RGB uint8."""
        car, cfg = self.car, self._cfg
        return self._video.shoot(
            Scene(
                track=self.track,
                pose=(car.x, car.y, car.heading),
                speed=car.speed,
                fast=_FAST * cfg.car.top_speed,
                controls=self._controls,
                trail=np.array(self._trail),
                start=self._start,
                lap_share=self._lap_share(),
                seconds=self._steps * cfg.step_s,
                outcome=OUTCOMES[self._end],
            )
        )

    def get_state(self) -> dict[str, np.ndarray | float]:
        """Return all that decides the future, random numbers included, as arrays and numbers."""
        state: dict[str, np.ndarray | float] = {name: getattr(self, name) for name in self.COUNTERS}
        state["track"] = self.track.seed
        state["car"] = np.array([getattr(self.car, name) for name in Car.STATE])
        state["controls"] = np.array(self._controls)
        state["trail"] = np.array(self._trail)
        state["rng"] = pack_rng(self.np_random)
        return state | {f"observation/{part}": rows for part, rows in self._builder.get_state().items()}

    def set_state(self, state: dict[str, np.ndarray | float]) -> dict[str, np.ndarray]:
        """Continue exactly where ``get_state`` was called, in this or another process; returns the observation."""
        self._enter(int(state["track"]))
        for name in self.COUNTERS:
            setattr(self, name, state[name])
        for name, value in zip(Car.STATE, state["car"].tolist(), strict=True):
            setattr(self.car, name, value)
        self._controls = tuple(state["controls"].tolist())
        self._trail = [tuple(point) for point in state["trail"].tolist()]
        unpack_rng(self.np_random, state["rng"])
        self._builder.set_state({part: state[f"observation/{part}"] for part in self.observation_space})
        return self._builder.get_state()

    def _lap_info(self) -> dict[str, Any]:
        bound = centre_line_bound(self.track, self._cfg.car, self._start)
        return super()._lap_info() | {"lap_bound": bound}

    def _make_track(self, seed: int) -> Track:
        return make_track(self._cfg.track, seed)

    def _put_car(self, x: float, y: float, heading: float) -> None:
        self.car.place(x, y, heading)
        self._controls = (0.0, 0.0, 0.0)
        self._trail = [(x, y, 0.0)]

    def _drive(self, gas: float, brake: float, steer: float) -> None:
        car = self.car
        self._controls = gas, brake, steer
        car.drive(gas, brake, steer, self._cfg.step_s, self._cfg.substeps)
        self._trail.append((car.x, car.y, car.speed))
