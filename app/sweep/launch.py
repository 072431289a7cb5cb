"""One launch of a sweep among those that share a study: who it is, whether it lives, and which trials are its own."""

import os
import platform
import shutil
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from app.files import alive
from app.runs.lock import Lock, in_use
from app.sweep.attributes import FOLDER, JOB, LAUNCH

_UNSEEN_AFTER = 600.0  # s after which a trial without a launch is one whose launch was killed while it asked for it


class Enough(Exception):
    """As many trials as wanted are finished or running, so a launch that shares the study may end."""


class Launch:
    """One process that runs trials of a study, alone or beside others.

    While it lives it holds a lock in ``launches/`` of the study folder. What it enrols carries its name, so that anyone
    can tell a trial that runs from one that was left behind.

    Args:
        folder: ``launches/`` of the study.
        wanted: finished trials of the whole study.
        batch: trials that are asked for before the first of them begins.
        left: trials that this launch may run at most.
    """

    current: "Launch | None" = None  # the sweeper is given a function, not an object

    def __init__(self, folder: Path, wanted: int, batch: int, left: int):
        self.id = f"{platform.node()}-{os.getpid()}-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}"
        self._wanted, self._batch, self._left = wanted, batch, left
        self._path = folder / self.id
        self._lock = Lock(self._path, "launch")
        self._asked: list[optuna.Trial] = []
        self._jobs = 0

    def begin(self) -> None:
        """Live, and take over what the sweeper asks for.

        Raises:
            UserError: the study folder cannot be written.
        """
        self._lock.acquire()
        Launch.current = self

    def end(self) -> None:
        """Leave no trace; safe to call twice."""
        self._lock.release()
        shutil.rmtree(self._path, ignore_errors=True)
        Launch.current = None

    def enrol(self, trial: optuna.Trial) -> None:
        """Sign a trial and give it a folder; one that goes on has the folder of the trial that was stopped.

        Raises:
            Enough: other launches have taken all that was left; the batch waits for a launch that wants more.
        """
        trial.set_user_attr(LAUNCH, self.id)
        trial.set_user_attr(JOB, self._jobs)  # the number of the job that Hydra is going to run it with
        if FOLDER not in trial.user_attrs:
            trial.set_user_attr(FOLDER, f"{trial.number:05d}")
        self._jobs += 1
        self._asked.append(trial)
        if len(self._asked) < min(self._batch, self._left):
            return
        if all(self._is_surplus(asked) for asked in self._asked):
            for asked in self._asked:
                asked.storage.set_trial_state_values(asked._trial_id, TrialState.WAITING)
            raise Enough
        self._left -= len(self._asked)
        self._asked = []

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether the trials before this one are enough; two launches that ask at once never both step back."""
        counting = (TrialState.COMPLETE, TrialState.RUNNING)
        trials = trial.study.get_trials(deepcopy=False, states=counting)
        return sum(other.number < trial.number for other in trials) >= self._wanted


def enrol(config: DictConfig, trial: optuna.Trial) -> None:
    """Hand a trial that the sweeper has asked for to this process's launch; ``hydra.sweeper.custom_search_space``."""
    assert Launch.current is not None, "the study's callback begins the launch"
    Launch.current.enrol(trial)


def lives(folder: Path, launch: str) -> bool:
    """Return whether a launch is, or on another machine may be, alive.

    Args:
        folder: ``launches/`` of the study.
        launch: its ``id``.
    """
    if (folder / launch).is_dir():
        return in_use(folder / launch)
    host, pid, _ = launch.rsplit("-", 2)
    return host != platform.node() or alive(int(pid))  # of a study folder elsewhere on this machine


def as_parent(launch: str) -> int | None:
    """Return the process of a launch if it is the parent of this one; None elsewhere, where others see to the jobs."""
    host, pid, _ = launch.rsplit("-", 2)
    return os.getppid() if host == platform.node() and int(pid) == os.getppid() else None


def was_stopped(folder: Path, trial: FrozenTrial) -> bool:
    """Return whether a trial that the study calls running has nobody who runs it any more."""
    if LAUNCH in trial.user_attrs:
        return not lives(folder, trial.user_attrs[LAUNCH])
    return (datetime.now() - trial.datetime_start).total_seconds() > _UNSEEN_AFTER


def living(folder: Path, referred: Collection[str]) -> list[str]:
    """Return the launches of this machine that are alive; what dead ones left is removed.

    The caller holds the lock of the study, so that none is just beginning.

    Args:
        folder: ``launches/`` of the study.
        referred: launches that trials call theirs, whose mark must stay: it tells that they are dead.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if in_use(path):
            found.append(path.name)
        elif path.name not in referred:
            shutil.rmtree(path, ignore_errors=True)
    return found
