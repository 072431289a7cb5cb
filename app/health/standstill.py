"""Reasons why a car stands still, read from the metrics of its run."""

import math
from collections.abc import Iterator

from app.config.faults import faults_of
from app.config.schema import Config
from app.config.schema_env import SimConfig
from app.health.score import History

_LITTLE = 0.01  # of the lap; a car that covers less has not left its start
_NOT_FAR = 0.2  # of the lap; a car that stalls before that stands still, too
_STALLED = ("outcome_det/stalled", "outcome_det/timeout")
_LEARNED = 1000  # updates after which runs on the simulator drive (docs/results.md)
_DROVE = 0.2  # of the lap
_NO_NOISE = -4.0  # log standard deviation; healthy runs have −0.3 to −0.8
_NO_REWARD = 0.02  # of the reward at the top speed


def standstill(history: History, config: Config) -> list[str]:
    """Return why the deterministic policy stands still after the newest epoch, in sentences, the fact first.

    Args:
        history: Metrics of every epoch.
        config: Configuration of the run.

    Returns:
        The sentences; empty if the car drives, or if the task has no laps.
    """
    if not history or not _stands_still(history):
        return []
    causes = [cause for find in _CAUSES if (cause := find(history, config)) is not None]
    return [_fact(history, config), *(causes or [_nothing_found(history)]), *_faults(config)]


def _stands_still(history: History) -> bool:
    share = _newest(history, "lap_share_det")
    stalled = sum(history[-1].get(name) or 0.0 for name in _STALLED)
    return share < _LITTLE or (share < _NOT_FAR and stalled >= 0.5)  # NaN, for a task without laps: neither


def _fact(history: History, config: Config) -> str:
    share, steps = _newest(history, "lap_share_det"), _newest(history, "length_det")
    text = f"With the deterministic action the car covers {_figure(100 * share)} % of the lap"
    if isinstance(config.env, SimConfig) and steps > 0:
        speed = share * config.env.track.length / (steps * config.env.step_s)
        text += f", {_figure(speed)} m/s on average"
    if stalled := sum(history[-1].get(name) or 0.0 for name in _STALLED):
        text += f", and {100 * stalled:.0f} % of its episodes end because it makes no way"
    return f"{text}."


def _too_early(history: History, _: Config) -> str | None:
    updates = _newest(history, "updates")
    if not updates < _LEARNED:
        return None
    return f"It has had {updates:,.0f} updates only; runs on the simulator drive after about {_LEARNED:,}."


def _never_moved(history: History, config: Config) -> str | None:
    """Check whether no step in the replay was worth anything."""
    highest, possible = _newest(history, "reward_max"), config.env.highest_reward
    if possible is None or not highest < _NO_REWARD * possible:
        return None
    return (
        f"No step has ever earned more than {_figure(highest)}, and one at the top speed earns {_figure(possible)}: "
        "the training episodes do not move either, so there is nothing to learn from. A longer warm-up "
        "(training.start_training) tries more; python app/doctor.py checks the environment."
    )


def _noise_pays(history: History, config: Config) -> str | None:
    """Check whether the entropy bonus of a step is worth more than its reward."""
    alpha, entropy, reward = (_newest(history, name) for name in ("alpha", "entropy", "reward"))
    per_step = reward / sum(config.agent.gamma**k for k in range(config.agent.n_step))  # of an n-step sum
    if not alpha * entropy > max(per_step, 0.0):
        return None
    return (
        f"The entropy bonus of a step is {_figure(alpha * entropy)} (alpha {_figure(alpha)} times an entropy of "
        f"{_figure(entropy)}), and its reward {_figure(per_step)} on average: acting at random pays more than driving. "
        "Healthy runs have an alpha of 0.01 to 0.1; a lower agent.alpha or agent.target_entropy changes the balance."
    )


def _no_noise(history: History, _: Config) -> str | None:
    log_std = _newest(history, "log_std_mean")
    if not log_std < _NO_NOISE:
        return None
    return (
        f"The policy has almost no noise left (mean log-std {_figure(log_std)}, healthy −0.3 to −0.8), so no training "
        "episode does anything else than the last one. A higher agent.alpha_min keeps some."
    )


def _noise_drives(history: History, config: Config) -> str | None:
    """Check whether only the sampled actions drive."""
    deterministic, stochastic = _newest(history, "lap_share_det"), _newest(history, "lap_share_stoch")
    if not (stochastic > 0.05 and stochastic > 5 * deterministic):
        return None
    return (
        f"Sampled actions cover {_figure(100 * stochastic)} % of the lap: the noise drives, and the deterministic "
        "action does not. What that one does, the replay learns from its share of the training episodes, "
        f"agent.deterministic_share = {config.agent.deterministic_share:g}."
    )


def _low_q(history: History, _: Config) -> str | None:
    q, highest = _newest(history, "q_mean"), _newest(history, "reward_max")
    if not (q < 0 < highest):
        return None
    return (
        f"Q is {_figure(q)} on average although rewards of up to {_figure(highest)} were collected: every action looks "
        "worse than none. Health shows whether the rewards allow such a Q."
    )


def _clipped(history: History, config: Config) -> str | None:
    share = _newest(history, "q_target_clipped")
    if not share > config.health.clipped_targets:
        return None
    return (
        f"{_figure(100 * share)} % of the Bellman targets lie outside the support of the value, where Q cannot follow: "
        "start anew with a wider value.support, or with value=scalar."
    )


def _lost(history: History, _: Config) -> str | None:
    """Check whether the car has driven before."""
    shares = [_value(epoch, "lap_share_det") for epoch in history]
    best = max((share for share in shares if not math.isnan(share)), default=0.0)
    if best < _DROVE:
        return None
    epoch = history[shares.index(best)].get("epoch", shares.index(best) + 1)
    return (
        f"It has driven before: {100 * best:.0f} % of the lap after epoch {epoch}. "
        "python app/postmortem.py shows what failed first."
    )


def _nothing_found(history: History) -> str:
    names = {"alpha": "alpha", "entropy": "entropy", "log_std_mean": "mean log-std", "q_mean": "Q"}
    known = {label: value for name, label in names.items() if not math.isnan(value := _newest(history, name))}
    figures = ", ".join(f"{label} {_figure(value)}" for label, value in known.items())
    return (
        f"None of the usual causes shows in the metrics{f' ({figures})' if figures else ''}. The video and "
        "python app/doctor.py may say more."
    )


def _faults(config: Config) -> Iterator[str]:
    broken = [state.fault for state in faults_of(config) if state.fixed is False]
    if broken:
        listed = "; ".join(f"{fault.number} ({fault.name})" for fault in broken)
        yield f"The configuration has faults that make agents collapse: {listed}."


def _figure(value: float) -> str:
    """Return a number with two digits, or all digits before the point: "0.033", "8.9", "100"."""
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:,.0f}"


def _newest(history: History, name: str) -> float:
    return _value(history[-1], name)


def _value(epoch: dict, name: str) -> float:
    """Return a metric; NaN where there is none, which no comparison is true for."""
    value = epoch.get(name)
    return math.nan if value is None else value


_CAUSES = (_too_early, _never_moved, _noise_pays, _no_noise, _noise_drives, _low_q, _clipped, _lost)
