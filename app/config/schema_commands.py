"""The typed, frozen configurations of the commands beside ``app/train.py``."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.schema_env import EnvConfig
from app.config.types import FROZEN, BelowOne, Count, Device, Positive, Seed, StudyName

License = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,49}$",
        description="an identifier of Hugging Face's list of licenses, such as mit, apache-2.0 or cc-by-4.0",
    ),
]


@dataclass(frozen=True, config=FROZEN)
class SweepReportConfig:
    """Configuration of ``app/sweep_report.py``."""

    study: StudyName
    sweeps_dir: str
    storage: str | None  # URL of the storage; null: study.db of the study folder


@dataclass(frozen=True, config=FROZEN)
class ValidateConfig:
    """Configuration of ``app/validate.py``."""

    study: StudyName
    sweeps_dir: str
    storage: str | None  # URL of the storage; null: study.db of the study folder
    top_k: Positive
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    epochs: Positive | None  # of every run; null: those of the search
    jobs: Positive  # runs at once
    bootstrap: Annotated[int, Field(ge=1000, le=1_000_000)]  # resamples
    confidence: Annotated[float, Field(ge=0.5, le=0.999)]
    device: Device
    env_module: str | None  # module that registers the task of the run; null: none is imported


@dataclass(frozen=True, config=FROZEN)
class MakeKeysConfig:
    """Configuration of ``app/make_keys.py``."""

    folder: str


@dataclass(frozen=True, config=FROZEN)
class ExportConfig:
    """Configuration of ``app/export.py``."""

    run: str  # folder of a run
    folder: str | None  # null: export/ in the folder of the run
    license: License | None  # null: not stated
    bootstrap: Annotated[int, Field(ge=1000, le=1_000_000)]  # resamples of the card's intervals
    confidence: Annotated[float, Field(ge=0.5, le=0.999)]
    env_module: str | None  # module that registers the task of the run; null: none is imported


@dataclass(frozen=True, config=FROZEN)
class EvaluateConfig:
    """Configuration of ``app/evaluate.py``."""

    run: str | None  # folder of a run
    bundle: str | None  # folder of an export, in place of a run
    protocol: Literal["spread", "tmrl"]
    folder: str | None  # of the results; null: the folder of the run, or one beside the bundle
    tracks: Annotated[tuple[Count, ...], Field(min_length=1)] | None  # track seeds; null: those of the run
    episodes: Positive  # starts, spread over tracks and lap
    episodes_stochastic: Count
    device: Device
    threads: Count
    seed: Seed
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]
    env_module: str | None  # module that registers the task of the run; null: none is imported


@dataclass(frozen=True, config=FROZEN)
class PostMortemConfig:
    """Configuration of ``app/postmortem.py``."""

    run: str  # folder of a run
    record: str | None  # folder with recorded runs; null: that of the task in records
    records: dict[str, str]  # by name of the environment, below the root of the repository
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]
    threads: Count
    env_module: str | None  # module that registers the task of the run; null: none is imported


@dataclass(frozen=True, config=FROZEN)
class ReplayViewerConfig:
    """Configuration of ``app/replay_viewer.py``."""

    run: str  # folder of a run
    tracks: Annotated[tuple[Count, ...], Field(min_length=1)] | None  # track seeds; null: those of the run
    starts: Annotated[tuple[BelowOne, ...], Field(min_length=1)] | None  # null: those of the run's summary
    against: str | None  # folder of another run
    out: str | None  # the page; null: viewer.html in the folder of the run
    threads: Count


@dataclass(frozen=True, config=FROZEN)
class ListRunsConfig:
    """Configuration of ``app/list_runs.py``."""

    runs_dir: str
    where: tuple[str, ...]  # conditions "key=value"
    sort: Literal["age", "name", "state", "task", "model", "epochs", "lap_share", "lap_time", "held", "disk"]
    reverse: bool
    compare: tuple[str, ...]  # names of runs, or patterns
    x: Literal["updates", "epoch", "env_steps", "wall_s"]
    page: str | None  # null: compare.html in runs_dir
    prune: bool
    dry_run: bool  # of prune


@dataclass(frozen=True, config=FROZEN)
class GamepadConfig:
    """Numbers of the axes and buttons of a gamepad, as SDL counts them."""

    steer_axis: Count
    gas_axis: Count
    brake_axis: Count
    gas_button: Count
    brake_button: Count
    dead_zone: BelowOne  # of the stick


@dataclass(frozen=True, config=FROZEN)
class PlayConfig:
    """Configuration of ``app/play.py``."""

    env: EnvConfig
    track: Count  # seed
    start: BelowOne | None  # share of the track; null: another one for every lap
    driver: Literal["human", "reference"]
    laps: Positive | None  # episodes; null: until the window is closed
    ghost: str | None  # folder of a run
    record: str | None  # file for demonstrations
    laps_dir: str
    window: bool
    window_size: Annotated[int, Field(ge=256, le=2048)]  # pixels
    gamepad: GamepadConfig
    threads: Count
