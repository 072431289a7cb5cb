"""The roles of a run that is spread over processes: ``role=server``, ``role=worker`` and ``role=all``."""

import contextlib
import os
import secrets
from dataclasses import replace

from app.config.schema import Config
from app.envs.factory import make_spec
from app.errors import UserError
from app.machine import usable_cores
from app.network.children import Children
from app.network.server import NetworkServer
from app.network.transport import free_port
from app.network.worker import NetworkWorker
from app.reporting.formatting import make_console, tell
from app.training.run import train
from app.training.setup import prepare
from app.training.stop import Stopped, StopRequest


def serve(config: Config) -> None:
    """Be the server until Ctrl-C or SIGTERM.

    Raises:
        UserError: it cannot listen, or has ended by itself.
    """
    console, network = make_console(), config.network
    with StopRequest() as stop:
        server = NetworkServer(network)
        how = "TLS" if network.tls else "no encryption: this machine only"
        tell(console, f"server   {network.bind}:{network.port} ({how}); Ctrl-C ends it", "green")
        try:
            server.serve(stop.check)
        except Stopped:
            tell(console, "server   ends")
        finally:
            server.close()


def work(config: Config) -> None:
    """Be a worker until the trainer has finished, or until Ctrl-C or SIGTERM.

    Raises:
        UserError: the trainer trains another thing, or the environment cannot go on.
    """
    console = make_console()
    device = prepare(config.device, config.threads, config.seed)
    with StopRequest() as stop:
        worker = NetworkWorker(config, make_spec(config.env), device, console, stop.check)
        where = f"{config.network.host}:{config.network.port}"
        tell(console, f"worker   {worker.name} drives {config.env.name} for the trainer behind {where}", "green")
        try:
            worker.serve()
            tell(console, "worker   ends: the trainer has finished", "green")
        except Stopped as stopped:
            tell(console, f"worker   ends: {stopped.reason}")
        finally:
            worker.close()


def play_all(config: Config, one_of_many: bool) -> float:
    """Start a server and workers, be the trainer, and stop them all when it ends, whatever ends it.

    Args:
        config: of the run.
        one_of_many: others follow this one, and Ctrl-C is meant for them, too.

    Returns:
        The objective of the run.

    Raises:
        UserError: something the user can mend, or the server, or the last worker, has ended before the run.
    """
    console = make_console()
    network = replace(
        config.network,
        host="127.0.0.1",
        bind="127.0.0.1",
        port=free_port(),
        password=config.network.password or secrets.token_urlsafe(24),
    )
    config = replace(config, network=network)
    tell(console, f"role=all a server at 127.0.0.1:{network.port}, {config.workers} workers and the trainer", "green")
    server = replace(config, role="server")
    worker = replace(config, role="worker", threads=1, device="cpu")
    trainer = replace(config, role="trainer", threads=config.threads or max(1, usable_cores() - 1))
    with Children() as children:
        children.start("the server", _play, server)
        for number in range(1, config.workers + 1):
            children.start(f"worker {number}", _play, worker)
        objective = train(trainer, one_of_many, children.trouble)
    if children.ended:
        raise UserError(
            f"role=all: {children.ended}, so the run was stopped and saved. The same command goes on with it."
        )
    return objective


def _play(config: Config) -> None:
    """Be one of the parts that ``play_all`` starts; the terminal is the trainer's, unless there is a game to watch."""
    with contextlib.ExitStack() as stack:
        if not config.env.real_time:
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        {"server": serve, "worker": work}[config.role](config)
