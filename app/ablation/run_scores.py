"""Scores of a run over its first epochs: one number for each question about the lap."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.ablation.evidence_runs import LAP_SHARE, EvidenceRun
from app.health.full_laps import Curve, first_full_lap, held_share, worst_since_full_lap
from app.training.stop import StopKind

_LAST = 10  # epochs


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: Name of the score.
        label: Name for people.
        higher_is_better: Whether more of it is better.
        of: Returns the score of a run over so many epochs, or None.
        is_flag: Whether it is 0 or 1, so that arms are compared by its mean; other scores by the interquartile mean.
    """

    name: str
    label: str
    higher_is_better: bool
    of: Callable[[EvidenceRun, int], float | None]
    is_flag: bool = False


def _of_laps(score: Callable[[Curve], float]) -> Callable[[EvidenceRun, int], float | None]:
    """Return a score of the known lap shares of a run."""

    def of(run: EvidenceRun, epochs: int) -> float | None:
        lap_shares = run.series(LAP_SHARE, epochs)
        return None if np.isnan(lap_shares).all() else score(lap_shares)

    return of


def _first_or_never(run: EvidenceRun, epochs: int) -> float | None:
    """Return the epoch of the first full lap; one more than ``epochs`` without any."""
    lap_shares = run.series(LAP_SHARE, epochs)
    first = first_full_lap(lap_shares)
    return None if np.isnan(lap_shares).all() else float(epochs + 1 if first is None else first)


def _collapsed(run: EvidenceRun, epochs: int) -> float | None:
    """Return whether it had collapsed by then, 0 or 1; None if that is not known, as of every peer."""
    if run.is_peer:
        return None
    ended = run.end.startswith(StopKind.COLLAPSED.value) and run.last_epoch <= epochs
    if run.is_broken_off or ended or (run.collapsed_at is not None and run.collapsed_at <= epochs):
        return 1.0
    return 0.0 if run.last_epoch >= epochs else None


def _lap_time(run: EvidenceRun, epochs: int) -> float | None:
    """Return the mean time of the laps in the last epochs; None if none was finished in them."""
    times = run.series("lap_time_det", epochs)[-_LAST:]
    return None if np.isnan(times).all() else float(np.nanmean(times))


def _mean_of_last(lap_shares: Curve) -> float:
    last = lap_shares[-_LAST:]
    return 0.0 if np.isnan(last).all() else float(np.nanmean(last))


# The first one decides the verdict on an arm: it has a value for every run, and depends on no threshold.
SCORES = (
    Score("mean", "mean lap share", True, _of_laps(lambda shares: float(np.nanmean(shares)))),
    Score("held", "lap held", True, _of_laps(held_share)),
    Score("last", f"lap share, last {_LAST} epochs", True, _of_laps(_mean_of_last)),
    Score("worst", "worst since the first full lap", True, _of_laps(worst_since_full_lap)),
    Score("first", "epoch of the first full lap", False, _first_or_never),
    Score("lap_time", "lap time, seconds", False, _lap_time),
    Score("collapsed", "share of runs that collapsed", False, _collapsed, is_flag=True),
)
PRIMARY, COLLAPSED = SCORES[0], SCORES[-1]
