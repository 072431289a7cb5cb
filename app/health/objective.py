"""What a run returns to a sweep; more is better."""

import math
import statistics
from collections.abc import Mapping
from typing import Literal

from app.config.schema_health import HealthConfig
from app.health.history import History, column
from app.health.score import Range, stability

Name = Literal["return_test_det", "stability"]


def objective(name: Name, history: History, cfg: HealthConfig, return_range: Range | None) -> float:
    """Return the objective of a run after what it has done so far.

    Args:
        name: "stability", the health score, or "return_test_det", the mean of the last ``cfg.last`` deterministic
            evaluations: one evaluation alone may be luck.
        history: of the run.
        cfg: the section ``health`` of its configuration.
        return_range: lowest and highest return to expect, or None.

    Returns:
        A finite number; NaN if there is nothing to judge.
    """
    if name == "stability":
        return stability(history, cfg, return_range).get("stability", math.nan)
    returns = [value for value in column(history, "return_test_det") if math.isfinite(value)]
    return statistics.fmean(returns[-cfg.last :]) if returns else math.nan


def is_better(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether an evaluation is better than another one, which may be empty.

    The higher deterministic return is better; of two in which every episode finished its lap, the faster one.
    """
    if not other:
        return True
    if one.get("laps_det") == other.get("laps_det") == 1.0:
        return one["lap_time_det"] < other["lap_time_det"]
    return one["return_test_det"] > other["return_test_det"]


def lowest(name: Name, return_range: Range | None) -> float:
    """Return the lowest objective to expect, for a run that broke before anything could be judged; NaN if unknown."""
    if name == "stability":
        return 0.0
    return math.nan if return_range is None else return_range[0]


def worst(name: Name, history: History) -> float:
    """Return the objective of a run that has collapsed: the worst it has shown, so that a search stays away from it.

    Returns:
        A finite number: 0 for "stability", the lowest deterministic evaluation for "return_test_det"; NaN if there
        is nothing to judge.
    """
    returns = [value for value in column(history, "return_test_det") if math.isfinite(value)]
    if not returns:
        return math.nan
    return 0.0 if name == "stability" else min(returns)
