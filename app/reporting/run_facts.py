"""Facts of a run, read from its folder: what it is, how far it is, and how well it drives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from app.core.errors import format_error
from app.core.json_data import read_json
from app.core.system import occupied_bytes
from app.health.full_laps import first_full_lap, held_epochs
from app.health.score import History, best_epoch
from app.reporting.curves import read_metrics
from app.runs.config_file import YAML_LOADER, read_plain_yaml
from app.runs.fingerprint import FlatDict, flatten, with_current_names
from app.runs.lock import in_use
from app.runs.run_folder import RunFolder

RUNNING, STOPPED, FINISHED, FAILED = "running", "stopped", "finished", "failed"
NEW, DAMAGED = "no epoch yet", "damaged"

# State by the first words of a stop reason; every other reason is its own state: finished, collapsed, pruned.
_STATES = {"interrupted": STOPPED, "terminated": STOPPED, "process lost": STOPPED, "not finite": FAILED}
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError)


@dataclass(frozen=True)
class RunFacts:
    """What the files of a run folder say. A fact that no file says is None.

    The figures of the best policy are those of the evaluation that chose it, over the starts of every epoch.

    Attributes:
        folder: The folder.
        state: "running", "finished", "stopped", "collapsed", "pruned", "failed", "no epoch yet" or "damaged".
        reason: The stop reason as the summary says it; None while the run is going, and for one that was killed.
        problem: "cannot be read: …" for a damaged folder; None otherwise.
        changed: POSIX time of the last change of its records and checkpoints, in seconds.
        disk_bytes: Bytes that the folder occupies.
        settings: Every setting, by dotted key.
        task: Name of the environment.
        model: Name of the model.
        seed: Its seed.
        epochs_asked: Epochs that it is to have.
        epochs: Completed epochs.
        updates: Updates after the last completed epoch.
        env_steps: Environment steps until then.
        wall_s: Seconds until then, over all starts.
        best_epoch: Epoch of the best policy, counted from 1.
        best_return: Its deterministic return.
        best_lap_share: Its covered share of the lap, mean over the starts, 0 to 1.
        best_laps: Share of the starts from which it finished the lap, 0 to 1.
        best_lap_time: Mean time of these laps, in seconds.
        best_lap_ratio: How many times the bound on the centre line that is.
        first_full_lap: First epoch with a full lap, counted from 1.
        held: Epochs with a full lap since then, itself included.
        held_of: Epochs since then, itself included.
    """

    folder: Path
    state: str
    reason: str | None
    problem: str | None
    changed: float
    disk_bytes: int
    settings: Mapping[str, Any] = field(repr=False)
    task: str | None = None
    model: str | None = None
    seed: int | None = None
    epochs_asked: int | None = None
    epochs: int = 0
    updates: int | None = None
    env_steps: int | None = None
    wall_s: float | None = None
    best_epoch: int | None = None
    best_return: float | None = None
    best_lap_share: float | None = None
    best_laps: float | None = None
    best_lap_time: float | None = None
    best_lap_ratio: float | None = None
    first_full_lap: int | None = None
    held: int = 0
    held_of: int = 0

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.absolute().name


def run_facts(path: Path) -> RunFacts:
    """Return the facts of a run folder; files that are damaged become a fact, not an error.

    Args:
        path: The folder, which holds a ``config.yaml``. The run may be going.
    """
    folder = RunFolder(path)
    found: dict[str, Any] = {}
    problems = []
    for file, read in ((folder.config, _of_settings), (folder.metrics, _of_metrics)):
        try:
            found |= read(file)
        except _UNREADABLE as error:
            problems.append(f"cannot be read: {file.name} ({_sentence(error)})")
    state, reason = _state(folder, found)
    common = {"folder": path, "changed": _changed(folder), "disk_bytes": occupied_bytes(path), "settings": {}}
    problem = "; ".join(problems) or None
    return RunFacts(**(common | found | {"state": DAMAGED if problem else state, "reason": reason, "problem": problem}))


def figures_of(history: History) -> dict[str, Any]:
    """Return the facts that the metrics of a run say, by name of the attribute.

    Args:
        history: Metrics of every epoch.

    Raises:
        ValueError: A figure is no number.
        TypeError: The same, where figures are compared.
    """
    if not history:
        return {}
    last, best = history[-1], best_epoch(history)
    laps = [math.nan if (share := line.get("lap_share_det")) is None else share for line in history]
    first, (held, held_of) = first_full_lap(laps), held_epochs(laps)
    return {
        "epochs": _whole(last, "epoch"),
        "updates": _whole(last, "step"),
        "env_steps": _number(last, "env_steps"),
        "wall_s": _number(last, "wall_s"),
        "best_epoch": _number(best, "epoch"),
        "best_return": _number(best, "return_test_det"),
        "best_lap_share": _number(best, "lap_share_det"),
        "best_laps": _number(best, "laps_det"),
        "best_lap_time": _number(best, "lap_time_det"),
        "best_lap_ratio": _number(best, "lap_time_ratio_det"),
        "first_full_lap": None if first is None else _number(history[first - 1], "epoch"),
        "held": held,
        "held_of": held_of,
    }


def state_of(reason: str) -> str:
    """Return the state of a run that has stopped for this reason, such as "stopped" for "interrupted"."""
    kind = reason.partition(":")[0]
    return _STATES.get(kind, kind)


def _of_settings(path: Path) -> dict[str, Any]:
    content = yaml.load(read_plain_yaml(path), Loader=YAML_LOADER)  # noqa: S506  (both loaders are safe)
    if not isinstance(content, dict):
        raise ValueError("it holds no keys")
    settings: FlatDict = with_current_names(flatten(content))
    return {
        "settings": settings,
        "task": _text(settings, "env.name"),
        "model": _text(settings, "model.name"),
        "seed": _number(settings, "seed"),
        "epochs_asked": _number(settings, "training.epochs"),
    }


def _of_metrics(path: Path) -> dict[str, Any]:
    return figures_of(read_metrics(path)) if path.is_file() else {}


def _state(folder: RunFolder, found: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the state of a run and its stop reason; a summary of fewer updates than the metrics is an old one."""
    try:
        if in_use(folder.path):
            return RUNNING, None
    except OSError:  # a folder that this user cannot write: nobody else can be asked
        pass
    updates = found.get("updates") or 0
    try:
        summary = read_json(folder.summary)
        if (summary.get("updates") or updates) >= updates:
            return state_of(str(summary["stop_reason"])), str(summary["stop_reason"])
    except _UNREADABLE:
        pass
    if folder.error.is_file():
        return FAILED, None
    return (STOPPED if found.get("epochs") else NEW), None


def _changed(folder: RunFolder) -> float:
    records = (folder.config, folder.metrics, folder.summary, folder.starts, *folder.checkpoints.paths, folder.path)
    return max((path.stat().st_mtime for path in records if path.exists()), default=0.0)


def _number(values: Mapping[str, Any], name: str) -> Any:
    """Return a number; None for one that is missing or not finite.

    Raises:
        ValueError: It is no number.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is no number")
    return value if math.isfinite(value) else None


def _whole(values: Mapping[str, Any], name: str) -> int:
    """Return a whole number that must be there.

    Raises:
        ValueError: It is none.
    """
    if type(values.get(name)) is not int:
        raise ValueError(f"{name} is no whole number")
    return values[name]


def _text(values: Mapping[str, Any], name: str) -> str | None:
    return None if values.get(name) is None else str(values[name])


def _sentence(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else format_error(error)
