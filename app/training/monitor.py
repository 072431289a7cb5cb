"""Health monitor: the history of a run, its score after every epoch, and the reaction to a collapse."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console

from app.config.schema import Config
from app.core.console import print_line
from app.health.collapse import collapse_reason
from app.health.score import objective, stability, worst_objective
from app.training.stop import StopKind, Stopped, StopReason


class EpochCallback(Protocol):
    """Receives the objective after every epoch and may end the run."""

    def report(self, epoch: int, objective: float) -> None:
        """Take the objective after an epoch, counted from 1."""

    def stop_reason(self) -> StopReason | None:
        """Return why the run should end now, or None."""


class HealthMonitor:
    """Keeps the metrics of all epochs, computes the score, and ends a run that has collapsed.

    Args:
        config: Configuration of the run.
        console: Console for warnings.
        callbacks: Receive the objective after every epoch.
    """

    def __init__(self, config: Config, console: Console, callbacks: Sequence[EpochCallback]):
        self._config, self._console, self._callbacks = config, console, callbacks
        self._history: list[dict[str, float]] = []
        self._warned_of_collapse = self._warned_of_clipping = False

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add the metrics of an epoch; return the health score and its parts, to be logged with them."""
        self._history.append(dict(metrics))
        return stability(self._history, self._config.health, self._config.env.return_range)

    def check(self) -> None:
        """Report the newest epoch to the callbacks, and end the run if it has collapsed or a callback asks for it.

        Raises:
            Stopped: The run should end.
        """
        for callback in self._callbacks:
            callback.report(len(self._history), self.objective())
        self._warn_of_clipping()
        self._check_collapse()
        for callback in self._callbacks:
            if (reason := callback.stop_reason()) is not None:
                raise Stopped(reason)

    def objective(self, collapsed: bool = False) -> float:
        """Return the objective so far; NaN before the first evaluation.

        Args:
            collapsed: Whether the run has ended in a collapse, which counts with the worst objective that it has shown.
        """
        name, health = self._config.objective, self._config.health
        if collapsed:
            return worst_objective(name, self._history)
        return objective(name, self._history, health, self._config.env.return_range)

    def state_dict(self) -> list[dict[str, float]]:
        """Return the history as plain numbers."""
        return [dict(metrics) for metrics in self._history]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Restore what ``state_dict`` returned, and report every epoch to the callbacks again."""
        for metrics in state:
            self._history.append(dict(metrics))
            for callback in self._callbacks:
                callback.report(len(self._history), self.objective())

    def _check_collapse(self) -> None:
        reason = collapse_reason(self._history, self._config)
        if reason is not None and self._config.health.on_collapse == "stop":
            raise Stopped(StopReason(StopKind.COLLAPSED, reason))
        if reason is not None and not self._warned_of_collapse:
            print_line(
                self._console,
                f"The run looks collapsed: {reason}. It continues; health.on_collapse=stop ends such a run.",
                "red",
            )
        self._warned_of_collapse = reason is not None

    def _warn_of_clipping(self) -> None:
        """Warn once if the support of a categorical value is too narrow."""
        metrics = self._history[-1]
        share, q = metrics.get("q_target_clipped", 0.0), metrics.get("q_mean", math.nan)
        if share > self._config.health.clipped_targets and not self._warned_of_clipping:
            print_line(
                self._console,
                f"{share:.1%} of the Bellman targets lie outside the support of the value, where Q cannot follow (its "
                f"mean is {q:.3g}). Start a new run with a wider value.support=[lowest,highest], or with value=scalar.",
                "yellow",
            )
            self._warned_of_clipping = True
