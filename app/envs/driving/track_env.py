"""Base of all environments in which a car drives one lap of a closed track."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from app.config.schema_env import TrackEnvConfig
from app.envs.driving.camera import Camera
from app.envs.driving.lidar import Lidar
from app.envs.observation import ObservationBuilder
from app.envs.spec import make_car_spec
from app.envs.tracks.track import Track
from app.envs.video.render_state import RenderState

OUTCOMES = (None, "off_track", "lap", "stalled", "timeout")  # a saved state holds an index of it
_FAST_SHARE = 0.65  # share of the top speed that the video shows as fast


class CarState(NamedTuple):
    """Pose of the car and readings of its instruments."""

    x: float  # m
    y: float  # m
    heading: float  # rad, counter-clockwise from the x axis
    speed: float  # m/s along the heading
    gear: int  # 0 (standing) to 5
    rpm: float  # order of 10 000


class TrackEnv(gymnasium.Env):
    """Drive along a closed track; the reward is progress.

    Actions are (gas, brake, steer) in [-1, 1]; gas and brake act above 0, steer is right when
    positive. An episode terminates off the track or when the car stalls; it is truncated after
    one lap (counted from its start) or after ``max_steps``. Every ``info`` has ``lap_share`` and ``speed``, the last
    one ``outcome`` too, and ``lap_time`` in s if the lap was finished.

    A subclass provides the car, which must exist before it calls this constructor, and its picture.

    Args:
        config: Parameters of the environment.
        tracks: Seeds of the tracks that episodes are drawn from.
        seed: Seed of the draws of tracks and starts; None: a different one in every process.

    Attributes:
        observation_spec: The observation contract.
        track: The track of the present episode.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    # attributes that belong to the state of an episode; a saved state has them under these names
    EPISODE_STATE = ("_edge", "_start", "_along", "_progress", "_goal", "_idle", "_steps", "_running", "_end")

    def __init__(self, config: TrackEnvConfig, tracks: Sequence[int], seed: int | None) -> None:
        self._config = config
        self._tracks = tuple(tracks)
        self.observation_spec = make_car_spec(config)
        self.observation_space = self.observation_spec.observation_space()
        self.action_space = self.observation_spec.action_space()
        self._np_random, self._np_random_seed = seeding.np_random(seed)
        self._builder = ObservationBuilder(self.observation_spec)
        self._begin_episode(self._tracks[0], 0.0)  # so that get_state and render work before the first reset ...
        self._running = False  # ... while step does not

    @property
    @abstractmethod
    def car_state(self) -> CarState:
        """Present pose and instruments of the car."""

    @property
    def steps(self) -> int:
        """Number of steps of the present episode."""
        return self._steps

    @property
    def lap_share(self) -> float:
        """Covered share of the lap, in [0, 1]."""
        return min(max(self._progress / self.track.length, 0.0), 1.0)

    @abstractmethod
    def _make_track(self, seed: int) -> Track:
        """Return the track of a seed."""

    @abstractmethod
    def _place_car(self, x: float, y: float, heading: float) -> None:
        """Put the car on ``self.track`` at a pose (m, m, rad), standing, with straight wheels."""

    @abstractmethod
    def _drive(self, gas: float, brake: float, steer: float) -> None:
        """Move the car for ``step_s`` with constant gas and brake in [0, 1] and steer in [-1, 1]."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode with the car standing on the centre line.

        Args:
            seed: New seed of the draws; None continues them.
            options: ``track`` (a seed) and ``start`` (share of the track in [0, 1)). A track that is not given is
                drawn; a start that is not given is drawn if ``random_start``, and else 0.

        Returns:
            The first observation and its info.

        Raises:
            ValueError: If an option is unknown, or the start is outside [0, 1).
        """
        super().reset(seed=seed)
        track, start = draw_episode(self._config, self._tracks, self.np_random, options)
        return self._begin_episode(track, start), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step.

        Args:
            action: ``(3,)`` in [-1, 1]; values outside are clipped, in the observation too.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and after an episode's end.
            ValueError: If the action is not finite.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() before step()")
        action = np.minimum(np.maximum(np.asarray(action, np.float32), -1.0), 1.0)
        self._controls = _to_controls(action)
        self._drive(*self._controls)
        car = self.car_state
        self._trail.append((car.x, car.y, car.speed))
        progress, offset = self._advance(car)
        outcome = self._find_outcome(offset)
        self._end, self._running = OUTCOMES.index(outcome), outcome is None
        reward = self._config.reward_per_metre * progress
        obs = self._builder.append(self._read_sensors(car), self._capture_frame(car), action, reward)
        info = self._info()
        if outcome is not None:
            info["outcome"] = outcome
        if outcome == "lap":
            info |= self._lap_info()
        return obs, reward, outcome in ("off_track", "stalled"), outcome in ("lap", "timeout"), info

    def _load_track(self, seed: int) -> None:
        self.track = self._make_track(seed)
        self._lidar, self._camera = _make_sensors(self._config, self.track)

    def _begin_episode(self, track: int, start: float) -> dict[str, np.ndarray]:
        """Put the car on the track of a seed and return the first observation of an episode."""
        self._load_track(track)
        x, y, heading, self._edge = self.track.pose(start)
        self._start = start
        self._along = start * self.track.length  # arc length of the car's place on the centre line, m
        self._progress = 0.0  # m since the start, signed
        self._goal = self._config.stall_metres  # progress from which the car counts as moving
        self._idle = 0  # steps since it last counted as moving
        self._steps = self._end = 0
        self._running = True
        self._controls = (0.0, 0.0, 0.0)
        self._trail = [(x, y, 0.0)]  # of every step so far, for the video
        self._place_car(x, y, heading)
        car = self.car_state
        return self._builder.reset(self._read_sensors(car), self._capture_frame(car))

    def _render_state(self, top_speed: float, ghost: tuple[float, float, float] | None = None) -> RenderState:
        """Return what a video frame shows of the present state.

        Args:
            top_speed: Top speed of the car, m/s.
            ghost: See ``RenderState``.
        """
        car = self.car_state
        return RenderState(
            track=self.track,
            pose=(car.x, car.y, car.heading),
            speed=car.speed,
            fast_speed=_FAST_SHARE * top_speed,
            controls=self._controls,
            trail=np.array(self._trail),
            start=self._start,
            lap_share=self.lap_share,
            seconds=self._steps * self._config.step_s,
            outcome=OUTCOMES[self._end],
            ghost=ghost,
        )

    def _advance(self, car: CarState) -> tuple[float, float]:
        """Update the episode after a step; return its progress and the distance from the centre line, m."""
        length = self.track.length
        self._edge, along, offset = self.track.project(car.x, car.y, self._edge)
        metres = (along - self._along + length / 2.0) % length - length / 2.0  # the short way round
        self._along = along
        self._progress += metres
        self._steps += 1
        self._idle += 1
        if self._progress >= self._goal:
            self._goal, self._idle = self._progress + self._config.stall_metres, 0
        return metres, abs(offset)

    def _find_outcome(self, offset: float) -> str | None:
        """Return why the episode ends at this distance (m) from the centre line; None if it goes on."""
        if offset > self.track.half_width:
            return "off_track"
        if self._progress >= self.track.length:
            return "lap"
        if self._idle >= self._config.stall_steps:
            return "stalled"
        return "timeout" if self._steps >= self._config.max_steps else None

    def _read_sensors(self, car: CarState) -> np.ndarray:
        sensors = np.empty(self.observation_spec.sensors, np.float32)
        sensors[:3] = car.speed, car.gear, car.rpm
        sensors[3:] = self._lidar.scan(car.x, car.y, car.heading, self._edge)
        return sensors

    def _capture_frame(self, car: CarState) -> np.ndarray | None:
        if self._camera is None:
            return None
        return self._camera.capture(car.x, car.y, car.heading)

    def _info(self) -> dict[str, Any]:
        return {"lap_share": self.lap_share, "speed": self.car_state.speed}

    def _lap_info(self) -> dict[str, Any]:
        """Return the additional info of a finished lap."""
        return {"lap_time": self._steps * self._config.step_s}


