"""Between which values the mean of Q can lie, by the rewards that were seen."""

import math
from typing import NamedTuple

from app.config.schema import AgentConfig
from app.health.history import History, column, series

_SPREAD = 3.0  # fresh networks miss the value that they are built to begin with by less than this


class QBounds(NamedTuple):
    """Bounds of the mean of Q over the updates of an epoch.

    Attributes:
        low: lowest mean.
        high: highest mean.
        step: the widest difference that a single backup can make, in the same unit.
    """

    low: float
    high: float
    step: float


def q_bounds(history: History, agent: AgentConfig, start: float | None) -> QBounds | None:
    """Return the bounds for the newest epoch.

    A backup of soft Q adds rewards and, where it bootstraps, an entropy (Haarnoja et al. 2018, arXiv:1812.05905), with
    n-step targets ``b = Σ_{k<n} γᵏ r + γⁿ α H``. An episode may end at any step, so the lowest b is that of min(r, 0)
    and min(H, 0), the highest that of max(r, 0) and max(H, 0); for ever after, Q would be ``b / (1 − γⁿ)``. On the way
    there ``Q = b + γⁿ T``, and the target T takes over the share 1 − polyak of Q per update: it goes to the same end
    exponentially, at the rate ``(1 − polyak) (1 − γⁿ)``. So an entropy that is low for an epoch excuses a low Q no
    more than it can have lowered it.

    An entropy below its target excuses nothing: alpha is learned to keep it there.

    Args:
        history: of the run. Its epochs need ``updates``, ``reward_min``, ``reward_max``, ``alpha`` and ``entropy``.
        agent: discount, target network, entropy target.
        start: where Q was built to begin; None: anywhere that rewards allow. Weights drawn at random miss it a
            little, to the side that the first epoch shows. From above 0 Q may fall at once, where an episode ends,
            and from below 0 it may rise so.

    Returns:
        None if no epoch has all it takes.
    """
    names = ("updates", "reward_min", "reward_max", "alpha", "entropy")
    seen = [values for values in series(history, *names) if all(map(math.isfinite, values))]
    if not seen:
        return None
    discount, summed = agent.gamma**agent.n_step, sum(agent.gamma**k for k in range(agent.n_step))
    excuse = agent.target_entropy if agent.learn_entropy_coef else None
    begin = (None, None) if start is None else _begin(column(history[:1], "q_mean"), start)
    low, high, before = _Course(discount, begin[0]), _Course(discount, begin[1]), 0.0
    for updates, reward_min, reward_max, alpha, entropy in seen:
        excused = entropy if excuse is None else max(entropy, excuse)
        time, before = (1.0 - agent.polyak) * (1.0 - discount) * (updates - before), updates
        low.go_on(summed * min(reward_min, 0.0) + discount * alpha * min(excused, 0.0), time)
        high.go_on(summed * max(reward_max, 0.0) + discount * alpha * max(entropy, 0.0), time)
    return QBounds(low.mean, high.mean, high.widest - low.widest)


def _begin(first: list[float], start: float) -> tuple[float, float]:
    """Return the lowest and the highest value that Q may have begun with."""
    above, below = any(q > start for q in first), any(q < start for q in first)
    return min(start - _SPREAD * below, 0.0), max(start + _SPREAD * above, 0.0)


class _Course:
    """The way of a bound through the epochs."""

    def __init__(self, discount: float, start: float | None) -> None:
        self.mean = 0.0  # of Q over the newest epoch
        self.widest = 0.0  # the backup furthest from 0
        self._discount = discount
        self._target = start

    def go_on(self, backup: float, time: float) -> None:
        """Go through an epoch.

        Args:
            backup: what every backup adds.
            time: updates, in time constants of the target.
        """
        end = backup / (1.0 - self._discount)
        begin = end if self._target is None else self._target
        self._target = end + (begin - end) * math.exp(-time)
        mean = end + (begin - end) * (-math.expm1(-time) / time if time else 1.0)
        self.mean = backup + self._discount * mean
        self.widest = max(self.widest, backup, key=abs)
