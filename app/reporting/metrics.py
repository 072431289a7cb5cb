"""Metrics of a run: averaged over an epoch, then written to ``metrics.jsonl`` and to the logs that are asked for.

Every name that is added is written; there is no list that could drop one.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from app.core.atomic_files import append_line, atomic_write, strict_json

_LOG = logging.getLogger(__name__)
_JSONL = "metrics.jsonl"

# TensorBoard and Weights & Biases show one section per group; the first prefix that matches decides.
_GROUPS = {
    "return_train": "training",
    "return_": "evaluation",
    "lap_": "evaluation",
    "laps_": "evaluation",
    "length_": "evaluation",
    "outcome_": "evaluation",
    "loss_": "loss",
    "grad_": "gradient",
    "train_eval_gap_": "measure",
    "action_noise": "measure",
    "steering_noise": "measure",
    "q_predicted": "measure",
    "q_earned": "measure",
    "dormant_share": "measure",
    "feature_rank": "measure",
    "": "training",
}


class MetricLog(Protocol):
    """Place beside ``metrics.jsonl`` that metrics are written to: TensorBoard, Weights & Biases."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch, after so many updates since the run began."""

    def finish(self, step: int, figures: Mapping[str, float], is_finished: bool) -> None:
        """Write the final figures of a run; ``is_finished`` is false for one that may continue."""

    def close(self) -> None:
        """Flush everything."""


def grouped_name(metric: str) -> str:
    """Return the name of a metric with that of its group before it, such as "loss/loss_critic"."""
    return f"{next(group for prefix, group in _GROUPS.items() if metric.startswith(prefix))}/{metric}"


class MetricAverager:
    """Averages the metrics of the updates of an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of one update, with the same names in every call."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else float(value)
        self._count += 1

    def take(self) -> dict[str, float]:
        """Return the means and start again."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and count as plain numbers."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._sums, self._count = dict(state["sums"]), state["count"]


class MetricsWriter:
    """Appends the metrics of an epoch to ``metrics.jsonl``, one line of strict JSON, and writes them to other logs.

    Where one of them cannot be written (full disk, missing folder or package, no service), that costs one warning, and
    the training continues. A log that has failed is given up.

    Args:
        folder: Folder of the run.
        after: Updates of all completed epochs. Later lines were written by a start that was killed, and are removed:
            the resumed run writes them again.
        logs: Functions that open the other logs, by name.
    """

    def __init__(self, folder: Path, after: int, logs: Mapping[str, Callable[[], MetricLog]]) -> None:
        self._path = folder / _JSONL
        self._warned: set[str] = set()
        self._logs: dict[str, MetricLog] = {}
        self._guarded(_JSONL, lambda: _keep_lines(self._path, after))
        for name, open_log in logs.items():
            self._guarded(name, lambda name=name, open_log=open_log: self._logs.update({name: open_log()}))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics; NaN becomes null.

        Args:
            step: Updates since the run began.
            metrics: Values by name.
        """
        line = strict_json({"step": step, **metrics})
        # Durable at once: the next checkpoint says that the epoch is complete.
        self._guarded(_JSONL, lambda: append_line(self._path, line))
        self._for_each_log(lambda log: log.write(step, metrics))

    def finish(self, step: int, figures: Mapping[str, Any], is_finished: bool) -> None:
        """Write the final figures of the run to the logs.

        Args:
            step: Updates since the run began.
            figures: Result of the run by name; what is no finite number is left out.
            is_finished: Whether the run has reached its end, not only this start.
        """
        numbers = {name: float(value) for name, value in figures.items() if _is_number(value)}
        self._for_each_log(lambda log: log.finish(step, numbers, is_finished))

    def close(self) -> None:
        """Close the logs; a second call does nothing."""
        self._for_each_log(lambda log: log.close())
        self._logs.clear()

    def _for_each_log(self, action: Callable[[MetricLog], None]) -> None:
        for name, log in list(self._logs.items()):
            self._guarded(name, lambda log=log: action(log))

    def _guarded(self, target: str, action: Callable[[], None]) -> None:
        """Run an action; if it fails, warn once per target, and give a log up."""
        try:
            action()
        except Exception as error:  # no failure of a record may end a training run
            if target not in self._warned:
                _LOG.warning(
                    "%s cannot be written, the training continues: %s: %s", target, type(error).__name__, error
                )
                self._warned.add(target)
            self._logs.pop(target, None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _keep_lines(path: Path, after: int) -> None:
    """Keep the lines of steps up to ``after``, and remove the rest with a last line that a kill left incomplete."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= after]
    if kept != lines:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float:
    """Return the step of a line, before which a power cut may have left zeros; infinity if it is not one of ours."""
    try:
        return json.loads(line.lstrip(b"\0"))["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
