"""The one place where an environment's kind decides what is built."""

from collections.abc import Sequence

import gymnasium

from app.config.schema import CarRacingConfig, EnvConfig, GymConfig, SimConfig, TrackmaniaConfig
from app.envs.car_spec import car_spec
from app.envs.gym_env import GymTask
from app.envs.sim import TrackSim
from app.envs.spec import EnvError, ObservationSpec

__all__ = ["EnvError", "make_env", "make_spec"]


def make_env(cfg: EnvConfig, tracks: Sequence[int], seed: int, render_size: int = 480) -> gymnasium.Env:
    """Build the configured environment.

    Args:
        cfg: The environment's configuration.
        tracks: Seeds of the tracks that an episode is drawn from; a Gymnasium task has none.
        seed: Seeds the environment's own random numbers.
        render_size: Width and height of a video frame in pixels; Gymnasium's own renderers have theirs.

    Returns:
        An environment with ``Dict`` observations, actions in [-1, 1] and the attribute ``spec_``.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    match cfg:
        case SimConfig():
            return TrackSim(cfg, tracks, seed, render_size)
        case CarRacingConfig():
            from app.envs.car_racing import CarRacing  # brings Box2D and pygame, which only this one needs

            return CarRacing(cfg, tracks, seed)
        case GymConfig():
            return GymTask(cfg, seed)
        case TrackmaniaConfig():
            return _make_game(cfg)


def make_spec(cfg: EnvConfig) -> ObservationSpec:
    """Return the observation contract of the configured environment.

    Args:
        cfg: The environment's configuration. A Gymnasium task is opened once to read its spaces.

    Returns:
        The contract that ``make_env(cfg, ...)`` will fulfil.

    Raises:
        EnvError: If the environment cannot be built as configured.
    """
    if not isinstance(cfg, GymConfig):
        return car_spec(cfg)
    task = GymTask(cfg, seed=0)
    task.close()
    return task.spec_


def _make_game(cfg: TrackmaniaConfig) -> gymnasium.Env:
    try:
        from app.envs.trackmania.env import Trackmania  # brings what drives windows and gamepads
    except (ImportError, OSError) as error:
        raise EnvError(
            f"env = {cfg.name}: what drives the game cannot be imported here ({error}). It needs Windows, or Linux "
            "with a display; python app/doctor.py env=trackmania says what is missing. Trainer and server need no game."
        ) from error
    return Trackmania(cfg)
