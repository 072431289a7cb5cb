"""Videos of the best and of the last policy of a run, from the same start."""

import base64
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from app.config.schema import Config
from app.core.errors import UserError, format_error
from app.envs.env_factory import make_spec
from app.evaluation.episodes import REPORT_OFFSET, Start
from app.evaluation.evaluator import LocalEvaluator, evaluation_starts, record_episode
from app.models.actor import DrivingActor
from app.reporting.video import write_video
from app.runs.checkpoint import read_checkpoint
from app.runs.run_folder import RunFolder

_FRAME_STEP = 2  # every second frame is kept, at half the rate
_WEIGHTS = {"raw": "model", "averaged": "averaged"}  # of a deployed policy in a checkpoint


@dataclass(frozen=True)
class PolicyVideo:
    """Video of one episode.

    Attributes:
        title: The policy.
        text: How the episode ended.
        data: The file (MP4) as a data URI.
    """

    title: str
    text: str
    data: str


def record_policies(folder: RunFolder, config: Config, size: int) -> tuple[tuple[PolicyVideo, ...], str | None]:
    """Drive the best and the last policy from the start from which the last one gets least far.

    Args:
        folder: Folder of the run.
        config: Its configuration.
        size: Width and height of a frame in pixels.

    Returns:
        The videos, and a sentence if there are none.
    """
    if config.env.real_time:
        return (), f"No videos: {config.env.name} runs in real time and shows itself."
    try:
        videos = tuple(_record(folder, config, size))
    except Exception as error:  # a missing codec, display or weight must not cost the page
        return (), f"No videos: {format_error(error)}"
    return (videos, None) if videos else ((), f"No videos: {config.env.name} cannot be rendered.")


def _record(folder: RunFolder, config: Config, size: int) -> Iterator[PolicyVideo]:
    best, last, newest = _actor(config), _actor(config), _load_last(folder, config)
    last.net.load_state_dict({name: newest.weights[name] for name in last.net.state_dict()})
    start = _worst_start(last, config)
    if folder.best_actor.is_file():
        folder.load_best(best)
        best_epoch = folder.read_best_result().get("best_epoch")
        yield from _video(best, f"Best policy, after epoch {best_epoch}", config, start, size)
    yield from _video(last, f"Last policy, after {newest.when}", config, start, size)


@dataclass(frozen=True)
class _LastPolicy:
    """Weights of the newest checkpoint, and when it was saved."""

    weights: Mapping[str, Tensor]
    when: str


def _load_last(folder: RunFolder, config: Config) -> _LastPolicy:
    path = folder.checkpoints.last
    state = read_checkpoint(path)
    epochs, updates = state["epochs_done"], state["training"]["updates"]
    weights = state["training"]["agent"].get(_WEIGHTS[config.agent.deployed_policy])
    if weights is None:
        raise UserError(f"{path}: has no weights of the {config.agent.deployed_policy} policy.")
    whole = updates == epochs * config.training.updates_per_epoch
    return _LastPolicy(weights, f"epoch {epochs}" if whole else f"{updates:,} updates, within epoch {epochs + 1}")


def _actor(config: Config) -> DrivingActor:
    spec = make_spec(config.env)
    return DrivingActor(spec.observation_space(), spec.action_space(), config, spec)


def _worst_start(actor: DrivingActor, config: Config) -> Start:
    """Return the start with the lowest return of the deterministic policy."""
    starts, _ = evaluation_starts(config.env, config.training, REPORT_OFFSET)
    evaluator = LocalEvaluator(config.env, config.seed)
    try:
        episodes = evaluator.evaluate(actor, starts, ()).deterministic
    finally:
        evaluator.close()
    return min(zip(starts, episodes, strict=True), key=lambda pair: pair[1].ret)[0]


def _video(actor: DrivingActor, title: str, config: Config, start: Start, size: int) -> Iterator[PolicyVideo]:
    """Yield a video; nothing where the task cannot be rendered."""
    frames, episode = record_episode(actor, config.env, start, config.seed, size)
    if not frames:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames[::_FRAME_STEP], max(1, config.env.video_fps // _FRAME_STEP))
        data = base64.b64encode(path.read_bytes()).decode()
    yield PolicyVideo(
        title, f"{episode.outcome}, return {episode.ret:.1f}, {episode.length} steps", f"data:video/mp4;base64,{data}"
    )
