"""Analysis of a run for its post-mortem: what left the bands of healthy runs first, and which faults it has."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from app.ablation.evidence_panels import MECHANISMS
from app.ablation.evidence_runs import MOST_EPOCHS, EvidenceRun, read_evidence, with_overestimation
from app.ablation.evidence_summary import FIXED
from app.ablation.health_bands import MIN_RUNS, Exit, HealthyBands, find_exits, make_bands
from app.ablation.lab_runs import LabFolder
from app.config.faults import FaultState, faults_of
from app.config.key_effects import can_change_learning
from app.config.run_paths import require_run
from app.config.schema import Config
from app.core.errors import UserError, format_error
from app.core.json_data import read_json
from app.health.collapse import first_collapse
from app.health.score import History
from app.reporting.curves import read_metrics
from app.runs.config_file import read_config
from app.runs.fingerprint import differences, flatten
from app.runs.run_folder import RunFolder

_NOT_COMPARED = ("seed", "training.epochs", "log_std_min")  # the last one is that of the section actor


@dataclass(frozen=True)
class Suspect:
    """A switch that a run has at a broken value.

    Attributes:
        states: Its faults, and its settings in the run.
        metrics: The measures that it is known to move.
        exits: Those of them that left their band, in their order.
    """

    states: tuple[FaultState, ...]
    metrics: tuple[str, ...]
    exits: tuple[Exit, ...]


@dataclass(frozen=True)
class PostMortem:
    """What is known about a run.

    Attributes:
        run: Its metrics.
        config: Its configuration.
        collapse: First epoch after which ``health`` calls it collapsed, and why; None if it never does.
        record: Folder of the recorded runs; None: there is none for the task.
        bands: Bands of the healthy ones; None without enough of them.
        no_bands: Sentence on why there are none; None if there are.
        changes: Differences of the healthy runs' configuration to that of the run, one line for each key.
        exits: The measures that left their band, in their order.
        suspects: The faults that the run has; those whose measures left their band first come first.
    """

    run: EvidenceRun
    config: Config
    collapse: tuple[int, str] | None
    record: Path | None
    bands: HealthyBands | None
    no_bands: str | None
    changes: tuple[str, ...]
    exits: tuple[Exit, ...]
    suspects: tuple[Suspect, ...]


def examine(folder: RunFolder, records: Mapping[str, Path], record: Path | None = None) -> PostMortem:
    """Compare a run with the recorded healthy runs of its task.

    Args:
        folder: Folder of the run, which may still be going.
        records: Folders of recorded runs, each named after its lab, by the name of their environment.
        record: Folder to compare with instead; None for that of the run's environment, if there is one.

    Raises:
        UserError: The folder holds no run with an epoch, or the run or the record is damaged.
    """
    require_run("run", str(folder.path))
    config, history = read_config(folder.config), _read_history(folder)
    collapse = first_collapse(history, config)
    run = _make_run(folder, config, history, collapse)
    default = records.get(config.env.name)
    lab = None if default is None else default.name
    record = record or default
    bands, problem, changes = _healthy(record, config, lab)
    exits = find_exits(run, bands) if bands else ()
    return PostMortem(run, config, collapse, record, bands, problem, changes, exits, _suspects(config, exits))


def mechanism_metrics(number: int) -> tuple[str, ...]:
    """Return the measures that a fault is known to move."""
    return tuple(dict.fromkeys(name for one in MECHANISMS if number in one.faults for name in one.metrics))


def _read_history(folder: RunFolder) -> History:
    try:
        history = read_metrics(folder.metrics)
        epochs = [line["epoch"] for line in history]
        if any(type(epoch) is not int for epoch in epochs) or not all(map(operator.lt, [0, *epochs], epochs)):
            raise ValueError("the epochs are no rising whole numbers")
        if epochs and epochs[-1] > MOST_EPOCHS:
            raise ValueError(f"epoch {epochs[-1]} is above {MOST_EPOCHS}")
    except FileNotFoundError:
        history = []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder.metrics}: cannot be read ({format_error(error)}). Repair or remove the line, and repeat the "
            "command."
        ) from None
    if not history:
        raise UserError(f"run = {folder.path}: has not finished an epoch. Train it to the end of its first epoch.")
    return history


def _make_run(folder: RunFolder, config: Config, history: History, collapse: tuple[int, str] | None) -> EvidenceRun:
    names = {name for line in history for name, value in line.items() if isinstance(value, (int, float))}
    metrics = {
        name: np.array([math.nan if (value := line.get(name)) is None else value for line in history], dtype=float)
        for name in sorted(names)
    }
    metrics = {name: np.where(np.isfinite(values), values, math.nan) for name, values in metrics.items()}
    epochs = tuple(line["epoch"] for line in history)
    return EvidenceRun(
        folder.path.resolve().name,
        config.seed,
        config.env.name,
        _end(folder),
        None if collapse is None else collapse[0],
        epochs,
        with_overestimation(metrics),
    )


def _end(folder: RunFolder) -> str:
    """Return why the run stopped, as far as its summary says so."""
    try:
        return str(read_json(folder.summary)["stop_reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not ended"


def _healthy(
    record: Path | None, config: Config, lab: str | None
) -> tuple[HealthyBands | None, str | None, tuple[str, ...]]:
    """Return the bands of the record for the task of a run, or why there are none, and the settings that differ."""
    task = config.env.name
    if record is None or not LabFolder(record).evidence.is_file():
        place = "" if record is None else f" ({LabFolder(record).evidence} is missing)"
        return None, f"There are no recorded healthy runs on {task} to compare with{place}. {_advice(config, lab)}", ()
    path = LabFolder(record).evidence
    runs = [run for run in read_evidence(path) if run.arm == FIXED and run.task == task and run.epochs]
    if len(runs) < MIN_RUNS:
        count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
        reason = f"{path} has {count} of the arm {FIXED} on {task}, and a band needs {MIN_RUNS}. {_advice(config, lab)}"
        return None, reason, ()
    arm = LabFolder(record).arms / f"{FIXED}.yaml"
    if not arm.is_file():
        return make_bands(runs), None, ()
    healthy = read_config(arm)
    ours, theirs = config.training.updates_per_epoch, healthy.training.updates_per_epoch
    if ours != theirs:
        reason = (
            f"An epoch of this run has {ours} updates and one of the healthy runs of {path} has {theirs}, so they "
            f"cannot be compared. {_advice(config, lab, ours)}"
        )
        return None, reason, ()
    return make_bands(runs), None, tuple(_changes(healthy, config))


def _advice(config: Config, lab: str | None, updates: int | None = None) -> str:
    """Return how to make healthy runs of the same task, with epochs of so many updates if they need it."""
    if lab is None:
        return f"No lab has runs on {config.env.name}: write one below conf/lab/ with an arm {FIXED}."
    more = "" if updates is None else f" training.updates_per_epoch={updates} lab.name=healthy"
    name = lab if updates is None else "healthy"
    return f"python app/lab.py lab={lab} arms=[{FIXED}]{more} makes some, and record=labs/{name} then names them."


def _changes(healthy: Config, config: Config) -> list[str]:
    """Return the settings that can change what is learned and differ from those of the healthy runs."""
    one, other = (flatten(asdict(found)) for found in (healthy, config))
    keys = [key for key in {**one, **other} if can_change_learning(key) and key not in _NOT_COMPARED]
    return differences(*({key: flat[key] for key in keys if key in flat} for flat in (one, other)))


def _suspects(config: Config, exits: Sequence[Exit]) -> tuple[Suspect, ...]:
    place = {one.metric: number for number, one in enumerate(exits)}
    broken = [state for state in faults_of(config) if state.fixed is False]
    by_switch = {id(state.fault.switch): [] for state in broken}
    for state in broken:
        by_switch[id(state.fault.switch)].append(state)
    found = []
    for states in by_switch.values():
        names = dict.fromkeys(name for state in states for name in mechanism_metrics(state.fault.number))
        found.append(Suspect(tuple(states), tuple(names), tuple(one for one in exits if one.metric in names)))
    return tuple(sorted(found, key=lambda one: place[one.exits[0].metric] if one.exits else len(exits)))