def draw_episode(
    config: TrackEnvConfig, tracks: Sequence[int], rng: np.random.Generator, options: Mapping[str, Any] | None
) -> tuple[int, float]:
    """Return the track seed and the start of an episode, drawing what the options do not give.

    Args:
        config: Parameters of the environment.
        tracks: Seeds of the tracks to draw from.
        rng: Generator of the draws.
        options: Options of ``TrackEnv.reset``.

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    options = options or {}
    if unknown := sorted(options.keys() - {"track", "start"}):
        raise ValueError(f"options: {unknown[0]} is unknown; there are track (a seed) and start (a share of the track)")
    track, start = options.get("track"), options.get("start")
    if track is None:
        track = tracks[rng.integers(len(tracks))]
    if start is None:
        start = rng.random() if config.random_start else 0.0
    if not (isinstance(start, Real) and 0.0 <= start < 1.0):
        raise ValueError(f"options: start={start} is not a share of the track in [0, 1)")
    if not (isinstance(track, Integral) and track >= 0):
        raise ValueError(f"options: track={track} is not a seed; seeds are whole numbers from 0")
    return int(track), float(start)


@lru_cache(maxsize=256)
def _make_sensors(config: TrackEnvConfig, track: Track) -> tuple[Lidar, Camera | None]:
    return Lidar(config, track), Camera(track, config.image_size) if config.images else None


def _to_controls(action: np.ndarray) -> tuple[float, float, float]:
    """Return gas [0, 1], brake [0, 1] and steer [-1, 1] of an action; raise ValueError if it is not finite."""
    gas, brake, steer = action.tolist()
    if not math.isfinite(gas + brake + steer):
        raise ValueError(f"action {action} is not finite")
    return min(max(gas, 0.0), 1.0), min(max(brake, 0.0), 1.0), min(max(steer, -1.0), 1.0)
