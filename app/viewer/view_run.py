"""Replay viewer of a run as a command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from app.config.schema import Config
from app.config.schema_commands import ReplayViewerConfig
from app.config.schema_env import CarRacingConfig, EnvConfig, SimConfig, TrackEnvConfig
from app.core.atomic_files import atomic_write
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.envs.tracks.lap_bound import standing_lap
from app.envs.tracks.racing_line import centre_line
from app.evaluation.episodes import REPORT_OFFSET, Start, make_starts
from app.models.actor import DrivingActor
from app.reporting.number_format import UNKNOWN, lap_time, percent
from app.runs.run_folder import RunFolder
from app.training.setup import prepare_process
from app.viewer.policy_readings import load_best_model, read_policy
from app.viewer.recorded_episode import RecordedEpisode, record_policy, record_reference
from app.viewer.viewer_page import OUTCOMES, Rival, ViewedEpisode, render_viewer

MAX_EPISODES = 10  # of a page, which has a key for each and stays below 5 MB
_REFERENCE = "the reference driver"


@dataclass(frozen=True)
class _Run:
    """A run whose best policy is driven."""

    folder: RunFolder
    config: Config
    name: str


def view_run(cfg: ReplayViewerConfig) -> Path:
    """Drive episodes of the best policy of a run, and write the page about them.

    Returns:
        The page.

    Raises:
        UserError: The folder holds no run with a best policy, its task has no simulated car on a track, the other run
            drives on other tracks, there are too many episodes, or the page cannot be written.
    """
    run = _open(cfg.run, "run")
    path = run.folder.viewer if cfg.out is None else Path(cfg.out)
    if path.is_dir():
        raise UserError(f"out = {path}: is a folder. Name a file in it: out={path / run.folder.viewer.name}.")
    other = None if cfg.against is None else _open(cfg.against, "against")
    if other is not None:
        _require_same_tracks(run, other)
        if other.name == run.name:  # as those of two labs
            other = replace(other, name=str(other.folder.path))
    starts = _starts(cfg, run.config)
    prepare_process("cpu", cfg.threads, run.config.seed)
    episodes = _view(run, other, starts)
    _write(path, render_viewer(run.name, _facts(run, other), _notes(run, other), episodes, run.config.env))

    console = make_console()
    for number, one in enumerate(episodes, start=1):
        print_line(console, f"{number:2}  {_line(one)}")
    print_line(console, f"page  {path} ({decimal(path.stat().st_size)})")
    return path


# --- what is driven ---


def _open(folder: str, key: str) -> _Run:
    """Return a run with a best policy that drives a simulated car on a track.

    Args:
        folder: Its folder.
        key: Configuration key that names it, for messages.
    """
    try:
        run = _Run(path := RunFolder(Path(folder)), path.best_config(), path.path.resolve().name)
    except UserError as error:
        raise UserError(str(error).replace("run = ", f"{key} = ", 1)) from None
    env = run.config.env
    if not isinstance(env, SimConfig | CarRacingConfig):
        raise UserError(
            f"{key} = {folder}: env={env.name} has no simulated car on a track, which this page shows. "
            "Name a run of env=sim, env=sim_lidar or env=car_racing."
        )
    return run


def _require_same_tracks(run: _Run, other: _Run) -> None:
    """Raise unless a seed means the same track for both runs."""
    if track_family(run.config.env) != track_family(other.config.env):
        raise UserError(
            f"against = {other.folder.path}: drives on other tracks than {run.name} (env.kind and env.track differ). "
            "Name a run on the same tracks."
        )


def track_family(env: EnvConfig) -> tuple[object, ...]:
    """Return what makes the track of a seed."""
    return env.kind, env.track if isinstance(env, SimConfig) else None


def _starts(cfg: ReplayViewerConfig, config: Config) -> tuple[Start, ...]:
    """Return the starts to drive from: every one on every track, or those of the run's summary."""
    count = len(cfg.tracks or (0,)) * len(cfg.starts or (0,))
    if count > MAX_EPISODES:
        raise UserError(
            f"tracks = {_given(cfg.tracks)}, starts = {_given(cfg.starts)}: these are {count} episodes, and the page "
            f"holds {MAX_EPISODES}. Name fewer of them."
        )
    tracks = config.env.eval_tracks if cfg.tracks is None else cfg.tracks
    if cfg.starts is None:
        return make_starts(tracks, min(max(len(tracks), config.training.eval_episodes), MAX_EPISODES), REPORT_OFFSET)
    starts = [Start(track, position, seed=0) for track in tracks for position in cfg.starts]
    return tuple(starts[:MAX_EPISODES])


def _given(values: Sequence[float] | None) -> str:
    return "null" if values is None else str(list(values))


def _view(run: _Run, other: _Run | None, starts: Sequence[Start]) -> list[ViewedEpisode]:
    model, env = load_best_model(run.folder, run.config), run.config.env
    driven = _drive(run, starts)
    others = [None] * len(starts) if other is None else _drive(other, starts)
    return [
        ViewedEpisode(
            driven=episode,
            readings=read_policy(model, episode),
            rivals=tuple(_rivals(env, start, other, of_other)),
            bound=standing_lap(centre_line(episode.track), env.car, start.position)
            if isinstance(env, SimConfig)
            else None,
        )
        for start, episode, of_other in zip(starts, driven, others, strict=True)
    ]


def _drive(run: _Run, starts: Sequence[Start]) -> tuple[RecordedEpisode, ...]:
    spec = make_spec(run.config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), run.config, spec)
    run.folder.load_best(actor)
    return record_policy(actor, run.config.env, starts, run.config.seed)


def _rivals(env: TrackEnvConfig, start: Start, other: _Run | None, driven: RecordedEpisode | None) -> Iterator[Rival]:
    if isinstance(env, SimConfig):
        yield Rival("reference", _REFERENCE, record_reference(env, start))
    if other is not None:
        yield Rival("other", other.name, driven)


# --- what is said about it ---


def _facts(run: _Run, other: _Run | None) -> dict[str, str]:
    best = run.folder.read_best_result()
    facts = {
        "task": run.config.env.name,
        "model": run.config.model.name,
        "best policy": f"epoch {best.get('best_epoch', UNKNOWN)}",
    }
    return facts if other is None else {**facts, "against": other.name}


def _notes(run: _Run, other: _Run | None) -> list[str]:
    if other is None or not isinstance(run.config.env, SimConfig):
        return []
    if run.config.env.car == other.config.env.car:
        return []
    return [f"{other.name} drives another car (env.car differs): a gap between both is not one between two drivers."]


def _line(one: ViewedEpisode) -> str:
    result = one.driven.result
    time = lap_time(result.lap_time) if result.lap_time is not None else f"{percent(result.lap_share)} of a lap"
    return f"track {result.track}, from {percent(result.start)}: {OUTCOMES[result.outcome]}, {time}"


def _write(path: Path, text: str) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from None
