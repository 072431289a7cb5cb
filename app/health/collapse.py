"""Detection of collapsed runs."""

import math
import statistics
from collections import deque
from collections.abc import Callable

from app.config.schema import Config
from app.health.q_bounds import RunningQBounds
from app.health.score import Epoch, History, RunningScore, column, series

_CHECKED_METRICS = ("loss_critic", "loss_actor", "q_mean", "return_test_det")


def collapse_reason(history: History, config: Config) -> str | None:
    """Return why a run has collapsed, with numbers; None if it has not.

    Q is not checked before the history contains the metrics that its bounds need, and the score not without
    ``env.return_range``.

    Args:
        history: History of the run; its newest epoch is checked, in the light of the earlier ones.
        config: Configuration of the run.
    """
    return _seen(history, config).reason()


def rule_findings(history: History, config: Config) -> dict[str, str | None]:
    """Return what every rule says after the newest epoch, by its name for people; None where it finds nothing."""
    return _seen(history, config).findings()


def first_collapse(history: History, config: Config, known: int = 0) -> tuple[int, str] | None:
    """Return the first epoch after which a run counts as collapsed, counted from 1, and why; None if there is none.

    Args:
        history: Metrics of all epochs.
        config: Configuration of the run, which has the rules.
        known: Number of epochs at the beginning that are known not to be collapsed.
    """
    rules = _Rules(config)
    for length, epoch in enumerate(history, start=1):
        rules.add(epoch)
        if length > known and (reason := rules.reason()) is not None:
            return length, reason
    return None


def _seen(history: History, config: Config) -> "_Rules":
    rules = _Rules(config)
    for epoch in history:
        rules.add(epoch)
    return rules


class _Rules:
    """The rules, followed through the epochs of a run: the work for one does not grow with their number."""

    def __init__(self, config: Config) -> None:
        self._config, rules = config, config.health.collapse
        self._newest: Epoch = {}
        initial_q = config.critic.initial_q if config.training.init_from is None else None
        self._q_bounds = RunningQBounds(config.agent, initial_q)
        self._score = RunningScore(config.health, config.env.return_range)
        self._scores: deque[float] = deque(maxlen=rules.low_epochs)
        self._returns: deque[tuple[float, ...]] = deque(maxlen=rules.stuck_epochs)
        self._best = -math.inf  # of the deterministic returns
        self._newest_returns: deque[float] = deque(maxlen=rules.lost_epochs)

    def add(self, epoch: Epoch) -> None:
        self._newest = epoch
        self._q_bounds.add(epoch)
        self._returns.extend(series([epoch], "return_test_det", "return_test_stoch"))
        for value in column([epoch], "return_test_det"):
            self._best = max(self._best, value)
            self._newest_returns.append(value)
        self._score.add(epoch)
        if parts := self._score.parts():
            self._scores.append(parts["stability"])

    def reason(self) -> str | None:
        return next((reason for rule in self._by_name().values() if (reason := rule()) is not None), None)

    def findings(self) -> dict[str, str | None]:
        return {name: rule() for name, rule in self._by_name().items()}

    def _by_name(self) -> dict[str, Callable[[], str | None]]:
        return {
            "losses, Q and returns are finite": self._not_finite,
            "Q lies where the rewards allow it": self._impossible_q,
            "the deterministic policy is not stuck": self._stuck,
            "the return has not fallen after a success": self._fallen,
            "the health score is above its limit": self._low_score,
        }

    def _not_finite(self) -> str | None:
        names = [
            name for name in _CHECKED_METRICS for value in column([self._newest], name) if not math.isfinite(value)
        ]
        return f"not finite: {', '.join(names)}" if names else None

    def _impossible_q(self) -> str | None:
        """Check whether Q lies outside the bounds that rewards and entropies allow."""
        rules = self._config.health.collapse
        if not any(updates >= rules.q_after_updates for updates in column([self._newest], "updates")):
            return None
        q, bounds = column([self._newest], "q_mean"), self._q_bounds.newest
        if not q or bounds is None:
            return None
        margin = rules.q_margin * bounds.step
        if not margin or bounds.low - margin <= q[0] <= bounds.high + margin:  # without any reward there is no scale
            return None
        return f"q_mean is {q[0]:.3g}, and the rewards and entropies seen allow {bounds.low:.3g} to {bounds.high:.3g}"

    def _stuck(self) -> str | None:
        """Check whether the deterministic policy repeats itself while the noise of the stochastic one does better."""
        rules, pairs = self._config.health.collapse, self._returns
        if len(pairs) < rules.stuck_epochs or not all(math.isfinite(value) for pair in pairs for value in pair):
            return None
        deterministic, stochastic = zip(*pairs, strict=True)
        span, mean = _span(stochastic), statistics.fmean(stochastic)
        constant = span > 0 and _span(deterministic) <= rules.stuck_share * span
        # A perfect driver is constant, too; its sampled actions do no better than that.
        if not (constant and mean - max(deterministic) > rules.stuck_gap * abs(mean)):
            return None
        return (
            f"return_test_det is stuck at {deterministic[-1]:.3g} for {len(pairs)} epochs, while return_test_stoch "
            f"went from {min(stochastic):.3g} to {max(stochastic):.3g}"
        )

    def _fallen(self) -> str | None:
        """Check whether the deterministic return stays far below what it had reached; shares count from the lowest."""
        rules, returns = self._config.health.collapse, self._newest_returns
        if self._config.env.return_range is None or len(returns) < rules.lost_epochs:
            return None
        low, high = self._config.env.return_range
        best = self._best - low
        if best < rules.learned_share * (high - low) or not all(
            value - low < rules.lost_share * best for value in returns
        ):
            return None
        return (
            f"return_test_det was {self._best:.3g}, and is at most {max(returns):.3g} for {rules.lost_epochs} epochs: "
            f"less than {rules.lost_share:.0%} of what it had gained over {low:.3g}"
        )

    def _low_score(self) -> str | None:
        rules, scores = self._config.health.collapse, self._scores
        if len(scores) < rules.low_epochs or not all(score < rules.low_score for score in scores):
            return None
        shown = ", ".join(f"{score:.2f}" for score in scores)
        return f"the health score is below {rules.low_score:g} for {rules.low_epochs} epochs ({shown})"


def _span(values: tuple[float, ...]) -> float:
    return max(values) - min(values)
