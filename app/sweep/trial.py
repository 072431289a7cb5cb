"""One trial of a study, in the process that runs it: its folder, its log, its scores, and how it ends."""

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from app.config.job import TRIALS, TrialJob
from app.config.schema import Config
from app.errors import UserError, in_one_line
from app.reporting.formatting import make_console, tell
from app.restart.carry_out import remove
from app.restart.plan import plan_folder
from app.runs.folder import RunFolder
from app.sweep.attributes import END, EPOCHS, ERROR, FOLDER, JOB, LAUNCH, SCORE
from app.sweep.launch import as_parent
from app.sweep.pruner import make_pruner
from app.training.orphan import is_orphan, watch
from app.training.run import Outcome, heed, run_in
from app.training.setup import set_up
from app.training.stop import StopRequest

PRUNED = "pruned"
_GOES = ("replay", "checkpoints")  # of a finished trial: the one is large, the other of no use without it
_WIDTH = 120  # of the log


def run_job(config: Config, job: TrialJob) -> float:
    """Run a trial as a job of a launch: if the launch is killed, this process saves and ends, too.

    Args:
        config: of the trial, its parameters included.
        job: which of the launch's jobs this is.

    Returns:
        The score, always finite.

    Raises:
        Exception: as ``run_trial``.
    """
    parent = as_parent(job.launch)
    if parent is not None:
        watch(parent)
    try:
        return run_trial(config, job)
    finally:
        if is_orphan(parent):
            os._exit(128 + signal.SIGTERM)  # joblib's worker would wait for more work


def run_trial(config: Config, job: TrialJob) -> float:
    """Train one trial in its own folder, tell the study, and clear what nobody needs any more.

    Args:
        config: of the trial, its parameters included.
        job: which of the launch's jobs this is.

    Returns:
        The score, always finite.

    Raises:
        KeyboardInterrupt: interrupted; what was reached is saved.
        Exception: whatever made the trial fail, after ``error.txt`` and the study have it.
    """
    console = make_console()
    trial = StudyTrial.find(job, config, console)
    config = replace(config, run_name=trial.folder, runs_dir=str(job.study / TRIALS), restart=None)
    path = Path(config.runs_dir) / config.run_name
    tell(console, f"trial {trial.number} begins · {path}", "cyan")
    try:
        outcome = _train(config, job, trial)
    except Exception as error:
        with contextlib.suppress(OSError):  # the study has the reason, too
            RunFolder(path).error.write_text(_explained(error), encoding="utf-8")
        trial.fail(error)
        tell(console, f"trial {trial.number} failed: {in_one_line(error)} · {path}", "red")
        raise
    tell(console, f"trial {trial.number} {outcome.stop_reason} · score {outcome.objective:.4g} · {path}", "green")
    return outcome.objective


class StudyTrial:
    """A trial that the study calls running, and that this process runs.

    Args:
        study: with the pruner.
        frozen: what the study knows of the trial.
        epochs: of the whole trial.
        console: where to tell every score.
    """

    def __init__(self, study: optuna.Study, frozen: optuna.trial.FrozenTrial, epochs: int, console: Console):
        self.number, self.folder = frozen.number, frozen.user_attrs[FOLDER]
        self._epochs, self._console = epochs, console
        self._trial = optuna.Trial(study, frozen._trial_id)

    @classmethod
    def find(cls, job: TrialJob, config: Config, console: Console) -> "StudyTrial":
        """Find the trial that the launch has enrolled for a job.

        Raises:
            UserError: the study has none.
        """
        study = optuna.load_study(study_name=job.study.name, storage=job.storage, pruner=make_pruner(config.pruner))
        mine = (job.launch, job.number)
        for frozen in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if (frozen.user_attrs.get(LAUNCH), frozen.user_attrs.get(JOB)) == mine:
                return cls(study, frozen, config.training.epochs, console)
        raise UserError(f"the study {job.study.name} has no trial for job {job.number} of launch {job.launch}.")

    def report(self, epoch: int, score: float) -> None:
        """Tell the study, and who looks on, the score after an epoch."""
        self._trial.report(score, epoch)
        tell(self._console, f"trial {self.number} epoch {epoch} of {self._epochs} · score {score:.4g}", "")

    def verdict(self) -> str:
        """Return why the trial should end now, "" if it should not."""
        return PRUNED if self._trial.should_prune() else ""

    def conclude(self, outcome: Outcome) -> None:
        """Note how the trial has ended, its score last: from then on it counts, whatever becomes of its launch."""
        self._trial.set_user_attr(END, outcome.stop_reason)
        self._trial.set_user_attr(EPOCHS, outcome.epochs)
        self._trial.set_user_attr(SCORE, outcome.objective)

    def fail(self, error: Exception) -> None:
        """Note why the trial has failed, unless it is the storage that has."""
        with contextlib.suppress(StorageInternalError, SQLAlchemyError):
            self._trial.set_user_attr(ERROR, in_one_line(error))


def _train(config: Config, job: TrialJob, trial: StudyTrial) -> Outcome:
    setup = set_up(config)
    with StopRequest() as stop, RunFolder.open(config) as folder, _log(folder) as console:
        outcome = run_in(folder, config, setup, console, stop, [trial])
        heed(stop, outcome, one_of_many=True)
        trial.conclude(outcome)
        if not config.replay.keep:
            remove(plan_folder(folder.path, Path(config.sweeps_dir), _GOES))
        return outcome


@contextlib.contextmanager
def _log(folder: RunFolder) -> Iterator[Console]:
    """What a single run shows goes into the log of the trial; one that goes on adds to it."""
    with folder.log.open("a", encoding="utf-8", buffering=1) as file:
        yield Console(file=file, width=_WIDTH, highlight=False)


def _explained(error: Exception) -> str:
    """What the user can mend needs no traceback."""
    return f"{error}\n" if isinstance(error, UserError) else "".join(traceback.format_exception(error))
