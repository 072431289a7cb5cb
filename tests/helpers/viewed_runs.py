"""Run folders with a policy that drives, without any training: full gas, hardly any brake, no steering."""

from pathlib import Path

import torch

from app.agents.sac import SACAgent
from app.config.schema import Config
from app.envs.env_factory import make_spec
from app.models.actor import DrivingActor
from app.runs.config_file import write_config
from app.runs.fingerprint import fingerprint
from app.runs.run_folder import RunFolder
from tests.helpers.make import compose
from tests.helpers.runs import TINY

_PEDALS = (1.2, -2.0, 0.0)  # added to the mean of the policy's Gaussian


def make_viewed_run(folder: Path, *overrides: str, seed: int = 0, result: dict | None = None) -> RunFolder:
    """Make the folder of a tiny run with a best policy, as training leaves it behind."""
    config = compose(*TINY, *overrides, f"runs_dir={folder.parent}", f"seed={seed}")
    run, (actor, agent) = RunFolder(folder), _make_networks(config, seed)
    run.save_best(actor, agent.model, {"best_epoch": 7} if result is None else result, fingerprint(config))
    write_config(run.config, config)
    return run


def _make_networks(config: Config, seed: int) -> tuple[DrivingActor, SACAgent]:
    spec = make_spec(config.env)
    torch.manual_seed(seed)
    agent = SACAgent(spec.observation_space(), spec.action_space(), "cpu", config, spec)
    with torch.no_grad():
        for parameter in agent.model.parameters():  # so that FiLM, gates and attention are not at their zeros
            parameter += 0.05 * torch.randn_like(parameter)
        agent.model.policy.out.weight *= 0.2
        agent.model.policy.out.bias[:3] = torch.tensor(_PEDALS)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    actor.copy_from(agent.model)
    return actor, agent
