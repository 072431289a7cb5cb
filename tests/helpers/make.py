"""Configurations from the real YAML files, and agents made from them."""

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from app.agents.sac import SACAgent
from app.config.load import load
from app.config.schema import Config
from app.envs.env_factory import make_spec

CONF = Path(__file__).resolve().parents[2] / "conf"
_PLACE = re.compile(r"(run_name(?==[a-zA-Z_][\w.-]*$)|runs_dir|sweeps_dir)=([\w./-]+)")  # changes nothing else
_ADDED = ("restart",)  # groups that are not in the defaults list, so they are added with a plus
_OF_OTHER_COMMANDS = ("lab",)  # groups that app/train.py does not have
OPTIONS = sorted(
    f"{'+' if path.parent.name in _ADDED else ''}{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in _OF_OTHER_COMMANDS
)
_OF_NO_NETWORK = ("+restart", "health", "logger", "network", "pruner", "replay", "sweep", "training")
NETWORK_OPTIONS = [option for option in OPTIONS if option.partition("=")[0] not in _OF_NO_NETWORK]
OTHER_OPTIONS = [option for option in OPTIONS if option not in NETWORK_OPTIONS]
_REQUIREMENTS = {  # of options that do not fit the defaults
    "env=gym": ("model=mlp",),
    "env=trackmania": ("role=all", "workers=1"),
    "actor=mlp": ("model=droq",),
    "critic=droq": ("model=droq",),
    "critic=plain": ("model=shared_backbone",),
    "sweep=optuna": ("hydra/sweeper=optuna",),
    "sweep=core": ("hydra/sweeper=optuna",),
    "sweep=legacy": ("hydra/sweeper=optuna",),
}


def with_requirements(option: str) -> tuple[str, ...]:
    """Return an option of a group with the overrides that it requires."""
    return (option, *_REQUIREMENTS.get(option, ()))


def raw(*overrides: str, hydra: bool = False, name: str = "config") -> DictConfig:
    """Compose the real configuration with overrides, as the command line does."""
    with initialize_config_dir(str(CONF)):
        return _with_values(overrides, partial(_compose_once, name, hydra))


def compose(*overrides: str) -> Config:
    """Compose, validate and freeze the real configuration with overrides."""
    places = dict(found.groups() for found in map(_PLACE.fullmatch, overrides) if found)
    return replace(_load_once(tuple(text for text in overrides if not _PLACE.fullmatch(text))), **places)


class QuickLoader:
    """Hydra's loader of configurations for the jobs of a launcher, which composes the same groups once."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Compose the configuration of a job."""
        name, hydra = master_config.hydra.job.config_name, tuple(master_config.hydra.overrides.hydra)
        cfg = _with_values(sweep_overrides, partial(_load_sweep_once, name, hydra))
        OmegaConf.copy_cache(master_config, cfg)
        return cfg


def _with_values(overrides: Sequence[str], compose: Callable[[tuple[str, ...]], DictConfig]) -> DictConfig:
    """Compose what changes groups, once in a process, and set single values in a copy, as Hydra does at the end.

    Composing takes a fifth of a second, and most tests differ in single values only.

    Args:
        overrides: Overrides of the command line.
        compose: Composes the configuration with overrides; the result is not changed.
    """
    values = [text for text in overrides if _is_value(text)]
    try:
        cfg = copy.deepcopy(compose(tuple(text for text in overrides if not _is_value(text))))
        parsed = OverridesParser.create().parse_overrides(values)
        if any(override.is_sweep_override() for override in parsed):
            raise HydraException
        with read_write(cfg.hydra) if "hydra" in cfg else nullcontext():
            for override in parsed:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            if values and "hydra" in cfg:
                cfg.hydra.overrides.hydra.extend([text for text in values if text.startswith("hydra")])
                cfg.hydra.overrides.task = [text for text in overrides if not text.startswith("hydra")]
    except (HydraException, OmegaConfBaseException):
        return copy.deepcopy(compose(tuple(overrides)))  # with Hydra's own message
    return cfg


def _is_value(override: str) -> bool:
    """Return whether an override changes a single value, and no group."""
    key, equals, _ = override.partition("=")
    is_plain = re.fullmatch(r"[a-z]\w*(\.\w+)*", key) is not None
    return bool(equals) and is_plain and not (CONF / key).is_dir()


@cache
def _compose_once(name: str, hydra: bool, overrides: tuple[str, ...]) -> DictConfig:
    return hydra_compose(name, list(overrides), return_hydra_config=hydra)


@cache
def _load_sweep_once(name: str, hydra: tuple[str, ...], overrides: tuple[str, ...]) -> DictConfig:
    return GlobalHydra.instance().config_loader().load_configuration(name, [*hydra, *overrides], RunMode.RUN)


@cache
def _load_once(settings: tuple[str, ...]) -> Config:
    return load(raw(*settings))


def make_agent(*overrides: str, seed: int = 0, device: str = "cpu") -> SACAgent:
    """Build an agent from the real configuration; its spec is at ``agent.spec``."""
    config = compose(*overrides)
    spec = make_spec(config.env)
    torch.manual_seed(seed)
    agent = SACAgent(spec.observation_space(), spec.action_space(), device, config, spec)
    agent.spec = spec
    return agent
