"""Checks, their findings, and the roles that a machine can take according to them."""

import contextlib
import io
import logging
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from app.config.rules import problems
from app.config.schema import Config, Role
from app.core.errors import UserError, format_error

State = Literal["ok", "note", "missing", "broken"]

ALL_ROLES: tuple[Role, ...] = ("local", "all", "server", "trainer", "worker")
TRAINING_ROLES: tuple[Role, ...] = ("local", "all", "trainer")
NETWORK_ROLES: tuple[Role, ...] = ("all", "server", "trainer", "worker")

PROBE_S = 3.0  # longest wait for a connection or an answer
_CHANGE_IT = "Change it."
_INSTALL = "Install this project's packages as docs/install.md says."


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
        state: "ok"; "note": worth knowing, without harm; "missing": not there; "broken": there, and not usable.
        message: A sentence without its full stop.
        remedy: What to do; empty only if the state is "ok".
    """

    state: State
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Refuse a complaint without a remedy."""
        if self.state != "ok" and not self.remedy:
            raise ValueError(f"{self.message!r} is {self.state} and has no remedy")

    @property
    def is_blocking(self) -> bool:
        """True if a role that needs the checked thing cannot work."""
        return self.state in ("missing", "broken")

    def as_note(self) -> "Finding":
        """Return the finding as one that blocks nothing."""
        return replace(self, state="note") if self.is_blocking else self


def finding_from_error(state: State, error: UserError | str, remedy: str = "") -> Finding:
    """Return the finding that an error message of this project states.

    Args:
        state: State of the finding.
        error: The error or its message: the first sentence says what is wrong, the others what to do.
        remedy: What to do if the message does not say it.
    """
    message, _, rest = " ".join(str(error).split()).partition(". ")
    return Finding(state, message.rstrip("."), rest or remedy)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Name, unique among all checks.
        probe: Function of the configuration that returns the finding; it may raise any error and take any time.
        needed_by: Roles that need what is checked.
        remedy: What to do if the probe raises or takes too long.
        timeout_s: Seconds that the probe may take.
    """

    name: str
    probe: Callable[[Config], Finding]
    needed_by: tuple[Role, ...]
    remedy: str
    timeout_s: float = 10.0


def run_check(check: Check, config: Config) -> Finding:
    """Run a check silently and within its time.

    It runs in a thread of its own, which is abandoned if it hangs, in a driver for example.

    Args:
        check: The check.
        config: The run that is examined.

    Returns:
        The finding of the probe, or one that says why the probe failed.
    """
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    with _silence():
        threading.Thread(target=lambda: answers.put(_probe(check, config)), daemon=True).start()
        try:
            return answers.get(timeout=check.timeout_s)
        except queue.Empty:
            return Finding("broken", f"no answer within {check.timeout_s:g} s", check.remedy)


def _probe(check: Check, config: Config) -> Finding:
    try:
        return check.probe(config)
    except UserError as error:
        return finding_from_error("broken", error, check.remedy)
    except ModuleNotFoundError as error:
        return Finding("broken", format_error(error), _INSTALL)
    except BaseException as error:  # a library may even try to exit
        return Finding("broken", format_error(error).rstrip(": "), check.remedy)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep output, log messages and warnings of libraries out of the report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    discarded = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(discarded), contextlib.redirect_stderr(discarded):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def rule_checks(config: Config, selects: Callable[[str], bool]) -> list[Check]:
    """Return a check for every rule between keys that the run breaks.

    Args:
        config: The run that is examined.
        selects: Predicate on the key that the rule is about.
    """
    broken = {sentence: key_of(sentence) for sentence in problems(config)}
    return [
        Check(key, partial(_broken_rule, sentence), (config.role,), _CHANGE_IT)
        for sentence, key in broken.items()
        if selects(key)
    ]


def _broken_rule(sentence: str, _: Config) -> Finding:
    return finding_from_error("broken", sentence, _CHANGE_IT)


def key_of(problem: str) -> str:
    """Return the key that the sentence about a broken rule begins with."""
    return problem.partition(":")[0].partition(" = ")[0]


CheckResult = tuple[Check, Finding]


@dataclass(frozen=True)
class RoleReadiness:
    """Readiness of this machine for one role.

    Attributes:
        role: The role.
        description: What the machine would do in this role.
        blockers: Names of the checks and keys that prevent it; empty if the machine can take the role.
    """

    role: Role
    description: str
    blockers: tuple[str, ...]


def examined_config(config: Config) -> Config:
    """Return the run to examine: a real-time game without a role, which no run can have, means role=all."""
    if config.env.real_time and config.role == "local":
        return replace(config, role="all", workers=1)
    return config


def assess_roles(config: Config, results: Sequence[CheckResult]) -> list[RoleReadiness]:
    """Return the readiness of this machine for every role that the run can have.

    Args:
        config: The run that is examined.
        results: All checks with their findings.
    """
    name, workers = config.env.name, _with_role(config, "all").workers
    count = "a worker" if workers == 1 else f"{workers} workers"
    descriptions: dict[Role, str] = {
        "local": f"train on env={name} in one process (role=local)",
        "all": f"train on env={name} with {count} on this machine (role=all workers={workers})",
        "server": f"be the server of env={name} (role=server)",
        "trainer": f"be the trainer of env={name} (role=trainer)",
        "worker": f"be a worker of env={name} (role=worker)",
    }
    roles = [role for role in ALL_ROLES if role != "local" or not config.env.real_time]
    return [RoleReadiness(role, descriptions[role], _blockers(_with_role(config, role), results)) for role in roles]


def _with_role(config: Config, role: Role) -> Config:
    if role == config.role:
        return config
    return replace(config, role=role, workers=1 if config.env.real_time else config.workers)


def _blockers(config: Config, results: Sequence[CheckResult]) -> tuple[str, ...]:
    """Return what prevents the role of the run, each name once, in order."""
    checks = [check.name for check, finding in results if config.role in check.needed_by and finding.is_blocking]
    return tuple(dict.fromkeys([*checks, *map(key_of, problems(config))]))
