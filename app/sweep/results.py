"""What a study leaves for people: the best trial as a configuration, every trial as a row, and a page to look at."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from app.errors import UserError
from app.files import replacing, write_json
from app.reporting.formatting import tell
from app.runs.manifest import Manifest
from app.sweep.delta import OPTION, SCHEDULE, Delta, as_trial, as_yaml, command, make_delta, schedule_as_yaml
from app.sweep.folder import StudyFolder
from app.sweep.records import Record, as_csv, best_of, counts, one_line, read_records, why_no_best

_CONFIG = "config.yaml"  # of the study, before anything was searched, and of each trial


@dataclass(frozen=True)
class Results:
    """What was written, and the best trial.

    Attributes:
        best: None while no trial has a score and ended well.
        command: trains with what the best trial found; "" where there is nothing to train with.
        ends: how many trials ended in which way.
        yaml: the configuration that ``command`` names; it is not there where ``command`` is empty.
        json: the best trial and ``ends``.
        csv: every trial.
        report: the page.
    """

    best: Record | None
    command: str
    ends: Mapping[str, int]
    yaml: Path
    json: Path
    csv: Path
    report: Path

    def tell(self, console: Console) -> None:
        """Print the best trial, what to do with it, and where the rest lies."""
        ends = ", ".join(f"{end} {number}" for end, number in self.ends.items())
        tell(console, f"trials  {ends or 'none yet'}")
        if self.best is None:
            tell(console, f"best    {why_no_best(self.ends)}", "yellow")
        else:
            tell(console, f"best    {_about(self.best)}", "green")
        if self.command:
            tell(console, f"train   {self.command}", "green")
        tell(console, f"report  {self.report}")


def write_results(folder: StudyFolder, study: optuna.Study) -> Results:
    """Write ``best.yaml``, ``best.json``, ``trials.csv`` and ``report.html`` into the folder of a study.

    Each file is whole or as it was before. They say what the study says now: without a best trial there is no
    ``best.yaml`` either.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        return _write(folder, study)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder.path}: the results of the study cannot be written ({error.strerror or error}). "
            "Free some space or make the folder writable; python app/sweep_report.py writes them at any time."
        ) from None


def _write(folder: StudyFolder, study: optuna.Study) -> Results:
    from app.sweep.page import Page  # plotly costs a second, and a sweep imports this module when it begins

    records, config = read_records(study), _read(folder.path / _CONFIG)
    direction = study.directions[0].name.lower() if len(study.directions) == 1 else ""
    best = best_of(records, direction)
    delta = None if best is None else _delta(folder, best, config)
    results = Results(
        best=best,
        command="" if delta is None else command(folder),
        ends=counts(records),
        yaml=folder.path / f"{OPTION}.yaml",
        json=folder.path / f"{OPTION}.json",
        csv=folder.path / "trials.csv",
        report=folder.path / "report.html",
    )
    objective = "score" if config is None else str(config.objective)
    page = Page(
        folder=folder,
        study=study,
        records=records,
        objective=objective,
        direction=direction,
        config=OmegaConf.create() if config is None else config,
        command=results.command,
        notes=() if best is None else _notes(best, delta),
    )
    # A restart takes them with the study. They also say that the folder is ours where the study is kept elsewhere.
    Manifest.open(folder.path).add("study", results.yaml, results.json, results.csv, results.report)
    _write_delta(folder, delta, "" if best is None else _about(best))
    write_json(results.json, _facts(folder, results, objective, direction))
    with replacing(results.csv) as temporary:
        temporary.write_text(as_csv(records), encoding="utf-8")
    with _no_advice(), replacing(results.report) as temporary:
        temporary.write_text(page.render(), encoding="utf-8")
    return results


def _delta(folder: StudyFolder, best: Record, config: DictConfig | None) -> Delta | None:
    """Return what ``best.yaml`` holds; None where no configuration is at hand to make it from."""
    own = None if best.folder is None else _read(folder.trials / best.folder / _CONFIG)
    if own is None and config is not None:
        own = as_trial(best, config)
    return None if own is None else make_delta(best, own)


def _notes(best: Record, delta: Delta | None) -> list[str]:
    notes = []
    if best.end != "finished":
        notes.append(f"The best trial did not run to its end: {best.end}{f' ({best.reason})' if best.reason else ''}.")
    if delta is None:
        notes.append(f"There is no {OPTION}.yaml: neither the study nor its best trial has its {_CONFIG} here.")
    return notes


def _write_delta(folder: StudyFolder, delta: Delta | None, about: str) -> None:
    """Write ``best.yaml`` with the schedule below it, and remove what only an earlier best trial had."""
    path, schedules = folder.path / f"{OPTION}.yaml", folder.path / SCHEDULE
    kept = None if delta is None or not delta.schedule else schedules / f"{delta.schedule_option}.yaml"
    if kept is not None:
        Manifest.open(folder.path).add("study", kept)
        with replacing(kept) as temporary:
            temporary.write_text(schedule_as_yaml(delta), encoding="utf-8")
    if delta is None:
        path.unlink(missing_ok=True)
    else:
        with replacing(path) as temporary:
            temporary.write_text(as_yaml(delta, folder, about), encoding="utf-8")
    for other in schedules.glob("*.yaml"):
        if other != kept:
            other.unlink(missing_ok=True)


def _about(best: Record) -> str:
    where = "" if best.folder is None else f" in trials/{best.folder}"
    return f"trial {best.number}{where} · score {best.score:.6g} · {one_line(best.end)}"


def _facts(folder: StudyFolder, results: Results, objective: str, direction: str) -> dict[str, Any]:
    best = results.best
    return {
        "study": folder.path.name,
        "objective": objective,
        "direction": direction or None,
        "number": None if best is None else best.number,
        "folder": None if best is None or best.folder is None else folder.trials / best.folder,
        "score": None if best is None else best.score,
        "end": None if best is None else best.end,
        "parameters": None if best is None else best.params,
        "command": results.command or None,
        "trials": results.ends,
    }


def _read(path: Path) -> DictConfig | None:
    """Return a configuration as it was written; None where there is none that can be read."""
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        return None
    return config if OmegaConf.is_dict(config) and "objective" in config else None


@contextlib.contextmanager
def _no_advice() -> Iterator[None]:
    """Keep Optuna from telling on the console what the page says."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
