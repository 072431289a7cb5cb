"""Laps of the reference driver, which show what can be driven. Imports no torch."""

from collections.abc import Callable

import gymnasium

from app.config.schema_env import SimConfig
from app.envs.driving.reference_driver import ReferenceDriver
from app.envs.driving.sim_env import SimEnv
from app.evaluation.episodes import Start, run_episodes
from app.evaluation.results import Episode


def drive_reference_lap(
    config: SimConfig, track: int, start: float, wrap: Callable[[SimEnv], gymnasium.Env] = lambda env: env
) -> Episode:
    """Drive one episode of the simulator with the reference driver.

    Args:
        config: Configuration of the environment.
        track: Seed of the track.
        start: Share of the track at which the episode begins, in [0, 1).
        wrap: Returns the environment that is stepped, around the simulator that the driver knows.
    """
    env = SimEnv(config, [track], seed=0)
    driver = ReferenceDriver(config, env.track)
    (episode,) = run_episodes([wrap(env)], [Start(track, start)], lambda *_: [driver.act(env.car)])
    env.close()
    return episode
