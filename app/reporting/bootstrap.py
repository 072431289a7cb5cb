"""Percentile bootstrap intervals of statistics over runs, computed by SciPy."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_SEED = 0  # the same values give the same interval

Statistic = Callable[..., NDArray[np.float64]]  # of one array per sample and the keyword ``axis``


@dataclass(frozen=True)
class Interval:
    """A closed interval of numbers."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in the interval, its ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Precision:
    """Settings of the intervals.

    Attributes:
        confidence: Share of cases in which an interval should hold the true value, in (0, 1).
        resamples: Resamples of the bootstrap.
    """

    confidence: float
    resamples: int


def bootstrap_interval(samples: Sequence[ArrayLike], statistic: Statistic, precision: Precision) -> Interval | None:
    """Return the percentile bootstrap interval of a statistic (Efron and Tibshirani, 1993, chapter 13).

    Args:
        samples: Independent samples of finite values. Values are drawn with replacement within each of them, which is
            the stratified bootstrap of Agarwal et al. (2021, arXiv:2108.13264).
        statistic: Statistic of the samples, vectorised over the leading axes.
        precision: Confidence, and how often as many values are drawn.

    Returns:
        The interval; None if a sample has fewer than two values, which show no spread.
    """
    if min(map(len, samples)) < 2:
        return None
    low, high = bootstrap_bounds(samples, statistic, precision)
    return Interval(float(low), float(high))


def bootstrap_bounds(
    samples: Sequence[ArrayLike], statistic: Statistic, precision: Precision
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of the interval for every row at once.

    Args:
        samples: Arrays (..., n) with n of at least 2 values along the last axis; n may differ between samples.
        statistic: Statistic of the samples along ``axis``.
        precision: Confidence, and how often as many values are drawn.

    Returns:
        Lower and upper ends, arrays (...).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # equal values: an interval without width is right
        found = stats.bootstrap(
            samples,
            statistic,
            vectorized=True,
            axis=-1,
            n_resamples=precision.resamples,
            confidence_level=precision.confidence,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        )
    return found.confidence_interval.low, found.confidence_interval.high
