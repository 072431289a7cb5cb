"""The typed, frozen configuration of the commands that look at what training has left."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.fields import FROZEN, Device, Positive, Seed, StudyName


@dataclass(frozen=True, config=FROZEN)
class SweepReportConfig:
    """What ``app/sweep_report.py`` is asked to do."""

    study: StudyName
    sweeps_dir: str
    storage: str | None  # URL of the storage; null: study.db of the study folder


@dataclass(frozen=True, config=FROZEN)
class ValidateConfig:
    """What ``app/validate.py`` is asked to do."""

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
    """What ``app/make_keys.py`` is asked to do."""

    folder: str


@dataclass(frozen=True, config=FROZEN)
class ExportConfig:
    """What ``app/export.py`` is asked to do."""

    run: str  # folder of a run
    folder: str | None  # null: export/ in the folder of the run
    onnx: bool
