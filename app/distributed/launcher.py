"""Processes of a distributed run.

``role=server``, ``role=worker`` and ``role=trainer`` run one part in this process. ``role=all`` starts the server and
the workers as child processes, and trains in this one.
"""

import contextlib
import multiprocessing
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import torch
from rich.console import Console

from app.config.schema import Config, NetworkConfig
from app.config.task_id import split_task_id
from app.core.console import make_console, print_line
from app.core.errors import UserError, format_error
from app.core.processes import terminate_with_parent
from app.core.system import usable_cores
from app.distributed.messages import require_sendable_episodes
from app.distributed.remote_evaluator import RemoteEvaluator
from app.distributed.server import NetworkServer
from app.distributed.trainer_interface import NetworkTrainerInterface
from app.distributed.transport import free_port
from app.distributed.worker import NetworkWorker
from app.envs.env_factory import make_env, make_spec
from app.envs.gym_task import import_task_module
from app.envs.spec import ObservationSpec
from app.evaluation.evaluator import Evaluator, LocalEvaluator
from app.models.actor import DrivingActor
from app.replay.row_format import RowFormat
from app.runs.fingerprint import fingerprint_json
from app.training.rollout import RolloutInterface, StepDemand
from app.training.run import train
from app.training.setup import prepare_process
from app.training.stop import Stopped, StopRequest

_LOOPBACK = "127.0.0.1"
_STOP_TIMEOUT_S = 15.0  # until a child that was told to stop is killed
_CHECK_INTERVAL_S = 0.5  # between two checks of the children


# --- one part in this process ----------------------------------------------------------------------------------------


