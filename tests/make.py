"""Small real objects for tests: the real configuration, shrunk; agents; random batches."""

from pathlib import Path

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from app.agents.droq import DroQAgent
from app.config.load import load
from app.config.schema import Config
from app.envs.factory import make_spec
from app.envs.spec import ObservationSpec
from app.replay.batch import Batch

CONF = Path(__file__).resolve().parents[1] / "conf"
_ADDED = ("restart",)  # groups that are not in the defaults list: chosen with a plus
OPTIONS = sorted(
    f"{'+' if path.parent.name in _ADDED else ''}{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml")
)
_COMPANY = {  # options that do not suit the defaults
    "env=gym": ("model=mlp",),
    "env=trackmania": ("role=all", "workers=1"),
    "actor=mlp": ("model=droq",),
    "critic=droq": ("model=droq",),
    "critic=plain": ("model=shared_backbone",),
    "sweep=optuna": ("hydra/sweeper=optuna",),
    "sweep=core": ("hydra/sweeper=optuna",),
    "sweep=legacy": ("hydra/sweeper=optuna",),
}


def with_company(option: str) -> tuple[str, ...]:
    """One option of a group, with what it needs beside it."""
    return (option, *_COMPANY.get(option, ()))


def raw(*overrides: str, hydra: bool = False) -> DictConfig:
    """Compose the real configuration with overrides, as the command line would."""
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", list(overrides), return_hydra_config=hydra)


def compose(*overrides: str) -> Config:
    """The same, typed and checked."""
    return load(raw(*overrides))


def make_agent(*overrides: str, seed: int = 0) -> DroQAgent:
    """Build an agent from the real configuration; its spec is at ``agent.spec``."""
    config = compose(*overrides)
    spec = make_spec(config.env)
    torch.manual_seed(seed)
    agent = DroQAgent(spec.space(), spec.action_space(), "cpu", config, spec)
    agent.spec = spec
    return agent


def make_observations(spec: ObservationSpec, size: int) -> dict[str, torch.Tensor]:
    """Random observations in plausible units."""
    obs = {"floats": torch.randn(size, spec.float_dim)}
    if spec.image_shape:
        obs["images"] = torch.randint(0, 256, (size, *spec.image_shape), dtype=torch.uint8)
    if spec.window:
        obs["window"] = torch.randn(size, spec.window, spec.window_dim)
    return obs


def make_batch(spec: ObservationSpec, size: int, horizons: int = 3) -> Batch:
    """A random batch without an episode's end."""
    none = torch.zeros(size)
    return Batch(
        obs=make_observations(spec, size),
        action=torch.rand(size, spec.action_dim) * 2 - 1,
        reward=torch.randn(size),
        next_obs=make_observations(spec, size),
        terminated=none,
        truncated=none,
        discount=none + 0.99,
        future_rewards=torch.randn(size, horizons),
        future_mask=torch.ones(size, horizons),
    )
