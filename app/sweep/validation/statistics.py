"""Comparison of candidates with the default over seeds: means, bootstrap intervals, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.reporting.bootstrap import Interval, Precision, bootstrap_interval

# Measures of a run, by their name in its summary.
MEASURES = {
    "objective": "objective",
    "return_test_det": "return of the best policy",
    "lap_share_det": "lap share of the best policy",
}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        values: Values by seed, at least one.
        mean: Mean of the values.
        interval: Interval of the mean; None with one value.
    """

    values: Mapping[int, float]
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """One measure of one candidate.

    Attributes:
        estimate: Mean over its seeds; None without any value.
        difference: Mean difference from the default, paired by seed; None for the default itself, and if no seed has
            both.
        verdict: Meaning of the difference for a person; None without one.
    """

    estimate: Estimate | None
    difference: Estimate | None
    verdict: str | None


def compare(values: Mapping[int, float], default: Mapping[int, float] | None, precision: Precision) -> Comparison:
    """Compare a measure of a candidate with that of the default.

    Args:
        values: Values of the candidate, by seed.
        default: Values of the default, by seed; None: the candidate is the default.
        precision: Settings of the intervals.
    """
    estimate = _estimate(values, precision)
    if default is None:
        return Comparison(estimate, None, None)
    pairs = {seed: value - default[seed] for seed, value in values.items() if seed in default}
    difference = _estimate(pairs, precision)
    return Comparison(estimate, difference, None if difference is None else _verdict(difference, precision.confidence))


def mean_interval(values: Sequence[float], precision: Precision) -> Interval | None:
    """Return the percentile bootstrap interval of a mean.

    From few values it is too narrow, because it never leaves their range: a 95 % interval of normal values holds the
    true mean in about 77 % of all cases with 3 values, 85 % with 5, 90 % with 10 and 92 % with 20 (measured).

    Args:
        values: Finite and independent values, such as one for each seed.
        precision: Confidence, and how often as many values are drawn with replacement.

    Returns:
        The interval; None with fewer than two values, which show no spread.
    """
    return bootstrap_interval([values], np.mean, precision)


def same_sign_probability(pairs: int) -> float:
    """Return the probability that all differences of so many pairs have one sign if neither side is better.

    This is the smallest two-sided p-value of a sign-flip test: no difference between fewer pairs, whatever its size,
    can be told from chance with more confidence.
    """
    return min(1.0, 2.0 ** (1 - pairs))


def required_seeds(confidence: float) -> int:
    """Return the number of paired seeds from which a common sign is rarer by chance than 1 - confidence."""
    return math.ceil(1 - math.log2(1 - confidence))


def few_seeds_warning(seeds: Sequence[int], confidence: float) -> str | None:
    """Return a warning if the seeds are too few for the confidence, or None."""
    required = required_seeds(confidence)
    if len(seeds) >= required:
        return None
    share = same_sign_probability(len(seeds))
    return (
        f"{len(seeds)} {'seed is' if len(seeds) == 1 else 'seeds are'} few: of candidates that equal the default, "
        f"{share * 100:g} % are ahead on every seed or behind on every seed, and the intervals are too narrow. "
        f"From {required} seeds on, a difference can be told from chance."
    )


def _estimate(values: Mapping[int, float], precision: Precision) -> Estimate | None:
    if not values:
        return None
    numbers = list(values.values())
    return Estimate(values, math.fsum(numbers) / len(numbers), mean_interval(numbers, precision))


def _verdict(difference: Estimate, confidence: float) -> str:
    if difference.interval is None:
        return "one seed says nothing about chance"
    if 0.0 in difference.interval:
        return "no better than the default that these seeds can show"
    side = "higher" if difference.mean > 0 else "lower"
    few = len(difference.values) < required_seeds(confidence)
    return f"{side} than the default" + (", but on too few seeds to tell it from chance" if few else "")
