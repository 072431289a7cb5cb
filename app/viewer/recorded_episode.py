"""Recording of driven episodes, state by state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from app.config.schema_env import SimConfig, TrackEnvConfig
from app.core.torch_rng import forked_rng
from app.envs.driving.track_env import TrackEnv
from app.envs.env_factory import make_env
from app.envs.tracks.track import Track
from app.evaluation.episodes import Start, run_episodes
from app.evaluation.evaluator import policy_of
from app.evaluation.reference_lap import drive_reference_lap
from app.evaluation.results import Episode
from app.models.actor import DrivingActor


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One driven episode: T steps between T + 1 states.

    Attributes:
        result: Its result.
        track: The track that it was driven on.
        step_s: Seconds of a step.
        pose: ``(T + 1, 3)`` float64: x and y in m, heading in rad.
        speed: ``(T + 1,)`` float64, m/s.
        distance: ``(T + 1,)`` float64, m along the centre line from the start; 0 behind it, the length of the track
            at the end of a lap.
        actions: ``(T, 3)`` float32, as the driver chose them: gas, brake and steer in [-1, 1].
        observations: By part of the observation ``(T + 1, ...)``.
    """

    result: Episode
    track: Track
    step_s: float
    pose: np.ndarray
    speed: np.ndarray
    distance: np.ndarray
    actions: np.ndarray
    observations: Mapping[str, np.ndarray]

    @property
    def seconds(self) -> np.ndarray:
        """Time of every state ``(T + 1,)``, s."""
        return self.step_s * np.arange(len(self.speed))

    def seconds_at(self, distance: np.ndarray) -> np.ndarray:
        """Return when the car first reached some distances.

        Args:
            distance: ``(n,)``, m along the centre line from the start.

        Returns:
            ``(n,)`` float64, s, interpolated within a step; NaN for what it did not reach.
        """
        furthest = np.maximum.accumulate(self.distance)
        after = np.searchsorted(furthest, distance, side="left")
        known = after < len(furthest)
        after = np.where(known, after, 0)
        before = np.maximum(after - 1, 0)
        gained = furthest[after] - furthest[before]
        share = np.divide(distance - furthest[before], gained, out=np.zeros(len(after)), where=gained > 0.0)
        return np.where(known, self.step_s * (before + share), np.nan)


class EpisodeRecorder(gymnasium.Wrapper):
    """Environment that keeps every state of its present episode.

    Args:
        env: A car on a track.
        step_s: Seconds of a step.
    """

    def __init__(self, env: TrackEnv, step_s: float) -> None:
        super().__init__(env)
        self._step_s = step_s
        self._cars: list[tuple[float, ...]] = []  # x, y, heading, speed, share of the lap
        self._actions: list[np.ndarray] = []
        self._observations: list[Mapping[str, np.ndarray]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; see ``TrackEnv.reset``."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._cars, self._actions, self._observations = [], [], []
        self._append(observation, info)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Mapping[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step; see ``TrackEnv.step``."""
        result = self.env.step(action)
        self._actions.append(np.array(action, np.float32))
        self._append(result[0], result[-1])
        return result

    def recorded(self, result: Episode) -> RecordedEpisode:
        """Return the episode, which has ended with this result."""
        cars = np.array(self._cars, np.float64)
        return RecordedEpisode(
            result=result,
            track=self.env.track,
            step_s=self._step_s,
            pose=cars[:, :3],
            speed=cars[:, 3],
            distance=cars[:, 4] * self.env.track.length,
            actions=np.stack(self._actions),
            observations={
                part: np.stack([observation[part] for observation in self._observations])
                for part in self._observations[0]
            },
        )

    def _append(self, observation: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
        car = self.env.car_state
        self._cars.append((car.x, car.y, car.heading, car.speed, info["lap_share"]))
        self._observations.append(observation)


def record_policy(
    actor: DrivingActor, env: TrackEnvConfig, starts: Sequence[Start], seed: int
) -> tuple[RecordedEpisode, ...]:
    """Drive one deterministic episode from every start, all in lockstep, as an evaluation does.

    Args:
        actor: The actor.
        env: Configuration of the environment.
        starts: Starts of the episodes.
        seed: Seed of the environments.
    """
    recorders = [EpisodeRecorder(make_env(env, [start.track], seed), env.step_s) for start in starts]
    try:
        with forked_rng(seed):
            results = run_episodes(recorders, starts, policy_of(actor, [True] * len(starts)))
        return tuple(recorder.recorded(result) for recorder, result in zip(recorders, results, strict=True))
    finally:
        for recorder in recorders:
            recorder.close()


def record_reference(env: SimConfig, start: Start) -> RecordedEpisode:
    """Drive one episode of the simulator with the reference driver.

    Args:
        env: Configuration of the environment.
        start: Start of the episode.
    """
    recorders: list[EpisodeRecorder] = []

    def record(sim: TrackEnv) -> EpisodeRecorder:
        recorders.append(EpisodeRecorder(sim, env.step_s))
        return recorders[0]

    result = drive_reference_lap(env, start.track, start.position, record)
    return recorders[0].recorded(result)
