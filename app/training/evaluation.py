"""Evaluation episodes: several at once, from fixed starts; one after another in a game."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch

from app.config.schema import Config, EnvConfig
from app.envs.factory import make_env
from app.models.actor import DrivingActor
from app.reporting.results import Episode, Evaluation


@dataclass(frozen=True)
class Start:
    """Where an evaluation episode begins: a track and a share of it, or just a seed where there are no tracks."""

    track: int
    position: float
    seed: int


def make_starts(tracks: Sequence[int], count: int, offset: float) -> tuple[Start, ...]:
    """Spread ``count`` starts evenly over a lap and over ``tracks``.

    Args:
        tracks: track seeds; none for a Gymnasium task.
        count: number of episodes.
        offset: shifts the starts by this share of their spacing, in [0, 1); other offsets give other starts.
    """
    seed = round(offset * 1000) * 1000
    if not tracks:
        return tuple(Start(0, 0.0, seed + i) for i in range(count))
    return tuple(Start(tracks[i % len(tracks)], (i + offset) / count, seed + i) for i in range(count))


def starts_of(config: Config, offset: float) -> tuple[tuple[Start, ...], tuple[Start, ...]]:
    """Return a run's deterministic and stochastic evaluation starts with this offset."""
    counts = config.training.eval_episodes, config.training.eval_episodes_stochastic
    det, stoch = (make_starts(config.env.eval_tracks, count, offset) for count in counts)
    return det, stoch


class Evaluator:
    """Runs evaluation episodes with environments of its own, so that training's episode is left alone.

    Args:
        cfg: the environment.
        seed: seeds the sampling of stochastic episodes.
        on_step: called before every step; may raise to end the evaluation.
    """

    def __init__(self, cfg: EnvConfig, seed: int, on_step: Callable[[], None]):
        self.cfg, self.seed, self.on_step = cfg, seed, on_step
        self._envs: list[gymnasium.Env] = []

    def evaluate(self, actor: DrivingActor, det: Sequence[Start], stoch: Sequence[Start]) -> Evaluation:
        """Drive every start once: ``det`` deterministically, ``stoch`` with sampled actions."""
        episodes = self.drive(actor, [*det, *stoch], [True] * len(det) + [False] * len(stoch))
        return Evaluation(episodes[: len(det)], episodes[len(det) :])

    def drive(self, actor: DrivingActor, starts: Sequence[Start], test: Sequence[bool]) -> tuple[Episode, ...]:
        """Run one episode from every start; training's random numbers stay as they are.

        Args:
            actor: drives.
            starts: of the episodes.
            test: which of the episodes are driven deterministically.
        """
        together = 1 if self.cfg.real_time else max(1, len(starts))  # there is one game
        with torch.random.fork_rng(devices=_used_gpus()):
            torch.manual_seed(self.seed)
            groups = [slice(i, i + together) for i in range(0, len(starts), together)]
            return tuple(
                episode for group in groups for episode in self._drive_together(actor, starts[group], test[group])
            )

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _drive_together(self, actor: DrivingActor, starts: Sequence[Start], test: Sequence[bool]) -> list[Episode]:
        """Drive in lockstep, with one forward pass for all."""
        while len(self._envs) < len(starts):
            self._envs.append(make_env(self.cfg, [start.track for start in starts], self.seed))
        envs = self._envs[: len(starts)]
        observations = [_reset(env, self.cfg, start) for env, start in zip(envs, starts, strict=True)]
        returns, lengths, ends = [0.0] * len(starts), [0] * len(starts), [{} for _ in starts]
        running = list(range(len(starts)))
        while running:
            self.on_step()
            modes = torch.tensor([test[i] for i in running], device=actor.device)
            actions = actor.actions(_stack([observations[i] for i in running], actor.device), modes).cpu().numpy()
            for i, action in zip(list(running), actions, strict=True):
                observations[i], reward, terminated, truncated, ends[i] = envs[i].step(action)
                returns[i] += reward
                lengths[i] += 1
                if terminated or truncated:
                    running.remove(i)
        return [episode_of(*row) for row in zip(starts, returns, lengths, ends, strict=True)]


def record(
    actor: DrivingActor, cfg: EnvConfig, start: Start, seed: int, render_size: int
) -> tuple[list[np.ndarray], Episode]:
    """Drive one deterministic episode and film it.

    Returns:
        RGB uint8 frames (H, W, 3), one per step; empty where the task cannot be rendered. And the episode.
    """
    env = make_env(cfg, [start.track], seed, render_size)
    obs = _reset(env, cfg, start)
    frames, total, length, ended = [env.render()], 0.0, 0, False
    while not ended:
        action = actor.actions(_stack([obs], actor.device), test=True)[0].cpu().numpy()
        obs, reward, terminated, truncated, info = env.step(action)
        frames.append(env.render())
        total, length, ended = total + reward, length + 1, terminated or truncated
    env.close()
    return [frame for frame in frames if frame is not None], episode_of(start, total, length, info)


def _used_gpus() -> range:
    """The GPUs whose generators this process may have used; asking about others would start them."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)


def _reset(env: gymnasium.Env, cfg: EnvConfig, start: Start) -> dict[str, np.ndarray]:
    options = {"track": start.track, "start": start.position} if cfg.eval_tracks else None
    return env.reset(seed=start.seed, options=options)[0]


def _stack(observations: Sequence[dict[str, np.ndarray]], device: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([obs[key] for obs in observations])).to(device) for key in observations[0]}


def episode_of(start: Start, total: float, length: int, info: dict) -> Episode:
    """Return what came of an episode.

    Args:
        start: where it began.
        total: undiscounted return.
        length: environment steps.
        info: of its last step.
    """
    # A Gymnasium task has no laps, and most tasks no other score than ours: the keys are absent there.
    share, time_, native = info.get("lap_share", math.nan), info.get("lap_time"), info.get("native_return")
    bound = info.get("lap_bound")
    return Episode(float(total), length, share, time_, info["outcome"], start.track, start.position, native, bound)
