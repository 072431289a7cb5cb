"""Commands in processes that are forked from one that has imported everything, so that a start takes no seconds.

The parent has one thread and no open files of a run, so a fork is as good as a new process.
"""

import contextlib
import multiprocessing
import os
import random
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from app.config.schema import Config
from app.core.errors import UserError
from tests.helpers.runs import ROOT

_PRELOADED = (  # torch._dynamo and others are imported late otherwise, in every process
    "pytest", "tests.helpers.forked", "app.training.run", "app.sweep.trial", "app.sweep.study_setup", "app.train",
    "app.sweep.report.html", "torch._dynamo", "optuna.visualization", "optuna.storages", "optuna.importance",
    "sqlalchemy.dialects.sqlite", "alembic.command", "gymnasium.envs.classic_control", "hydra.experimental.callback",
)  # fmt: skip


def start_training(config: Config, log: Path, slack: int | None = None, fsync_s: float = 0.0) -> BaseProcess:
    """Train in a process of its own, as ``app/train.py`` does without a sweep.

    Args:
        config: Configuration of the run.
        log: File that gets the output.
        slack: Rows of the replay beyond its capacity; None for the usual number.
        fsync_s: Seconds that every fsync takes longer, so that a kill hits the moment between two files.
    """
    return _start(_train, log, config, slack, fsync_s)


def start_command(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Run ``python app/train.py *arguments`` in a process of its own; the output goes to a file."""
    return _start(_command, log, list(arguments))


def kill_after(process: BaseProcess, seconds: float) -> bool:
    """Kill a process with SIGKILL after some seconds; return whether it still ran."""
    process.join(seconds)
    killed = process.is_alive()
    if killed:
        process.kill()
    process.join()
    return killed or process.exitcode == -9


def wait_until(reached: Callable[[], bool], process: BaseProcess) -> None:
    """Wait until something is reached, or the process has ended."""
    while not reached() and process.is_alive():
        time.sleep(0.001)


def moments(seconds: float, seed: int) -> Iterator[float]:
    """Yield moments to kill at, up to some seconds; uniform, so that every part of a run is hit."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(0, seconds)


def _start(target: Callable, log: Path, *args: object) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(target=_run, args=(target, log, args))
    process.start()
    return process


def _run(target: Callable, log: Path, args: tuple) -> None:
    os.chdir(ROOT)
    with log.open("a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        target(*args)


def _train(config: Config, slack: int | None, fsync_s: float) -> None:
    from app.training import run, trainer

    if slack is not None:
        trainer.slack_rows = lambda _: slack
    if fsync_s:
        fsync = os.fsync
        os.fsync = lambda handle: (time.sleep(fsync_s), fsync(handle))[1]
    try:
        run.train(config)
    except UserError as error:
        print(error)
        sys.exit(1)


def _command(arguments: list[str]) -> None:
    sys.argv = ["app/train.py", *arguments]
    runpy.run_path(str(ROOT / "app" / "train.py"), run_name="__main__")
