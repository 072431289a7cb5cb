"""Bands of healthy runs: the values that a measure has after each epoch, and when a run leaves them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from app.ablation.evidence_panels import MEASURES
from app.ablation.evidence_runs import LAP_SHARE, OVERESTIMATION, EvidenceRun

MIN_RUNS = 3  # with fewer, a band says nothing of runs to come
PERCENTILES = (5.0, 95.0)
WINDOW = 2  # epochs before and after, whose values count, too
PERSISTENCE = 2  # epochs in a row outside a band that make an exit

_SMALLEST_MARGIN = 0.05  # of the scale of a measure
_SMALLEST_SCALE = 1e-9  # of a measure that never changes

Values = NDArray[np.float64]


class Side(Enum):
    """A side of a band; the value is the word for people."""

    LOW = "below"
    HIGH = "above"


# Measures that do harm on one side only; the others on both.
_HARMFUL = {
    LAP_SHARE: Side.LOW,
    "lap_share_stoch": Side.LOW,
    "stability": Side.LOW,
    "feature_rank": Side.LOW,
    "lap_time_det": Side.HIGH,
    "train_eval_gap_q": Side.HIGH,
    "train_eval_gap_action": Side.HIGH,
    OVERESTIMATION: Side.HIGH,
    "dormant_share": Side.HIGH,
    "loss_critic": Side.HIGH,
    "grad_norm_critic": Side.HIGH,
    "grad_norm_actor": Side.HIGH,
}


@dataclass(frozen=True)
class Band:
    """Band of one measure.

    Attributes:
        low: Lower end after each epoch, array (epochs,); NaN where it is not known.
        high: Upper end.
    """

    low: Values
    high: Values

    def extended(self, epochs: int) -> "Band":
        """Return the band over so many epochs; after its last one it stays as it was there."""
        at = np.minimum(np.arange(epochs), len(self.low) - 1)
        return Band(self.low[at], self.high[at])


@dataclass(frozen=True)
class HealthyBands:
    """Bands of all measures.

    Attributes:
        bands: Band of every measure that enough runs have.
        runs: Number of runs that they were made of.
        epochs: Last epoch of these runs.
    """

    bands: Mapping[str, Band]
    runs: int
    epochs: int


@dataclass(frozen=True)
class Exit:
    """A measure that left its band.

    Attributes:
        metric: The measure.
        epoch: First of the epochs in a row outside the band.
        side: The side that it left the band on.
        value: Its value there.
        band: Lower and upper end of the band there.
        back: First later epoch inside the band; None: it stayed outside.
        excess: Largest distance from the band in the first epochs outside, in widths of the band.
    """

    metric: str
    epoch: int
    side: Side
    value: float
    band: tuple[float, float]
    back: int | None
    excess: float


def harmful_sides(metric: str) -> tuple[Side, ...]:
    """Return the sides of its band on which a measure does harm."""
    return (_HARMFUL[metric],) if metric in _HARMFUL else tuple(Side)


def make_bands(runs: Sequence[EvidenceRun], metrics: Collection[str] = tuple(MEASURES)) -> HealthyBands | None:
    """Make the bands of healthy runs.

    The band of an epoch lies between two percentiles of the values of all runs in the epochs around it. With few runs
    most healthy runs would leave such a band somewhere, so every band is widened: a measure's margin is the mean of how
    far each run leaves the band of the other runs, times the one factor for all measures with which no run leaves any.

    Args:
        runs: The healthy runs.
        metrics: The measures.

    Returns:
        The bands; None if there are fewer than ``MIN_RUNS`` runs.
    """
    runs = [run for run in runs if run.epochs]
    if len(runs) < MIN_RUNS:
        return None
    epochs = max(run.last_epoch for run in runs)
    values = {metric: _values(runs, metric, epochs) for metric in metrics}
    values = {metric: found for metric, found in values.items() if _runs_with_values(found) >= MIN_RUNS}
    peaks = {metric: _left_out_peaks(found, harmful_sides(metric)) for metric, found in values.items()}
    margins = {metric: max(float(found.mean()), _SMALLEST_MARGIN) for metric, found in peaks.items()}
    factor = max((float(found.max()) / margins[metric] for metric, found in peaks.items()), default=1.0)
    bands = {
        metric: _widened(metric, _percentile_band(found), factor * margins[metric]) for metric, found in values.items()
    }
    return HealthyBands(bands, len(runs), epochs)


def find_exits(run: EvidenceRun, bands: HealthyBands) -> tuple[Exit, ...]:
    """Return the first exit of every measure of a run, in their order; of one epoch, the farthest first."""
    found = [_first_exit(metric, run.series(metric, run.last_epoch), band) for metric, band in bands.bands.items()]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: (one.epoch, -one.excess)))


# --- pure functions on values, of which those of a logarithmic measure are logarithms ---


@dataclass(frozen=True)
class _ScaledBand:
    """Percentiles after each epoch, and the unit (epochs,) in which distances from them are counted."""

    low: Values
    high: Values
    scale: Values

    def distance(self, series: Values, side: Side) -> Values:
        """Return how far values (epochs,) lie outside on one side, in units; NaN where this is not known."""
        outside = self.low - series if side is Side.LOW else series - self.high
        return outside / self.scale


def _values(runs: Sequence[EvidenceRun], metric: str, epochs: int) -> Values:
    """Return a measure of all runs, array (runs, epochs)."""
    return _scaled(metric, np.stack([run.series(metric, epochs) for run in runs]))


def _runs_with_values(values: Values) -> int:
    return int((~np.isnan(values)).any(axis=-1).sum())


def _percentile_band(values: Values) -> _ScaledBand:
    """Return the band of values (runs, epochs)."""
    count = values.shape[1]
    low, high, middle = np.full((3, count), np.nan)
    for epoch in range(count):
        around = values[:, max(0, epoch - WINDOW) : epoch + WINDOW + 1]
        around = around[~np.isnan(around)]
        if len(around):
            low[epoch], middle[epoch], high[epoch] = np.percentile(around, (PERCENTILES[0], 50.0, PERCENTILES[1]))
    rest = (values - middle)[~np.isnan(values)]
    spread = float(np.subtract(*np.percentile(rest, PERCENTILES[::-1]))) if len(rest) else 0.0
    return _ScaledBand(low, high, np.maximum(high - low, max(spread, _SMALLEST_SCALE)))


def _left_out_peaks(values: Values, sides: Sequence[Side]) -> Values:
    """Return how far each of some runs leaves the band of the others for epochs in a row, array (runs,), at least 0."""
    return np.array(
        [
            max(_peak(_percentile_band(np.delete(values, index, axis=0)).distance(series, side)) for side in sides)
            for index, series in enumerate(values)
        ]
    )


def _peak(distance: Values) -> float:
    return float(np.nanmax(_sustained(distance), initial=0.0)) if len(distance) else 0.0


def _sustained(distance: Values) -> Values:
    """Return the smallest of ``PERSISTENCE`` distances in a row from each epoch on; −inf where one is not known."""
    padded = np.concatenate([np.nan_to_num(distance, nan=-np.inf), np.full(PERSISTENCE - 1, -np.inf)])
    return np.lib.stride_tricks.sliding_window_view(padded, PERSISTENCE).min(axis=-1)


def _widened(metric: str, band: _ScaledBand, margin: float) -> Band:
    """Return a band in the measure's own unit, widened where the measure does harm."""
    sides = harmful_sides(metric)
    low = band.low - (margin * band.scale if Side.LOW in sides else 0.0)
    high = band.high + (margin * band.scale if Side.HIGH in sides else 0.0)
    return Band(np.power(10.0, low), np.power(10.0, high)) if _is_log(metric) else Band(low, high)


def _first_exit(metric: str, series: Values, band: Band) -> Exit | None:
    band = band.extended(len(series))
    low, high, values = (_scaled(metric, part) for part in (band.low, band.high, series))
    scaled = _ScaledBand(low, high, np.maximum(high - low, _SMALLEST_SCALE))
    found = []
    for side in harmful_sides(metric):
        distance = scaled.distance(values, side)
        sustained = _sustained(distance)
        outside = np.flatnonzero(sustained > 0)
        if len(outside):
            at = int(outside[0])
            inside = np.flatnonzero(distance[at:] <= 0)
            back = at + int(inside[0]) + 1 if len(inside) else None
            ends = float(band.low[at]), float(band.high[at])
            found.append(Exit(metric, at + 1, side, float(series[at]), ends, back, float(sustained[at])))
    return min(found, key=lambda one: one.epoch, default=None)


def _scaled(metric: str, values: Values) -> Values:
    """Return the values of a logarithmic measure as logarithms, NaN where there is none, and others as they are."""
    if not _is_log(metric):
        return values
    return np.log10(np.where(values > 0, values, math.nan))


def _is_log(metric: str) -> bool:
    return metric in MEASURES and MEASURES[metric][1]
