"""Composition root: the role of this process, with its source of environment steps and its evaluator."""

import math

from app.config.schema import Config


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
    # Imported here: a run on one machine needs nothing of the network.
    from app.training.run import train

    if config.role == "local":
        return train(config, propagate_interrupt=propagate_interrupt)

    from app.distributed.launcher import connect_to_workers, run_all, run_server, run_worker

    match config.role:
        case "trainer":
            return train(config, connect_to_workers, propagate_interrupt)
        case "all":
            return run_all(config, propagate_interrupt)
        case "server":
            run_server(config.network)
        case "worker":
            run_worker(config)
    return math.nan
