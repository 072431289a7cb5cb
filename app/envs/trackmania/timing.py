"""Timing of an environment in real time: durations of steps, and latencies of the actor."""

import math
from itertools import pairwise

import numpy as np

_BIN_S = 0.0002
_BIN_COUNT = 5000  # the last bin counts everything longer than a second
_LATE_FACTOR = 1.1  # a step that lasts this many times as long as it should is late
_BAR_WIDTH = 40  # characters
_EDGES = (0.0, 0.8, 0.96, 0.98, 1.0, 1.02, 1.04, _LATE_FACTOR, 1.25, 1.5, 2.0, 4.0, math.inf)  # shares of a step


class DurationHistogram:
    """Histogram of durations in bins of 0.2 ms, whose size does not grow with their number."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BIN_COUNT, np.int64)
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[min(int(seconds / _BIN_S), _BIN_COUNT - 1)] += 1
        self._longest = max(self._longest, seconds)

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self._counts.sum())

    @property
    def longest(self) -> float:
        """Longest duration, s; 0 without any."""
        return self._longest

    def quantile(self, share: float) -> float:
        """Return the duration in s that a share of all does not exceed, to 0.2 ms; 0 without any."""
        if not self.count:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), share * self.count))
        return min((index + 1) * _BIN_S, self._longest)

    def count_above(self, seconds: float) -> int:
        """Return the number of durations above ``seconds``, to 0.2 ms."""
        return int(self._counts[min(round(seconds / _BIN_S), _BIN_COUNT - 1) :].sum())

    def count_between(self, low: float, high: float) -> int:
        """Return the number of durations of at least ``low`` and less than ``high`` seconds, to 0.2 ms."""
        first, end = (round(min(edge / _BIN_S, _BIN_COUNT)) for edge in (low, high))
        return int(self._counts[first:end].sum())


class StepTiming:
    """Measures how regularly an environment in real time steps, and how fast its actor answers.

    Args:
        step_s: Nominal duration of a step.

    Attributes:
        step_s: Nominal duration of a step.
        steps: Time from one observation to the next.
        latencies: Time from an observation to the action that answers it.
    """

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.steps, self.latencies = DurationHistogram(), DurationHistogram()
        self._last_observation = 0.0  # time at which it was returned

    def record_reset(self, now: float) -> None:
        """Record that ``reset`` returns an observation at a time in s."""
        self._last_observation = now

    def record_action(self, now: float) -> None:
        """Record that ``step`` received an action at a time in s."""
        self.latencies.add(now - self._last_observation)

    def record_step(self, now: float) -> None:
        """Record that ``step`` returns an observation at a time in s."""
        self.steps.add(now - self._last_observation)
        self._last_observation = now

    def summary(self) -> dict[str, float]:
        """Return counts, shares, and quantiles in ms."""
        steps, actor = self.steps, self.latencies
        late = steps.count_above(self.step_s * _LATE_FACTOR)
        return {
            "steps": steps.count,
            "step_ms_p50": 1000 * steps.quantile(0.5),
            "step_ms_p99": 1000 * steps.quantile(0.99),
            "step_ms_max": 1000 * steps.longest,
            "late_steps": late,
            "late_share": late / max(1, steps.count),
            "missed_steps": actor.count_above(self.step_s),
            "actor_ms_p50": 1000 * actor.quantile(0.5),
            "actor_ms_p99": 1000 * actor.quantile(0.99),
            "actor_ms_max": 1000 * actor.longest,
        }

    def format_summary(self) -> str:
        """Return the summary as one line of text."""
        s = self.summary()
        step = f"steps {s['step_ms_p50']:.1f} ms (99 %: {s['step_ms_p99']:.1f}, longest {s['step_ms_max']:.0f})"
        late = f"{s['late_steps']:.0f} of {s['steps']:,.0f} late ({s['late_share']:.2%})"
        actor = f"actor {s['actor_ms_p50']:.1f} ms (99 %: {s['actor_ms_p99']:.1f})"
        return f"{step}, {late}, {actor}, {s['missed_steps']:.0f} actions missed their step"

    def format_histogram(self) -> str:
        """Return a bar chart of the durations of steps as lines of text."""
        edges = [share * self.step_s for share in _EDGES]
        counts = [self.steps.count_between(low, high) for low, high in pairwise(edges)]
        most = max(*counts, 1)
        lines = []
        for (low, high), count in zip(pairwise(edges), counts, strict=True):
            span = f"{1000 * low:6.1f} ms and up  "
            if math.isfinite(high):
                span = f"{1000 * low:6.1f} to {1000 * high:6.1f} ms"
            lines.append(f"  {span} {count:9,}  {'█' * round(_BAR_WIDTH * count / most)}".rstrip())
        return "\n".join(lines)
