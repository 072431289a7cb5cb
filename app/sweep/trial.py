"""Trial of a study in the process that runs it: training, reports to the study, pruning, clean-up."""

import contextlib
import errno
import math
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna import pruners
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from app.config.key_effects import can_change_result
from app.config.load import ConfigError
from app.config.multirun import TRIALS, TrialJob
from app.config.schema import Config, PrunerConfig
from app.core.console import make_console, make_log_console, print_line
from app.core.errors import UserError, format_error
from app.core.processes import is_orphan, terminate_with_parent
from app.runs.config_file import read_config
from app.runs.fingerprint import flatten, learning_differences
from app.runs.restart.apply import remove
from app.runs.restart.plan import plan_folder
from app.runs.run_folder import RunFolder
from app.sweep.session import launch_parent, unused_folder
from app.sweep.study_store import (
    END,
    EPOCHS,
    ERROR,
    FOLDER,
    LAP_SHARE,
    LAP_TIME,
    SCORE,
    STORAGE_ERRORS,
    StudyStore,
    storage_problem,
)
from app.training.run import RunResult, reraise_stop, train_in_folder
from app.training.setup import set_up
from app.training.stop import StopKind, StopReason, StopRequest

_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # of the disk, which every trial needs
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


def run_job(configure: Callable[[], Config], job: TrialJob) -> float:
    """Run a trial as a job of a launch: if the launch is killed, this process saves and ends, too.

    Args:
        configure: Returns the configuration of the trial, its parameters included, or raises UserError.
        job: Job of the launch.

    Returns:
        The score, always finite.

    Raises:
        UserError: The configuration is not valid; the study has the reason.
        Exception: As ``run_trial``.
    """
    parent = launch_parent(job.launch)
    if parent is not None:
        terminate_with_parent(parent)
    try:
        return run_trial(_configure(configure, job), job)
    finally:
        if is_orphan(parent):
            os._exit(128 + signal.SIGTERM)  # joblib's worker would wait for more work


def _configure(configure: Callable[[], Config], job: TrialJob) -> Config:
    try:
        return configure()
    except UserError as error:
        reason = " ".join(error.problems) if isinstance(error, ConfigError) else format_error(error)
        with _end_of_launch(f"job {job.number} of {job.study}"):
            number = StudyStore(job.storage, job.study.name).record_failure(job.launch, job.number, reason)
        print_line(make_console(), f"trial {number} failed: {reason}", "red")
        raise


def run_trial(config: Config, job: TrialJob) -> float:
    """Train one trial in its own folder, record its result in the study, and remove what it does not need any more.

    A trial whose result an earlier one has already found takes it, and trains nothing.

    Args:
        config: Configuration of the trial, its parameters included.
        job: Job of the launch.

    Returns:
        The score, always finite.

    Raises:
        KeyboardInterrupt: The trial was interrupted; its progress is saved.
        SystemExit: The disk is full, or the storage of the study cannot be used. No trial could go on, so the launch
            ends, and the same command continues this trial from what it has saved.
        Exception: The trial failed; ``error.txt`` and the study have the reason.
    """
    console = make_console()
    with _end_of_launch(f"job {job.number} of {job.study}"):
        trial = StudyTrial.find(job, config.pruner, config.training.epochs, console)
    config = replace(config, runs_dir=str(job.study / TRIALS), restart=None)
    with _end_of_launch(f"trial {trial.number} of {job.study}"):
        if (twin := trial.find_twin(config)) is not None:
            return trial.take_result(twin)
        trial.leave_foreign_folder(config)
        return _run(replace(config, run_name=trial.folder), trial, console)


def _run(config: Config, trial: "StudyTrial", console: Console) -> float:
    path = Path(config.runs_dir) / config.run_name
    print_line(console, f"trial {trial.number} begins · {path}", "cyan")
    try:
        result = _train(config, trial)
    except Exception as error:
        if machine_problem(error) is None:
            with contextlib.suppress(OSError):  # the study has the reason, too
                RunFolder(path).error.write_text(_error_text(error), encoding="utf-8")
            trial.record_failure(error)
            print_line(console, f"trial {trial.number} failed: {format_error(error)} · {path}", "red")
        raise
    print_line(console, f"trial {trial.number} {result.stop_reason} · score {result.objective:.4g} · {path}", "green")
    return result.objective


