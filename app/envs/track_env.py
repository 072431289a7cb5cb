"""One lap of a closed track: what every car's environment has in common, whatever moves the car."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from app.config.schema import TrackEnvConfig
from app.envs.car_spec import car_spec
from app.envs.ego import EgoCamera
from app.envs.lidar import Lidar
from app.envs.observation import ObservationBuilder
from app.envs.track import Track

OUTCOMES = ("", "off_track", "lap", "stalled", "timeout")


class Motion(NamedTuple):
    """Where the car is and what its instruments say."""

    x: float  # m
    y: float  # m
    heading: float  # rad, counter-clockwise from the x axis
    speed: float  # m/s along the heading
    gear: int  # 0 (standing) to 5
    rpm: float  # 10 000 at the top of a gear


class TrackEnv(gymnasium.Env):
    """Drive along a closed track; reward is progress.

    Actions are (gas, brake, steer) in [-1, 1]; gas and brake act above 0, steer is right when
    positive. An episode terminates off the track or when the car stalls; it is truncated after
    one lap (counted from its start) or after ``max_steps``. ``info["outcome"]`` says which.

    Attributes:
        spec_: The observation contract.
        track: The track of the present episode.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    COUNTERS = ("_edge", "_start", "_along", "_progress", "_goal", "_idle", "_steps", "_running", "_end")

    def __init__(self, cfg: TrackEnvConfig, tracks: Sequence[int], seed: int) -> None:
        """Place the car on the first track; a subclass has made it before.

        Args:
            cfg: Parameters of the environment.
            tracks: Seeds of the tracks that an episode is drawn from.
            seed: Seeds the draws of tracks and starts.
        """
        self._cfg = cfg
        self._tracks = tuple(tracks)
        self.spec_ = car_spec(cfg)
        self.observation_space = self.spec_.space()
        self.action_space = self.spec_.action_space()
        self._np_random, self._np_random_seed = seeding.np_random(seed)
        self._builder = ObservationBuilder(self.spec_)
        self._place(self._tracks[0], 0.0)  # a whole state from the beginning, though not one to step from
        self._running = False

    @property
    @abstractmethod
    def motion(self) -> Motion:
        """Where the car is now."""

    @abstractmethod
    def _make_track(self, seed: int) -> Track:
        """Return the track of a seed."""

    @abstractmethod
    def _put_car(self, x: float, y: float, heading: float) -> None:
        """Put the car on ``self.track``, standing, wheels straight."""

    @abstractmethod
    def _drive(self, gas: float, brake: float, steer: float) -> None:
        """Hold the controls for ``step_s``: gas and brake in [0, 1], steer in [-1, 1]."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode with the car standing on the centre line.

        Args:
            seed: Seeds the draws anew, if given.
            options: ``track`` (a seed) and ``start`` (share of the track in [0, 1)); what is not
                given is drawn, the start only if the config says so.

        Returns:
            The first observation and its info.
        """
        super().reset(seed=seed)
        track, start = self._choose(**(options or {}))
        return self._place(track, start), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step.

        Args:
            action: ``(3,)`` in [-1, 1]; values outside are clipped.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and after an episode's end.
            ValueError: If the action is not finite.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() before step()")
        action = np.asarray(action, np.float32)
        self._drive(*_controls(action))
        now = self.motion
        metres, beside = self._advance(now)
        outcome = self._judge(beside)
        self._end, self._running = OUTCOMES.index(outcome), not outcome
        reward = self._cfg.reward_per_metre * metres
        obs = self._builder.append(self._sense(now), self._look(now), action, reward)
        info = self._info()
        if outcome:
            info["outcome"] = outcome
        if outcome == "lap":
            info |= self._lap_info()
        return obs, reward, outcome in ("off_track", "stalled"), outcome in ("lap", "timeout"), info

    def _choose(self, track: int | None = None, start: float | None = None) -> tuple[int, float]:
        """Draw what the caller of ``reset`` left open."""
        if track is None:
            track = self._tracks[self.np_random.integers(len(self._tracks))]
        if start is None:
            start = self.np_random.random() if self._cfg.random_start else 0.0
        if not 0.0 <= start < 1.0:
            raise ValueError(f"options: start={start} is not a share of the track in [0, 1)")
        return int(track), float(start)

    def _enter(self, track: int) -> None:
        self.track = self._make_track(track)
        self._lidar, self._camera = _instruments(self._cfg, self.track)

    def _place(self, track: int, start: float) -> dict[str, np.ndarray]:
        """Put the car on the track and begin an episode there."""
        self._enter(track)
        x, y, heading, self._edge = self.track.pose(start)
        self._start = start
        self._along = start * self.track.length
        self._progress = 0.0  # m since the start, signed
        self._goal = self._cfg.stall_metres  # progress from which the car counts as moving
        self._idle = self._steps = self._end = 0
        self._running = True
        self._put_car(x, y, heading)
        now = self.motion
        return self._builder.reset(self._sense(now), self._look(now))

    def _advance(self, now: Motion) -> tuple[float, float]:
        """Count the step; return the progress it made and the distance from the centre line, m."""
        length = self.track.length
        self._edge, along, beside = self.track.locate(now.x, now.y, self._edge)
        metres = (along - self._along + length / 2.0) % length - length / 2.0  # the short way round
        self._along = along
        self._progress += metres
        self._steps += 1
        self._idle += 1
        if self._progress >= self._goal:
            self._goal, self._idle = self._progress + self._cfg.stall_metres, 0
        return metres, abs(beside)

    def _judge(self, beside: float) -> str:
        """Return why the episode ends here, or an empty string."""
        if beside > self.track.half_width:
            return "off_track"
        if self._progress >= self.track.length:
            return "lap"
        if self._idle >= self._cfg.stall_steps:
            return "stalled"
        return "timeout" if self._steps >= self._cfg.max_steps else ""

    def _sense(self, now: Motion) -> np.ndarray:
        sensors = np.empty(self.spec_.sensors, np.float32)
        sensors[:3] = now.speed, now.gear, now.rpm
        sensors[3:] = self._lidar.scan(now.x, now.y, now.heading, self._edge)
        return sensors

    def _look(self, now: Motion) -> np.ndarray | None:
        if self._camera is None:
            return None
        return self._camera.shoot(now.x, now.y, now.heading)

    def _info(self) -> dict[str, Any]:
        return {"lap_share": self._lap_share(), "speed": self.motion.speed}

    def _lap_info(self) -> dict[str, Any]:
        """Return what the info of a finished lap holds besides."""
        return {"lap_time": self._steps * self._cfg.step_s}

    def _lap_share(self) -> float:
        return min(max(self._progress / self.track.length, 0.0), 1.0)


@lru_cache(maxsize=256)
def _instruments(cfg: TrackEnvConfig, track: Track) -> tuple[Lidar, EgoCamera | None]:
    return Lidar(cfg, track), EgoCamera(track, cfg.image_size) if cfg.images else None


def _controls(action: np.ndarray) -> tuple[float, float, float]:
    """Return gas [0, 1], brake [0, 1] and steer [-1, 1] of an action; reject NaN and infinity."""
    gas, brake, steer = action.tolist()
    if not math.isfinite(gas + brake + steer):
        raise ValueError(f"action {action} is not finite")
    return min(max(gas, 0.0), 1.0), min(max(brake, 0.0), 1.0), min(max(steer, -1.0), 1.0)
