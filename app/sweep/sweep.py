"""What a launch does for its study before and after the sweeper: whom it finds, what is left, and the results."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from app.reporting.formatting import tell
from app.runs.lock import wait_until_free
from app.sweep.attributes import FOLDER, LAUNCH
from app.sweep.folder import StudyFolder
from app.sweep.launch import Launch, living, was_stopped
from app.sweep.results import write_results
from app.sweep.storage import Stored

_PATIENCE = 60.0  # s for the jobs of a killed launch to notice that and save


class Sweep:
    """A study and this process's part in it.

    Args:
        folder: of the study.
        stored: the study in its storage.
        console: where to tell.

    Attributes:
        launch: this process's; None before ``begin``.
    """

    def __init__(self, folder: StudyFolder, stored: Stored, console: Console):
        self.folder, self.stored, self.console = folder, stored, console
        self.launch: Launch | None = None

    def take_stock(self, wanted: int) -> int:
        """Free the trials of launches that were killed, tell what there is, and return how many trials are left.

        The caller holds the lock of the study, so that no other launch does the same now.

        Args:
            wanted: finished trials in all.
        """
        stopped = self.stored.take_up(self._was_left_behind)
        others = len(living(self.folder.launches, self.stored.launches()))
        finished, running = (self.stored.count(state) for state in (TrialState.COMPLETE, TrialState.RUNNING))
        left = max(0, wanted - finished - running)
        beside = f" · running elsewhere: {running} · other launches here: {others}" if running or others else ""
        tell(self.console, f"study {self.folder.path} · finished trials: {finished} of {wanted}{beside}", "green")
        tell(self.console, f"storage {self.stored.absolute_url}", "")
        tell(self.console, f"look at it with: optuna-dashboard {self.stored.absolute_url}", "")
        if stopped:
            tell(self.console, f"trials that were stopped and go on first: {len(stopped)}", "yellow")
        if not left:
            more = wanted + max(10, wanted // 2)
            tell(self.console, f"nothing is left to do. hydra.sweeper.n_trials={more} goes on with the study", "green")
        return left

    def begin(self, launch: Launch) -> None:
        """Become one of the study's launches."""
        launch.begin()
        self.launch = launch

    def end(self) -> None:
        """Leave no trial running, give the place up, and write the results; safe to call twice."""
        if self.launch is None:
            return
        launch, self.launch = self.launch, None
        try:
            stopped = self.stored.take_up(partial(_is_of, launch.id))
        finally:
            launch.end()
        if stopped:
            tell(self.console, f"stopped trials, which the same command goes on with first: {len(stopped)}", "yellow")
        self.report()

    def put_back(self, trials: Collection[Trial]) -> None:
        """Free trials that the sweeper has asked for and cannot run."""
        self.stored.put_back({trial.number for trial in trials})

    def report(self) -> None:
        """Write the results and say where they lie."""
        study = self.stored.find()
        if study is not None:
            write_results(self.folder, study).tell(self.console)

    def _was_left_behind(self, trial: FrozenTrial) -> bool:
        """Whether nobody runs a trial: its launch is gone, and so is a job that outlived the launch for a while."""
        return was_stopped(self.folder.launches, trial) and wait_until_free(self._run_of(trial), _PATIENCE)

    def _run_of(self, trial: FrozenTrial) -> Path:
        name = trial.user_attrs[FOLDER] if FOLDER in trial.user_attrs else ""
        return self.folder.trials / name


def _is_of(launch: str, trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(LAUNCH) == launch
