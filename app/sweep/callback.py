"""What Hydra calls around a sweep. Imported before the configuration is shown: nothing heavy here."""

import signal
import sys
import threading
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from app.errors import UserError

if TYPE_CHECKING:
    from app.sweep.sweep import Sweep

# What the sweeper and its launchers raise, in which function, and what that means.
_WORDS = {
    ("ValueError", "best_trial"): "no trial of the study has finished; the reasons are above.",  # it ends with the best
    ("ValueError", "_configure_trials"): (
        "the study cannot go on with this search space: {} Set hydra.sweeper.params as it was, "
        "add +restart=clean, or choose another hydra.sweeper.study_name."
    ),
    ("StorageInternalError", ""): "the storage cannot be used any more: {} The same command goes on when it can.",
    ("OperationalError", ""): "the storage cannot be used any more: {} The same command goes on when it can.",
    ("TerminatedWorkerError", "launch"): (
        "the process of a job was killed, perhaps because memory ran out, and the trials beside it were stopped. The "
        "same command goes on with them; hydra.launcher.n_jobs=1 or a smaller replay.capacity needs less."
    ),
}
_ANYWHERE = ""  # whichever function it has left
_ENOUGH = "Enough"  # of app.sweep.launch: other launches of the study do the rest


class StudyCallback(Callback):
    """Begins and ends a launch of a sweep.

    Hydra turns an exception of a callback into a warning and goes on; only SystemExit ends the program.

    Args:
        launch: which launch a job belongs to; the launch itself tells its jobs.
    """

    def __init__(self, launch: str | None = None):
        self._sweep: Sweep | None = None
        self._before: Any = None  # what SIGTERM did

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a search without ``-m``, which Hydra would ignore."""
        raise SystemExit("hydra/sweeper=optuna: a search needs -m: python app/train.py -m hydra/sweeper=optuna ...")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the study ready, before the sweeper opens it."""
        from app.sweep.begin import begin_sweep

        try:
            self._sweep = begin_sweep(config)
        except (UserError, CompactHydraException, OmegaConfBaseException) as error:
            raise SystemExit(str(error)) from None
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _end)  # between two trials; a trial has a handler of its own

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Free what was stopped, and write the results."""
        if self._sweep is None:
            return
        error, left, sweep = sys.exc_info()[1], _left_frames(), self._sweep
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        kind = type(error).__name__
        try:
            if kind == "ValueError" and "_configure_trials" in left:
                sweep.put_back(left["_configure_trials"].f_locals["trials"])
            sweep.end()
        except (UserError, OSError) as trouble:
            print(f"the results cannot be written: {trouble}", file=sys.stderr)
        if kind == _ENOUGH:
            raise SystemExit(0)
        for (known, function), words in _WORDS.items():
            if kind == known and function in (_ANYWHERE, *left):
                raise SystemExit(f"{sweep.folder.path}: {words.format(_first_line(error))}")

    def __getstate__(self) -> dict[str, Any]:
        """A job in another process is no launch."""
        return {"_sweep": None, "_before": None}


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)  # as shells and schedulers expect it


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), "")


def _left_frames() -> dict[str, FrameType]:
    """Return the functions that an exception on its way has left, by name."""
    error = sys.exc_info()[1]
    return {frame.f_code.co_name: frame for frame, _ in traceback.walk_tb(getattr(error, "__traceback__", None))}
