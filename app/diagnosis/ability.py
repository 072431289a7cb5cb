"""What follows from the findings: which parts of a run this machine can be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.config.checks import problems
from app.config.schema import Config
from app.config.schema_network import Role
from app.diagnosis.finding import EVERY, Check, Finding, key_of

Examined = tuple[Check, Finding]


@dataclass(frozen=True)
class Ability:
    """Whether this machine can be a part of the run.

    Attributes:
        words: what it would do.
        role: the part.
        lacks: what is in the way, in few words each; none: it can.
    """

    words: str
    role: Role
    lacks: tuple[str, ...]


def asked_for(config: Config) -> Config:
    """Return the run to examine: a game without a role, which no run can be, means everything on this machine."""
    if config.env.real_time and config.role == "local":
        return replace(config, role="all", workers=1)
    return config


def abilities(config: Config, examined: Sequence[Examined]) -> list[Ability]:
    """Return what this machine can and cannot do in a run such as this one.

    Args:
        config: the run.
        examined: everything that was found.
    """
    name, workers = config.env.name, _with_role(config, "all").workers
    count = "a worker" if workers == 1 else f"{workers} workers"
    words: dict[Role, str] = {
        "local": f"train on env={name} in one process (role=local)",
        "all": f"train on env={name} with {count} on this machine (role=all workers={workers})",
        "server": f"be the server of env={name} (role=server)",
        "trainer": f"be the trainer of env={name} (role=trainer)",
        "worker": f"be a worker of env={name} (role=worker)",
    }
    roles = [role for role in EVERY if role != "local" or not config.env.real_time]
    return [Ability(words[role], role, tuple(_lacks(_with_role(config, role), examined))) for role in roles]


def _with_role(config: Config, role: Role) -> Config:
    if role == config.role:
        return config
    return replace(config, role=role, workers=1 if config.env.real_time else config.workers)


def _lacks(config: Config, examined: Sequence[Examined]) -> dict[str, None]:
    """Return what is in the way of the run's role, as the keys of a dict: each once, in order."""
    found = [check.name for check, finding in examined if config.role in check.needed_by and finding.is_in_the_way]
    return dict.fromkeys(found + [key_of(sentence) for sentence in problems(config)])
