"""Results of evaluation episodes, and the metrics computed from them."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Episode:
    """One evaluation episode.

    Attributes:
        ret: Undiscounted sum of rewards.
        length: Number of environment steps.
        lap_share: Covered share of the lap, 0 to 1; NaN where the task has no laps.
        lap_time: Seconds of a finished lap, otherwise None.
        outcome: End of the episode, such as "lap", "off_track" or "timeout".
        track: Seed of the track; 0 where the task has no tracks.
        start: Place of the start, as a share of the track, 0 to 1.
        native_return: Score of the game's own rules for the same driving; None where it has none.
        lap_bound: Seconds of the fastest lap along the centre line from the same start, for a finished lap in the
            built-in simulator; otherwise None.
    """

    ret: float
    length: int
    lap_share: float
    lap_time: float | None
    outcome: str
    track: int
    start: float
    native_return: float | None = None
    lap_bound: float | None = None

    @property
    def lap_time_ratio(self) -> float | None:
        """Lap time divided by its bound; below 1 for a car that cuts the bends well."""
        return self.lap_time / self.lap_bound if self.lap_time and self.lap_bound else None


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one evaluation.

    Attributes:
        deterministic: Episodes driven with the deterministic action of the policy.
        stochastic: Episodes driven with sampled actions.
    """

    deterministic: tuple[Episode, ...]
    stochastic: tuple[Episode, ...]

    def metrics(self) -> dict[str, float]:
        """Return means, population standard deviations and shares, by metric name.

        A name is missing where it has no value: no episodes, a task without laps, no finished lap, no bound.
        """
        return {**_metrics(self.deterministic, "det"), **_metrics(self.stochastic, "stoch")}

    def episodes(self) -> dict[str, list[dict[str, Any]]]:
        """Return the fields of every episode by the policy that drove it, as files of JSON have them."""
        policies = {"deterministic": self.deterministic, "stochastic": self.stochastic}
        return {name: [dict(vars(episode)) for episode in episodes] for name, episodes in policies.items()}


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the population standard deviation of at least one value."""
    mean = statistics.fmean(values)
    return mean, math.sqrt(statistics.fmean((value - mean) ** 2 for value in values))


def spread_of(metrics: Mapping[str, float], name: str) -> float | None:
    """Return the standard deviation of a metric over the episodes of its evaluation.

    Args:
        metrics: Metrics of an evaluation.
        name: Name of the metric, such as "lap_share_det".

    Returns:
        None where there is none, or where the episodes are one: their returns have no spread at all.
    """
    policy = "det" if "_det" in name else "stoch"
    return metrics.get(f"{name}_std") if metrics.get(f"return_test_{policy}_std") else None


def _metrics(episodes: Sequence[Episode], policy: str) -> dict[str, float]:
    """Return the metrics of some episodes; ``policy`` is their suffix, "det" or "stoch"."""
    if not episodes:
        return {}
    metrics: dict[str, float] = {}

    def add(name: str, values: Sequence[float]) -> None:
        metrics[name], metrics[f"{name}_std"] = mean_std(values)

    add(f"return_test_{policy}", [episode.ret for episode in episodes])
    metrics[f"length_{policy}"] = statistics.fmean(episode.length for episode in episodes)
    shares = [episode.lap_share for episode in episodes if not math.isnan(episode.lap_share)]
    if shares:
        add(f"lap_share_{policy}", shares)
        metrics[f"laps_{policy}"] = sum(episode.outcome == "lap" for episode in episodes) / len(episodes)
    for name in ("lap_time", "lap_time_ratio", "native_return"):
        if known := [value for episode in episodes if (value := getattr(episode, name)) is not None]:
            add(f"{name}_{policy}", known)
    for outcome, count in sorted(Counter(episode.outcome for episode in episodes).items()):
        metrics[f"outcome_{policy}/{outcome}"] = count / len(episodes)
    return metrics
