"""How a run is doing: its score after every epoch, and what is done when it collapses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console

from app.config.schema import Config
from app.health.collapse import collapse
from app.health.objective import objective, worst
from app.health.score import stability
from app.reporting.formatting import tell
from app.training.stop import Stopped

COLLAPSED = "collapsed: "


class Watcher(Protocol):
    """Somebody outside who is told the score after every epoch and may end the run."""

    def report(self, epoch: int, score: float) -> None:
        """Take note of the score after an epoch."""

    def verdict(self) -> str:
        """Return why the run should end now, "" if it should not."""


class Vitals:
    """The history of a run, and what it says.

    Args:
        config: of the run.
        console: where to tell of a collapse.
        watchers: told every score.
    """

    def __init__(self, config: Config, console: Console, watchers: Sequence[Watcher]):
        self._config, self._console, self._watchers = config, console, watchers
        self._history: list[dict[str, float]] = []
        self._told = self._told_of_clipping = False

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Take the metrics of one more epoch; returns the health score and its parts, to be logged with them."""
        self._history.append(dict(metrics))
        return stability(self._history, self._config.health, self._config.env.return_range)

    def judge(self) -> None:
        """Tell the watchers the newest score, and end the run if it has collapsed or somebody wants it to end.

        Raises:
            Stopped: with the reason.
        """
        for watcher in self._watchers:
            watcher.report(len(self._history), self.score())
        self._warn_of_clipping()
        config = self._config
        if reason := collapse(self._history, config):
            if config.health.on_collapse == "stop":
                raise Stopped(COLLAPSED + reason)
            if not self._told:
                tell(self._console, f"it looks collapsed: {reason} (health.on_collapse=stop ends such a run)", "red")
        self._told = bool(reason)
        if verdicts := [verdict for watcher in self._watchers if (verdict := watcher.verdict())]:
            raise Stopped(verdicts[0])

    def _warn_of_clipping(self) -> None:
        """Say once that the support of a categorical value is too narrow."""
        newest = self._history[-1]
        share, q = newest.get("q_target_clipped", 0.0), newest.get("q_mean", math.nan)
        if share > self._config.health.clipped_targets and not self._told_of_clipping:
            tell(
                self._console,
                f"{share:.1%} of the Bellman targets lie beyond the support of the value: Q cannot reach them "
                f"(its mean is {q:.3g}). Set value.support=[lowest,highest] wider in a new run, or use value=scalar.",
                "yellow",
            )
            self._told_of_clipping = True

    def score(self, collapsed: bool = False) -> float:
        """Return the objective so far; NaN before the first evaluation.

        Args:
            collapsed: the run has ended in a collapse, and counts with the worst it has shown.
        """
        name, returns = self._config.objective, self._config.env.return_range
        if not self._history:
            return math.nan
        return worst(name, self._history) if collapsed else objective(name, self._history, self._config.health, returns)

    def state_dict(self) -> list[dict[str, float]]:
        """Return the history as plain numbers."""
        return [dict(metrics) for metrics in self._history]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what ``state_dict`` returned; the watchers are told again."""
        for metrics in state:
            self._history.append(dict(metrics))
            for watcher in self._watchers:
                watcher.report(len(self._history), self.score())
