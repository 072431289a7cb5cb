"""Health score and objective of a run; more is better."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from app.config.schema import HealthConfig
from app.evaluation.results import mean_std

Epoch = Mapping[str, float | None]  # metrics; None, as in JSON, for values not finite
History = Sequence[Epoch]  # of every epoch
Range = tuple[float, float]  # lowest and highest return to expect
Objective = Literal["return_test_det", "stability"]

_TINY = 1e-12  # a critic loss below it counts as it


def series(history: History, *names: str) -> list[tuple[float, ...]]:
    """Return the values of some metrics, one tuple for every epoch that has all of them; NaN for None."""
    return [
        tuple(math.nan if epoch[name] is None else epoch[name] for name in names)
        for epoch in history
        if all(name in epoch for name in names)
    ]


def column(history: History, name: str) -> list[float]:
    """Return the values of one metric for every epoch that has it; NaN for None."""
    return [value for (value,) in series(history, name)]


def stability(history: History, cfg: HealthConfig, return_range: Range | None) -> dict[str, float]:
    """Return the health score and its parts by metric name: ``stability``, ``stability_loss_smoothness`` and so on.

    Empty where it is undefined: before the first epoch, or for a task whose returns have no known range.
    """
    score = RunningScore(cfg, return_range)
    for epoch in history:
        score.add(epoch)
    return score.parts()


class RunningScore:
    """Health score of a run, followed through its epochs: the work for one does not grow with their number.

    Args:
        cfg: Section ``health`` of the configuration.
        return_range: Lowest and highest return to expect; None: there is no score.
    """

    def __init__(self, cfg: HealthConfig, return_range: Range | None) -> None:
        self._cfg, self._range, self._has_epoch = cfg, return_range, False
        self._losses, self._trend = _LossCosts(cfg.loss_factors), _Trend()
        self._returns: deque[float] = deque(maxlen=max(cfg.consistency_window, cfg.objective_window))
        self._alphas: deque[float] = deque(maxlen=cfg.objective_window)

    def add(self, epoch: Epoch) -> None:
        """Add the metrics of the next epoch; any of them may be missing."""
        self._has_epoch = True
        for critic, actor in series([epoch], "loss_critic", "loss_actor"):
            self._losses.add(critic, actor)
        for value in column([epoch], "return_test_det"):
            self._returns.append(value)
            self._trend.add(value)
        self._alphas.extend(column([epoch], "alpha"))

    def parts(self) -> dict[str, float]:
        """Return the score and its parts after the newest epoch, as ``stability`` does."""
        if not self._has_epoch or self._range is None:
            return {}
        cfg, returns = self._cfg, list(self._returns)
        parts = {
            "loss_smoothness": self._losses.smoothness(),
            "return_consistency": return_consistency(
                returns[-cfg.consistency_window :], self._range, cfg.standstill_share
            ),
            "entropy_health": entropy_health(list(self._alphas), cfg.alpha_band),
            "positive_trend": self._trend.rise(self._range),
            "performance": performance(returns[-cfg.objective_window :], self._range),
        }
        score = sum(weight * parts[name] for name, weight in asdict(cfg.weights).items())
        return {"stability": _clip(score), **{f"stability_{name}": part for name, part in parts.items()}}


def loss_smoothness(losses: Sequence[tuple[float, ...]], factors: tuple[float, float]) -> float:
    """Return 1 minus the mean cost of the changes from one epoch to the next, over both losses.

    A change by less than the first factor costs nothing, so that a loss may rise over decades as long as it does so
    slowly; a change by more than the second costs 1; in between, the cost rises with the logarithm. The actor loss has
    a sign and may pass 0: it is measured in units of the critic's error (the root of its loss), and noise below it.

    Args:
        losses: Critic and actor loss of every epoch.
        factors: The factors where the cost begins and where it ends.

    Returns:
        0 if there is no loss, or one that is not finite.
    """
    costs = _LossCosts(factors)
    for critic, actor in losses:
        costs.add(critic, actor)
    return costs.smoothness()


class _LossCosts:
    """Sum of the costs of ``loss_smoothness``."""

    def __init__(self, factors: tuple[float, float]) -> None:
        self._smooth, self._jump = map(math.log, factors)
        self._last: tuple[float, float] | None = None
        self._finite, self._sum, self._count = True, 0.0, 0

    def add(self, critic: float, actor: float) -> None:
        self._finite = self._finite and _finite((critic, actor))
        if self._finite and self._last is not None:
            for change in _changes(self._last[0], critic, self._last[1], actor):
                self._sum += _clip((change - self._smooth) / (self._jump - self._smooth))
                self._count += 1
        self._last = critic, actor

    def smoothness(self) -> float:
        if self._last is None or not self._finite:
            return 0.0
        return 1.0 - self._sum / self._count if self._count else 1.0


def _changes(c0: float, c1: float, a0: float, a1: float) -> tuple[float, float]:
    """Return the changes of the critic and of the actor loss between two epochs, as logarithms of factors."""
    c0, c1 = max(c0, _TINY), max(c1, _TINY)
    error = math.sqrt(max(c0, c1))
    return abs(math.log(c1) - math.log(c0)), abs(_signed_log(a1 / error) - _signed_log(a0 / error))


def _signed_log(value: float) -> float:
    return math.copysign(math.log(max(abs(value), 1.0)), value)


def return_consistency(returns: Sequence[float], return_range: Range, standstill_share: float) -> float:
    """Return ``1 − (σ + s) / (mean − low)``, clipped: the variation of the returns, relative to their level.

    The tolerance s is the share ``standstill_share`` of the range. Without it, a car that always stands still would be
    the most consistent of all; with it, returns that close to the lowest score 0.

    Args:
        returns: Returns of the last deterministic evaluations.
        return_range: Lowest and highest return to expect.
        standstill_share: Tolerance, as a share of the range.
    """
    low, high = return_range
    if len(returns) < 2 or not _finite(returns):  # a single one shows no variation
        return 0.0
    mean, std = mean_std(returns)
    return _clip(1.0 - (std + standstill_share * (high - low)) / (mean - low)) if mean > low else 0.0


def entropy_health(alphas: Sequence[float], band: tuple[float, float, float, float]) -> float:
    """Return the mean over the entropy coefficients of a trapezoid on their logarithm.

    Args:
        alphas: Entropy coefficients of the last epochs.
        band: The trapezoid: 0 up to the first and from the fourth number on, 1 from the second to the third.
    """
    return statistics.fmean(_trapezoid(alpha, band) for alpha in alphas) if alphas else 0.0


def _trapezoid(alpha: float, band: tuple[float, float, float, float]) -> float:
    if not band[0] < alpha < band[3]:  # also if alpha is NaN
        return 0.0
    x, (rise, full, still_full, end) = math.log(alpha), map(math.log, band)
    return _clip(min((x - rise) / (full - rise), (end - x) / (end - still_full)))


def positive_trend(returns: Sequence[float], return_range: Range) -> float:
    """Return the rise of the line fitted to all returns (least squares), as a share of the range; 0 if it falls."""
    trend = _Trend()
    for value in returns:
        trend.add(value)
    return trend.rise(return_range)


class _Trend:
    """Line fitted to values at 0, 1, 2, …: their mean, and the sum of products of deviations (Welford's method)."""

    def __init__(self) -> None:
        self._count, self._mean, self._products = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        before = self._count - (self._count - 1) / 2  # of the new place from the mean of those before it
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._products += before * (value - self._mean)

    def rise(self, return_range: Range) -> float:
        count = self._count
        if count < 2 or not math.isfinite(self._products):
            return 0.0
        slope = self._products / (count * (count**2 - 1) / 12)  # which is the sum of squares of 0, 1, 2, …
        return _clip(slope * (count - 1) / (return_range[1] - return_range[0]))


def performance(returns: Sequence[float], return_range: Range) -> float:
    """Return the place of the mean return in the range, from 0 to 1."""
    if not returns or not _finite(returns):
        return 0.0
    low, high = return_range
    return _clip((statistics.fmean(returns) - low) / (high - low))


def _finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def objective(name: Objective, history: History, cfg: HealthConfig, return_range: Range | None) -> float:
    """Return the objective of a run so far.

    Args:
        name: "stability", the health score, or "return_test_det", the mean return of the last ``objective_window``
            deterministic evaluations, because a single one may be luck.
        history: History of the run.
        cfg: Section ``health`` of its configuration.
        return_range: Lowest and highest return to expect, or None.

    Returns:
        A finite number; NaN if nothing has been evaluated.
    """
    if name == "stability":
        return stability(history, cfg, return_range).get("stability", math.nan)
    returns = [value for value in column(history, "return_test_det") if math.isfinite(value)]
    return statistics.fmean(returns[-cfg.objective_window :]) if returns else math.nan


def is_better(evaluation: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether an evaluation is better than another one, which may be empty.

    The higher deterministic return is better; of two evaluations in which every episode finished its lap, the faster.
    """
    if not other:
        return True
    if evaluation.get("laps_det") == other.get("laps_det") == 1.0:
        return evaluation["lap_time_det"] < other["lap_time_det"]
    return evaluation["return_test_det"] > other["return_test_det"]


def best_epoch(history: History) -> Mapping[str, float | None]:
    """Return the metrics of the epoch whose policy is kept as the best one; empty before the first evaluation."""
    best: Mapping[str, float | None] = {}
    for epoch in history:
        if epoch.get("return_test_det") is not None and is_better(epoch, best):
            best = epoch
    return best


def lowest_objective(name: Objective, return_range: Range | None) -> float:
    """Return the lowest objective to expect, for a run that broke before any evaluation; NaN if unknown."""
    if name == "stability":
        return 0.0
    return math.nan if return_range is None else return_range[0]


def worst_objective(name: Objective, history: History) -> float:
    """Return the objective of a collapsed run: the worst that it has shown, so that a search avoids its settings.

    Returns:
        A finite number: 0 for "stability", the lowest deterministic evaluation for "return_test_det"; NaN if nothing
        has been evaluated.
    """
    returns = [value for value in column(history, "return_test_det") if math.isfinite(value)]
    if not returns:
        return math.nan
    return 0.0 if name == "stability" else min(returns)
