"""The typed, frozen configuration of ``app/lab.py``: that of a run, and which arms are trained on which seeds."""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.schema import Config
from app.config.types import FROZEN, Name, Positive, PositiveFloat, Seed

Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


@dataclass(frozen=True, config=FROZEN)
class ArmConfig:
    """One arm: settings that are compared with those of the other arms."""

    label: str  # for people
    group: Literal["reference", "fault", "fix", "value"]
    faults: tuple[Annotated[int, Field(ge=1, le=12)], ...]  # numbers of the faults that it breaks or repairs
    overrides: tuple[str, ...]  # of app/train.py, after those of the command line
    epochs: Positive  # of every run, unless the command line sets training.epochs
    reason: str  # which task it runs on, and why


@dataclass(frozen=True, config=FROZEN)
class LabSection:
    """One lab: its arms, its seeds, and what its runs have in common."""

    name: Name  # its folder below labs_dir
    overrides: tuple[str, ...]  # of app/train.py for every run, before those of the command line
    seeds: Seeds
    arms: Annotated[dict[Name, ArmConfig], Field(min_length=1)]
    recorded: str | None  # folder with recorded evidence, below the root of the repository; null: none
    dry_run: bool  # true: print the runs and the hours they need, and start nothing
    seconds_per_update: dict[str, PositiveFloat]  # by task, evaluation included; for tasks without a finished run
    process: str | None  # the process that launches the runs; the program sets it for its jobs


@dataclass(frozen=True, config=FROZEN)
class LabConfig(Config):
    """The whole configuration of ``app/lab.py``."""

    labs_dir: str
    arms: Annotated[tuple[Name, ...], Field(min_length=1)] | None  # null: every arm of the lab
    seeds: Seeds | None  # null: those of the lab
    lab: LabSection

    def run_config(self) -> Config:
        """Return the configuration of the run alone."""
        return Config(**{field.name: getattr(self, field.name) for field in fields(Config)})
