"""The typed, frozen configurations of the commands beside ``app/train.py``."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.types import FROZEN, Count, Device, Positive, Seed, StudyName


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


@dataclass(frozen=True, config=FROZEN)
class MakeKeysConfig:
    """Configuration of ``app/make_keys.py``."""

    folder: str


@dataclass(frozen=True, config=FROZEN)
class ExportConfig:
    """Configuration of ``app/export.py``."""

    run: str  # folder of a run
    folder: str | None  # null: export/ in the folder of the run


@dataclass(frozen=True, config=FROZEN)
class EvaluateConfig:
    """Configuration of ``app/evaluate.py``."""

    run: str  # folder of a run
    tracks: Annotated[tuple[Count, ...], Field(min_length=1)] | None  # track seeds; null: those of the run
    episodes: Positive  # starts, spread over tracks and lap
    episodes_stochastic: Count
    device: Device
    threads: Count
    seed: Seed
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]


@dataclass(frozen=True, config=FROZEN)
class PostMortemConfig:
    """Configuration of ``app/postmortem.py``."""

    run: str  # folder of a run
    record: str | None  # folder with recorded runs; null: that of the task in records
    records: dict[str, str]  # by name of the environment, below the root of the repository
    video: bool
    video_size: Annotated[int, Field(ge=64, le=2048)]
    threads: Count
