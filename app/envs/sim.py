"""The built-in track simulator: a Gymnasium environment around car, track, lidar and camera."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from app.config.schema import SimConfig
from app.envs.car import Car
from app.envs.ego import EgoCamera
from app.envs.lidar import Lidar
from app.envs.observation import ObservationBuilder
from app.envs.render import VideoCamera
from app.envs.rng import pack_rng, unpack_rng
from app.envs.scene import Scene
from app.envs.spec import ObservationSpec
from app.envs.track import Track, make_track

_ACTIONS = 3  # gas, brake, steer
_FAST = 0.65  # share of the top speed that the video shows as fast
_GEARS, _RPM = 5.0, 10_000.0  # the most there is
_OUTCOMES = ("", "off_track", "lap", "stalled", "timeout")
_COUNTERS = ("_edge", "_start", "_along", "_progress", "_goal", "_idle", "_steps", "_running", "_end")


def sim_spec(cfg: SimConfig) -> ObservationSpec:
    """Return the observation contract: sensors are speed (m/s), gear, rpm and the lidar (m)."""
    size = cfg.image_size
    return ObservationSpec(
        sensors=3 + cfg.lidar_beams,
        action_dim=_ACTIONS,
        action_history=cfg.action_history,
        image_shape=(cfg.image_history, size, size) if cfg.images else None,
        window=cfg.window,
        window_sensors=(0, *range(3, 3 + cfg.lidar_beams)),
        sensor_scale=(cfg.car.top_speed, _GEARS, _RPM, *[cfg.lidar_range] * cfg.lidar_beams),
        reward_scale=cfg.reward_per_metre * cfg.car.top_speed * cfg.step_s,
    )


class TrackSim(gymnasium.Env):
    """Drive along a random closed track; reward is progress.

    Actions are (gas, brake, steer) in [-1, 1]; gas and brake act above 0, steer is right when
    positive. An episode terminates off the track or when the car stalls; it is truncated after
    one lap (counted from its start) or after ``max_steps``. ``info["outcome"]`` says which.

    Attributes:
        spec_: The observation contract.
        track: The track of the present episode.
        car: The car on it.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, cfg: SimConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> None:
        """Build the simulator.

        Args:
            cfg: Its parameters.
            tracks: Seeds of the tracks that an episode is drawn from.
            seed: Seeds the draws of tracks and starts.
            render_size: Width and height of a video frame in pixels.
        """
        self._cfg = cfg
        self._tracks = tuple(tracks)
        self.spec_ = sim_spec(cfg)
        self.observation_space = self.spec_.space()
        self.action_space = self.spec_.action_space()
        self._np_random, self._np_random_seed = seeding.np_random(seed)
        self.car = Car(cfg.car)
        self._builder = ObservationBuilder(self.spec_)
        self._video = VideoCamera(render_size)
        self._place(self._tracks[0], 0.0)  # a whole state from the beginning, though not one to step from
        self._running = False

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
        self._controls = gas, brake, steer = _controls(action)
        cfg, car = self._cfg, self.car
        car.drive(gas, brake, steer, cfg.step_s, cfg.substeps)
        metres, beside = self._advance()
        self._trail.append((car.x, car.y, car.speed))
        outcome = self._judge(beside)
        self._end, self._running = _OUTCOMES.index(outcome), not outcome
        reward = cfg.reward_per_metre * metres
        obs = self._builder.append(self._sense(), self._look(), action, reward)
        info = self._info()
        if outcome:
            info["outcome"] = outcome
        if outcome == "lap":
            info["lap_time"] = self._steps * cfg.step_s
        return obs, reward, outcome in ("off_track", "stalled"), outcome in ("lap", "timeout"), info

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
                outcome=_OUTCOMES[self._end],
            )
        )

    def get_state(self) -> dict[str, np.ndarray | float]:
        """Return all that decides the future, random numbers included, as arrays and numbers."""
        state: dict[str, np.ndarray | float] = {name: getattr(self, name) for name in _COUNTERS}
        state["track"] = self.track.seed
        state["car"] = np.array([getattr(self.car, name) for name in Car.STATE])
        state["controls"] = np.array(self._controls)
        state["trail"] = np.array(self._trail)
        state["rng"] = pack_rng(self.np_random)
        return state | {f"observation/{part}": rows for part, rows in self._builder.get_state().items()}

    def set_state(self, state: dict[str, np.ndarray | float]) -> dict[str, np.ndarray]:
        """Continue exactly where ``get_state`` was called, in this or another process; returns the observation."""
        self._enter(int(state["track"]))
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name, value in zip(Car.STATE, state["car"].tolist(), strict=True):
            setattr(self.car, name, value)
        self._controls = tuple(state["controls"].tolist())
        self._trail = [tuple(point) for point in state["trail"].tolist()]
        unpack_rng(self.np_random, state["rng"])
        self._builder.set_state({part: state[f"observation/{part}"] for part in self.observation_space})
        return self._builder.get_state()

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
        self.track = make_track(self._cfg.track, track)
        self._lidar, self._camera = _instruments(self._cfg, self.track)

    def _place(self, track: int, start: float) -> dict[str, np.ndarray]:
        """Put the car on the track and begin an episode there."""
        self._enter(track)
        x, y, heading, self._edge = self.track.pose(start)
        self.car.place(x, y, heading)
        self._start = start
        self._along = start * self.track.length
        self._progress = 0.0  # m since the start, signed
        self._goal = self._cfg.stall_metres  # progress from which the car counts as moving
        self._idle = self._steps = self._end = 0
        self._running = True
        self._controls = (0.0, 0.0, 0.0)
        self._trail = [(x, y, 0.0)]
        return self._builder.reset(self._sense(), self._look())

    def _advance(self) -> tuple[float, float]:
        """Count the step; return the progress it made and the distance from the centre line, m."""
        length = self.track.length
        self._edge, along, beside = self.track.locate(self.car.x, self.car.y, self._edge)
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

    def _sense(self) -> np.ndarray:
        car = self.car
        sensors = np.empty(self.spec_.sensors, np.float32)
        sensors[:3] = car.speed, *car.engine()
        sensors[3:] = self._lidar.scan(car.x, car.y, car.heading, self._edge)
        return sensors

    def _look(self) -> np.ndarray | None:
        if self._camera is None:
            return None
        return self._camera.shoot(self.car.x, self.car.y, self.car.heading)

    def _info(self) -> dict[str, Any]:
        return {"lap_share": self._lap_share(), "speed": self.car.speed}

    def _lap_share(self) -> float:
        return min(max(self._progress / self.track.length, 0.0), 1.0)


@lru_cache(maxsize=256)
def _instruments(cfg: SimConfig, track: Track) -> tuple[Lidar, EgoCamera | None]:
    return Lidar(cfg, track), EgoCamera(track, cfg.image_size) if cfg.images else None


def _controls(action: np.ndarray) -> tuple[float, float, float]:
    """Return gas [0, 1], brake [0, 1] and steer [-1, 1] of an action; reject NaN and infinity."""
    gas, brake, steer = action.tolist()
    if not math.isfinite(gas + brake + steer):
        raise ValueError(f"action {action} is not finite")
    return min(max(gas, 0.0), 1.0), min(max(brake, 0.0), 1.0), min(max(steer, -1.0), 1.0)
