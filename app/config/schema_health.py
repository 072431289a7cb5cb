"""The section ``health`` of the configuration: when a run is healthy, and what counts as a collapse."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from app.config.fields import FROZEN, Count, NonNegative, Positive, PositiveFloat

Share = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[int, Field(ge=2)]
Factor = Annotated[float, Field(ge=1)]


@dataclass(frozen=True, config=FROZEN)
class WeightsConfig:
    """Weights of the parts of ``objective=stability``; they sum to 1."""

    loss_smoothness: NonNegative
    return_consistency: NonNegative
    entropy_health: NonNegative
    positive_trend: NonNegative
    performance: NonNegative


@dataclass(frozen=True, config=FROZEN)
class CollapseConfig:
    """The rules that tell a collapsed run."""

    low_score: Share
    low_epochs: Positive
    q_margin: NonNegative  # steps' worth of reward and entropy
    q_after: Count  # updates
    stuck_epochs: Epochs
    stuck_share: NonNegative  # of how far the stochastic return moved
    stuck_gap: NonNegative  # share of the stochastic return


@dataclass(frozen=True, config=FROZEN)
class HealthConfig:
    """What is done about a collapse, the parts of the health score, and the rules."""

    on_collapse: Literal["warn", "stop"]
    last: Positive  # deterministic evaluations
    recent: Epochs  # deterministic evaluations
    weights: WeightsConfig
    loss_factors: tuple[Factor, Factor]  # change of a loss in one epoch: nothing from here, a jump from there
    clipped_targets: Share  # of an epoch's targets; a larger share is warned about
    standing: PositiveFloat  # share of env.return_range
    alpha_band: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
    collapse: CollapseConfig
