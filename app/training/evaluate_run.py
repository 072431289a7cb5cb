"""Evaluation of the best policy in a run folder, whose run may still be going, or of an exported policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from app.config.schema_commands import EvaluateConfig
from app.config.schema_env import EnvConfig
from app.core.atomic_files import write_json
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.envs.video.hud import draw_caption
from app.evaluation.episodes import REPORT_OFFSET, Start, make_starts
from app.evaluation.evaluator import BatchActor, LocalEvaluator, record_episode
from app.evaluation.results import Episode, Evaluation
from app.reporting.number_format import lap_time, percent
from app.reporting.summary import print_evaluation
from app.reporting.video import write_video
from app.training.judged_policy import JudgedPolicy, open_policy
from app.training.run_competition import run_competition


def evaluate_run(cfg: EvaluateConfig) -> float:
    """Evaluate a policy, print a table, and write the result and a video into the folder of its run, or beside it.

    Returns:
        Mean return of the deterministic episodes.

    Raises:
        UserError: There is no policy that can be judged, or the tracks or the protocol do not suit its environment.
    """
    console = make_console()
    with open_policy(cfg) as policy:
        tracks = _tracks(cfg, policy.env)
        if cfg.protocol == "tmrl":
            return run_competition(cfg, policy, tracks, console)
        return _evaluate(cfg, policy, tracks, console)


def _evaluate(cfg: EvaluateConfig, policy: JudgedPolicy, tracks: Sequence[int], console: Console) -> float:
    starts = make_starts(tracks, cfg.episodes, REPORT_OFFSET)
    evaluator = LocalEvaluator(policy.env, cfg.seed)
    sampled = make_starts(tracks, cfg.episodes_stochastic, REPORT_OFFSET)
    evaluation = evaluator.evaluate(policy.actor, starts, sampled)
    evaluator.close()

    print_evaluation(console, evaluation, f"best policy of {policy.name}" if cfg.run else policy.name)
    _print_claims(console, policy)
    folder = policy.folder
    write_json(folder.evaluation, _as_json(policy, tracks, evaluation))
    print_line(console, f"result  {folder.evaluation}")
    if cfg.video and not policy.env.real_time:  # the game shows itself
        video = folder.videos / "evaluation.mp4"
        title = policy.name if policy.best_epoch is None else f"{policy.name}, epoch {policy.best_epoch}"
        recorded = record_best_episode(
            policy.actor, policy.env, starts, evaluation.deterministic, cfg.seed, cfg.video_size, title, video
        )
        if recorded is not None:
            print_line(console, f"video   {video} ({recorded.outcome}, return {recorded.ret:.1f})")
    return evaluation.metrics()["return_test_det"]


def record_best_episode(
    actor: BatchActor,
    env: EnvConfig,
    starts: Sequence[Start],
    episodes: Sequence[Episode],
    seed: int,
    size: int,
    title: str,
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
        title: Name and epoch of the policy, which every frame shows with the track, if there is one.
        path: The video file.

    Returns:
        The recorded episode; None where the task cannot be rendered. It may differ from the evaluated one: a forward
        pass for several cars rounds differently from one for a single car.
    """
    best = int(np.argmax([episode.ret for episode in episodes]))
    frames, episode = record_episode(actor, env, starts[best], seed, size)
    if not frames:
        return None
    track = "" if starts[best].track is None else f", track {starts[best].track}"
    write_video(path, (_captioned(frame, f"{title}{track}") for frame in frames), env.video_fps)
    return episode


def _captioned(frame: np.ndarray, text: str) -> np.ndarray:
    captioned = np.array(frame)  # that of a task may be read-only
    draw_caption(captioned, text)
    return captioned


def _tracks(cfg: EvaluateConfig, env: EnvConfig) -> tuple[int, ...]:
    if cfg.tracks is not None and not env.eval_tracks:
        raise UserError(f"tracks = {list(cfg.tracks)}: env={env.name} has no tracks. Leave tracks out.")
    return env.eval_tracks if cfg.tracks is None else cfg.tracks


def _print_claims(console: Console, policy: JudgedPolicy) -> None:
    """Print what an exported folder says about its policy, beside what was found here."""
    claims = policy.claims
    said = [f"covered share {percent(claims['lap_share_det'])}"] if "lap_share_det" in claims else []
    said += [f"lap time {lap_time(claims['lap_time_det'])}"] if "lap_time_det" in claims else []
    said += [f"return {claims['return_test_det']:.1f}"] if "return_test_det" in claims else []
    if said:
        print_line(console, f"its actor.json says: {', '.join(said)}")


def _as_json(policy: JudgedPolicy, tracks: Sequence[int], evaluation: Evaluation) -> dict[str, Any]:
    return {
        "run_name": policy.name,
        "best_epoch": policy.best_epoch,
        "tracks": tracks,
        "metrics": evaluation.metrics(),
        **evaluation.episodes(),
    }
