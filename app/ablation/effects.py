"""Effects of arms: interquartile means over runs, differences from a reference, probabilities of improvement.

As Agarwal et al. 2021 (arXiv:2108.13264) recommend for few runs, computed by SciPy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from app.ablation.run_scores import Score
from app.reporting.bootstrap import Interval, Precision, bootstrap_interval

MIN_SEEDS = 3  # of both arms, for any claim
FIRM_SEEDS = 5  # of both arms, from which a claim is made without reserve
PRECISION = Precision(confidence=0.95, resamples=2000)

# Share of comparisons of two equal arms whose interval excludes 0 by chance, measured with normal values: 1000
# comparisons for each number of seeds. With 95 % intervals it should be 0.05.
FALSE_CLAIMS = {3: 0.21, 5: 0.07, 10: 0.05}


class Claim(Enum):
    """The claims that an effect can carry."""

    BETTER = "better"
    WORSE = "worse"
    NOTHING = "nothing"
    TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class ScoreEstimate:
    """One score of one arm.

    Attributes:
        values: Values by seed, at least one.
        centre: Interquartile mean; of a flag, the mean.
        interval: Interval of ``centre``; None with one value.
    """

    values: Mapping[int, float]
    centre: float
    interval: Interval | None


@dataclass(frozen=True)
class Effect:
    """One score of one arm beside that of a reference.

    Attributes:
        seeds: Values of the arm and of the reference.
        difference: Centre of the arm minus that of the reference.
        interval: Interval of ``difference``; None if one of them has a single value.
        improvement: Probability that a run of the arm is better than one of the reference, ties counted half.
        improvement_interval: Interval of ``improvement``; None as above.
        claim: What the interval carries.
    """

    seeds: tuple[int, int]
    difference: float
    interval: Interval | None
    improvement: float
    improvement_interval: Interval | None
    claim: Claim

    @property
    def is_firm(self) -> bool:
        """Whether both arms have enough seeds for the interval to be about as sure as it says."""
        return min(self.seeds) >= FIRM_SEEDS

    @property
    def is_weak(self) -> bool:
        """Whether it carries a claim, on few seeds."""
        return self.claim in (Claim.BETTER, Claim.WORSE) and not self.is_firm


def interquartile_mean(values: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Return the mean without the lowest and the highest quarter of the values, each rounded down to whole values."""
    return stats.trim_mean(values, 0.25, axis=axis)


def improvement_probability(ours: ArrayLike, theirs: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Return P(X > Y) + P(X = Y) / 2 for values X of ``ours`` and Y of ``theirs``: the U statistic over all pairs."""
    pairs = np.shape(ours)[axis] * np.shape(theirs)[axis]
    return stats.mannwhitneyu(ours, theirs, axis=axis, method="asymptotic").statistic / pairs


def estimate(values: Mapping[int, float], score: Score, precision: Precision = PRECISION) -> ScoreEstimate | None:
    """Return the centre of a score over runs, with its interval.

    Args:
        values: Values by seed.
        score: The score.
        precision: Settings of the interval.

    Returns:
        The estimate; None without values.
    """
    if not values:
        return None
    sample, centre = list(values.values()), _centre(score)
    return ScoreEstimate(values, float(centre(sample, axis=-1)), bootstrap_interval([sample], centre, precision))


def effect(
    ours: Sequence[float], reference: Sequence[float], score: Score, precision: Precision = PRECISION
) -> Effect | None:
    """Compare a score of an arm with that of a reference; runs are resampled within each of them.

    Args:
        ours: Values of the arm, one for each run.
        reference: Values of the reference.
        score: The score.
        precision: Settings of the intervals.

    Returns:
        The effect; None if one of them has no value.
    """
    if not ours or not reference:
        return None
    centre = _centre(score)

    def difference(one: ArrayLike, other: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
        return np.round(centre(one, axis=axis) - centre(other, axis=axis), 12)  # without the noise of sums

    def improvement(one: ArrayLike, other: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
        better, worse = (one, other) if score.higher_is_better else (other, one)
        return improvement_probability(better, worse, axis)

    samples, seeds = [np.asarray(ours, float), np.asarray(reference, float)], (len(ours), len(reference))
    interval = bootstrap_interval(samples, difference, precision)
    found = float(difference(*samples))
    return Effect(
        seeds,
        found,
        interval,
        float(improvement(*samples)),
        bootstrap_interval(samples, improvement, precision),
        _claim(interval, seeds, score),
    )


def _centre(score: Score) -> Callable[..., Any]:
    return np.mean if score.is_flag else interquartile_mean


def _claim(interval: Interval | None, seeds: tuple[int, int], score: Score) -> Claim:
    """Return what an interval of a difference carries: nothing if it holds 0."""
    if interval is None or min(seeds) < MIN_SEEDS:
        return Claim.TOO_FEW
    if 0.0 in interval:
        return Claim.NOTHING
    return Claim.BETTER if (interval.low > 0) == score.higher_is_better else Claim.WORSE
