"""A check, what it found, and how it is made so that nothing it meets can end or hang the others."""

import contextlib
import io
import logging
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from app.config.checks import problems
from app.config.schema import Config
from app.config.schema_network import Role
from app.errors import UserError, in_one_line

State = Literal["ok", "note", "missing", "broken"]

EVERY: tuple[Role, ...] = ("local", "all", "server", "trainer", "worker")
TRAINS: tuple[Role, ...] = ("local", "all", "trainer")
SHARES: tuple[Role, ...] = ("all", "server", "trainer", "worker")

PROBE_S = 3.0  # that a connection or an answer may take
_CHANGE = "Change it."
_IMPORT = "Install this project's packages as docs/install.md says."


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: "ok"; "note": worth knowing, in nobody's way; "missing": is not there; "broken": there, and not usable.
        found: a sentence without its full stop.
        remedy: what to do; only what is ok has none.
    """

    state: State
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Refuse a complaint without a remedy."""
        if self.state != "ok" and not self.remedy:
            raise ValueError(f"{self.found!r} is {self.state} and has no remedy")

    @property
    def is_in_the_way(self) -> bool:
        """Whether what needs the checked thing cannot work."""
        return self.state in ("missing", "broken")

    def softened(self) -> "Finding":
        """Return the finding as one that is in nobody's way."""
        return replace(self, state="note") if self.is_in_the_way else self


@dataclass(frozen=True)
class Check:
    """Something to look at.

    Attributes:
        name: unique among all checks.
        look: returns what it finds; it may raise anything, and take any time.
        needed_by: the roles that cannot do without it.
        remedy: what to do when looking fails, or takes too long.
        seconds: that it may take.
    """

    name: str
    look: Callable[[Config], Finding]
    needed_by: tuple[Role, ...]
    remedy: str
    seconds: float = 10.0


def told(state: State, error: UserError | str, remedy: str = "") -> Finding:
    """Return a finding from sentences of this project: the first says what is wrong, the others what to do.

    Args:
        state: of the finding.
        error: the sentences.
        remedy: what to do if they do not say it.
    """
    found, _, rest = " ".join(str(error).split()).partition(". ")
    return Finding(state, found.rstrip("."), rest or remedy)


def key_of(problem: str) -> str:
    """Return the key that the sentence for a broken rule between keys begins with."""
    return problem.partition(":")[0].partition(" = ")[0]


def broken_rules(config: Config, about: Callable[[str], bool]) -> list[Check]:
    """Return a check for every rule between keys that a run would refuse, of the keys that are asked about."""
    found = {sentence: key_of(sentence) for sentence in problems(config)}
    return [
        Check(key, partial(lambda text, _: told("broken", text, _CHANGE), sentence), (config.role,), _CHANGE)
        for sentence, key in found.items()
        if about(key)
    ]


def examine(check: Check, config: Config) -> Finding:
    """Make a check, in silence and within its time.

    It runs in a thread of its own that is left behind when it hangs, in a driver for example.

    Args:
        check: the check.
        config: the run that is asked for.

    Returns:
        What it found, or that looking failed.
    """
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    with _silence():
        threading.Thread(target=lambda: answers.put(_attempt(check, config)), daemon=True).start()
        try:
            return answers.get(timeout=check.seconds)
        except queue.Empty:
            return Finding("broken", f"no answer within {check.seconds:g} s", check.remedy)


def _attempt(check: Check, config: Config) -> Finding:
    try:
        return check.look(config)
    except UserError as error:
        return told("broken", error, check.remedy)
    except ModuleNotFoundError as error:
        return Finding("broken", in_one_line(error), _IMPORT)
    except BaseException as error:  # a library may even try to exit
        return Finding("broken", in_one_line(error).rstrip(": "), check.remedy)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what libraries print, log and warn of out of the report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
