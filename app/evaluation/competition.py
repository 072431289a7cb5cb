"""Rules of tmrl's competition: ten runs from the start line, the mean of their times, and penalties for crashes.

"We evaluate it over 10 runs ... the mean time achieved by your policy ... If the car crashes (i.e., the episode
auto-resets due to failure of moving forward), we don't count the episode but we add a penalty of 10 seconds to the next
episode. After 3 crashes the submission is eliminated." Source: "Evaluation and leaderboard" in
https://github.com/trackmania-rl/tmrl/blob/master/readme/competition.md, tmrl 0.7.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.evaluation.episodes import Observation, Policy
from app.evaluation.results import Episode, mean_std

RUNS = 10  # that count
MAX_CRASHES = 3
PENALTY_S = 10.0  # s, for every crash before a run


@dataclass(frozen=True)
class Attempt:
    """One episode of the competition.

    Attributes:
        episode: The episode.
        penalty: Seconds that are added for crashes before it.
    """

    episode: Episode
    penalty: float

    @property
    def time(self) -> float | None:
        """Lap time with the penalty, in seconds; None for a crash, which does not count."""
        return None if self.episode.lap_time is None else self.episode.lap_time + self.penalty


@dataclass(frozen=True)
class CompetitionResult:
    """Result of a policy.

    Attributes:
        attempts: All episodes, crashes included, in their order.
    """

    attempts: tuple[Attempt, ...]

    @property
    def times(self) -> list[float]:
        """Times of the runs that count, penalties included, in seconds."""
        return [attempt.time for attempt in self.attempts if attempt.time is not None]

    @property
    def crashes(self) -> int:
        """Number of episodes in which the lap was not finished."""
        return len(self.attempts) - len(self.times)

    @property
    def is_eliminated(self) -> bool:
        """Whether the policy has crashed too often."""
        return self.crashes >= MAX_CRASHES

    @property
    def score(self) -> tuple[float, float] | None:
        """Mean and population standard deviation of the times, in seconds; None if the policy is eliminated."""
        return None if self.is_eliminated else mean_std(self.times)


def drive_competition(drive: Callable[[int], Episode]) -> CompetitionResult:
    """Drive until ten runs count or the policy is eliminated.

    Every episode that ends before the lap is a crash: off the track, stalled, or out of time. The penalties of crashes
    in a row add up.

    Args:
        drive: Drives the episode with this number, counted from 0, from the start line.
    """
    attempts: list[Attempt] = []
    penalty, crashes = 0.0, 0
    while len(attempts) - crashes < RUNS and crashes < MAX_CRASHES:
        attempt = Attempt(drive(len(attempts)), penalty)
        attempts.append(attempt)
        crashed = attempt.time is None
        crashes, penalty = crashes + crashed, penalty + PENALTY_S if crashed else 0.0
    return CompetitionResult(tuple(attempts))


class TimedPolicy:
    """Policy that measures how long it takes from observations to actions.

    Args:
        policy: The policy.

    Attributes:
        seconds: Seconds of every call.
    """

    def __init__(self, policy: Policy):
        self._policy = policy
        self.seconds: list[float] = []

    def __call__(self, running: Sequence[int], observations: Sequence[Observation]) -> Sequence[np.ndarray]:
        """Return the actions for the running episodes."""
        start = time.perf_counter()
        actions = self._policy(running, observations)
        self.seconds.append(time.perf_counter() - start)
        return actions


@dataclass(frozen=True)
class Latency:
    """Duration of an act, in seconds.

    Attributes:
        mean: Mean.
        p95: 95th percentile.
        p99: 99th percentile.
        late: Share of the acts that took longer than a step.
    """

    mean: float
    p95: float
    p99: float
    late: float


def latency(seconds: Sequence[float], step_s: float) -> Latency:
    """Return the latency of at least one act.

    Args:
        seconds: Duration of every act.
        step_s: Duration of a step, in seconds.
    """
    values = np.asarray(seconds)
    p95, p99 = np.percentile(values, [95, 99])
    return Latency(float(values.mean()), float(p95), float(p99), float(np.mean(values > step_s)))
