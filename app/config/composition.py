"""Composition of the settings of ``app/train.py`` from ``conf/``, within a command and outside of one."""

import contextlib
import functools

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from app.config.load import CONF


@functools.lru_cache(maxsize=16)  # reports and tables ask for the same again, and it takes a third of a second
def compose_settings(overrides: tuple[str, ...]) -> DictConfig:
    """Return the settings that the command line gives with these overrides; they must not be changed.

    Args:
        overrides: Overrides as on the command line.

    Raises:
        HydraException: They do not fit ``conf/``.
    """
    is_hydra_running = GlobalHydra.instance().is_initialized()  # as in every command, which composes the same folder
    with contextlib.nullcontext() if is_hydra_running else initialize_config_dir(str(CONF)):
        return compose("config", list(overrides))
