"""Curves of arms over epochs: interquartile mean over runs, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ablation.effects import PRECISION, interquartile_mean
from app.ablation.evidence_runs import EvidenceRun
from app.reporting.bootstrap import bootstrap_bounds


@dataclass(frozen=True)
class EpochCurve:
    """One metric of one arm.

    Attributes:
        epochs: Epochs with a value, rising.
        centre: Interquartile mean over the runs that have a value there.
        low: Lower end of its interval; NaN where fewer than two runs have a value.
        high: Upper end.
        runs: Number of runs with a value.
    """

    epochs: NDArray[np.int64]
    centre: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: NDArray[np.int64]


def epoch_curve(runs: Sequence[EvidenceRun], metric: str, judged: int = 0) -> EpochCurve | None:
    """Return the curve of a metric over the runs of an arm.

    Args:
        runs: The runs.
        metric: Name of the metric.
        judged: Epochs over which they are judged, although all of them may have become NaN before.

    Returns:
        The curve; None if no run has the metric.
    """
    epochs = max([judged, *(run.last_epoch for run in runs)])
    if not epochs:
        return None
    values = np.stack([run.series(metric, epochs) for run in runs], axis=-1)  # (epochs, runs)
    known = ~np.isnan(values)
    counts = known.sum(axis=-1)
    if not counts.any():
        return None
    centre, low, high = np.full((3, epochs), np.nan)
    for mask in np.unique(known[counts > 0], axis=0):  # epochs with the same runs are resampled together
        at = (known == mask).all(axis=-1)
        sample = values[at][:, mask]
        centre[at] = interquartile_mean(sample)
        if mask.sum() > 1:
            low[at], high[at] = bootstrap_bounds([sample], interquartile_mean, PRECISION)
    at = counts > 0
    return EpochCurve(np.flatnonzero(at) + 1, centre[at], low[at], high[at], counts[at])
