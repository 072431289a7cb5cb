"""Bounds of the mean of Q, derived from the rewards and entropies of a run."""

import math
from typing import NamedTuple

from app.config.schema import AgentConfig
from app.health.score import Epoch, History, column, series

_INITIAL_SPREAD = 3.0  # fresh networks miss the Q that they are built to start with by less than this


class QBounds(NamedTuple):
    """Bounds of the mean of Q over the updates of an epoch.

    Attributes:
        low: Lowest possible mean.
        high: Highest possible mean.
        step: The widest difference that a single backup can make, in the same unit.
    """

    low: float
    high: float
    step: float


def q_bounds(history: History, agent: AgentConfig, initial_q: float | None) -> QBounds | None:
    """Return the bounds for the newest epoch.

    A backup of soft Q adds rewards and, where it bootstraps, an entropy (Haarnoja et al. 2018, arXiv:1812.05905), with
    n-step targets ``b = Σ_{k<n} γᵏ r + γⁿ α H``. An episode may end at any step, so the lowest b is that of min(r, 0)
    and min(H, 0), the highest that of max(r, 0) and max(H, 0); in the limit, Q would be ``b / (1 − γⁿ)``. On the way
    there ``Q = b + γⁿ T``, and the target T takes over the share 1 − polyak of Q per update: it approaches the same
    limit exponentially, at the rate ``(1 − polyak) (1 − γⁿ)``. So an entropy that is low for one epoch excuses a low Q
    only by as much as it can have lowered it in that time.

    An entropy below its target excuses nothing: alpha is learned to keep it there.

    Args:
        history: History of the run. Its epochs need ``updates``, ``reward_min``, ``reward_max``, ``alpha`` and
            ``entropy``.
        agent: Discount, target network and entropy target.
        initial_q: The Q that the networks were built to start with; None if they may start anywhere that rewards
            allow. Random weights miss it a little, to the side that the first epoch shows. From above 0, Q may fall at
            once where an episode ends, and from below 0 it may rise at once.

    Returns:
        The bounds; None if no epoch has all metrics that are needed.
    """
    bounds = RunningQBounds(agent, initial_q)
    for epoch in history:
        bounds.add(epoch)
    return bounds.newest


class RunningQBounds:
    """The bounds of ``q_bounds``, followed through the epochs: the work for one does not grow with their number.

    Args:
        agent: Discount, target network and entropy target.
        initial_q: As for ``q_bounds``.

    Attributes:
        newest: Bounds after the newest epoch; None before one has all metrics that are needed.
    """

    def __init__(self, agent: AgentConfig, initial_q: float | None) -> None:
        self.newest: QBounds | None = None
        self._agent, self._initial_q = agent, initial_q
        self._discount = agent.gamma**agent.n_step
        self._reward_sum = sum(agent.gamma**k for k in range(agent.n_step))
        self._bounds: tuple[_Bound, _Bound] | None = None  # made with the first epoch
        self._updates = 0.0

    def add(self, epoch: Epoch) -> None:
        """Add the metrics of the next epoch; any of them may be missing."""
        if self._bounds is None:
            q = column([epoch], "q_mean")
            start = (None, None) if self._initial_q is None else _initial_bounds(q, self._initial_q)
            self._bounds = _Bound(self._discount, start[0]), _Bound(self._discount, start[1])
        for values in series([epoch], "updates", "reward_min", "reward_max", "alpha", "entropy"):
            if all(map(math.isfinite, values)):
                self._advance(*values)

    def _advance(self, updates: float, reward_min: float, reward_max: float, alpha: float, entropy: float) -> None:
        agent, (low, high) = self._agent, self._bounds
        target_entropy = agent.target_entropy if agent.auto_alpha else None
        low_entropy = entropy if target_entropy is None else max(entropy, target_entropy)
        time = (1.0 - agent.polyak) * (1.0 - self._discount) * (updates - self._updates)
        self._updates = updates
        low.advance(self._reward_sum * min(reward_min, 0.0) + self._discount * alpha * min(low_entropy, 0.0), time)
        high.advance(self._reward_sum * max(reward_max, 0.0) + self._discount * alpha * max(entropy, 0.0), time)
        self.newest = QBounds(low.mean, high.mean, high.widest_backup - low.widest_backup)


def _initial_bounds(first_q: list[float], initial_q: float) -> tuple[float, float]:
    """Return the lowest and the highest value that Q may have started with."""
    above, below = any(q > initial_q for q in first_q), any(q < initial_q for q in first_q)
    return min(initial_q - _INITIAL_SPREAD * below, 0.0), max(initial_q + _INITIAL_SPREAD * above, 0.0)


class _Bound:
    """One bound of Q, followed through the epochs.

    Args:
        discount: Discount of a backup.
        start: Value of the bound before the first update; None for the limit of the first epoch.
    """

    def __init__(self, discount: float, start: float | None) -> None:
        self.mean = 0.0  # of Q over the newest epoch
        self.widest_backup = 0.0  # the one farthest from 0
        self._discount = discount
        self._target = start

    def advance(self, backup: float, time: float) -> None:
        """Advance by one epoch.

        Args:
            backup: Value that every backup adds.
            time: Updates, in time constants of the target.
        """
        limit = backup / (1.0 - self._discount)
        start = limit if self._target is None else self._target
        self._target = limit + (start - limit) * math.exp(-time)
        mean = limit + (start - limit) * (-math.expm1(-time) / time if time else 1.0)
        self.mean = backup + self._discount * mean
        self.widest_backup = max(self.widest_backup, backup, key=abs)
