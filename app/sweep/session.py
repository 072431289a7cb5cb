"""Session of a sweep: one process among those that run the trials of a study, from its first trial to the results."""

import itertools
import os
import platform
import shutil
import sys
from collections.abc import Collection
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from app.config.multirun import TRIALS
from app.core.atomic_files import process_exists
from app.core.console import print_line
from app.core.errors import UserError
from app.runs.lock import Lock, in_use, wait_until_free
from app.sweep.report.writer import write_results
from app.sweep.search_space import SearchSpace
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import FOLDER, JOB, LAUNCH, StudyStore

_UNASSIGNED_LIMIT_S = 600.0  # after which the launch of a trial that names none was killed while it asked for the trial
_SAVE_TIMEOUT_S = 60.0  # for the jobs of a killed launch to notice that and to save


class StudyComplete(Exception):
    """Raised when the study is to have no more trials: there are enough, or none can try anything new."""


class Launch:
    """One process that runs trials of a study, alone or beside others.

    While it is alive it holds a lock in ``launches/`` of the study folder. Its trials carry its identifier, so that
    every process can tell a running trial from one that was left behind.

    Args:
        folder: Folder ``launches/`` of the study.
        store: The study in its storage.
        space: The search space.
        n_trials: Finished trials that the whole study is to have.
        batch_size: Trials that the sweeper asks for before the first of them starts.
        remaining: Trials that this launch may run at most.
        earlier: Number of earlier launches of the study.

    Attributes:
        id: Identifier: host, process and time.
        batch_size: See ``Args``.
        remaining: Trials that this launch may still ask for.
        earlier: See ``Args``.
    """

    current: "Launch | None" = None  # the launch of this process; the Optuna sweeper takes a function, not an object

    def __init__(
        self,
        folder: Path,
        store: StudyStore,
        space: SearchSpace,
        n_trials: int,
        batch_size: int,
        remaining: int,
        earlier: int = 0,
    ):
        self.id = f"{platform.node()}-{os.getpid()}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}"
        self.batch_size, self.remaining, self.earlier = batch_size, remaining, earlier
        self._store, self._space, self._n_trials = store, space, n_trials
        self._path, self._trials = folder / self.id, folder.parent / TRIALS
        self._lock = Lock(self._path, "launch")
        self._batch: list[int] = []
        self._jobs = 0

    def start(self) -> None:
        """Become the launch of this process, to which ``assign_trial`` assigns trials.

        Raises:
            UserError: The study folder cannot be written.
        """
        self._lock.acquire()
        Launch.current = self

    def end(self) -> None:
        """Release the lock and stop being the launch of this process; safe to call twice."""
        self._lock.release()
        shutil.rmtree(self._path, ignore_errors=True)
        Launch.current = None

    def assign_trial(self, trial: optuna.Trial) -> None:
        """Mark a trial as one of this launch and give it a run folder, unless it continues in that of another trial.

        Raises:
            StudyComplete: Other launches took all that was left, or every combination of values has been tried. The
                batch waits for a launch that wants more trials.
        """
        trial.set_user_attr(LAUNCH, self.id)
        trial.set_user_attr(JOB, self._jobs)  # the number that Hydra gives to the job of the trial
        if FOLDER not in trial.user_attrs:
            trial.set_user_attr(FOLDER, unused_folder(self._trials, trial.number))
        self._jobs += 1
        self._batch.append(trial.number)
        if len(self._batch) < min(self.batch_size, self.remaining):
            return
        if self._is_surplus(trial.study, min(self._batch)) or self._is_exhausted(trial.study):
            self._store.release(self._batch)
            raise StudyComplete
        self.remaining -= len(self._batch)
        self._batch = []

    def _is_surplus(self, study: optuna.Study, number: int) -> bool:
        """Return whether the trials before a number are enough; two launches never both release the last one."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        return sum(trial.number < number for trial in trials) >= self._n_trials

    def _is_exhausted(self, study: optuna.Study) -> bool:
        return self._space.is_exhausted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def unused_folder(trials: Path, number: int) -> str:
    """Return a name for the run folder of a new trial that no other run has.

    A study that was deleted, or whose storage was, may have left a folder for a trial of the same number.

    Args:
        trials: Folder of the run folders.
        number: Number of the trial.
    """
    names = itertools.chain([f"{number:05d}"], (f"{number:05d}-{count}" for count in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(trials / name))


def assign_trial(config: DictConfig, trial: optuna.Trial) -> None:
    """Assign a trial that the sweeper has asked for to the launch of this process.

    The Optuna sweeper calls it for every trial, as ``hydra.sweeper.custom_search_space``.
    """
    assert Launch.current is not None, "the sweep starts the launch before it asks for trials"
    Launch.current.assign_trial(trial)


def may_be_alive(folder: Path, launch: str) -> bool:
    """Return whether a launch is alive; a launch on another machine is assumed to be.

    Args:
        folder: Folder ``launches/`` of the study.
        launch: Identifier of the launch.
    """
    if (folder / launch).is_dir():
        return in_use(folder / launch)
    host, pid, _ = launch.rsplit("-", 2)
    return host != platform.node() or process_exists(int(pid))  # its study folder may lie elsewhere on this machine


def launch_parent(launch: str) -> int | None:
    """Return the process id of a launch if it is the parent of this process, or None: a cluster looks after its jobs.

    Args:
        launch: Identifier of the launch.
    """
    host, pid, _ = launch.rsplit("-", 2)
    return os.getppid() if host == platform.node() and int(pid) == os.getppid() else None


def living_launches(folder: Path, keep: Collection[str]) -> list[str]:
    """Return the launches of this machine that are alive, and remove what dead ones left.

    The caller holds the lock of the study, so that no launch starts meanwhile.

    Args:
        folder: Folder ``launches/`` of the study.
        keep: Launches whose folder stays even if they are dead, because running trials refer to it.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if in_use(path):
            found.append(path.name)
        elif path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
    return found


