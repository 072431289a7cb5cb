"""One run from its configuration to its summary."""

import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from app.config.schema import Config
from app.replay.storage import MappedStorage
from app.reporting.banner import print_banner
from app.reporting.formatting import make_console
from app.restart.clear import clear_run, show_run
from app.runs.folder import RunFolder
from app.training.beginning import find_source
from app.training.conclusion import Conclusion, finished_before
from app.training.facts import banner_facts
from app.training.setup import Setup, set_up
from app.training.stop import StopRequest
from app.training.threads import settle_threads
from app.training.trainer import Trainer
from app.training.vitals import Watcher


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        objective: NaN for a run that was stopped before its first evaluation.
        stop_reason: "finished", "interrupted", "terminated", "pruned", "collapsed: ..." or "not finite: ...".
        epochs: that are wholly done.
    """

    objective: float
    stop_reason: str
    epochs: int


def train(config: Config, one_of_many: bool = False, trouble: Callable[[], str] = str) -> float:
    """Begin a run or go on with it, to its end, and leave a complete run folder.

    Args:
        config: the validated configuration.
        one_of_many: others follow this one, and Ctrl-C is meant for them, too.
        trouble: says why the run must end early, "" while it need not; it is saved then.

    Returns:
        The objective; NaN for a run that was stopped before its first evaluation.

    Raises:
        UserError: something the user can mend, in words.
        KeyboardInterrupt: one of many was interrupted; its folder is complete.
        SystemExit: the run was terminated; its folder is complete.
    """
    console = make_console()
    if config.restart and config.restart.dry_run:
        show_run(config, console)
        return math.nan
    setup = set_up(config)
    with StopRequest(trouble) as stop, RunFolder.open(config) as folder:
        outcome = run_in(folder, config, setup, console, stop)
    heed(stop, outcome, one_of_many)
    return outcome.objective


def run_in(
    folder: RunFolder,
    config: Config,
    setup: Setup,
    console: Console,
    stop: StopRequest,
    watchers: Sequence[Watcher] = (),
) -> Outcome:
    """Begin a run or go on with it in its folder, to its end.

    Args:
        folder: of the run, owned by this process.
        config: of the run.
        setup: what was made ready for it.
        console: where to show everything.
        stop: asked between any two updates and steps.
        watchers: told the score after every epoch; they may end the run.

    Raises:
        UserError: something the user can mend, in words.
    """
    storage = MappedStorage(folder.replay)
    files = storage.files(setup.spec)
    with folder.in_words():
        source = find_source(config, folder, files)
    if (before := finished_before(config, folder, source, console)) is not None:
        return Outcome(before, "finished", config.training.epochs)
    with folder.in_words():
        cleared = clear_run(config, console) if config.restart else ()
        folder.list_files(files)
    trainer = Trainer(config, setup, folder, storage, console, stop, watchers)
    try:
        settle_threads(config, setup, trainer.training.agent, source.threads, console)
        print_banner(console, banner_facts(config, setup, trainer.training.agent.model, folder))
        trainer.begin(source, "replay" in cleared)
        reason = trainer.to_the_end()
        objective = trainer.score(reason)
        end = Conclusion(config, folder, console, trainer.evaluator, trainer.actor)
        end.sum_up(reason, trainer.counters(), trainer.best, objective)
    finally:
        trainer.close()
    return Outcome(objective, reason, trainer.epochs_done)


def heed(stop: StopRequest, outcome: Outcome, one_of_many: bool) -> None:
    """End the process, or what there is of it, if the run was asked to stop and not only this run is meant.

    Raises:
        SystemExit: the run was terminated.
        KeyboardInterrupt: one of many was interrupted.
    """
    if outcome.stop_reason == "terminated":
        sys.exit(128 + signal.SIGTERM)  # as shells and schedulers expect it
    if one_of_many and stop.reason == "interrupted":
        raise KeyboardInterrupt
