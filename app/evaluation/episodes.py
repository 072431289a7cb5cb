"""Episodes of any policy in any number of environments, from fixed starts. Imports no torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from app.evaluation.results import Episode

SELECTION_OFFSET = 0.0  # of the starts that choose the best policy
REPORT_OFFSET = 0.5  # of the starts that judge it: other starts than those that chose it

Observation = Mapping[str, np.ndarray]
# Actions (A,) for the observations of the running episodes, whose indices come first.
Policy = Callable[[Sequence[int], Sequence[Observation]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Start:
    """Start of an evaluation episode.

    Attributes:
        track: Seed of the track; None where the task has no tracks to choose from.
        position: Place on the track, as a share of its length, in [0, 1).
        seed: Seed for ``reset``; None leaves the environment's random numbers as they are.
    """

    track: int | None = None
    position: float = 0.0
    seed: int | None = None

    @property
    def options(self) -> dict[str, Any] | None:
        """Options for ``reset``."""
        return None if self.track is None else {"track": self.track, "start": self.position}


def make_starts(tracks: Sequence[int], count: int, offset: float) -> tuple[Start, ...]:
    """Spread ``count`` starts evenly over a lap and over ``tracks``.

    Args:
        tracks: Track seeds; empty for a Gymnasium task.
        count: Number of episodes.
        offset: Shift of the starts by this share of their spacing, in [0, 1); other offsets give other starts.
    """
    seed = round(offset * 1000) * 1000
    if not tracks:
        return tuple(Start(seed=seed + i) for i in range(count))
    return tuple(Start(tracks[i % len(tracks)], (i + offset) / count, seed + i) for i in range(count))


def run_episodes(
    envs: Sequence[gymnasium.Env],
    starts: Sequence[Start],
    policy: Policy,
    before_step: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Drive one episode from every start, all in lockstep.

    Args:
        envs: One environment for every start.
        starts: Starts of the episodes.
        policy: Chooses the actions; called once per step for all episodes that still run.
        before_step: Called before every step; it may raise to end the episodes.
    """
    observations = [
        env.reset(seed=start.seed, options=start.options)[0] for env, start in zip(envs, starts, strict=True)
    ]
    returns, lengths, infos = [0.0] * len(starts), [0] * len(starts), [{} for _ in starts]
    running = list(range(len(starts)))
    while running:
        before_step()
        actions = policy(running, [observations[i] for i in running])
        for i, action in zip(list(running), actions, strict=True):
            observations[i], reward, terminated, truncated, infos[i] = envs[i].step(action)
            returns[i] += reward
            lengths[i] += 1
            if terminated or truncated:
                running.remove(i)
    return [make_episode(*parts) for parts in zip(starts, returns, lengths, infos, strict=True)]


def make_episode(start: Start, ret: float, length: int, info: Mapping[str, Any]) -> Episode:
    """Return the result of an episode.

    Args:
        start: Start of the episode.
        ret: Undiscounted return.
        length: Number of environment steps.
        info: Info of the last step. A Gymnasium task has no laps, and most tasks no native score: these keys are
            missing there.
    """
    return Episode(
        ret=float(ret),
        length=length,
        lap_share=info.get("lap_share", math.nan),
        lap_time=info.get("lap_time"),
        outcome=info["outcome"],
        track=start.track or 0,
        start=start.position,
        native_return=info.get("native_return"),
        lap_bound=info.get("lap_bound"),
    )
