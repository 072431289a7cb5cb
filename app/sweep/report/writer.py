"""Results of a study in its folder: ``best.yaml``, ``best.json``, ``trials.csv`` and ``report.html``."""

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

from app.core.atomic_files import atomic_write, sync_folder, write_json
from app.core.console import print_line
from app.core.errors import UserError
from app.runs.config_file import load_yaml
from app.runs.fingerprint import flatten, unflatten, with_current_names
from app.runs.manifest import Manifest
from app.sweep.report.best_config import (
    OPTION,
    SCHEDULE,
    BestConfig,
    best_yaml,
    make_best_config,
    schedule_yaml,
    train_command,
    with_parameters,
)
from app.sweep.report.records import (
    TrialRecord,
    best_trial,
    count_ends,
    no_best_reason,
    one_line,
    read_records,
    trials_csv,
)
from app.sweep.study_folder import StudyFolder

_CONFIG = "config.yaml"  # of the study, before anything was searched, and of each trial


@dataclass(frozen=True)
class StudyResults:
    """Written files and the best trial.

    Attributes:
        best: The best trial; None until a trial with a score has ended well.
        command: Command that trains with what the best trial found; None if there is no ``best.yaml``.
        ends: Number of trials by end.
        yaml: Configuration that ``command`` names; the file is missing if ``command`` is None.
        json: The best trial and ``ends``.
        csv: Every trial.
        report: The page.
    """

    best: TrialRecord | None
    command: str | None
    ends: Mapping[str, int]
    yaml: Path
    json: Path
    csv: Path
    report: Path

    def print(self, console: Console) -> None:
        """Print the best trial, the command that trains with it, and the path of the report."""
        ends = ", ".join(f"{end} {number}" for end, number in self.ends.items())
        print_line(console, f"trials  {ends or 'none yet'}")
        if self.best is None:
            print_line(console, f"best    {no_best_reason(self.ends)}", "yellow")
        else:
            print_line(console, f"best    {_title(self.best)}", "green")
        if self.command is not None:
            print_line(console, f"train   {self.command}", "green")
        print_line(console, f"report  {self.report}")


def write_results(folder: StudyFolder, study: optuna.Study) -> StudyResults:
    """Write ``best.yaml``, ``best.json``, ``trials.csv`` and ``report.html`` into the folder of a study.

    Each file is replaced as a whole. They show the study as it is now: without a best trial there is no ``best.yaml``.

    Args:
        folder: Folder of the study.
        study: The study in its storage.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        return _write_results(folder, study)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder.path}: the results of the study cannot be written ({error.strerror or error}). "
            "Free some space or make the folder writable; python app/sweep_report.py writes them at any time."
        ) from None


def _write_results(folder: StudyFolder, study: optuna.Study) -> StudyResults:
    from app.sweep.report.html import ReportPage  # plotly costs a second, and every sweep imports this module

    records, config = read_records(study), _read_config(folder.path / _CONFIG)
    direction = study.directions[0].name.lower() if len(study.directions) == 1 else None
    best = best_trial(records, direction)
    best_config = None if best is None else _best_config(folder, best, config)
    results = StudyResults(
        best=best,
        command=None if best_config is None else train_command(folder),
        ends=count_ends(records),
        yaml=folder.path / f"{OPTION}.yaml",
        json=folder.path / f"{OPTION}.json",
        csv=folder.path / "trials.csv",
        report=folder.path / "report.html",
    )
    objective = "score" if config is None else str(config.objective)
    page = ReportPage(
        folder=folder,
        study=study,
        records=records,
        objective=objective,
        direction=direction,
        config=OmegaConf.create() if config is None else config,
        command=results.command,
        notes=() if best is None else _notes(best, best_config),
    )
    # A restart removes listed files with the study. They also mark the folder of a study in another storage as ours.
    Manifest.open(folder.path).add("study", results.yaml, results.json, results.csv, results.report)
    _write_best_config(folder, best_config, best)
    write_json(results.json, _summary(folder, results, objective, direction))
    with atomic_write(results.csv) as temporary:
        temporary.write_text(trials_csv(records), encoding="utf-8")
    with _without_optuna_warnings(), atomic_write(results.report) as temporary:
        temporary.write_text(page.render(), encoding="utf-8")
    return results


def _best_config(folder: StudyFolder, best: TrialRecord, config: DictConfig | None) -> BestConfig | None:
    """Return the content of ``best.yaml``, or None if neither the trial nor the study has its configuration here."""
    own = None if best.folder is None else _read_config(folder.trials / best.folder / _CONFIG)
    if own is None and config is not None:
        own = with_parameters(best, config)
    return None if own is None else make_best_config(best, own)


def _notes(best: TrialRecord, best_config: BestConfig | None) -> list[str]:
    notes = []
    if best.end != "finished":
        notes.append(f"The best trial did not run to its end: {best.end}{f' ({best.reason})' if best.reason else ''}.")
    if best_config is None:
        notes.append(f"There is no {OPTION}.yaml: neither the study nor its best trial has its {_CONFIG} here.")
    return notes


def _write_best_config(folder: StudyFolder, config: BestConfig | None, best: TrialRecord | None) -> None:
    """Write ``best.yaml`` with the schedule below it, and remove files that belong to an earlier best trial."""
    path, schedules = folder.path / f"{OPTION}.yaml", folder.path / SCHEDULE
    schedule = None if config is None or not config.schedule else schedules / f"{config.schedule_option}.yaml"
    if schedule is not None:
        Manifest.open(folder.path).add("study", schedule)
        text = schedule_yaml(config).encode()
        if not schedule.is_file() or schedule.read_bytes() != text:
            path.unlink(missing_ok=True)  # a process that is killed here leaves none, not one with another's schedule
            sync_folder(folder.path)
            with atomic_write(schedule) as temporary:
                temporary.write_bytes(text)
    if config is None:
        path.unlink(missing_ok=True)
    else:
        with atomic_write(path) as temporary:
            temporary.write_text(best_yaml(config, folder, _title(best)), encoding="utf-8")
    for other in schedules.glob("*.yaml"):
        if other != schedule:
            other.unlink(missing_ok=True)


def _title(best: TrialRecord) -> str:
    where = "" if best.folder is None else f" in trials/{best.folder}"
    return f"trial {best.number}{where} · score {best.score:.6g} · {one_line(best.end)}"


def _summary(folder: StudyFolder, results: StudyResults, objective: str, direction: str | None) -> dict[str, Any]:
    best = results.best
    return {
        "study": folder.path.name,
        "objective": objective,
        "direction": direction,
        "number": None if best is None else best.number,
        "folder": None if best is None or best.folder is None else folder.trials / best.folder,
        "score": None if best is None else best.score,
        "end": None if best is None else best.end,
        "parameters": None if best is None else best.params,
        "command": results.command,
        "trials": results.ends,
    }


def _read_config(path: Path) -> DictConfig | None:
    """Return a recorded configuration with the present names of its keys, or None if none can be read."""
    try:
        recorded = load_yaml(path)
        if not OmegaConf.is_dict(recorded) or "objective" not in recorded:
            return None
        return OmegaConf.create(unflatten(with_current_names(flatten(OmegaConf.to_container(recorded)))))
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException):
        return None


@contextlib.contextmanager
def _without_optuna_warnings() -> Iterator[None]:
    """Keep Optuna from printing what the page says."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
