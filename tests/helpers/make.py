"""Configurations from the real YAML files, and agents made from them."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from app.agents.sac import SACAgent
from app.config.load import load
from app.config.schema import Config
from app.envs.env_factory import make_spec

CONF = Path(__file__).resolve().parents[2] / "conf"
_PLACE = re.compile(r"(run_name(?==\w[\w.-]*$)|runs_dir|sweeps_dir)=([\w./-]+)")  # changes nothing else
_ADDED = ("restart",)  # groups that are not in the defaults list, so they are added with a plus
_OF_OTHER_COMMANDS = ("lab",)  # groups that app/train.py does not have
OPTIONS = sorted(
    f"{'+' if path.parent.name in _ADDED else ''}{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in _OF_OTHER_COMMANDS
)
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


def raw(*overrides: str, hydra: bool = False) -> DictConfig:
    """Compose the real configuration with overrides, as the command line does."""
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", list(overrides), return_hydra_config=hydra)


def compose(*overrides: str) -> Config:
    """Compose, validate and freeze the real configuration with overrides.

    That takes a fifth of a second, so it is done once for all tests that differ only in where they write.
    """
    places = dict(found.groups() for found in map(_PLACE.fullmatch, overrides) if found)
    settings = tuple(override for override in overrides if not _PLACE.fullmatch(override))
    return replace(_compose(settings), **places)


@cache
def _compose(settings: tuple[str, ...]) -> Config:
    return load(raw(*settings))


def make_agent(*overrides: str, seed: int = 0) -> SACAgent:
    """Build an agent from the real configuration; its spec is at ``agent.spec``."""
    config = compose(*overrides)
    spec = make_spec(config.env)
    torch.manual_seed(seed)
    agent = SACAgent(spec.observation_space(), spec.action_space(), "cpu", config, spec)
    agent.spec = spec
    return agent
