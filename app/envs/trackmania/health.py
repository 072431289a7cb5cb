"""How well a driver keeps time with a game that does not wait."""

import math
from itertools import pairwise

import numpy as np

_BIN_S = 0.0002
_BINS = 5000  # the last one takes whatever is longer than a second
_LATE = 1.1  # a step this many times as long as it should be is late
_BAR = 40  # characters
_EDGES = (0.0, 0.8, 0.96, 0.98, 1.0, 1.02, 1.04, _LATE, 1.25, 1.5, 2.0, 4.0, math.inf)  # shares of a step


class Durations:
    """A histogram of durations that stays as small after a night as after a minute."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[min(int(seconds / _BIN_S), _BINS - 1)] += 1
        self._longest = max(self._longest, seconds)

    @property
    def count(self) -> int:
        """How many were added."""
        return int(self._counts.sum())

    @property
    def longest(self) -> float:
        """The longest one, s."""
        return self._longest

    def quantile(self, share: float) -> float:
        """Return the duration, s, that this share does not exceed, to 0.2 ms; 0 before there is any."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.count))
        return min((place + 1) * _BIN_S, self._longest)

    def above(self, seconds: float) -> int:
        """Return how many lasted longer, to 0.2 ms."""
        return int(self._counts[min(round(seconds / _BIN_S), _BINS - 1) :].sum())

    def between(self, low: float, high: float) -> int:
        """Return how many lasted at least ``low`` and less than ``high`` seconds, to 0.2 ms."""
        first, end = (round(min(edge / _BIN_S, _BINS)) for edge in (low, high))
        return int(self._counts[first:end].sum())


class RealTimeHealth:
    """Measures the rhythm of an environment in real time.

    Args:
        step_s: how long a step should last.
    """

    def __init__(self, step_s: float):
        self.step_s = step_s
        self.steps, self.latencies = Durations(), Durations()
        self._seen = 0.0  # when the newest observation was handed out

    def handed_out(self, now: float) -> None:
        """Note that a step has handed out its observation."""
        self.steps.add(now - self._seen)
        self._seen = now

    def began(self, now: float) -> None:
        """Note that a reset has handed out an observation."""
        self._seen = now

    def acted(self, now: float) -> None:
        """Note that an action has come."""
        self.latencies.add(now - self._seen)

    def summary(self) -> dict[str, float]:
        """Return counts, and milliseconds."""
        steps, actor = self.steps, self.latencies
        late = steps.above(self.step_s * _LATE)
        return {
            "steps": steps.count,
            "step_ms_p50": 1000 * steps.quantile(0.5),
            "step_ms_p99": 1000 * steps.quantile(0.99),
            "step_ms_max": 1000 * steps.longest,
            "late_steps": late,
            "late_share": late / max(1, steps.count),
            "missed_steps": actor.above(self.step_s),
            "actor_ms_p50": 1000 * actor.quantile(0.5),
            "actor_ms_p99": 1000 * actor.quantile(0.99),
            "actor_ms_max": 1000 * actor.longest,
        }

    def line(self) -> str:
        """Return the summary in a line."""
        s = self.summary()
        step = f"steps {s['step_ms_p50']:.1f} ms (99 %: {s['step_ms_p99']:.1f}, longest {s['step_ms_max']:.0f})"
        late = f"{s['late_steps']:.0f} of {s['steps']:,.0f} late ({s['late_share']:.2%})"
        actor = f"actor {s['actor_ms_p50']:.1f} ms (99 %: {s['actor_ms_p99']:.1f})"
        return f"{step}, {late}, {actor}, {s['missed_steps']:.0f} actions missed their step"

    def histogram(self) -> str:
        """Return how long the steps lasted, as lines of text."""
        edges = [share * self.step_s for share in _EDGES]
        counts = [self.steps.between(low, high) for low, high in pairwise(edges)]
        most = max(*counts, 1)
        lines = []
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            span = (
                f"{1000 * low:6.1f} to {1000 * high:6.1f} ms"
                if math.isfinite(high)
                else f"{1000 * low:6.1f} ms and up  "
            )
            lines.append(f"  {span} {count:9,}  {'█' * round(_BAR * count / most)}".rstrip())
        return "\n".join(lines)
