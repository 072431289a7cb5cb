"""Which part of a run this process is."""

import math

from app.config.schema import Config


def play(config: Config, one_of_many: bool = False) -> float:
    """Be what ``role`` says.

    Args:
        config: the validated configuration.
        one_of_many: others follow this one, and Ctrl-C is meant for them, too.

    Returns:
        The objective of the run; NaN for a server and a worker, which have none.

    Raises:
        UserError: something the user can mend, in words.
    """
    if config.role in ("local", "trainer"):
        from app.training.run import train

        return train(config, one_of_many)
    from app.network import roles

    if config.role == "all":
        return roles.play_all(config, one_of_many)
    {"server": roles.serve, "worker": roles.work}[config.role](config)
    return math.nan
