"""Study in its Optuna storage: existence, ownership, trials without a process, search space.

Optuna takes most of a second to import, so this module is imported only when a study is needed.
"""

import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from app.core.errors import UserError
from app.runs.fingerprint import FlatDict
from app.sweep.study_fingerprint import merged_fingerprint, recorded_study_fingerprint, require_same_study

# Attributes of trials.
FOLDER = "trial.folder"  # name of its run folder below trials/
LAUNCH = "trial.launch"  # identifier of the launch that runs it
JOB = "trial.job"  # number of its job in that launch
END = "trial.end"  # stop reason, such as "finished" or "pruned"
SCORE = "trial.score"  # final score; the sweeper tells the study only when the whole batch has ended
EPOCHS = "trial.epochs"  # number of completed epochs
ERROR = "trial.error"  # reason of a failure
LAP_SHARE, LAP_TIME = "trial.lap_share", "trial.lap_time"  # of its best policy; absent where a task has no laps
OWN_PREFIX = "trial."  # of all these; the Optuna sweeper records fixed overrides as further attributes

STOPPED = "stopped"  # end of a trial that has failed because its launch was stopped or killed

_CONNECT_TRIES, _CONNECT_PAUSE_S = 20, 0.05  # Optuna makes about ten tables
_LOCK_TIMEOUT_S = 60.0  # for another program that has locked an SQLite file; SQLite itself waits 5 s

# Attributes of the study.
_FINGERPRINT = "trackmania_droq.fingerprint"  # marks it as made by this program
_LAUNCHES = "trackmania_droq.launches"  # number of its launches


class MissingStudy(UserError):
    """The study is not in its storage any more; the text says what to do."""


STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, MissingStudy)


