"""The study in its Optuna storage. Optuna takes most of a second to import: import this only when it is needed."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from app.errors import UserError
from app.runs.fingerprint import Flat
from app.sweep.attributes import FOLDER, LAUNCH, SCORE
from app.sweep.fingerprint import refuse_other_study, widened

_ATTRIBUTE = "trackmania_droq.fingerprint"  # of the study: who made it, under which settings
_FIXED = "fixed_params"  # Optuna's attribute of a trial whose parameters were given to it


class Stored:
    """A study in a storage.

    Args:
        url: of the storage, such as "sqlite:///sweeps/mine/study.db".
        name: of the study.

    Raises:
        UserError: the URL is none.
    """

    def __init__(self, url: str, name: str):
        self.name, self._text, self.shown_url = name, url, url
        with self._in_words():
            self._url = make_url(url)
        if self._url.password is not None:
            self.shown_url = self._url.render_as_string(hide_password=True)

    @property
    def absolute_url(self) -> str:
        """The URL from anywhere on this machine; a password is not shown."""
        if self.file is None:
            return self.shown_url
        return f"sqlite:///{self.file.absolute()}"

    def __str__(self) -> str:
        """Return the study and its place; a password is not shown."""
        return f"study {self.name} in {self.shown_url}"

    @property
    def file(self) -> Path | None:
        """The file of the storage, if it is one."""
        if self._url.get_backend_name() != "sqlite" or not self._url.database:
            return None
        return Path(self._url.database)

    @property
    def outlives_process(self) -> bool:
        """Whether the storage is there for the next process, too: SQLite can keep everything in memory."""
        if self._url.get_backend_name() != "sqlite":
            return True
        name = self._url.database or ""
        return bool(name) and ":memory:" not in name and self._url.query.get("mode") != "memory"

    def find(self) -> optuna.Study | None:
        """Return the study if it exists; a file that is missing is not made."""
        if self.file is not None and not self.file.exists():
            return None
        with self._in_words():
            try:
                return optuna.load_study(study_name=self.name, storage=self._open())
            except KeyError:
                return None

    def is_ours(self, study: optuna.Study) -> bool:
        """Return whether this program made the study; one without trials could be anybody's and harms nobody."""
        with self._in_words():
            return _ATTRIBUTE in study.user_attrs or not study.get_trials(deepcopy=False)

    def refuse_other(self, mine: Flat) -> Flat | None:
        """Raise unless the study, if there is one, was made by this program under the same fingerprint.

        Returns:
            What the study is known by; None for one that has yet to be made or signed.

        Raises:
            UserError: it was not, or the storage cannot be used.
        """
        study = self.find()
        if study is None:
            return None
        if not self.is_ours(study):
            raise UserError(f"{self}: was not made by this program. Choose another hydra.sweeper.study_name.")
        with self._in_words():
            theirs = study.user_attrs.get(_ATTRIBUTE)
            refuse_other_study(str(self), mine if theirs is None else theirs, mine)
        return theirs

    def make(self, mine: Flat, directions: Sequence[str]) -> None:
        """Make the study, or take the one that is there, and sign it.

        Raises:
            UserError: the storage cannot be used.
        """
        with self._in_words():
            study = optuna.create_study(
                study_name=self.name, storage=self._open(), directions=directions, load_if_exists=True
            )
            study.set_user_attr(_ATTRIBUTE, widened(study.user_attrs.get(_ATTRIBUTE), mine))

    def count(self, *states: TrialState) -> int:
        """Return the number of trials in these states; 0 where there is no study."""
        study = self.find()
        with self._in_words():
            return len(study.get_trials(deepcopy=False, states=states)) if study is not None else 0

    def launches(self) -> set[str]:
        """Return the launches that trials which the study calls running belong to."""
        study = self.find()
        with self._in_words():
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if study is not None else []
        return {trial.user_attrs[LAUNCH] for trial in running if LAUNCH in trial.user_attrs}

    def take_up(self, was_stopped: Callable[[FrozenTrial], bool]) -> list[int]:
        """Mark trials that nobody runs any more as failed, and have their parameters tried again next.

        A trial that goes on keeps its run folder, and so its checkpoint. One that had ended, though its launch could
        not say so any more, is complete.

        Args:
            was_stopped: tells of a trial that the study calls running whether it is one of them.

        Returns:
            The numbers of those that go on.
        """
        study = self.find()
        if study is None:
            return []
        with self._in_words():
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            stopped = [trial for trial in running if was_stopped(trial)]
            ended = [trial for trial in stopped if SCORE in trial.user_attrs]
            for trial in ended:
                study.tell(trial.number, trial.user_attrs[SCORE])
            left = [trial for trial in stopped if SCORE not in trial.user_attrs]
            for trial in left:
                study.tell(trial.number, state=TrialState.FAIL)
                if trial.params:
                    folder = {FOLDER: trial.user_attrs[FOLDER]} if FOLDER in trial.user_attrs else {}
                    study.enqueue_trial(trial.params, user_attrs=folder)
        return [trial.number for trial in left]

    def put_back(self, numbers: Collection[int]) -> None:
        """Free trials that the study calls running and that cannot run.

        One whose parameters were given, such as one that goes on, waits again; any other has failed.
        """
        study = self.find()
        if study is None:
            return
        with self._in_words():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.number in numbers and _FIXED in trial.system_attrs:
                    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                elif trial.number in numbers:
                    study.tell(trial.number, state=TrialState.FAIL)

    def delete(self, copy_as: str | None) -> None:
        """Remove the study; the rest of the storage stays as it is.

        Args:
            copy_as: name of a study that keeps all of it; None: nothing is kept.
        """
        with self._in_words():
            if copy_as is not None:
                optuna.copy_study(
                    from_study_name=self.name,
                    from_storage=self._text,
                    to_storage=self._text,
                    to_study_name=copy_as,
                )
            optuna.delete_study(study_name=self.name, storage=self._text)

    def _open(self) -> optuna.storages.RDBStorage:
        """Connect. Optuna makes its tables in three steps, and another machine may be ahead by a moment in each."""
        for _ in range(3):
            with contextlib.suppress(IntegrityError, ProgrammingError):
                return optuna.storages.RDBStorage(self._text)
        return optuna.storages.RDBStorage(self._text)

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"hydra.sweeper.storage = {self.shown_url}: cannot be used ({reason}). Check that it is an address "
                "such as sqlite:///folder/study.db or postgresql://user:password@host/name, that its driver is "
                "installed, and that it can be reached. A damaged study.db goes with +restart=clean."
            ) from None
