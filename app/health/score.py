"""The health score of a run and its five parts, each from 0 (bad) to 1 (good) and never NaN."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

from app.config.schema_health import HealthConfig
from app.health.history import History, column, series
from app.reporting.results import mean_std

Range = tuple[float, float]

_TINY = 1e-12  # a critic loss below it is 0


def stability(history: History, cfg: HealthConfig, return_range: Range | None) -> dict[str, float]:
    """Return the score and its parts by metric name: ``stability``, ``stability_loss_smoothness`` and so on.

    Empty where there is nothing to judge: no epoch yet, or a task whose returns have no known range.
    """
    if not history or return_range is None:
        return {}
    returns = column(history, "return_test_det")
    parts = {
        "loss_smoothness": loss_smoothness(series(history, "loss_critic", "loss_actor"), cfg.loss_factors),
        "return_consistency": return_consistency(returns[-cfg.recent :], return_range, cfg.standing),
        "entropy_health": entropy_health(column(history, "alpha")[-cfg.last :], cfg.alpha_band),
        "positive_trend": positive_trend(returns, return_range),
        "performance": performance(returns[-cfg.last :], return_range),
    }
    score = sum(weight * parts[name] for name, weight in asdict(cfg.weights).items())
    return {"stability": _clip(score), **{f"stability_{name}": part for name, part in parts.items()}}


def loss_smoothness(losses: Sequence[tuple[float, ...]], factors: tuple[float, float]) -> float:
    """Return 1 minus the mean cost of the changes from one epoch to the next, over both losses.

    A change by less than the first factor costs nothing, so a loss may rise over decades as long as it takes its
    time; by more than the second it costs 1; between them the cost rises with the logarithm. The actor loss has a
    sign and may pass 0: it counts in units of the critic's error (the root of its loss), below which it is noise.

    Args:
        losses: critic and actor loss of every epoch.
        factors: where the cost begins, and where it ends.

    Returns:
        0 if there is no loss or one that is not finite.
    """
    if not losses or not _finite(value for pair in losses for value in pair):
        return 0.0
    changes = [change for (c0, a0), (c1, a1) in pairwise(losses) for change in _changes(c0, c1, a0, a1)]
    smooth, jump = map(math.log, factors)
    return 1.0 - statistics.fmean(_clip((change - smooth) / (jump - smooth)) for change in changes or [0.0])


def _changes(c0: float, c1: float, a0: float, a1: float) -> tuple[float, float]:
    """The changes of the critic and of the actor loss between two epochs, as logarithms of factors."""
    c0, c1 = max(c0, _TINY), max(c1, _TINY)
    error = math.sqrt(max(c0, c1))
    return abs(math.log(c1) - math.log(c0)), abs(_signed_log(a1 / error) - _signed_log(a0 / error))


def _signed_log(value: float) -> float:
    return math.copysign(math.log(max(abs(value), 1.0)), value)


def return_consistency(returns: Sequence[float], return_range: Range, standing: float) -> float:
    """Return ``1 − (σ + s) / (mean − low)``, clipped: how little the returns vary, for what they are.

    The tolerance s is the share ``standing`` of the range: without it a car that always stands still would be the
    most consistent of all. With it, returns that near to the lowest score 0.

    Args:
        returns: of the last deterministic evaluations.
        return_range: lowest and highest return to expect.
        standing: share of the range.
    """
    low, high = return_range
    if len(returns) < 2 or not _finite(returns):  # a single one shows nothing yet
        return 0.0
    mean, std = mean_std(returns)
    return _clip(1.0 - (std + standing * (high - low)) / (mean - low)) if mean > low else 0.0


def entropy_health(alphas: Sequence[float], band: tuple[float, float, float, float]) -> float:
    """Return the mean over the entropy coefficients of a trapezoid on their logarithm.

    Args:
        alphas: entropy coefficients, of the last epochs.
        band: 0 up to the first and from the fourth number on, 1 from the second to the third.
    """
    return statistics.fmean(_trapezoid(alpha, band) for alpha in alphas) if alphas else 0.0


def _trapezoid(alpha: float, band: tuple[float, float, float, float]) -> float:
    if not band[0] < alpha < band[3]:  # NaN as well
        return 0.0
    x, (begin, full, still_full, end) = math.log(alpha), map(math.log, band)
    return _clip(min((x - begin) / (full - begin), (end - x) / (end - still_full)))


def positive_trend(returns: Sequence[float], return_range: Range) -> float:
    """Return the rise of the line fitted to all returns (least squares), as a share of the range; 0 if it falls."""
    if len(returns) < 2 or not _finite(returns):
        return 0.0
    slope = statistics.linear_regression(range(len(returns)), returns).slope
    return _clip(slope * (len(returns) - 1) / (return_range[1] - return_range[0]))


def performance(returns: Sequence[float], return_range: Range) -> float:
    """Return where the mean of the last returns lies in the range."""
    if not returns or not _finite(returns):
        return 0.0
    low, high = return_range
    return _clip((statistics.fmean(returns) - low) / (high - low))


def _finite(values) -> bool:
    return all(map(math.isfinite, values))


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
