"""One run of a lab in the process that trains it: its log, its failure, and the evidence after it."""

import contextlib
import os
import platform
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from app.ablation.evidence_table import write_evidence
from app.ablation.lab_runs import LabFolder, LabRun
from app.config.schema import Config
from app.config.schema_lab import LabConfig
from app.core.atomic_files import make_folder
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.core.processes import exit_on_sigterm, is_orphan
from app.runs.lock import wait_until_free
from app.training.run import train

_SAVE_TIMEOUT_S = 60.0  # for a run whose command was killed
_POLL_INTERVAL_S = 0.5


def process_name() -> str:
    """Return host and number of this process, from which a job tells whether it was launched on the same machine."""
    return f"{platform.node()}-{os.getpid()}"


def run_job(lab: LabConfig) -> None:
    """Train one run of a lab, or continue it, and write the evidence.

    Args:
        lab: Configuration of the job.

    Raises:
        KeyboardInterrupt: The command was interrupted, and this is its process; the run is saved.
        SystemExit: The same for a process that was terminated.
        Exception: The run has failed; the evidence has the reason.
    """
    config, folder, console = lab.run_config(), LabFolder(Path(lab.labs_dir) / lab.lab.name), make_console()
    run = next(run for run in folder.read_plan() if run.name == config.run_name)
    inside = lab.lab.process == process_name()
    parent = _parent(lab.lab.process)
    if folder.stop.exists():
        if inside:
            raise KeyboardInterrupt
        return
    print_line(console, f"{run.name} begins · {run.log}")
    run.failure.unlink(missing_ok=True)
    try:
        with contextlib.nullcontext() if inside else _stopped_when(lambda: folder.stop.exists() or is_orphan(parent)):
            _train(config, run)
    except (KeyboardInterrupt, SystemExit):
        if inside:
            raise
    except Exception as error:
        run.record_failure(error)
        raise
    finally:
        write_evidence(folder)
        _print_end(run, console)
        if is_orphan(parent):
            os._exit(128 + signal.SIGTERM)  # a worker of joblib would wait for more work


def _train(config: Config, run: LabRun) -> None:
    make_folder(run.log.parent)
    with run.log.open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
        try:
            wait_until_free(run.folder.path, _SAVE_TIMEOUT_S)
            train(config, propagate_interrupt=True)
        except UserError as error:
            print(error)
            raise
        except Exception:
            traceback.print_exc(file=log)
            raise


def _parent(process: str | None) -> int | None:
    """Return the number of the process that launched the jobs if it is the parent of this one, or None."""
    return os.getppid() if process == f"{platform.node()}-{os.getppid()}" else None


@contextlib.contextmanager
def _stopped_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send SIGTERM to this process as soon as a condition holds; SystemExit is raised where nothing else handles it."""
    done = threading.Event()

    def wait() -> None:
        while not done.wait(_POLL_INTERVAL_S):
            if condition():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with exit_on_sigterm():
        threading.Thread(target=wait, daemon=True).start()
        try:
            yield
        finally:
            done.set()


def _print_end(run: LabRun, console: Console) -> None:
    share = run.last_epoch().get("lap_share_det")
    reached = "" if share is None else f" · lap share {share:.2f}"
    print_line(console, f"{run.name}: {run.end()} · {run.epochs_done} of {run.epochs} epochs{reached}")