def machine_problem(error: BaseException) -> str | None:
    """Return why no trial can go on here now, such as a full disk; None for a failure of one trial alone.

    Args:
        error: Failure of a trial; what it was raised from counts, too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, STORAGE_ERRORS):
            return storage_problem(cause)
        if isinstance(cause, OSError) and cause.errno in _MACHINE_ERRORS:
            place = "" if cause.filename is None else f"{cause.filename}: "
            return f"{place}{cause.strerror}. Free some space or repair the disk; the same command continues then."
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def _end_of_launch(subject: str) -> Iterator[None]:
    """Raise SystemExit, which no launcher takes for the failure of one job, where no trial could go on."""
    try:
        yield
    except Exception as error:
        if (problem := machine_problem(error)) is None:
            raise
        raise SystemExit(f"{subject} cannot go on: {problem}") from None


class StudyTrial:
    """A running trial of a study, as its training reports to it (an ``EpochCallback``).

    Args:
        store: The study in its storage.
        recorded: The trial as the study has it.
        trial: Handle that reports to the study.
        epochs: Epochs of the whole trial.
        console: Console for the score of every epoch.

    Attributes:
        number: Number of the trial in the study.
        folder: Name of its run folder.
        storage_error: Why a report could not be recorded, which ends the trial; None while all were.
    """

    def __init__(
        self, store: StudyStore, recorded: FrozenTrial, trial: optuna.Trial, epochs: int, console: Console
    ) -> None:
        self.number, self.folder = recorded.number, recorded.user_attrs[FOLDER]
        self.storage_error: Exception | None = None
        self._store, self._params, self._trial = store, recorded.params, trial
        self._epochs, self._console = epochs, console

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
        return cls(store, *found, epochs, console)

    def find_twin(self, config: Config) -> FrozenTrial | None:
        """Return an earlier trial that has run to its end with the same settings, seed included; None without one.

        A pruned trial is none: it might have gone on beside other trials.

        Args:
            config: Configuration of this trial; ``runs_dir`` is the folder of all trials.
        """
        for other in self._store.trials(TrialState.COMPLETE):
            attributes = other.user_attrs
            if other.params != self._params or not {END, FOLDER, SCORE} <= attributes.keys():
                continue
            recorded = _read_config(Path(config.runs_dir) / attributes[FOLDER])
            is_pruned = attributes[END].startswith(StopKind.PRUNED.value)
            if recorded is not None and not is_pruned and _same_result(recorded, config):
                return other
        return None

    def take_result(self, twin: FrozenTrial) -> float:
        """Record the result of an earlier trial as that of this one, and return its score."""
        with self._store.expect_study():
            for epoch, score in twin.intermediate_values.items():
                self._trial.report(score, epoch)
        end, _, detail = twin.user_attrs[END].partition(": ")
        reason = f"repeats trial {twin.number}{f', {detail}' if detail else ''}"
        kept = {key: twin.user_attrs[key] for key in (FOLDER, EPOCHS, LAP_SHARE, LAP_TIME) if key in twin.user_attrs}
        for key, value in (kept | {END: f"{end}: {reason}", SCORE: twin.user_attrs[SCORE]}).items():
            self._set(key, value)
        text = f"trial {self.number} has the settings of trial {twin.number}, and takes its result"
        print_line(self._console, f"{text} · score {twin.user_attrs[SCORE]:.4g}", "yellow")
        return twin.user_attrs[SCORE]

    def leave_foreign_folder(self, config: Config) -> None:
        """Choose another run folder if this one holds a trial with other settings: it must not go on with these.

        Args:
            config: Configuration of this trial; ``runs_dir`` is the folder of all trials.
        """
        trials = Path(config.runs_dir)
        if not (trials / self.folder / "config.yaml").is_file():
            return
        recorded = _read_config(trials / self.folder)
        changed = ["its config.yaml cannot be read"] if recorded is None else learning_differences(recorded, config)
        if not changed:
            return
        held, self.folder = self.folder, unused_folder(trials, self.number)
        self._set(FOLDER, self.folder)
        print_line(
            self._console,
            f"trial {self.number} begins anew in {self.folder}: {held} holds a trial with other settings "
            f"({'; '.join(changed)})",
            "yellow",
        )

    def report(self, epoch: int, objective: float) -> None:
        """Report the score after an epoch, counted from 1, to the study and on the console."""
        try:
            with self._store.expect_study():
                self._trial.report(objective, epoch)
        except STORAGE_ERRORS as error:
            self.storage_error = error
        print_line(self._console, f"trial {self.number} epoch {epoch} of {self._epochs} · score {objective:.4g}")

    def stop_reason(self) -> StopReason | None:
        """Return the reason to end the trial now, or None."""
        try:
            if self.storage_error is None:
                with self._store.expect_study():
                    return StopReason(StopKind.PRUNED) if self._trial.should_prune() else None
        except STORAGE_ERRORS as error:
            self.storage_error = error
        return StopReason(StopKind.INTERRUPTED, storage_problem(self.storage_error))

    def record_result(self, result: RunResult, best: Mapping[str, Any]) -> None:
        """Record how the trial ended, its score last: from then on it counts, even if its launch is killed.

        Args:
            result: Result of its run.
            best: Metrics of its best policy.
        """
        self._set(END, str(result.stop_reason))
        self._set(EPOCHS, result.epochs)
        for attribute, metric in ((LAP_SHARE, "lap_share_det"), (LAP_TIME, "lap_time_det")):
            if (value := best.get(metric)) is not None and math.isfinite(value):
                self._set(attribute, value)
        self._set(SCORE, result.objective)

    def record_failure(self, error: Exception) -> None:
        """Record why the trial failed, unless the storage itself has failed."""
        with contextlib.suppress(*STORAGE_ERRORS):
            self._set(ERROR, format_error(error))

    def _set(self, attribute: str, value: Any) -> None:
        with self._store.expect_study():
            self._trial.set_user_attr(attribute, value)


def _train(config: Config, trial: StudyTrial) -> RunResult:
    setup = set_up(config)
    with StopRequest() as stop, RunFolder.open(config) as folder, _log(folder) as console:
        result = train_in_folder(folder, config, setup, console, stop, callbacks=[trial])
        reraise_stop(stop, result, propagate_interrupt=True)
        if trial.storage_error is not None:
            raise trial.storage_error
        trial.record_result(result, folder.read_best_result())
        if not config.replay.keep_after_trial:
            remove(plan_folder(folder.path, Path(config.sweeps_dir), _NOT_KEPT))
        return result


def _read_config(folder: Path) -> Config | None:
    """Return the configuration of a trial's run folder; None if it is missing or cannot be read."""
    try:
        return read_config(folder / "config.yaml")
    except UserError:
        return None


def _same_result(recorded: Config, current: Config) -> bool:
    """Return whether two trials must have the same result: what is learned, for how long, judged and ended how."""
    flats = [flatten(asdict(config.to_record())) for config in (recorded, current)]
    keys = (key for key in flats[1] if can_change_result(key) or key.startswith("health."))
    return all(flats[0].get(key) == flats[1][key] for key in keys)


@contextlib.contextmanager
def _log(folder: RunFolder) -> Iterator[Console]:
    """Yield a console on the log of the trial, for what a single run shows; a trial that continues appends to it."""
    folder.add_to_manifest(())  # a folder with a log alone would be that of another program, should this one be killed
    with folder.log.open("a", encoding="utf-8", buffering=1) as file:
        yield make_log_console(file)


def _error_text(error: Exception) -> str:
    """Return the text of ``error.txt``; an error that the user can mend needs no traceback."""
    return f"{error}\n" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
