"""Hydra sweeper of ``-m hydra/sweeper=optuna``: the Optuna sweeper, applied to a study that survives every stop.

Every command imports this module, even one that only shows its configuration, so Optuna is imported inside functions.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from app.core.errors import UserError
from app.core.processes import exit_on_sigterm

if TYPE_CHECKING:
    from app.sweep.session import SweepSession


class StudySweeper(Sweeper):
    """Runs the trials that a study still lacks with the Optuna sweeper of Hydra.

    ``conf/hydra/sweeper/optuna.yaml`` selects it; ``app/train.py`` registers it as a plugin of Hydra.

    Args:
        launch: Identifier of the launch that a job belongs to, for the configuration of the jobs only.
        settings: Arguments of Hydra's ``OptunaSweeper``.
    """

    def __init__(self, launch: str | None = None, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the Optuna sweeper needs; nothing is opened before ``sweep``."""
        self._config = config
        self._context = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def sweep(self, arguments: list[str]) -> None:
        """Run the remaining trials of the study, if there are any, and write its results.

        Args:
            arguments: Overrides of the command line, which the configuration has, too.

        Raises:
            UserError: The sweep cannot start or continue; the message says what to do.
            SystemExit: The process was terminated between two trials; the study is left complete.
        """
        from app.sweep.session import StudyComplete
        from app.sweep.study_setup import start_session

        session = start_session(self._config)
        if session is None:
            return
        with session, exit_on_sigterm(), _as_user_errors(session):
            with contextlib.suppress(StudyComplete):
                self._run_trials(session)

    def _run_trials(self, session: "SweepSession") -> None:
        from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

        from app.sweep.search_space import sampler_of_launch

        launch = session.launch
        settings = self._settings | {
            "n_trials": launch.remaining,
            "n_jobs": launch.batch_size,
            "sampler": sampler_of_launch(self._config.hydra.sweeper.sampler, launch.earlier),
            "storage": session.store.connect(),
            "params": None,  # the overrides of the space have them, each key once
        }
        try:
            sweeper = OptunaSweeper(**settings)
        except Exception as error:  # whatever the sampler raises for its keys
            raise UserError(f"hydra.sweeper: {_first_line(error)}. Correct its keys or leave them out.") from None
        sweeper.setup(**self._context)
        sweeper.sweep(list(session.space.overrides))


@contextlib.contextmanager
def _as_user_errors(session: "SweepSession") -> Iterator[None]:
    """Raise UserError for what the Optuna sweeper and the launchers of Hydra raise."""
    from app.sweep.study_store import STORAGE_ERRORS, MissingStudy, storage_problem

    path = session.folder.path
    try:
        with session.store.expect_study():
            yield
    except MissingStudy:  # one of the storage errors, with a text of its own
        raise
    except STORAGE_ERRORS as error:
        raise UserError(f"{path}: {storage_problem(error)}") from None
    except HydraException as error:  # a choice whose configuration cannot be composed with the others
        reason = _first_line(error)
        session.fail_trials(reason)
        raise UserError(
            f"{path}: a trial cannot be composed: {reason} It counts as failed, and the same command tries other "
            "values; if they fail, too, correct what is searched."
        ) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(
            f"{error.filename}: cannot be written ({error.strerror}). Free some space or make it writable; the same "
            "command continues the study."
        ) from None
    except BrokenProcessPool:
        raise UserError(
            f"{path}: the process of a job was killed, perhaps because memory ran out, and the trials beside it were "
            "stopped. The same command continues them; hydra.launcher.n_jobs=1 or a smaller replay.capacity needs less."
        ) from None
    except ValueError as error:
        if session.every_trial_failed():  # the Optuna sweeper asks for the best trial at its end
            raise UserError(f"{path}: no trial of the study has finished; the reasons are above.") from None
        if "Overlapping fixed parameters" in str(error):
            raise UserError(
                f"{path}: a waiting trial was prepared with fixed values for what is searched now. It has been reset; "
                "give the same command again."
            ) from None
        raise


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
