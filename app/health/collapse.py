"""Whether a run has collapsed, and why."""

import math
import statistics

from app.config.schema import Config
from app.config.schema_health import CollapseConfig, HealthConfig
from app.health.history import History, column, series
from app.health.q_bounds import q_bounds
from app.health.score import Range, stability

_WATCHED = ("loss_critic", "loss_actor", "q_mean", "return_test_det")


def collapse(history: History, config: Config) -> str:
    """Return why a run has collapsed, in words and numbers; "" if it has not.

    Q is not judged before the history has what its bounds are made of, nor the score without ``env.return_range``.

    Args:
        history: of the run; judged is its newest epoch, in the light of those before.
        config: of the run.
    """
    return (
        _not_finite(history)
        or _impossible_q(history, config)
        or _stuck(history, config.health.collapse)
        or _low_score(history, config.health, config.env.return_range)
    )


def _not_finite(history: History) -> str:
    odd = [name for name in _WATCHED for value in column(history[-1:], name) if not math.isfinite(value)]
    return f"not finite: {', '.join(odd)}" if odd else ""


def _impossible_q(history: History, config: Config) -> str:
    rules = config.health.collapse
    if not any(updates >= rules.q_after for updates in column(history[-1:], "updates")):
        return ""
    start = config.critic.initial_q if config.training.init_from is None else None
    q, bounds = column(history[-1:], "q_mean"), q_bounds(history, config.agent, start)
    if not q or bounds is None:
        return ""
    beyond = rules.q_margin * bounds.step
    if not beyond or bounds.low - beyond <= q[0] <= bounds.high + beyond:  # without any reward there is no scale
        return ""
    return f"q_mean is {q[0]:.3g}, and the rewards and entropies seen allow {bounds.low:.3g} to {bounds.high:.3g}"


def _stuck(history: History, rules: CollapseConfig) -> str:
    """The mean action goes on doing the same thing, and noise does better."""
    pairs = series(history, "return_test_det", "return_test_stoch")[-rules.stuck_epochs :]
    if len(pairs) < rules.stuck_epochs or not all(math.isfinite(value) for pair in pairs for value in pair):
        return ""
    deterministic, stochastic = zip(*pairs, strict=True)
    moved, mean = _span(stochastic), statistics.fmean(stochastic)
    stands = moved > 0 and _span(deterministic) <= rules.stuck_share * moved
    # A perfect driver stands at the ceiling; its sampled actions do no better than that.
    if not (stands and mean - max(deterministic) > rules.stuck_gap * abs(mean)):
        return ""
    return (
        f"return_test_det is stuck at {deterministic[-1]:.3g} for {len(pairs)} epochs, while return_test_stoch went "
        f"from {min(stochastic):.3g} to {max(stochastic):.3g}"
    )


def _low_score(history: History, cfg: HealthConfig, return_range: Range | None) -> str:
    count, limit = cfg.collapse.low_epochs, cfg.collapse.low_score
    if return_range is None or len(history) < count:
        return ""
    ends = range(len(history) - count + 1, len(history) + 1)
    scores = [stability(history[:end], cfg, return_range)["stability"] for end in ends]
    if not all(score < limit for score in scores):
        return ""
    return f"the health score is below {limit:g} for {count} epochs ({', '.join(f'{score:.2f}' for score in scores)})"


def _span(values: tuple[float, ...]) -> float:
    return max(values) - min(values)
