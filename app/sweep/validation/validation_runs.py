"""Runs of a validation: one for every candidate and seed, each continued from where it was stopped."""

import contextlib
import math
import multiprocessing
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from app.config.schema import Config
from app.core.console import make_log_console
from app.core.errors import UserError
from app.core.json_data import read_json
from app.core.processes import terminate_with_parent
from app.health.collapse import collapse_reason
from app.health.score import History, objective
from app.reporting.curves import read_metrics
from app.runs.lock import wait_until_free
from app.runs.run_folder import RunFolder
from app.sweep.validation.candidates import Candidate
from app.sweep.validation.statistics import MEASURES
from app.training.run import reraise_stop, train_in_folder
from app.training.setup import set_up
from app.training.stop import INTERRUPTED, TERMINATED, StopKind, StopRequest

PENDING = "to be done"  # end of a run that has not ended

_CONTINUES = (str(INTERRUPTED), str(TERMINATED))  # ends of a run that continues
_SAVE_TIMEOUT_S = 60.0  # for a run whose command was killed


@dataclass(frozen=True)
class ValidationRun:
    """One run of a validation.

    Attributes:
        candidate: Candidate that is trained.
        seed: Seed of the run.
        config: Whole configuration of the run.
    """

    candidate: Candidate
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Candidate and seed, for messages."""
        return f"{self.candidate.name} seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Folder of the run."""
        return RunFolder(Path(self.config.runs_dir) / self.config.run_name)

    @property
    def log(self) -> Path:
        """Log beside the folder, which is made only when the run is sure to begin."""
        return Path(self.config.runs_dir) / f"{self.config.run_name}.log"


@dataclass(frozen=True)
class ValidationResult:
    """Result of a run so far.

    Attributes:
        run: The run.
        end: Stop reason, such as "finished" or "not finite: ...", or "failed: ...", or ``PENDING``.
        measures: Values by name; any of ``MEASURES``.
        problem: Problem of the run; None if there is none.
    """

    run: ValidationRun
    end: str
    measures: Mapping[str, float]
    problem: str | None = None


def plan_runs(
    candidates: Sequence[Candidate], seeds: Sequence[int], runs_dir: Path, device: str, threads: int
) -> tuple[ValidationRun, ...]:
    """Return every run, seed by seed, so that candidates can be compared as early as possible.

    Args:
        candidates: Candidates to train.
        seeds: Seeds to train them on.
        runs_dir: Folder of the run folders.
        device: Device, as in the configuration.
        threads: Threads of each run.
    """
    return tuple(
        ValidationRun(candidate, seed, _run_config(candidate, seed, runs_dir, device, threads))
        for seed in seeds
        for candidate in candidates
    )


def train_run(run: ValidationRun) -> None:
    """Train one run to its end, in a process of its own; its output goes into its log.

    Raises:
        SystemExit: The run was asked to stop, or its parent is gone; it continues the next time.
        Exception: The run failed; the log has the reason.
    """
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        run.log.open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            _train(run.config, run.folder.path, make_log_console(file))
        except UserError as error:
            print(error)
            raise
        except Exception:
            traceback.print_exc()
            raise


def read_result(run: ValidationRun, failure: str | None = None) -> ValidationResult:
    """Return the result of a run so far.

    Args:
        run: The run.
        failure: Reason why it has just failed, or None.
    """
    summary = _read_summary(run.folder)
    if summary is None or summary["stop_reason"] in _CONTINUES:
        return ValidationResult(run, PENDING, {}) if failure is None else _failed_result(run, failure)
    end = str(summary["stop_reason"])
    measures = {name: float(summary[name]) for name in MEASURES if _is_number(summary, name)}
    problem = _collapse_at_end(run) if end == StopKind.FINISHED.value else end
    return ValidationResult(run, end, measures, problem)


def _run_config(candidate: Candidate, seed: int, runs_dir: Path, device: str, threads: int) -> Config:
    """Return the configuration of a candidate for another seed, without what only trials need."""
    config = candidate.config
    return replace(
        config,
        seed=seed,
        device=device,
        threads=threads,
        run_name=f"{candidate.run_name}-seed{seed}",
        runs_dir=str(runs_dir),
        restart=None,
        health=replace(config.health, on_collapse="warn"),
        replay=replace(config.replay, keep_after_trial=True),
        logger=replace(config.logger, tensorboard=False, progress="plain", curves=False, report=False, video=False),
    )


def _train(config: Config, path: Path, console: Console) -> None:
    setup = set_up(config)
    wait_until_free(path, _SAVE_TIMEOUT_S)
    parent = multiprocessing.parent_process()  # known even if it is gone by now
    if parent is not None:
        terminate_with_parent(parent.pid)
    with StopRequest() as stop, RunFolder.open(config) as folder:
        result = train_in_folder(folder, config, setup, console, stop)
    reraise_stop(stop, result, propagate_interrupt=False)


def _read_summary(folder: RunFolder) -> dict[str, Any] | None:
    """Return the summary of a run, or None if it is missing or damaged."""
    try:
        summary = read_json(folder.summary)
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and "stop_reason" in summary else None


def _is_number(summary: Mapping[str, Any], name: str) -> bool:
    """Return whether a summary has a value: JSON has null for NaN, and a task may have no laps."""
    return name in summary and isinstance(summary[name], (int, float))


def _failed_result(run: ValidationRun, failure: str) -> ValidationResult:
    """Return the result of a run that failed: it counts with the objective after its last epoch, if it has one."""
    history = _read_history(run)
    score = objective(run.config.objective, history, run.config.health, run.config.env.return_range)
    measures = {} if math.isnan(score) else {"objective": score}
    counts = f"counts with what it reached in {len(history)} epochs" if measures else "reached nothing that counts"
    end = f"failed: {failure}"
    return ValidationResult(run, end, measures, f"{end} ({counts}; log: {run.log})")


def _collapse_at_end(run: ValidationRun) -> str | None:
    """Return why a finished run looks collapsed at its end, or None."""
    reason = collapse_reason(_read_history(run), run.config)
    return None if reason is None else f"looks collapsed at its end: {reason}"


def _read_history(run: ValidationRun) -> History:
    try:
        return read_metrics(run.folder.metrics)
    except (OSError, ValueError, KeyError, TypeError):
        return []
