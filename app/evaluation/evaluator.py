"""Evaluation of an actor on fixed starts, with environments of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import gymnasium
import numpy as np
import torch

from app.config.schema import TrainingConfig
from app.config.schema_env import EnvConfig
from app.core.torch_rng import forked_rng
from app.envs.env_factory import make_env
from app.evaluation.episodes import Observation, Policy, Start, make_starts, run_episodes
from app.evaluation.results import Episode, Evaluation
from app.models.actor import DrivingActor


class BatchActor(Protocol):
    """Policy that acts for several cars at once: a ``DrivingActor``, or one from an exported file."""

    device: str

    def actions(self, obs: Mapping[str, torch.Tensor], deterministic: torch.Tensor) -> torch.Tensor:
        """Return the actions (B, A) in [-1, 1] for B observations; ``deterministic`` (B,) bool says which kind."""


class Evaluator(Protocol):
    """Evaluates an actor: in this process, or by workers that have the environment."""

    def evaluate(self, actor: DrivingActor, deterministic: Sequence[Start], stochastic: Sequence[Start]) -> Evaluation:
        """Drive one episode from every start, with the actor's deterministic or with sampled actions."""

    def close(self) -> None:
        """Free all resources."""


def evaluation_starts(
    env: EnvConfig, training: TrainingConfig, offset: float
) -> tuple[tuple[Start, ...], tuple[Start, ...]]:
    """Return a run's deterministic and stochastic evaluation starts with this offset."""
    counts = training.eval_episodes, training.eval_episodes_stochastic
    deterministic, stochastic = (make_starts(env.eval_tracks, count, offset) for count in counts)
    return deterministic, stochastic


class LocalEvaluator:
    """Evaluator in this process; the environment and the random numbers of training stay as they are.

    Simulated episodes run in lockstep; the game is a single one, so its episodes run one after another.

    Args:
        cfg: Configuration of the environment.
        seed: Seed of the sampled actions.
        before_step: Called before every step; it may raise to end the evaluation.
    """

    def __init__(self, cfg: EnvConfig, seed: int, before_step: Callable[[], None] = lambda: None):
        self.cfg, self.seed, self.before_step = cfg, seed, before_step
        self._envs: list[gymnasium.Env] = []

    def evaluate(self, actor: BatchActor, deterministic: Sequence[Start], stochastic: Sequence[Start]) -> Evaluation:
        """Drive one episode from every start, with the actor's deterministic or with sampled actions."""
        modes = [True] * len(deterministic) + [False] * len(stochastic)
        episodes = self.run(actor, [*deterministic, *stochastic], modes)
        return Evaluation(episodes[: len(deterministic)], episodes[len(deterministic) :])

    def run(self, actor: BatchActor, starts: Sequence[Start], deterministic: Sequence[bool]) -> tuple[Episode, ...]:
        """Drive one episode from every start.

        Args:
            actor: The actor.
            starts: Starts of the episodes.
            deterministic: For every episode, whether it is driven with the deterministic action.
        """
        together = 1 if self.cfg.real_time else max(1, len(starts))
        groups = [slice(i, i + together) for i in range(0, len(starts), together)]
        with forked_rng(self.seed):
            return tuple(
                episode for group in groups for episode in self._run_group(actor, starts[group], deterministic[group])
            )

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _run_group(self, actor: BatchActor, starts: Sequence[Start], deterministic: Sequence[bool]) -> list[Episode]:
        tracks = [start.track for start in starts if start.track is not None]
        while len(self._envs) < len(starts):
            self._envs.append(make_env(self.cfg, tracks, self.seed))
        return run_episodes(
            self._envs[: len(starts)], starts, policy_of(actor, deterministic), before_step=self.before_step
        )


def record_episode(
    actor: BatchActor, cfg: EnvConfig, start: Start, seed: int, render_size: int
) -> tuple[list[np.ndarray], Episode]:
    """Drive one deterministic episode and record it.

    Returns:
        RGB frames (H, W, 3) uint8, one per step, empty where the task cannot be rendered; and the episode.
    """
    tracks = () if start.track is None else (start.track,)
    env = make_env(cfg, tracks, seed, render_size)
    frames: list[np.ndarray | None] = []
    (episode,) = run_episodes([env], [start], policy_of(actor, [True]), lambda: frames.append(env.render()))
    frames.append(env.render())
    env.close()
    return [frame for frame in frames if frame is not None], episode


def policy_of(actor: BatchActor, deterministic: Sequence[bool]) -> Policy:
    """Return an actor as a policy of ``run_episodes``, with one forward pass for all running episodes.

    Args:
        actor: The actor.
        deterministic: For every episode, whether it is driven with the deterministic action.
    """

    def policy(running: Sequence[int], observations: Sequence[Observation]) -> np.ndarray:
        modes = torch.tensor([deterministic[i] for i in running], device=actor.device)
        return actor.actions(_stack(observations, actor.device), modes).cpu().numpy()

    return policy


def _stack(observations: Sequence[Observation], device: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([obs[key] for obs in observations])).to(device) for key in observations[0]}