def run_server(network: NetworkConfig) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Raises:
        UserError: It cannot listen, or its network process has ended.
    """
    console = make_console()
    with StopRequest() as stop:
        server = NetworkServer(network)
        encryption = "TLS" if network.tls else "without encryption, for this machine only"
        print_line(
            console, f"Server: listening at {network.bind}:{network.port} ({encryption}). Ctrl-C stops it.", "green"
        )
        try:
            server.serve(stop.check, partial(print_line, console))
        except Stopped as stopped:
            print_line(console, f"Server: stopped ({stopped.reason}).")
        finally:
            server.close()


def run_worker(config: Config, is_child: bool = False) -> None:
    """Run a worker until the trainer has finished, or until Ctrl-C or SIGTERM.

    Args:
        config: Configuration of the worker.
        is_child: Whether the trainer has started it, whose summary shall be the last that is printed.

    Raises:
        UserError: The trainer has another fingerprint, or the environment cannot continue.
    """
    console = make_console()
    device = prepare_process(config.device, config.threads, config.seed)
    with StopRequest() as stop:
        worker = make_worker(config, device, console, stop.check)
        server = f"{config.network.host}:{config.network.port}"
        print_line(
            console, f"Worker {worker.name}: collecting in {config.env.name}, for the trainer at {server}.", "green"
        )
        try:
            worker.serve()
            end = "the trainer has finished"
        except Stopped as stopped:
            end = f"stopped ({stopped.reason})"
        finally:
            worker.close()
        if not is_child:
            worker.print_timing()
            print_line(console, f"Worker: {end}.", "green")


def make_worker(config: Config, device: str, console: Console, check_stop: Callable[[], None]) -> NetworkWorker:
    """Make a worker with its environment.

    Args:
        config: Configuration of the run. Its seed is replaced by a random one, so that no two workers act alike.
        device: Device of the actor.
        console: Console for messages.
        check_stop: Called between any two steps; may raise to end the work.

    Raises:
        UserError: An episode may be larger than a message.
    """
    seed = secrets.randbits(32)
    torch.manual_seed(seed)
    import_task_module(config.env)
    spec = make_spec(config.env)
    _require_sendable_episodes(config, spec)
    return NetworkWorker(
        network=config.network,
        fingerprint=fingerprint_json(config),
        env=make_env(config.env, config.env.train_tracks, seed),
        spec=spec,
        make_actor=partial(DrivingActor, config=config, spec=spec),
        real_time=config.env.real_time,
        device=device,
        console=console,
        check=check_stop,
    )


def connect_to_workers(
    config: Config,
    spec: ObservationSpec,
    demand: StepDemand,
    console: Console,
    check_stop: Callable[[], None],
    starts_workers: bool = False,
) -> tuple[RolloutInterface, Evaluator]:
    """Collect steps from workers, and evaluate here unless only they have the game; see ``rollout.Connect``."""
    interface = NetworkTrainerInterface(
        network=config.network,
        fingerprint=fingerprint_json(config),
        row_format=RowFormat.of(spec),
        real_time=config.env.real_time,
        deterministic_share=config.agent.deterministic_share,
        steps_due=demand.step_deficit,
        console=console,
        check=check_stop,
        starts_workers=starts_workers,
    )
    if config.env.real_time:
        return interface, RemoteEvaluator(interface, check_stop)

    def before_step() -> None:
        check_stop()
        interface.idle()

    return interface, LocalEvaluator(config.env, config.seed, before_step)


# --- all parts -------------------------------------------------------------------------------------------------------


def run_all(config: Config, propagate_interrupt: bool) -> float:
    """Start a server and workers, train in this process, and stop them when the training ends for any reason.

    Args:
        config: Configuration of the run.
        propagate_interrupt: Whether Ctrl-C ends the whole command, because more runs follow this one.

    Returns:
        The objective of the run.

    Raises:
        UserError: The run or the game cannot start or continue, an episode may be larger than a message, or the server
            or all workers have ended before it.
    """
    network = replace(
        config.network,
        host=_LOOPBACK,
        bind=_LOOPBACK,
        port=free_port(),
        password=config.network.password or secrets.token_urlsafe(24),
    )
    config = replace(config, network=network)
    server = replace(config, role="server")
    worker = replace(config, role="worker", threads=1, device="cpu")
    trainer = replace(config, role="trainer", threads=config.threads or max(1, usable_cores() - 1))
    if config.env.real_time and not (config.restart and config.restart.dry_run):
        _require_game(config)
    if config.restart is None or not config.restart.dry_run:
        import_task_module(config.env)
        _require_sendable_episodes(config, make_spec(config.env))
    with _ChildProcesses(server, worker) as children:

        def connect(*arguments: Any) -> tuple[RolloutInterface, Evaluator]:
            # Called when settings, folder and checkpoints have been checked, so that nothing is started in vain.
            children.start()
            return connect_to_workers(*arguments, starts_workers=True)

        objective = train(trainer, connect, propagate_interrupt, children.problem)
    if (problem := children.problem()) is not None:
        raise UserError(f"role=all: {problem}, so the run was stopped and saved. The same command resumes it.")
    return objective


def _require_sendable_episodes(config: Config, spec: ObservationSpec) -> None:
    """Raise if an episode may be larger than a message; of some tasks only the task itself knows the longest.

    Raises:
        UserError: It may be larger.
    """
    max_steps = config.env.max_steps
    if max_steps is None:
        max_steps = gymnasium.spec(split_task_id(config.env.id)[1]).max_episode_steps
    if max_steps is not None:
        require_sendable_episodes(max_steps, RowFormat.of(spec))


def _require_game(config: Config) -> None:
    """Raise unless a worker on this machine could drive the game.

    Raises:
        UserError: Packages, reward file, plugin or window are missing.
    """
    env = make_env(config.env, config.env.train_tracks, config.seed)
    try:
        env.find_game()
    finally:
        env.close()


class _ChildProcesses:
    """Context manager for a server and its workers, which it stops at its end.

    If this process is killed, they notice and end by themselves.

    Args:
        server: Configuration of the server.
        worker: Configuration of the workers; it says how many.
    """

    def __init__(self, server: Config, worker: Config) -> None:
        self._server = _Child("the server", server)
        self._workers = [_Child(f"worker {number}", worker) for number in range(1, worker.workers + 1)]
        self._problem: str | None = None
        self._started, self._checked = False, -float("inf")

    def problem(self) -> str | None:
        """Return why the run cannot continue, if the server or all workers have ended before it; None otherwise."""
        now = time.monotonic()
        if self._started and self._problem is None and now - self._checked >= _CHECK_INTERVAL_S:
            self._checked = now
            self._problem = self._find_problem()
        return self._problem

    def start(self) -> None:
        """Start all processes.

        Raises:
            UserError: One cannot be started; the others are stopped when the context ends.
        """
        network, count = self._server.config.network, len(self._workers)
        text = f"role=all: server at {network.host}:{network.port}, {count} workers, trainer"
        print_line(make_console(), text, "green")
        for child in (self._server, *self._workers):
            child.start()
        self._started = True

    def __enter__(self) -> "_ChildProcesses":
        return self

    def __exit__(self, *_: Any) -> None:
        self._checked = float("inf")  # from here on they end because they are told to
        self._stop()

    def _find_problem(self) -> str | None:
        if not self._server.is_alive():
            return self._server.describe_end()
        if not any(worker.is_alive() for worker in self._workers):
            return self._workers[-1].describe_end()
        return None

    def _stop(self) -> None:
        children = [child.process for child in (*reversed(self._workers), self._server) if child.process.pid]
        for process in children:
            process.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for process in children:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # no effect on one that has ended
            process.join()


class _Child:
    """One part of the run as a child process.

    Args:
        name: Name for messages.
        config: Configuration of the part.
    """

    def __init__(self, name: str, config: Config) -> None:
        self._name, self.config = name, config
        # Spawned: a fork would share locks and threads of torch with this process.
        context = multiprocessing.get_context("spawn")
        self._error, self._sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_run_child, args=(config, os.getpid(), self._sender), name=name)

    def start(self) -> None:
        """Start the process.

        Raises:
            UserError: It cannot be started, or was killed at once.
        """
        try:
            self.process.start()
        except OSError as error:
            raise UserError(f"role=all: {self._name} could not be started ({error.strerror or error}).") from None
        self._sender.close()

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.is_alive()

    def describe_end(self) -> str:
        """Return that a process has ended, and why."""
        reason = f"exit code {self.process.exitcode}"
        with contextlib.suppress(EOFError):  # it was killed
            if self._error.poll():
                reason = self._error.recv()
        return f"{self._name} has ended ({reason})"


def _run_child(config: Config, parent: int, error_sender: Connection) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal is for the parent, which stops all others
    terminate_with_parent(parent)
    with contextlib.ExitStack() as stack:
        if not config.env.real_time:  # the terminal belongs to the trainer, unless the timing of a game must be seen
            devnull = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(devnull))
        try:
            run_server(config.network) if config.role == "server" else run_worker(config, is_child=True)
        except Exception as error:
            with contextlib.suppress(OSError):  # the parent has been killed
                error_sender.send(format_error(error))
