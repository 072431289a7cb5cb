"""What the start banner says, gathered from the configuration and from what was built."""

import math

import torch

from app.config.checks import warnings
from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor_critic import HybridActorCritic
from app.reporting.banner import BannerFacts, FaultFact, ReplayFacts, ScheduleFacts
from app.runs.folder import RunFolder
from app.training.setup import Setup


def fault_facts(config: Config, spec: ObservationSpec) -> tuple[FaultFact, ...]:
    """The eight faults with this run's setting of each; ``fixed`` is None where the model has no such part."""
    agent, utd = config.agent, config.training.max_training_steps_per_env_step
    contextual, trunk = config.model.contextual, config.model.name != "mlp"
    detach = config.actor.detach
    betas2 = (agent.betas_critic[1], agent.betas_actor[1])
    rows = [
        (
            "floor on the policy's std",
            "log_std_min",
            f"{config.actor.log_std_min:g}",
            config.actor.log_std_min <= -5,
            True,
        ),
        (
            "batch norm in the CNN",
            "norm",
            config.norm.kind,
            config.norm.kind != "batch",
            spec.image_shape and trunk,
        ),
        (
            "dropout in the context encoder",
            "encoder.dropout",
            f"{config.encoder.dropout:g}",
            config.encoder.dropout == 0,
            contextual,
        ),
        ("actor gradient in the trunk", "actor.detach", str(detach).lower(), detach, trunk),
        ("actor gradient in FiLM and context", "actor.detach", str(detach).lower(), detach, contextual),
        ("short horizon", "agent.gamma", f"{agent.gamma:g}", agent.gamma >= 0.99, True),
        (
            "long gradient memory",
            "agent.betas_*[1]",
            f"{betas2[0]:g}, {betas2[1]:g}",
            max(betas2) < 0.999,
            trunk,
        ),
        ("too many updates per step", "training.max_training_steps_per_env_step", f"{utd:g}", utd <= 8, True),
    ]
    return tuple(
        FaultFact(number, about, switch, value, fixed if present else None)
        for number, (about, switch, value, fixed, present) in enumerate(rows, 1)
    )


def banner_facts(config: Config, setup: Setup, model: HybridActorCritic, folder: RunFolder) -> BannerFacts:
    """Everything the banner shows."""
    training, spec, forecast, device = config.training, setup.spec, setup.memory, setup.device
    updates = training.updates
    env_steps = training.start_training + math.ceil(updates / training.max_training_steps_per_env_step)
    observation = {"floats": str(spec.float_dim)}
    if spec.image_shape:
        observation["images"] = " × ".join(map(str, spec.image_shape)) + " uint8"
    if spec.window:
        observation["window"] = f"{spec.window} × {spec.window_dim}"
    return BannerFacts(
        run_name=folder.path.name,
        run_dir=str(folder.path),
        model=config.model.name,
        device=device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        threads=torch.get_num_threads(),
        seed=config.seed,
        environment=config.env.name,
        observation=observation,
        parameters=model.parts(),
        replay=ReplayFacts(forecast.capacity, forecast.bytes_per_step, forecast.total_bytes, forecast.available_bytes),
        schedule=ScheduleFacts(
            training.epochs,
            updates,
            env_steps,
            training.max_training_steps_per_env_step,
            config.replay.batch_size,
        ),
        faults=fault_facts(config, spec),
        warnings=tuple(warnings(config)),
    )
