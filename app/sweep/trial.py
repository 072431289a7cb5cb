"""Trial of a study in the process that runs it: training, reports to the study, pruning, clean-up."""

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
from optuna import pruners
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from app.config.multirun import TRIALS, TrialJob
from app.config.schema import Config, PrunerConfig
from app.core.console import make_console, make_log_console, print_line
from app.core.errors import UserError, format_error
from app.core.processes import is_orphan, terminate_with_parent
from app.runs.config_file import read_config
from app.runs.fingerprint import learning_differences
from app.runs.restart.apply import remove
from app.runs.restart.plan import plan_folder
from app.runs.run_folder import RunFolder
from app.sweep.session import launch_parent
from app.sweep.study_store import END, EPOCHS, ERROR, FOLDER, SCORE, StudyStore
from app.training.run import RunResult, reraise_stop, train_in_folder
from app.training.setup import set_up
from app.training.stop import StopKind, StopReason, StopRequest

_NOT_KEPT = ("replay", "checkpoints")  # of a finished trial: the replay is large, and its checkpoint needs it


def make_pruner(cfg: PrunerConfig) -> pruners.BasePruner:
    """Return the configured pruner; a step of Optuna's is an epoch."""
    if cfg.kind == "none":
        return pruners.NopPruner()
    return pruners.PercentilePruner(
        cfg.percentile,
        n_startup_trials=cfg.n_startup_trials,
        n_warmup_steps=cfg.n_warmup_epochs,
        interval_steps=cfg.interval_epochs,
        n_min_trials=cfg.n_min_trials,
    )


def run_job(config: Config, job: TrialJob) -> float:
    """Run a trial as a job of a launch: if the launch is killed, this process saves and ends, too.

    Args:
        config: Configuration of the trial, its parameters included.
        job: Job of the launch.

    Returns:
        The score, always finite.

    Raises:
        Exception: As ``run_trial``.
    """
    parent = launch_parent(job.launch)
    if parent is not None:
        terminate_with_parent(parent)
    try:
        return run_trial(config, job)
    finally:
        if is_orphan(parent):
            os._exit(128 + signal.SIGTERM)  # joblib's worker would wait for more work


def run_trial(config: Config, job: TrialJob) -> float:
    """Train one trial in its own folder, record its result in the study, and remove what it does not need any more.

    Args:
        config: Configuration of the trial, its parameters included.
        job: Job of the launch.

    Returns:
        The score, always finite.

    Raises:
        KeyboardInterrupt: The trial was interrupted; its progress is saved.
        Exception: The trial failed; ``error.txt`` and the study have the reason.
    """
    console = make_console()
    trial = StudyTrial.find(job, config.pruner, config.training.epochs, console)
    config = replace(config, run_name=trial.folder, runs_dir=str(job.study / TRIALS), restart=None)
    path = Path(config.runs_dir) / config.run_name
    print_line(console, f"trial {trial.number} begins · {path}", "cyan")
    try:
        result = _train(config, trial)
    except Exception as error:
        with contextlib.suppress(OSError):  # the study has the reason, too
            RunFolder(path).error.write_text(_error_text(error), encoding="utf-8")
        trial.record_failure(error)
        print_line(console, f"trial {trial.number} failed: {format_error(error)} · {path}", "red")
        raise
    print_line(console, f"trial {trial.number} {result.stop_reason} · score {result.objective:.4g} · {path}", "green")
    return result.objective


class StudyTrial:
    """A running trial of a study, as its training reports to it (an ``EpochCallback``).

    Args:
        recorded: The trial as the study has it.
        trial: Handle that reports to the study.
        epochs: Epochs of the whole trial.
        console: Console for the score of every epoch.
    """

    def __init__(self, recorded: optuna.trial.FrozenTrial, trial: optuna.Trial, epochs: int, console: Console):
        self.number, self.folder = recorded.number, recorded.user_attrs[FOLDER]
        self._trial, self._epochs, self._console = trial, epochs, console

    @classmethod
    def find(cls, job: TrialJob, pruner: PrunerConfig, epochs: int, console: Console) -> "StudyTrial":
        """Return the trial that the launch has assigned to a job; see the class for the other arguments.

        Raises:
            UserError: The study has none, or its storage cannot be used.
        """
        store = StudyStore(job.storage, job.study.name)
        found = store.running_trial(job.launch, job.number, make_pruner(pruner))
        if found is None:
            raise UserError(f"the study {job.study.name} has no trial for job {job.number} of launch {job.launch}.")
        return cls(*found, epochs, console)

    def report(self, epoch: int, objective: float) -> None:
        """Report the score after an epoch, counted from 1, to the study and on the console."""
        self._trial.report(objective, epoch)
        print_line(self._console, f"trial {self.number} epoch {epoch} of {self._epochs} · score {objective:.4g}")

    def stop_reason(self) -> StopReason | None:
        """Return the reason to end the trial now, or None."""
        return StopReason(StopKind.PRUNED) if self._trial.should_prune() else None

    def record_result(self, result: RunResult) -> None:
        """Record how the trial ended, its score last: from then on it counts, even if its launch is killed."""
        self._trial.set_user_attr(END, str(result.stop_reason))
        self._trial.set_user_attr(EPOCHS, result.epochs)
        self._trial.set_user_attr(SCORE, result.objective)

    def record_failure(self, error: Exception) -> None:
        """Record why the trial failed, unless the storage itself has failed."""
        with contextlib.suppress(StorageInternalError, SQLAlchemyError):
            self._trial.set_user_attr(ERROR, format_error(error))


def _train(config: Config, trial: StudyTrial) -> RunResult:
    setup = set_up(config)
    with StopRequest() as stop, RunFolder.open(config) as folder, _log(folder) as console:
        _require_same_parameters(folder, config)
        result = train_in_folder(folder, config, setup, console, stop, callbacks=[trial])
        reraise_stop(stop, result, propagate_interrupt=True)
        trial.record_result(result)
        if not config.replay.keep_after_trial:
            remove(plan_folder(folder.path, Path(config.sweeps_dir), _NOT_KEPT))
        return result


def _require_same_parameters(folder: RunFolder, config: Config) -> None:
    """Raise unless a trial that continues has the settings with which it began."""
    if not folder.config.is_file():
        return
    if changed := learning_differences(read_config(folder.config), config):
        raise UserError(
            f"{folder.path}: holds a trial with other parameters ({'; '.join(changed)}). A trial continues only with "
            "its own: remove the folder."
        )


@contextlib.contextmanager
def _log(folder: RunFolder) -> Iterator[Console]:
    """Yield a console on the log of the trial, for what a single run shows; a trial that continues appends to it."""
    with folder.log.open("a", encoding="utf-8", buffering=1) as file:
        yield make_log_console(file)


def _error_text(error: Exception) -> str:
    """Return the text of ``error.txt``; an error that the user can mend needs no traceback."""
    return f"{error}\n" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
