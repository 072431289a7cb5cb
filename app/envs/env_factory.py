"""Factory of environments: builds the environment of a configuration, or its observation contract alone."""

from collections.abc import Sequence

import gymnasium

from app.config.schema_env import CarRacingConfig, EnvConfig, GymConfig, SimConfig, TrackmaniaConfig
from app.envs.driving.sim_env import SimEnv
from app.envs.gym_env import GymEnv
from app.envs.spec import EnvError, ObservationSpec, make_car_spec

__all__ = ["EnvError", "make_env", "make_spec"]


def make_env(config: EnvConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> gymnasium.Env:
    """Build the configured environment.

    Args:
        config: Parameters of the environment.
        tracks: Seeds of the tracks that episodes are drawn from; tasks without tracks ignore them.
        seed: Seed of the environment's own random numbers.
        render_size: Width and height of a video frame of a car on a track in pixels; a Gymnasium task has its own.

    Returns:
        An environment with ``Dict`` observations, actions in [-1, 1] and the attribute ``observation_spec``.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    match config:
        case SimConfig():
            return SimEnv(config, tracks, seed, render_size)
        case CarRacingConfig():
            return _make_car_racing_env(config, tracks, seed, render_size)
        case GymConfig():
            return GymEnv(config, seed)
        case TrackmaniaConfig():
            return _make_trackmania_env(config)


def make_spec(config: EnvConfig) -> ObservationSpec:
    """Return the observation contract of the configured environment.

    Args:
        config: Parameters of the environment. A Gymnasium task is opened once to read its spaces.

    Returns:
        The ``observation_spec`` of ``make_env(config, ...)``.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    if not isinstance(config, GymConfig):
        return make_car_spec(config)
    env = GymEnv(config, seed=0)
    env.close()
    return env.observation_spec


def _make_car_racing_env(config: CarRacingConfig, tracks: Sequence[int], seed: int, render_size: int) -> gymnasium.Env:
    try:
        from app.envs.driving.car_racing import CarRacingEnv  # loads Box2D and pygame, which only this one needs
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise EnvError(
            f"env = {config.name}: a package of the game cannot be imported ({' '.join(str(error).split())}). Install "
            'it with python -m pip install -c constraints.txt "gymnasium[box2d]", or use env=sim.'
        ) from error
    return CarRacingEnv(config, tracks, seed, render_size)


def _make_trackmania_env(config: TrackmaniaConfig) -> gymnasium.Env:
    try:
        from app.envs.trackmania.env import TrackmaniaEnv  # loads drivers of windows and gamepads
    except (ImportError, OSError) as error:
        raise EnvError(
            f"env = {config.name}: the packages that drive the game cannot be imported here ({error}). They need "
            "Windows, or Linux with a display; python app/doctor.py env=trackmania lists what is missing. Trainer and "
            "server need no game."
        ) from error
    return TrackmaniaEnv(config)
