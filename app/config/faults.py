"""The twelve faults that made an earlier agent collapse: the eight with a switch, and the four without one.

This is their only home. The rules, the start banner, the experiments, the sweep's search space and the README's table
are made from this list or tested against it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.config.schema import Config

# Updates per environment step where steps are expensive, as in the game: what a search tries, lowest and highest.
UPDATES_PER_EXPENSIVE_STEP = (2, 8)


class Scope(Enum):
    """The models that a fault can occur in."""

    EVERY_MODEL = "every model"
    IMAGES = "models that look at images"
    SHARED_FEATURES = "every model but mlp"
    CONTEXT = "model=droq_contextual"

    def includes(self, config: Config) -> bool:
        """Return whether the configured model and environment have the part in question."""
        match self:
            case Scope.EVERY_MODEL:
                return True
            case Scope.IMAGES:
                return config.env.images and config.model.name != "mlp"
            case Scope.SHARED_FEATURES:
                return config.model.name != "mlp"
            case Scope.CONTEXT:
                return config.model.contextual


@dataclass(frozen=True)
class Switch:
    """The configuration keys that repair a fault or bring it back.

    Attributes:
        keys: Keys as spelt on the command line, each with the path of the value that it sets in ``Config``.
        fixed: The default value of every key, as spelt on the command line.
        broken: The value that brings the fault back.
        is_fixed: Predicate on a value of ``Config``; it holds for ``fixed`` and not for ``broken``.
        healthy: The values that the predicate accepts, in words.
        experiment: Option of ``experiment=`` that repairs only this switch in the agent of ``experiment=collapse``.
            None: the fault is in no experiment, so its broken value is warned about.
    """

    keys: dict[str, str]
    fixed: str
    broken: str
    is_fixed: Callable[[Any], bool]
    healthy: str
    experiment: str | None = None


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        number: Number in the README's table.
        name: Short noun phrase, such as "batch norm in the CNN".
        why: One sentence on the harm that it does.
        scope: The models that it can occur in.
        switch: The keys that select the fixed or the broken behaviour; None if only the fixed one exists.
    """

    number: int
    name: str
    why: str
    scope: Scope
    switch: Switch | None = None


@dataclass(frozen=True)
class FaultState:
    """One fault with a switch, as a run is configured.

    Attributes:
        fault: The fault.
        settings: Value of every key of its switch in this run, as spelt on the command line.
        fixed: Whether the fix is in force; None if the model has no such part.
    """

    fault: Fault
    settings: dict[str, str]
    fixed: bool | None


_DETACH = Switch({"actor.detach": "actor.detach"}, "true", "false", bool, "true", "fix_detach")  # of faults 4 and 5

