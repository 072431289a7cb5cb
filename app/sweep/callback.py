"""What Hydra calls around a sweep. Imported before the configuration is shown: nothing heavy here."""

import sys
import traceback
from typing import TYPE_CHECKING, Any

from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from app.errors import UserError

if TYPE_CHECKING:
    from app.sweep.folder import StudyFolder

# What the sweeper raises a ValueError in, and what that means.
_WORDS = {
    "best_trial": "no trial of the study has finished; the reasons are above.",  # the sweeper ends with the best one
    "_configure_trials": (
        "the study cannot go on with this search space: {} Set hydra.sweeper.params as it was, "
        "add +restart=clean, or choose another hydra.sweeper.study_name."
    ),
}


class StudyCallback(Callback):
    """Owns the study folder while a sweep runs.

    Hydra turns an exception of a callback into a warning and goes on; only SystemExit ends the program.
    """

    _folder: "StudyFolder | None" = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a search without ``-m``, which Hydra would ignore."""
        raise SystemExit("hydra/sweeper=optuna: a search needs -m: python app/train.py -m hydra/sweeper=optuna ...")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the study ready, before the sweeper opens it."""
        from app.sweep.begin import begin_sweep

        try:
            self._folder = begin_sweep(config)
        except (UserError, CompactHydraException, OmegaConfBaseException) as error:
            raise SystemExit(str(error)) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Give the study folder up."""
        if self._folder is None:
            return
        self._folder.close()
        error, left = sys.exc_info()[1], _left_functions()
        for function, words in _WORDS.items():
            if isinstance(error, ValueError) and function in left:
                raise SystemExit(f"{self._folder.path}: {words.format(error)}")

    def __getstate__(self) -> dict[str, Any]:
        """A job in another process gets no lock along."""
        return {}


def _left_functions() -> set[str]:
    """Return the names of the functions that an exception on its way has left."""
    error = sys.exc_info()[1]
    return {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)} if error is not None else set()
