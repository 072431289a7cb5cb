"""Detection of collapsed runs."""

import math
import statistics

from app.config.schema import Config
from app.health.q_bounds import q_bounds
from app.health.score import History, column, series, stability

_CHECKED_METRICS = ("loss_critic", "loss_actor", "q_mean", "return_test_det")


def collapse_reason(history: History, config: Config) -> str | None:
    """Return why a run has collapsed, with numbers; None if it has not.

    Q is not checked before the history contains the metrics that its bounds need, and the score not without
    ``env.return_range``.

    Args:
        history: History of the run; its newest epoch is checked, in the light of the earlier ones.
        config: Configuration of the run.
    """
    return next((reason for rule in _RULES.values() if (reason := rule(history, config)) is not None), None)


def rule_findings(history: History, config: Config) -> dict[str, str | None]:
    """Return what every rule says after the newest epoch, by its name for people; None where it finds nothing."""
    return {name: rule(history, config) for name, rule in _RULES.items()}


def first_collapse(history: History, config: Config, known: int = 0) -> tuple[int, str] | None:
    """Return the first epoch after which a run counts as collapsed, counted from 1, and why; None if there is none.

    Args:
        history: Metrics of all epochs.
        config: Configuration of the run, which has the rules.
        known: Number of epochs at the beginning that are known not to be collapsed.
    """
    for length in range(known + 1, len(history) + 1):
        if (reason := collapse_reason(history[:length], config)) is not None:
            return length, reason
    return None


def _not_finite(history: History, _: Config) -> str | None:
    names = [name for name in _CHECKED_METRICS for value in column(history[-1:], name) if not math.isfinite(value)]
    return f"not finite: {', '.join(names)}" if names else None


def _impossible_q(history: History, config: Config) -> str | None:
    """Check whether Q lies outside the bounds that rewards and entropies allow."""
    rules = config.health.collapse
    if not any(updates >= rules.q_after_updates for updates in column(history[-1:], "updates")):
        return None
    initial_q = config.critic.initial_q if config.training.init_from is None else None
    q, bounds = column(history[-1:], "q_mean"), q_bounds(history, config.agent, initial_q)
    if not q or bounds is None:
        return None
    margin = rules.q_margin * bounds.step
    if not margin or bounds.low - margin <= q[0] <= bounds.high + margin:  # without any reward there is no scale
        return None
    return f"q_mean is {q[0]:.3g}, and the rewards and entropies seen allow {bounds.low:.3g} to {bounds.high:.3g}"


def _stuck(history: History, config: Config) -> str | None:
    """Check whether the deterministic policy repeats itself while the noise of the stochastic one does better."""
    rules = config.health.collapse
    pairs = series(history, "return_test_det", "return_test_stoch")[-rules.stuck_epochs :]
    if len(pairs) < rules.stuck_epochs or not all(math.isfinite(value) for pair in pairs for value in pair):
        return None
    deterministic, stochastic = zip(*pairs, strict=True)
    span, mean = _span(stochastic), statistics.fmean(stochastic)
    constant = span > 0 and _span(deterministic) <= rules.stuck_share * span
    # A perfect driver is constant, too; its sampled actions do no better than that.
    if not (constant and mean - max(deterministic) > rules.stuck_gap * abs(mean)):
        return None
    return (
        f"return_test_det is stuck at {deterministic[-1]:.3g} for {len(pairs)} epochs, while return_test_stoch went "
        f"from {min(stochastic):.3g} to {max(stochastic):.3g}"
    )


def _low_score(history: History, config: Config) -> str | None:
    cfg, return_range = config.health, config.env.return_range
    count, limit = cfg.collapse.low_epochs, cfg.collapse.low_score
    if return_range is None or len(history) < count:
        return None
    ends = range(len(history) - count + 1, len(history) + 1)
    scores = [stability(history[:end], cfg, return_range)["stability"] for end in ends]
    if not all(score < limit for score in scores):
        return None
    return f"the health score is below {limit:g} for {count} epochs ({', '.join(f'{score:.2f}' for score in scores)})"


def _span(values: tuple[float, ...]) -> float:
    return max(values) - min(values)


_RULES = {
    "losses, Q and returns are finite": _not_finite,
    "Q lies where the rewards allow it": _impossible_q,
    "the deterministic policy is not stuck": _stuck,
    "the health score is above its limit": _low_score,
}