class SweepSession:
    """The part that this process has in a study; a context manager that ends the launch and writes the results.

    Args:
        folder: Folder of the study.
        store: The study in its storage.
        space: The search space.
        console: Console for messages.

    Attributes:
        launch: Launch of this process; None before ``start`` and after ``end``.
    """

    def __init__(self, folder: StudyFolder, store: StudyStore, space: SearchSpace, console: Console):
        self.folder, self.store, self.space, self.console = folder, store, space, console
        self.launch: Launch | None = None

    def recover(self, n_trials: int) -> int:
        """Requeue the trials of launches that were killed, print the state of the study, and return what is left.

        The caller holds the lock of the study, so that no other launch does the same meanwhile.

        Args:
            n_trials: Finished trials that the study is to have.

        Returns:
            Number of trials that are neither finished nor running; 0 if nothing new can be tried.
        """
        requeued = self.store.requeue_orphans(self._is_orphan)
        others = len(living_launches(self.folder.launches, self.store.running_launches()))
        finished, running = (len(self.store.trials(state)) for state in (TrialState.COMPLETE, TrialState.RUNNING))
        remaining = max(0, n_trials - finished - running)
        beside = f" · running elsewhere: {running} · other launches here: {others}" if running or others else ""
        self._print(f"study {self.folder.path} · finished trials: {finished} of {n_trials}{beside}", "green")
        self._print(f"storage {self.store.absolute_url}")
        self._print(f"look at it with: optuna-dashboard {self.store.absolute_url}")
        if requeued:
            self._print(f"trials that were stopped and continue first: {len(requeued)}", "yellow")
        if self._report_exhausted():
            return 0
        if not remaining:
            more = n_trials + max(10, n_trials // 2)
            self._print(f"nothing is left to do. hydra.sweeper.n_trials={more} continues the study", "green")
        return remaining

    def start(self, launch: Launch) -> None:
        """Become one of the launches of the study."""
        launch.start()
        self.launch = launch

    def end(self) -> None:
        """Leave no trial of this launch running, end the launch, and write the results; safe to call twice."""
        if self.launch is None:
            return
        launch, self.launch = self.launch, None
        try:
            requeued = self.store.requeue_orphans(partial(_belongs_to, launch.id))
        finally:
            launch.end()
        if requeued:
            self._print(f"stopped trials, which the same command continues first: {len(requeued)}", "yellow")
        if left := self._count_left():
            self._print(f"trials of another launch that was killed: {left}. The same command continues them.", "yellow")
        self._report_exhausted()
        self.write_results()

    def __enter__(self) -> "SweepSession":
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the session; a problem with the results is printed and does not hide how the sweep has ended."""
        try:
            self.end()
        except (UserError, OSError) as error:
            print(f"the results cannot be written: {error}", file=sys.stderr)

    def write_results(self) -> None:
        """Write the results and print where they are."""
        study = self.store.load()
        if study is not None:
            write_results(self.folder, study).print(self.console)

    def fail_trials(self, reason: str) -> None:
        """Mark the running trials of this launch as failed: no launch could run them.

        Args:
            reason: The reason, on one line.
        """
        self.store.fail_trials(self.launch.id, reason)

    def every_trial_failed(self) -> bool:
        """Return whether no trial of the study is complete, and none of this launch is running any more."""
        trials = self.store.trials(TrialState.COMPLETE, TrialState.RUNNING)
        return not any(trial.state is TrialState.COMPLETE or _belongs_to(self.launch.id, trial) for trial in trials)

    def _report_exhausted(self) -> bool:
        """Return whether complete trials have tried every combination of values, and say so if they have."""
        exhausted = self.space.is_exhausted(self.store.trials(TrialState.COMPLETE))
        if exhausted:
            self._print(
                f"all {self.space.combinations} combinations of the searched values have been tried: nothing is left "
                "to do. Search another key, or other values under another hydra.sweeper.study_name",
                "green",
            )
        return exhausted

    def _count_left(self) -> int:
        """Return the number of trials that are recorded as running and whose launch is gone."""
        return sum(map(self._has_lost_its_launch, self.store.trials(TrialState.RUNNING)))

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Return whether no process runs a trial: its launch is gone, and so is a job that outlived the launch."""
        run = self.folder.trials / trial.user_attrs.get(FOLDER, "")
        return self._has_lost_its_launch(trial) and wait_until_free(run, _SAVE_TIMEOUT_S)

    def _has_lost_its_launch(self, trial: FrozenTrial) -> bool:
        """Return whether the launch of a trial that is recorded as running is gone.

        A trial that names none may be of any living launch. All of them have a folder here if the storage is the file
        of this study; elsewhere, only time can tell.
        """
        launches = self.folder.launches
        if LAUNCH in trial.user_attrs:
            return not may_be_alive(launches, trial.user_attrs[LAUNCH])
        if self.folder.holds(self.store.file) and not any(in_use(path) for path in launches.glob("*")):
            return True
        return (datetime.now() - trial.datetime_start).total_seconds() > _UNASSIGNED_LIMIT_S

    def _print(self, text: str, style: str = "") -> None:
        print_line(self.console, text, style)


def _belongs_to(launch: str, trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(LAUNCH) == launch
