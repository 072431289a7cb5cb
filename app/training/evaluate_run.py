"""Evaluation of the best policy in a run folder; the run may be finished or still going."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.config.schema_commands import EvaluateConfig
from app.config.schema_env import EnvConfig
from app.core.atomic_files import write_json
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.evaluation.episodes import REPORT_OFFSET, Start, make_starts
from app.evaluation.evaluator import LocalEvaluator, record_episode
from app.evaluation.results import Episode, Evaluation
from app.models.actor import DrivingActor
from app.reporting.summary import print_evaluation
from app.reporting.video import write_video
from app.runs.run_folder import RunFolder
from app.training.setup import prepare_process


def evaluate_run(cfg: EvaluateConfig) -> float:
    """Evaluate the best policy of a run; print a table, and write ``evaluation.json`` and a video into its folder.

    Returns:
        Mean return of the deterministic episodes.

    Raises:
        UserError: The folder contains no run with a best policy, or the tracks do not suit its environment.
    """
    folder = RunFolder(Path(cfg.run))
    config = folder.best_config()
    tracks = _tracks(cfg, config.env)
    device = prepare_process(cfg.device, cfg.threads, cfg.seed)
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec, device)
    folder.load_best(actor)
    starts = make_starts(tracks, cfg.episodes, REPORT_OFFSET)
    evaluator = LocalEvaluator(config.env, cfg.seed)
    evaluation = evaluator.evaluate(actor, starts, make_starts(tracks, cfg.episodes_stochastic, REPORT_OFFSET))
    evaluator.close()

    console, name = make_console(), folder.path.name
    print_evaluation(console, evaluation, f"best policy of {name}")
    path = folder.path / "evaluation.json"
    write_json(path, _as_json(name, tracks, evaluation))
    print_line(console, f"result  {path}")
    if cfg.video and not config.env.real_time:  # the game shows itself
        video = folder.path / "videos" / "evaluation.mp4"
        recorded = record_best_episode(
            actor, config.env, starts, evaluation.deterministic, cfg.seed, cfg.video_size, video
        )
        if recorded is not None:
            print_line(console, f"video   {video} ({recorded.outcome}, return {recorded.ret:.1f})")
    return evaluation.metrics()["return_test_det"]


def record_best_episode(
    actor: DrivingActor,
    env: EnvConfig,
    starts: Sequence[Start],
    episodes: Sequence[Episode],
    seed: int,
    size: int,
    path: Path,
) -> Episode | None:
    """Drive the best of some deterministic episodes again and write a video of it.

    Args:
        actor: The actor.
        env: Configuration of the environment.
        starts: Starts of the episodes.
        episodes: The episodes, of which the one with the highest return is chosen.
        seed: Seed of the environment.
        size: Width and height of a frame in pixels.
        path: The video file.

    Returns:
        The recorded episode; None where the task cannot be rendered. It may differ from the evaluated one: a forward
        pass for several cars rounds differently from one for a single car.
    """
    best = int(np.argmax([episode.ret for episode in episodes]))
    frames, episode = record_episode(actor, env, starts[best], seed, size)
    if not frames:
        return None
    write_video(path, frames, env.video_fps)
    return episode


def _tracks(cfg: EvaluateConfig, env: EnvConfig) -> tuple[int, ...]:
    if cfg.tracks is not None and not env.eval_tracks:
        raise UserError(f"tracks = {list(cfg.tracks)}: env={env.name} has no tracks. Leave tracks out.")
    return env.eval_tracks if cfg.tracks is None else cfg.tracks


def _as_json(name: str, tracks: Sequence[int], evaluation: Evaluation) -> dict:
    return {
        "run_name": name,
        "tracks": tracks,
        "metrics": evaluation.metrics(),
        "deterministic": [vars(episode) for episode in evaluation.deterministic],
        "stochastic": [vars(episode) for episode in evaluation.stochastic],
    }
