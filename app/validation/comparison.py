"""Candidates against the default: what each seed gave, the mean, and how sure one can be of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.validation.bootstrap import Interval, chance_of_one_sign, mean_interval

# Measure of a run, as its summary names it -> what it is.
MEASURES = {
    "objective": "objective",
    "return_test_det": "return of the best policy",
    "lap_share_det": "lap share of the best policy",
}


@dataclass(frozen=True)
class Precision:
    """How intervals are made.

    Attributes:
        confidence: share of cases in which an interval should hold the true mean.
        resamples: of the bootstrap.
    """

    confidence: float
    resamples: int


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        values: by seed; at least one.
        mean: of the values.
        interval: of the mean; None with one value.
    """

    values: Mapping[int, float]
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """One measure of one candidate.

    Attributes:
        estimate: over its seeds; None without any value.
        difference: to the default, paired by seed; None for the default itself, and without a seed that both have.
        verdict: what the difference says, in words; "" without one.
    """

    estimate: Estimate | None
    difference: Estimate | None
    verdict: str


def compare(values: Mapping[int, float], default: Mapping[int, float] | None, precision: Precision) -> Comparison:
    """Compare a measure of a candidate with that of the default.

    Args:
        values: of the candidate, by seed.
        default: the same of the default; None: the candidate is the default.
        precision: of the intervals.
    """
    found = _estimate(values, precision)
    if default is None:
        return Comparison(found, None, "")
    pairs = {seed: value - default[seed] for seed, value in values.items() if seed in default}
    difference = _estimate(pairs, precision)
    return Comparison(found, difference, "" if difference is None else _verdict(difference, precision))


def least_seeds(confidence: float) -> int:
    """Return how many paired seeds it takes before a difference of one sign is rarer by chance than 1 - confidence."""
    return math.ceil(1 - math.log2(1 - confidence))


def caution(seeds: Sequence[int], confidence: float) -> str:
    """Return a warning where there are too few seeds for what the confidence promises, "" where there are enough."""
    least = least_seeds(confidence)
    if len(seeds) >= least:
        return ""
    share = chance_of_one_sign(len(seeds))
    return (
        f"{len(seeds)} {'seed is' if len(seeds) == 1 else 'seeds are'} few: of candidates that equal the default, "
        f"{share * 100:g} % are ahead on every seed or behind on every seed, and the intervals are too narrow. "
        f"From {least} seeds on, a difference can be told from chance."
    )


def _estimate(values: Mapping[int, float], precision: Precision) -> Estimate | None:
    if not values:
        return None
    numbers = list(values.values())
    return Estimate(
        values, math.fsum(numbers) / len(numbers), mean_interval(numbers, precision.confidence, precision.resamples)
    )


def _verdict(difference: Estimate, precision: Precision) -> str:
    if difference.interval is None:
        return "one seed says nothing about chance"
    if 0.0 in difference.interval:
        return "no better than the default that these seeds can show"
    side = "higher" if difference.mean > 0 else "lower"
    few = len(difference.values) < least_seeds(precision.confidence)
    return f"{side} than the default" + (", but on too few seeds to tell it from chance" if few else "")
