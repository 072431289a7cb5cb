"""Means over the updates of an epoch that can be put into a checkpoint in the middle of it."""

from collections.abc import Mapping
from typing import Any

# What of an epoch's means is logged, where the run has it; the others are for the guard against NaN.
LOGGED = (
    "loss_critic", "loss_actor", "loss_prediction", "loss_entropy", "td_error", "q_mean", "q_max", "q_target_mean",
    "q_target_clipped", "reward",
    "alpha", "entropy", "log_std_mean", "grad_norm_critic", "grad_norm_actor", "film_scale", "return_train",
    "episode_length_train", "sampling_duration", "training_step_duration",
)  # fmt: skip


class Means:
    """Adds up metrics, one call an update."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one update; every call must have the same names."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else float(value)
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means and begin anew."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return what was added up so far, as plain numbers."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._sums, self._count = dict(state["sums"]), state["count"]
