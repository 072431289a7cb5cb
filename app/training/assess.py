"""Evaluate the best policy of a finished or running run; nothing of the trainer's state is needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.config.schema import Config, EnvConfig, EvaluateConfig
from app.envs.factory import make_spec
from app.errors import UserError
from app.files import write_json
from app.models.actor import DrivingActor
from app.reporting.formatting import make_console, tell
from app.reporting.results import Episode, Evaluation
from app.reporting.summary import evaluation_table
from app.reporting.video import write_video
from app.runs.best import config_of_best
from app.runs.folder import RunFolder
from app.training.evaluation import Evaluator, Start, make_starts, record
from app.training.setup import prepare


def assess(cfg: EvaluateConfig) -> float:
    """Evaluate, print a table, write ``evaluation.json`` and a video into the run folder.

    Returns:
        Mean return of the deterministic episodes.

    Raises:
        UserError: the folder holds no run with a best policy, or the tracks do not suit its environment.
    """
    folder = RunFolder(Path(cfg.run))
    config = config_of_best(folder)
    tracks = _tracks(cfg, config)
    device = prepare(cfg.device, cfg.threads, cfg.seed)
    spec = make_spec(config.env)
    actor = DrivingActor(spec.space(), spec.action_space(), config, spec, device)
    folder.load_best(actor)
    starts = make_starts(tracks, cfg.episodes, 0.5)
    stochastic = make_starts(tracks, cfg.episodes_stochastic, 0.5)
    evaluator = Evaluator(config.env, cfg.seed, on_step=lambda: None)
    evaluation = evaluator.evaluate(actor, starts, stochastic)
    evaluator.close()

    console, name = make_console(), folder.path.name
    evaluation_table(console, evaluation, f"best policy of {name}")
    path = folder.path / "evaluation.json"
    write_json(path, _result(name, tracks, evaluation))
    tell(console, f"result  {path}")
    if cfg.video and not config.env.real_time:  # the game shows itself
        video = folder.path / "videos" / "evaluation.mp4"
        if filmed := film_best(actor, config.env, starts, evaluation.deterministic, cfg.seed, cfg.video_size, video):
            tell(console, f"video   {video} ({filmed})")
    return evaluation.metrics()["return_test_det"]


def film_best(
    actor: DrivingActor,
    env: EnvConfig,
    starts: Sequence[Start],
    episodes: Sequence[Episode],
    seed: int,
    size: int,
    path: Path,
) -> str:
    """Film the best of some deterministic episodes again.

    Returns:
        How the filmed episode ended; "" where the task cannot be rendered. It may differ from what was evaluated: a
        forward pass for several cars rounds differently from one for a single car.
    """
    best = int(np.argmax([episode.ret for episode in episodes]))
    frames, episode = record(actor, env, starts[best], seed, size)
    if not frames:
        return ""
    write_video(path, frames, env.video_fps)
    return f"{episode.outcome}, return {episode.ret:.1f}"


def _tracks(cfg: EvaluateConfig, config: Config) -> tuple[int, ...]:
    if cfg.tracks is not None and not config.env.eval_tracks:
        raise UserError(f"tracks = {list(cfg.tracks)}: env={config.env.name} has no tracks. Leave tracks out.")
    return config.env.eval_tracks if cfg.tracks is None else cfg.tracks


def _result(name: str, tracks: Sequence[int], evaluation: Evaluation) -> dict:
    return {
        "run_name": name,
        "tracks": tracks,
        "metrics": evaluation.metrics(),
        "deterministic": [vars(episode) for episode in evaluation.deterministic],
        "stochastic": [vars(episode) for episode in evaluation.stochastic],
    }
