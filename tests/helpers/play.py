"""Configurations of app/play.py on a short track, where a lap takes seconds."""

import functools
from pathlib import Path

from hydra import compose, initialize_config_dir

from app.config.load import validate
from app.config.schema_commands import PlayConfig
from tests.helpers.make import CONF

SHORT_TRACK = ("env.track.length=300", "env.track.points=60", "env.track.roughness=0.1")


@functools.cache
def _config(overrides: tuple[str, ...]) -> PlayConfig:
    with initialize_config_dir(str(CONF)):
        return validate(compose("play", list(overrides)), PlayConfig)


def play_config(folder: Path, *overrides: str) -> PlayConfig:
    """Return the configuration of the command without images, with its laps below a folder."""
    return _config(("env=sim_lidar", *SHORT_TRACK, f"laps_dir={folder / 'laps'}", "window_size=256", *overrides))


def headless(folder: Path, *overrides: str) -> PlayConfig:
    """Return the configuration of the reference driver without a window."""
    return play_config(folder, "driver=reference", "window=false", *overrides)
