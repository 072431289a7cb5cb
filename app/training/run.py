"""A whole training run: from its configuration to its summary."""

import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from app.config.schema import Config
from app.core.console import make_console
from app.replay.storage import MappedStorage
from app.reporting.banner import BannerFacts, print_banner
from app.runs.manifest import require_own_folder
from app.runs.restart.clear_run import clear_run, preview_restart
from app.runs.run_folder import RunFolder
from app.training.finalize import Finalizer, finished_objective
from app.training.monitor import EpochCallback
from app.training.resume import Source, find_source, read_initial_source
from app.training.rollout import Connect, connect_locally
from app.training.setup import Setup, device_name, set_up
from app.training.stop import INTERRUPTED, TERMINATED, StopKind, StopReason, StopRequest
from app.training.threads import set_threads
from app.training.trainer import Trainer


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        objective: The final objective; NaN for a run that was stopped before its first evaluation.
        stop_reason: Reason why the run stopped.
        epochs: Number of completed epochs.
    """

    objective: float
    stop_reason: StopReason
    epochs: int


def train(
    config: Config,
    connect: Connect = connect_locally,
    propagate_interrupt: bool = False,
    problem: Callable[[], str | None] = lambda: None,
) -> float:
    """Start or resume a run, train to its end, and leave a complete run folder.

    Args:
        config: The validated configuration.
        connect: Makes the source of environment steps and the evaluator.
        propagate_interrupt: Whether Ctrl-C ends the whole command, because more runs follow this one.
        problem: Returns why the run must end early, or None; the run is saved before it ends.

    Returns:
        The objective; NaN for a run that was stopped before its first evaluation.

    Raises:
        UserError: The run cannot start or continue; the message says what to do.
        KeyboardInterrupt: The run was interrupted and ``propagate_interrupt`` is set; its folder is complete.
        SystemExit: The run was terminated; its folder is complete.
    """
    console, path = make_console(), Path(config.runs_dir) / config.run_name
    if config.restart and config.restart.dry_run:
        preview_restart(path, config.restart, console)
        _require_start(config, RunFolder(path))
        return math.nan
    setup = set_up(config)
    with RunFolder(path).as_user_errors():  # what is refused here leaves no empty folder
        initial = None if path.exists() else read_initial_source(config)
    with StopRequest(problem) as stop, RunFolder.open(config) as folder:
        result = train_in_folder(folder, config, setup, console, stop, connect, initial=initial)
    reraise_stop(stop, result, propagate_interrupt)
    return result.objective


def train_in_folder(
    folder: RunFolder,
    config: Config,
    setup: Setup,
    console: Console,
    stop: StopRequest,
    connect: Connect = connect_locally,
    callbacks: Sequence[EpochCallback] = (),
    initial: Source | None = None,
) -> RunResult:
    """Start or resume a run in its folder and train to its end.

    Args:
        folder: Folder of the run, owned by this process.
        config: Configuration of the run.
        setup: Device and observation of the run.
        console: Console for everything that is shown.
        stop: Stop request, checked between any two updates and steps.
        connect: Makes the source of environment steps and the evaluator.
        callbacks: Receive the objective after every epoch; they may end the run.
        initial: What a new run starts from, if it has been read already.

    Raises:
        UserError: The run cannot start or continue; the message says what to do.
    """
    storage = MappedStorage(folder.replay)
    files = storage.files(setup.spec)
    with folder.as_user_errors():
        source = find_source(config, folder, files, initial)
    if (objective := finished_objective(config, folder, source, console)) is not None:
        return RunResult(objective, StopReason(StopKind.FINISHED), config.training.epochs)
    with folder.as_user_errors():
        cleared = clear_run(folder.path, config.restart, console) if config.restart else ()
        folder.add_to_manifest(files)
    trainer = Trainer(config, setup, folder, storage, console, stop, connect, callbacks)
    try:
        agent = trainer.loop.agent
        set_threads(config, setup, agent, source.threads, console)
        print_banner(console, config, _banner_facts(setup, folder, agent.model.parameter_counts()))
        trainer.start(source, "replay" in cleared)
        reason = trainer.run_epochs()
        objective = trainer.objective(reason)
        finalizer = Finalizer(config, folder, console, trainer.evaluator, trainer.actor, trainer.report)
        summary = finalizer.finalize(reason, trainer.counters(), trainer.best, objective)
        trainer.writer.finish(summary["updates"], summary, summary["stop_reason"] == StopKind.FINISHED.value)
    finally:
        trainer.close()
    return RunResult(objective, reason, trainer.epochs_done)


def reraise_stop(stop: StopRequest, result: RunResult, propagate_interrupt: bool) -> None:
    """Raise if the run was asked to stop and the request is meant for the whole process.

    Args:
        stop: The stop request of the run.
        result: Result of the run.
        propagate_interrupt: Whether Ctrl-C ends the whole command, because more runs follow this one.

    Raises:
        SystemExit: The run was terminated.
        KeyboardInterrupt: The run was interrupted and ``propagate_interrupt`` is set.
    """
    if result.stop_reason == TERMINATED:
        sys.exit(128 + signal.SIGTERM)  # the exit code that shells and schedulers expect
    if propagate_interrupt and stop.reason == INTERRUPTED:
        raise KeyboardInterrupt


def _require_start(config: Config, folder: RunFolder) -> None:
    """Check all that a start refuses before it clears anything, except that the run is in use: it may end meanwhile.

    Raises:
        UserError: The start of which this is the dry run would be refused.
    """
    files = MappedStorage(folder.replay).files(set_up(config).spec)
    with folder.as_user_errors():
        if folder.path.exists():
            require_own_folder(folder.path, "run_name")
        find_source(config, folder, files)


def _banner_facts(setup: Setup, folder: RunFolder, parameters: Mapping[str, int]) -> BannerFacts:
    return BannerFacts(
        run_dir=folder.path,
        device=device_name(setup.device),
        threads=torch.get_num_threads(),
        spec=setup.spec,
        parameters=parameters,
        replay=setup.memory,
    )