FAULTS = (
    Fault(
        1,
        "floor on the policy's standard deviation",
        "The standard deviation cannot fall below exp(log_std_min), so at -2 the policy keeps 13.5 % noise for ever.",
        Scope.EVERY_MODEL,
        Switch({"log_std_min": "actor.log_std_min"}, "-20", "-2", lambda low: low <= -5, "-5 or less", "fix_log_std"),
    ),
    Fault(
        2,
        "batch norm in the CNN",
        "Its running statistics follow a replay whose distribution keeps moving, so acting computes another function "
        "than the one that was trained.",
        Scope.IMAGES,
        Switch(
            {"norm": "norm.kind"}, "group", "batch", lambda kind: kind != "batch", "group, layer or none", "fix_norm"
        ),
    ),
    Fault(
        3,
        "dropout in the context encoder",
        "DroQ needs dropout in the Q-heads only; in the encoder it adds noise to the Bellman target.",
        Scope.CONTEXT,
        Switch({"encoder.dropout": "encoder.dropout"}, "0.0", "0.1", lambda rate: rate == 0, "0", "fix_dropout"),
    ),
    Fault(
        4,
        "actor gradient in the shared features",
        "The actor loss overwrites what the critic has learned in the shared backbone.",
        Scope.SHARED_FEATURES,
        _DETACH,
    ),
    Fault(
        5,
        "actor gradient in FiLM and context",
        "The actor loss overwrites the FiLM generator and the context encoder, which the critic relies on.",
        Scope.CONTEXT,
        _DETACH,
    ),
    Fault(
        6,
        "short horizon",
        "The agent looks about 1 / (1 - gamma) steps ahead: 20 steps at 0.95, 100 at 0.99.",
        Scope.EVERY_MODEL,
        Switch(
            {"agent.gamma": "agent.gamma"},
            "0.99",
            "0.95",
            lambda gamma: gamma >= 0.99,
            "0.99 to 0.999",
        ),
    ),
    Fault(
        7,
        "long gradient memory",
        "Adam averages squared gradients over about 1 / (1 - beta2) updates: 1000 at 0.999, longer than the data stays "
        "the same.",
        Scope.SHARED_FEATURES,
        Switch(
            {"agent.betas_critic": "agent.betas_critic", "agent.betas_actor": "agent.betas_actor"},
            "[0.9,0.99]",
            "[0.9,0.999]",
            lambda betas: betas[1] < 0.999,
            "a second value of 0.99 to 0.995",
        ),
    ),
    Fault(
        8,
        "too many updates per environment step",
        "The shared backbone overfits the latest batch.",
        Scope.EVERY_MODEL,
        Switch(
            {"training.max_training_steps_per_env_step": "training.max_training_steps_per_env_step"},
            "0.125",  # of training=default, made for a simulator, whose steps cost next to nothing
            "20",
            lambda ratio: ratio <= UPDATES_PER_EXPENSIVE_STEP[1],
            "{} to {} where environment steps are expensive, as in the game, and less with a simulator".format(
                *UPDATES_PER_EXPENSIVE_STEP
            ),
        ),
    ),
    Fault(
        9,
        "FiLM that is not the identity at the start",
        "A generator that scales and shifts at random distorts every feature before it has learned anything.",
        Scope.CONTEXT,
    ),
    Fault(
        10,
        "acting differs from training",
        "A hidden state that the actor carries along differs from the window that the networks were trained on, so the "
        "window is part of the observation.",
        Scope.CONTEXT,
    ),
    Fault(
        11,
        "window of the next observation not shifted",
        "With the same window for both observations, the Bellman target does not see the step in between.",
        Scope.CONTEXT,
    ),
    Fault(
        12,
        "parameters that no loss trains",
        "Parameters in no optimiser keep their random initial values.",
        Scope.EVERY_MODEL,
    ),
)


def faults_of(config: Config) -> tuple[FaultState, ...]:
    """Return the state in this run of every fault that has a switch, in the order of their numbers."""
    return tuple(_state(fault, fault.switch, config) for fault in FAULTS if fault.switch is not None)


def shown_faults(config: Config) -> tuple[FaultState, ...]:
    """Return what ``faults_of`` returns; nothing for a model without the parts in question, unless a fault is broken.

    Such a model, ``mlp``, has only settings that every agent has.
    """
    states = faults_of(config)
    has_parts = any(state.fixed is not None and state.fault.scope is not Scope.EVERY_MODEL for state in states)
    return states if has_parts or any(state.fixed is False for state in states) else ()


def fault_warnings(config: Config) -> list[str]:
    """Return a sentence for every broken value of a fault that is in no experiment."""
    return [
        f"{key} = {_spelt(value)}: {fault.why} Use {switch.healthy}."
        for fault in FAULTS
        if (switch := fault.switch) is not None and switch.experiment is None and fault.scope.includes(config)
        for key, value in _values(switch, config).items()
        if not switch.is_fixed(value)
    ]


def _state(fault: Fault, switch: Switch, config: Config) -> FaultState:
    values = _values(switch, config)
    fixed = all(map(switch.is_fixed, values.values())) if fault.scope.includes(config) else None
    return FaultState(fault, {key: _spelt(value) for key, value in values.items()}, fixed)


def _values(switch: Switch, config: Config) -> dict[str, Any]:
    return {key: functools.reduce(getattr, path.split("."), config) for key, path in switch.keys.items()}


def _spelt(value: Any) -> str:
    """Return a value as it is spelt on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_spelt, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"
