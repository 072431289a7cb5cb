"""Composition root: the role of this process, with its source of environment steps and its evaluator."""

import math

from app.config.schema import Config
from app.core.console import make_console


def run_role(config: Config, propagate_interrupt: bool = False) -> float:
    """Run the role given by ``config.role``.

    Args:
        config: The validated configuration.
        propagate_interrupt: Whether Ctrl-C ends the whole command, because more runs follow this one.

    Returns:
        The objective of the run; NaN for a server and a worker, which have none.

    Raises:
        UserError: The role cannot run as configured; the message says what to do.
    """
    if config.role in ("server", "worker"):
        from app.distributed.launcher import run_server, run_worker

        run_server(config.network) if config.role == "server" else run_worker(config)
        return math.nan
    objective = _train(config, propagate_interrupt)
    if config.restart is None or not config.restart.dry_run:
        _examine_collapse(config, propagate_interrupt)
    return objective


def _train(config: Config, propagate_interrupt: bool) -> float:
    # Imported here: a run on one machine opens no port and starts no process.
    from app.training.run import train

    if config.role == "local":
        from app.distributed.local_continuation import continue_locally

        return train(config, continue_locally, propagate_interrupt)

    from app.distributed.launcher import connect_to_workers, run_all

    if config.role == "trainer":
        return train(config, connect_to_workers, propagate_interrupt)
    return run_all(config, propagate_interrupt)


def _examine_collapse(config: Config, propagate_interrupt: bool) -> None:
    """Write the post-mortem of a run that has collapsed; Ctrl-C skips it."""
    from app.ablation.run_post_mortem import write_after_collapse

    try:
        write_after_collapse(config, make_console())
    except KeyboardInterrupt:
        if propagate_interrupt:
            raise
