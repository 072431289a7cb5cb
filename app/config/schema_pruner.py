"""The section ``pruner`` of the configuration: which trials of a sweep end early."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.fields import FROZEN, Count, Positive


@dataclass(frozen=True, config=FROZEN)
class PrunerConfig:
    """How a trial is compared with the others at the same epoch."""

    kind: Literal["percentile", "none"]
    percentile: Annotated[float, Field(gt=0, le=100)]  # of the trials may go on
    n_startup_trials: Count
    n_warmup_epochs: Count
    interval_epochs: Positive
    n_min_trials: Positive
