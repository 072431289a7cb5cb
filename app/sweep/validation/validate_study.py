"""Validation of a study: trains the missing runs in processes of their own, compares them, and reports."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console

from app.config.multirun import threads_of_job
from app.config.schema_commands import ValidateConfig
from app.core.console import make_console, print_line
from app.core.errors import UserError, format_error
from app.envs.env_factory import make_spec
from app.envs.gym_task import import_named_module
from app.reporting.number_format import significant
from app.runs.lock import Lock
from app.sweep.study_folder import find_study
from app.sweep.validation.candidates import select_candidates
from app.sweep.validation.validation_report import ValidationReport, make_report, print_report, write_report
from app.sweep.validation.validation_runs import (
    PENDING,
    ValidationResult,
    ValidationRun,
    plan_runs,
    read_result,
    train_run,
)
from app.training.setup import resolve_device

Task = TypeVar("Task")


def validate_study(cfg: ValidateConfig) -> None:
    """Train the default and the best trials of a study on new seeds, compare them, and write the report.

    Runs that have ended are not trained again; the others continue from where they were.

    Raises:
        UserError: The validation cannot start, or no run has a result; the message says what to do.
        KeyboardInterrupt: Interrupted; the report has the runs that have ended.
    """
    console = make_console()
    resolve_device(cfg.device)  # each run would refuse it
    folder, study = find_study(Path(cfg.sweeps_dir), cfg.study, cfg.storage)
    candidates, notes = select_candidates(folder, study, cfg)
    import_named_module(cfg.env_module)
    for candidate in candidates:
        make_spec(candidate.config.env)  # refuses a task of a module that the user has not named
    runs_dir = folder.path / "validation"
    threads = threads_of_job(candidates[0].config.threads, cfg.jobs)  # as its trials had
    with Lock(runs_dir, "validation"):
        runs = plan_runs(candidates, cfg.seeds, runs_dir, cfg.device, threads)
        results = {run: read_result(run) for run in runs}
        try:
            _train_pending(results, cfg.jobs, console)
        finally:
            report = make_report(cfg, candidates, list(results.values()), notes)
            _publish(report, runs_dir, console)
    if not report.comparisons:
        raise UserError(f"study = {cfg.study}: no run has reached anything to compare; the reasons are above.")


def run_in_processes(
    function: Callable[[Task], None],
    tasks: Sequence[Task],
    max_processes: int,
    on_start: Callable[[Task], None],
    on_end: Callable[[Task, str | None], None],
) -> None:
    """Call a function with every task, each in a new process, and wait for the last one.

    If this process is interrupted, or a callback raises, no more tasks start, and the running ones get SIGTERM and the
    time that they need to save; a second Ctrl-C kills them. If this process is killed, they are left alone.

    Args:
        function: A function of a module.
        tasks: Arguments of the function, which can be pickled.
        max_processes: Processes at the same time.
        on_start: Called in this process before a task starts.
        on_end: Called in this process after a task, with its problem on one line, or None.
    """
    waiting, running = deque(tasks), {}
    try:
        while waiting or running:
            while waiting and len(running) < max_processes:
                on_start(waiting[0])
                child = _Child.start(function, waiting.popleft())
                running[child.process.sentinel] = child
            for sentinel in wait(list(running)):
                child = running.pop(sentinel)
                on_end(child.task, child.join())
    finally:
        _stop([child.process for child in running.values()])


@dataclass(frozen=True)
class _Child(Generic[Task]):
    task: Task
    process: BaseProcess
    problem: Connection  # receives the problem of the task, if there is one

    @classmethod
    def start(cls, function: Callable[[Task], None], task: Task) -> "_Child[Task]":
        # Spawned: a fork would share locks and threads of torch with this process. A daemon: it cannot outlive this.
        context = multiprocessing.get_context("spawn")
        problem, sender = context.Pipe(duplex=False)
        process = context.Process(target=_call, args=(function, task, sender), daemon=True)
        process.start()
        sender.close()
        return cls(task, process, problem)

    def join(self) -> str | None:
        """Wait for the process; return the problem of its task, or None."""
        self.process.join()
        code = self.process.exitcode
        with self.problem:
            try:
                return self.problem.recv()
            except EOFError:  # nothing was sent
                return None if code == 0 else f"its process ended with exit code {code}"


def _call(function: Callable[[Task], None], task: Task, problem: Connection) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal reaches the parent alone, which passes it on once
    try:
        function(task)
    except Exception as error:
        problem.send(format_error(error))


def _stop(processes: Iterable[BaseProcess]) -> None:
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # has no effect on one that has ended
            process.join()


def _train_pending(results: dict[ValidationRun, ValidationResult], jobs: int, console: Console) -> None:
    """Train the runs that have not ended, and replace their results."""
    pending = [run for run, result in results.items() if result.end == PENDING]
    print_line(console, f"{len(results)} runs, of which {len(results) - len(pending)} have ended before", "green")

    def on_start(run: ValidationRun) -> None:
        print_line(console, f"{run.name} begins · {run.log}")

    def on_end(run: ValidationRun, failure: str | None) -> None:
        result = results[run] = read_result(run, failure)
        score = f" · objective {significant(result.measures['objective'])}" if "objective" in result.measures else ""
        print_line(console, f"{run.name}: {result.end}{score}", "green" if result.problem is None else "red")

    try:
        run_in_processes(train_run, pending, jobs, on_start, on_end)
    except KeyboardInterrupt:
        print_line(console, "interrupted: the running ones have saved", "yellow")
        raise


def _publish(report: ValidationReport, folder: Path, console: Console) -> None:
    print_report(report, console)
    for path in write_report(report, folder):
        print_line(console, f"result  {path}", "cyan")
    if report.pending:
        print_line(console, f"runs to be done: {report.pending}. The same command continues with them", "yellow")
