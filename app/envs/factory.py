"""The one place where an environment's kind decides what is built."""

from collections.abc import Sequence

import gymnasium

from app.config.schema import EnvConfig, SimConfig
from app.envs.gym_env import GymTask
from app.envs.sim import TrackSim, sim_spec
from app.envs.spec import EnvError, ObservationSpec

__all__ = ["EnvError", "make_env", "make_spec"]


def make_env(cfg: EnvConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> gymnasium.Env:
    """Build the configured environment.

    Args:
        cfg: The environment's configuration.
        tracks: Seeds of the tracks that an episode is drawn from; a Gymnasium task has none.
        seed: Seeds the environment's own random numbers.
        render_size: Width and height of a video frame in pixels; a Gymnasium task has its own.

    Returns:
        An environment with ``Dict`` observations, actions in [-1, 1] and the attribute ``spec_``.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    if isinstance(cfg, SimConfig):
        return TrackSim(cfg, tracks, seed, render_size)
    return GymTask(cfg, seed)


def make_spec(cfg: EnvConfig) -> ObservationSpec:
    """Return the observation contract of the configured environment.

    Args:
        cfg: The environment's configuration. A Gymnasium task is opened once to read its spaces.

    Returns:
        The contract that ``make_env(cfg, ...)`` will fulfil.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    if isinstance(cfg, SimConfig):
        return sim_spec(cfg)
    task = GymTask(cfg, seed=0)
    task.close()
    return task.spec_