class StudyStore:
    """A study in a storage.

    Args:
        url: URL of the storage, such as "sqlite:///sweeps/mine/study.db".
        name: Name of the study.

    Raises:
        UserError: The URL is not one of a storage.
    """

    def __init__(self, url: str, name: str):
        self.name, self._text = name, url
        self.shown_url = re.sub(r":.*@", ":...@", url)  # in a message about an address that cannot be read
        self._storage: optuna.storages.RDBStorage | None = None
        self._inode: int | None = None
        with self._as_user_errors():
            self._url = make_url(url)
        self.shown_url = url if self._url.password is None else self._url.render_as_string(hide_password=True)

    @property
    def absolute_url(self) -> str:
        """URL that is valid in every folder of this machine; a password is hidden."""
        if self.file is None:
            return self.shown_url
        return f"sqlite:///{self.file.absolute()}"

    def __str__(self) -> str:
        """Return the study and its storage; a password is hidden."""
        return f"study {self.name} in {self.shown_url}"

    @property
    def file(self) -> Path | None:
        """File of the storage, if it is one."""
        if self._url.get_backend_name() != "sqlite" or not self._url.database:
            return None
        return Path(self._url.database)

    @property
    def is_persistent(self) -> bool:
        """True if the storage outlives this process: SQLite can keep everything in memory."""
        if self._url.get_backend_name() != "sqlite":
            return True
        name = self._url.database or ""
        return bool(name) and ":memory:" not in name and self._url.query.get("mode") != "memory"

    def load(self) -> optuna.Study | None:
        """Return the study if it exists; a missing file is not made."""
        if self.file is not None and not self.file.exists():
            return None
        with self._as_user_errors():
            try:
                return optuna.load_study(study_name=self.name, storage=self.connect())
            except KeyError:
                return None

    def is_ours(self, study: optuna.Study) -> bool:
        """Return whether this program made the study, or it has no trials that could belong to anybody else."""
        with self._as_user_errors():
            return _FINGERPRINT in study.user_attrs or not study.get_trials(deepcopy=False)

    def require_same_fingerprint(self, current: FlatDict) -> FlatDict | None:
        """Raise unless the study, if there is one, was made by this program under the same fingerprint.

        Args:
            current: Fingerprint of this sweep.

        Returns:
            The recorded fingerprint; None for a study that does not exist yet or has none.

        Raises:
            UserError: It was not, or the storage cannot be used.
        """
        study = self.load()
        if study is None:
            return None
        if not self.is_ours(study):
            raise UserError(f"{self}: was not made by this program. Choose another hydra.sweeper.study_name.")
        with self._as_user_errors():
            recorded = study.user_attrs.get(_FINGERPRINT)
        if recorded is None:
            return None
        recorded = recorded_study_fingerprint(recorded)
        require_same_study(str(self), recorded, current)
        return recorded

    def incompatible_parameter(self, space: Mapping[str, BaseDistribution]) -> str | None:
        """Return the first parameter whose distribution Optuna would not accept in this study, or None.

        Bounds may change from launch to launch; kind, scale and choices may not.

        Args:
            space: Distribution of every searched parameter.
        """
        study = self.load()
        if study is None:
            return None
        with self._as_user_errors():
            recorded: dict[str, BaseDistribution] = {}
            for trial in study.get_trials(deepcopy=False):
                recorded = {**trial.distributions, **recorded}
        known = space.keys() & recorded.keys()
        return next((name for name in sorted(known) if not _is_compatible(recorded[name], space[name])), None)

    def create(self, current: FlatDict, directions: Sequence[str]) -> None:
        """Create the study, or take the existing one, and record its fingerprint.

        Args:
            current: Fingerprint of this sweep.
            directions: Directions of the objectives, "minimize" or "maximize".

        Raises:
            UserError: The storage cannot be used.
        """
        with self._as_user_errors():
            study = optuna.create_study(
                study_name=self.name, storage=self.connect(), directions=directions, load_if_exists=True
            )
            recorded = study.user_attrs.get(_FINGERPRINT)
            known = None if recorded is None else recorded_study_fingerprint(recorded)
            study.set_user_attr(_FINGERPRINT, merged_fingerprint(known, current))

    def count_launch(self) -> int:
        """Count another launch of the study, and return the number of those before it.

        The caller holds the lock of the study. In a study of a version that counted none, trials count as launches.
        """
        study = self.load()
        with self._as_user_errors():
            before = study.user_attrs.get(_LAUNCHES, len(study.get_trials(deepcopy=False)))
            study.set_user_attr(_LAUNCHES, before + 1)
        return before

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states; none if there is no study. They must not be changed."""
        study = self.load()
        with self._as_user_errors():
            return study.get_trials(deepcopy=False, states=states) if study is not None else []

    def running_launches(self) -> set[str]:
        """Return the launches of the trials that are recorded as running."""
        return {trial.user_attrs[LAUNCH] for trial in self.trials(TrialState.RUNNING) if LAUNCH in trial.user_attrs}

    def running_trial(self, launch: str, job: int, pruner: BasePruner) -> tuple[FrozenTrial, optuna.Trial] | None:
        """Return a running trial of a launch, as recorded and as a handle to report to it, or None.

        Args:
            launch: Identifier of the launch that asked for the trial, perhaps in another process.
            job: Number of its job in that launch.
            pruner: Pruner that decides whether the trial ends early.

        Raises:
            UserError: The storage cannot be used.
        """
        with self._as_user_errors():
            storage = self.connect()
            study = optuna.load_study(study_name=self.name, storage=storage, pruner=pruner)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if (trial.user_attrs.get(LAUNCH), trial.user_attrs.get(JOB)) == (launch, job):
                    return trial, optuna.Trial(study, self._trial_id(storage, trial.number))
        return None

    def record_failure(self, launch: str, job: int, reason: str) -> int | None:
        """Record why a trial of a launch has failed before it could begin.

        Args:
            launch: Identifier of the launch.
            job: Number of its job in that launch.
            reason: The reason, on one line.

        Returns:
            Number of the trial; None if the launch has none for the job.

        Raises:
            UserError: The storage cannot be used.
        """
        found = self.running_trial(launch, job, NopPruner())
        if found is None:
            return None
        recorded, trial = found
        with self._as_user_errors():
            trial.set_user_attr(ERROR, reason)
        return recorded.number

    def fail_trials(self, launch: str, reason: str) -> None:
        """Mark the running trials of a launch that have no score as failed.

        Args:
            launch: Identifier of the launch.
            reason: The reason, on one line.

        Raises:
            MissingStudy: The study was deleted.
        """
        study = self.load()
        if study is None:
            raise self._missing()
        with self._as_user_errors():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(LAUNCH) == launch and SCORE not in trial.user_attrs:
                    self._end(study, trial, ERROR, reason)

    def requeue_orphans(self, is_orphan: Callable[[FrozenTrial], bool]) -> list[int]:
        """Mark running trials without a process as failed, and enqueue their parameters to be tried next.

        The new trial keeps the run folder of the old one, and so its checkpoint. Trials that were released before wait
        behind it, under a new number. A trial that had ended, but whose launch could not say so any more, becomes
        complete.

        Args:
            is_orphan: Returns of a trial that is recorded as running whether it has no process any more.

        Returns:
            The numbers of the trials whose parameters were enqueued.
        """
        study = self.load()
        if study is None:
            return []
        with self._as_user_errors():
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            orphans = [trial for trial in running if is_orphan(trial)]
            for trial in orphans:
                if SCORE in trial.user_attrs:
                    study.tell(trial.number, trial.user_attrs[SCORE])
            unfinished = [trial for trial in orphans if SCORE not in trial.user_attrs]
            for trial in [*unfinished, *(self._claim_released(study) if unfinished else ())]:
                self._end(study, trial, END, STOPPED)
                if trial.params:
                    folder = {FOLDER: trial.user_attrs[FOLDER]} if FOLDER in trial.user_attrs else {}
                    study.enqueue_trial(trial.params, user_attrs=folder)
        return [trial.number for trial in unfinished]

    def release(self, numbers: Collection[int]) -> None:
        """Let running trials wait again, with their parameters, for a launch that wants more trials.

        Args:
            numbers: Numbers of the trials.
        """
        with self._as_user_errors():
            storage = self.connect()
            for number in numbers:
                storage.set_trial_state_values(self._trial_id(storage, number), TrialState.WAITING)

    def delete(self, copy_as: str | None) -> None:
        """Remove the study; the rest of the storage stays as it is.

        Args:
            copy_as: Name of a study that keeps all of it; None: nothing is kept.
        """
        with self._as_user_errors():
            if copy_as is not None:
                optuna.copy_study(
                    from_study_name=self.name,
                    from_storage=self._text,
                    to_storage=self._text,
                    to_study_name=copy_as,
                )
            optuna.delete_study(study_name=self.name, storage=self._text)

    def connect(self) -> optuna.storages.RDBStorage:
        """Return a connection that waits while another program has locked the file of an SQLite storage.

        It is made once, and again if the file is another one: Optuna checks its tables, which takes a while.

        Raises:
            SQLAlchemyError: There is no such storage, or it cannot be used.
        """
        if self._storage is None or self._inode != self._current_inode():
            self._storage = self._connect()
            self._inode = self._current_inode()
        return self._storage

    def _current_inode(self) -> int | None:
        return self.file.stat().st_ino if self.file is not None and self.file.exists() else None

    def _connect(self) -> optuna.storages.RDBStorage:
        """Connect; Optuna makes its tables one by one, and another process may be ahead by a moment at any of them."""
        for _ in range(_CONNECT_TRIES - 1):
            try:
                return self._connect_once()
            except (IntegrityError, ProgrammingError):  # of PostgreSQL and MySQL
                pass
            except OperationalError as error:  # of SQLite, also for a locked or damaged file
                if "already exists" not in str(error):
                    raise
            time.sleep(_CONNECT_PAUSE_S)
        return self._connect_once()

    def _connect_once(self) -> optuna.storages.RDBStorage:
        is_sqlite = self._url.get_backend_name() == "sqlite"
        settings = {"connect_args": {"timeout": _LOCK_TIMEOUT_S}} if is_sqlite else {}
        return optuna.storages.RDBStorage(self._text, engine_kwargs=settings)

    def _claim_released(self, study: optuna.Study) -> list[FrozenTrial]:
        """Make released trials running again, except for those that another launch asks for at this moment."""
        storage = self.connect()
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        released = [trial for trial in waiting if LAUNCH in trial.user_attrs]
        return [
            trial
            for trial in released
            if storage.set_trial_state_values(self._trial_id(storage, trial.number), TrialState.RUNNING)
        ]

    def _end(self, study: optuna.Study, trial: FrozenTrial, attribute: str, value: str) -> None:
        """Mark a running trial as failed, with an attribute that says why."""
        storage = self.connect()
        storage.set_trial_user_attr(self._trial_id(storage, trial.number), attribute, value)
        study.tell(trial.number, state=TrialState.FAIL)

    def _trial_id(self, storage: optuna.storages.RDBStorage, number: int) -> int:
        """Return the identifier that a trial has in its storage."""
        study_id = storage.get_study_id_from_name(self.name)
        return storage.get_trial_id_from_study_id_trial_number(study_id, number)

    @contextlib.contextmanager
    def expect_study(self) -> Iterator[None]:
        """Raise MissingStudy for the KeyError that Optuna raises for a study or trial that was deleted."""
        try:
            yield
        except KeyError:
            if self.name in optuna.get_all_study_names(self.connect()):
                raise
            raise self._missing() from None

    def _missing(self) -> MissingStudy:
        return MissingStudy(f"{self}: was deleted while the sweep ran. The same command begins the study anew.")

    @contextlib.contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        try:
            with self.expect_study():
                yield
        except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
            raise UserError(self._explanation(error)) from None

    def _explanation(self, error: Exception) -> str:
        begin = f"hydra.sweeper.storage = {self.shown_url}"
        if (busy := busy_reason(error)) is not None:
            return f"{begin}: {busy}"
        is_own_file = self._text.startswith("sqlite") and self._text.endswith("/study.db")
        damaged = " A damaged study.db goes with +restart=clean." if is_own_file else ""
        return (
            f"{begin}: cannot be used ({_first_cause(error)}). Check that it is an address such as "
            "sqlite:///folder/study.db or postgresql://user:password@host/name, that its driver is installed, and that "
            f"it can be reached.{damaged}"
        )


def busy_reason(error: Exception) -> str | None:
    """Return why a storage that is whole cannot be used now, and what to do; None for any other error.

    Args:
        error: An error of Optuna's or SQLAlchemy's.
    """
    reason = _first_cause(error)
    if "database is locked" in reason:
        return (
            f"another program has locked it for {_LOCK_TIMEOUT_S:g} s (database is locked), such as a viewer of "
            "databases or a backup. Close that program; the same command continues then, and nothing is lost."
        )
    if "disk is full" in reason:
        return "its disk is full. Free some space; the same command continues then."
    if "readonly database" in reason:
        return "cannot be written by this user. Make the file and its folder writable; the same command continues then."
    return None


def storage_problem(error: Exception) -> str:
    """Return in one sentence why the storage of a running sweep cannot be used.

    Args:
        error: One of ``STORAGE_ERRORS``.
    """
    if isinstance(error, MissingStudy):
        return str(error)
    other = f"cannot be used any more: {_first_cause(error)}. The same command continues the study as soon as it can."
    return f"the storage of the study: {busy_reason(error) or other}"


def _first_cause(error: Exception) -> str:
    """Return the first line of what the database said; Optuna wraps it into advice that fits no such case."""
    return next(iter(str(error.__cause__ or error).splitlines()), "")


def _is_compatible(recorded: BaseDistribution, current: BaseDistribution) -> bool:
    """Return whether Optuna accepts a distribution for a parameter that had another one in earlier trials."""
    if type(recorded) is not type(current):
        return False
    if isinstance(recorded, CategoricalDistribution):
        return recorded == current
    return recorded.log == current.log
