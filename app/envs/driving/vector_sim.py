"""The simulator as a Gymnasium vector environment that moves all its cars at once."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from app.config.schema_env import SimConfig
from app.envs.driving.camera import Camera
from app.envs.driving.car_batch import CarBatch
from app.envs.driving.lidar_batch import LidarBatch
from app.envs.driving.track_env import OUTCOMES, draw_episode
from app.envs.driving.track_sim import bounded_space, make_config
from app.envs.observation import HistoryBatch
from app.envs.spec import EnvError, make_car_spec
from app.envs.tracks.lap_bound import centre_line_bound
from app.envs.tracks.track import Track, make_track
from app.envs.tracks.track_batch import TrackBatch

_OFF_TRACK, _LAP, _STALLED, _TIMEOUT = (OUTCOMES.index(name) for name in ("off_track", "lap", "stalled", "timeout"))


class VectorTrackSim(VectorEnv):
    """N cars of ``TrackSim-v0``, each on a lap of its own; made by ``gymnasium.make_vec``.

    Cars, rewards, ends and images equal those of N single environments bit for bit, the lidar to 1e-9 m, which is less
    than what its float32 resolves. Seeds, autoreset and infos are those of ``SyncVectorEnv``.

    Args:
        num_envs: Number N of cars.
        option: Option of ``conf/env`` that has the defaults.
        autoreset_mode: When a car that has finished its episode begins the next one.
        render_mode: None: this form draws nothing.
        **settings: Keys of ``conf/env/sim.yaml`` with other values.

    Raises:
        EnvError: A setting is unknown or out of range; the message says what is allowed.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        option: str = "sim",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None:
            raise EnvError(
                f"render_mode = {render_mode}: this vector environment draws nothing. Leave it out, or add "
                'vectorization_mode="sync".'
            )
        if num_envs < 1:
            raise EnvError(f"num_envs = {num_envs}: must be at least 1.")
        self._config = config = make_config(option, settings)
        self._mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self._mode}
        self.num_envs = num_envs
        self.observation_spec = make_car_spec(config)
        self.single_observation_space = bounded_space(config)
        self.single_action_space = self.observation_spec.action_space()
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in (self.single_observation_space, self.single_action_space)
        )
        self._rngs = [seeding.np_random()[0] for _ in range(num_envs)]
        self._tracks = _Tracks(config)
        self._cars = CarBatch(config.car, num_envs)
        self._histories = HistoryBatch(self.observation_spec, num_envs)
        self._start = np.zeros(num_envs)  # the others of the episode as in TrackEnv
        self._along, self._progress, self._goal = (np.zeros(num_envs) for _ in range(3))
        self._track, self._edge, self._idle, self._steps = (np.zeros(num_envs, np.intp) for _ in range(4))
        self._ended = np.ones(num_envs, bool)  # before the first reset, too
        self._was_reset = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode in every car.

        Args:
            seed: Seed of the first car, of which the others get the next ones; or a seed for every car; None continues
                their random numbers.
            options: As of a single environment, and ``reset_mask`` ``(N,)`` bool: the cars to reset.

        Returns:
            Observations and infos; the infos of cars that were not reset are masked.

        Raises:
            ValueError: The number of seeds or the mask does not fit, or an option is unknown or out of range.
        """
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)] if _is_one(seed) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed: {len(seeds)} seeds for {self.num_envs} cars")
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"options: reset_mask must be {self.num_envs} bools, at least one of them true")
        if not (mask | self._was_reset).all():
            raise gymnasium.error.ResetNeeded("the first reset() must begin an episode in every car")
        cars = np.flatnonzero(mask)
        for car in cars:
            if seeds[car] is not None:
                self._rngs[car], _ = seeding.np_random(seeds[car])
        self._begin_episodes(cars, options)
        self._was_reset = True
        return self._histories.snapshot(), self._infos(mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Drive all cars for one time step.

        Args:
            actions: ``(N, 3)`` in [-1, 1]; values outside are clipped. That of a car which begins a new episode is
                ignored.

        Returns:
            Observations, rewards ``(N,)`` float64, terminated and truncated ``(N,)`` bool, infos.

        Raises:
            gymnasium.error.ResetNeeded: Before the first reset and, without autoreset, after an episode's end.
            ValueError: An action is not finite.
        """
        resets = np.flatnonzero(self._ended)
        if not self._was_reset or (len(resets) and self._mode is not AutoresetMode.NEXT_STEP):
            raise gymnasium.error.ResetNeeded("an episode has ended: call reset() before step()")
        actions = np.asarray(actions, np.float32).reshape(self.num_envs, 3).copy()
        actions[resets] = 0.0
        if not np.isfinite(actions).all():
            raise ValueError(f"actions of the cars {np.flatnonzero(~np.isfinite(actions).all(axis=1))} are not finite")
        actions = np.clip(actions, -1.0, 1.0)
        rewards, outcomes = self._drive(actions)
        rewards[resets], outcomes[resets] = 0.0, 0
        self._ended = outcomes > 0
        if len(resets):
            self._begin_episodes(resets, {})
        infos = self._infos(np.ones(self.num_envs, bool), outcomes)
        if self._mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos = self._restart_ended(infos)
        terminated, truncated = np.isin(outcomes, (_OFF_TRACK, _STALLED)), np.isin(outcomes, (_LAP, _TIMEOUT))
        return self._histories.snapshot(), rewards, terminated, truncated, infos

    def _drive(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move all cars and append to their histories; return rewards ``(N,)`` and indices of outcomes ``(N,)``."""
        config, cars = self._config, self._cars
        gas, brake, steer = actions.astype(np.float64).T
        cars.drive(np.maximum(gas, 0.0), np.maximum(brake, 0.0), steer, config.step_s, config.substeps)
        progress, offset = self._advance()
        rewards = config.reward_per_metre * progress
        every = np.arange(self.num_envs)
        self._histories.append(self._read_sensors(every), self._capture_frames(every), actions, rewards)
        return rewards, self._find_outcomes(offset)

    def _advance(self) -> tuple[np.ndarray, np.ndarray]:
        """Update the episodes after a step; return progress and distance from the centre line ``(N,)``, m."""
        lines, length = self._tracks.lines, self._length()
        self._edge, along, offset = lines.project(self._track, self._cars.x, self._cars.y, self._edge)
        metres = (along - self._along + length / 2.0) % length - length / 2.0  # the short way round
        self._along = along
        self._progress = self._progress + metres
        self._steps += 1
        self._idle += 1
        moving = self._progress >= self._goal
        self._goal = np.where(moving, self._progress + self._config.stall_metres, self._goal)
        self._idle[moving] = 0
        return metres, np.abs(offset)

    def _find_outcomes(self, offset: np.ndarray) -> np.ndarray:
        """Return the indices of the outcomes ``(N,)`` at distances (m) from the centre line; 0 where none."""
        config = self._config
        conditions = {
            _OFF_TRACK: offset > config.track.half_width,
            _LAP: self._progress >= self._length(),
            _STALLED: self._idle >= config.stall_steps,
            _TIMEOUT: self._steps >= config.max_steps,
        }
        return np.select(list(conditions.values()), list(conditions), default=0)

    def _begin_episodes(self, cars: np.ndarray, options: dict[str, Any]) -> None:
        """Put some cars on tracks at their starts, drawing what the options do not give."""
        config = self._config
        drawn = [draw_episode(config, config.train_tracks, self._rngs[car], options) for car in cars]
        self._track[cars] = [self._tracks.index(seed) for seed, _ in drawn]
        poses = [
            self._tracks.tracks[track].pose(start) for track, (_, start) in zip(self._track[cars], drawn, strict=True)
        ]
        self._cars.place(cars, np.array([pose[:3] for pose in poses]))
        self._edge[cars] = [edge for *_, edge in poses]
        self._start[cars] = [start for _, start in drawn]
        self._along[cars] = self._start[cars] * self._length()[cars]
        self._progress[cars], self._goal[cars] = 0.0, config.stall_metres
        self._idle[cars] = self._steps[cars] = 0
        self._ended[cars] = False
        self._histories.reset(cars, self._read_sensors(cars), self._capture_frames(cars))

    def _restart_ended(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Begin a new episode in every car that has ended one; return infos that keep the end of the old one."""
        ended, observations = np.flatnonzero(self._ended), self._histories.snapshot()
        keys = [key for key in infos if not key.startswith("_")]
        self._begin_episodes(ended, {})
        renewed = self._infos(np.ones(self.num_envs, bool))
        for car in ended:
            final = {
                "final_obs": {part: rows[car].copy() for part, rows in observations.items()},
                "final_info": {key: infos[key][car] for key in keys if infos[f"_{key}"][car]},
            }
            renewed = self._add_info(renewed, final, car)
        return renewed

    def _infos(self, mask: np.ndarray, outcomes: np.ndarray | None = None) -> dict[str, Any]:
        """Return the infos of some cars, in the form of Gymnasium's vector environments.

        Args:
            mask: ``(N,)`` bool, the cars.
            outcomes: ``(N,)`` int, indices of the outcomes of the step; None after a reset.
        """
        share = np.minimum(np.maximum(self._progress / self._length(), 0.0), 1.0)
        infos: dict[str, Any] = {}
        for key, values in (("lap_share", share), ("speed", self._cars.speed)):
            infos[key], infos[f"_{key}"] = np.where(mask, values, 0.0), mask.copy()
        for car in np.flatnonzero(outcomes) if outcomes is not None else ():
            info: dict[str, Any] = {"outcome": OUTCOMES[outcomes[car]]}
            if outcomes[car] == _LAP:
                bound = centre_line_bound(self._track_of(car), self._config.car, float(self._start[car]))
                info |= {"lap_time": int(self._steps[car]) * self._config.step_s, "lap_bound": bound}
            infos = self._add_info(infos, info, car)
        return infos

    def _read_sensors(self, cars: np.ndarray) -> np.ndarray:
        """Return the sensors ``(n, sensors)`` float32 of some cars."""
        state = self._cars
        sensors = np.empty((len(cars), self.observation_spec.sensors), np.float32)
        gear, rpm = state.gears_and_rpm()
        for column, values in enumerate((state.speed, gear, rpm)):
            sensors[:, column] = values[cars]
        sensors[:, 3:] = self._tracks.lidar.scan(
            self._track[cars], self._edge[cars], state.x[cars], state.y[cars], state.heading[cars]
        )
        return sensors

    def _capture_frames(self, cars: np.ndarray) -> np.ndarray | None:
        """Return the frames ``(n, H, W)`` uint8 of some cars; None without images."""
        if not self._config.images:
            return None
        size, state, cameras = self._config.image_size, self._cars, self._tracks.cameras
        frames = np.empty((len(cars), size, size), np.uint8)
        poses = (column[cars].tolist() for column in (self._track, state.x, state.y, state.heading))
        for frame, track, x, y, heading in zip(frames, *poses, strict=True):
            cameras[track].capture(x, y, heading, frame)
        return frames

    def _length(self) -> np.ndarray:
        return self._tracks.lines.length[self._track]

    def _track_of(self, car: int) -> Track:
        return self._tracks.tracks[self._track[car]]


class _Tracks:
    """The tracks that were driven so far, with what measures on them.

    Args:
        config: Parameters of the environment.

    Attributes:
        tracks: In the order of their first episodes.
        cameras: One for every track; empty without images.
        lines: Their centre lines.
        lidar: The lidar on all of them.
    """

    def __init__(self, config: SimConfig) -> None:
        self._config = config
        self._indices: dict[int, int] = {}
        self.tracks: list[Track] = []
        self.cameras: list[Camera] = []

    def index(self, seed: int) -> int:
        """Return the index of the track of a seed, which is added if it is new."""
        if seed not in self._indices:
            track = make_track(self._config.track, seed)
            self._indices[seed] = len(self.tracks)
            self.tracks.append(track)
            if self._config.images:
                self.cameras.append(Camera(track, self._config.image_size))
            self.lines, self.lidar = TrackBatch(self.tracks), LidarBatch(self._config, self.tracks)
        return self._indices[seed]


def _is_one(seed: int | Sequence[int | None] | None) -> bool:
    return seed is None or isinstance(seed, (int, np.integer))
