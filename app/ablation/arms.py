"""Arms of a lab: settings of the agent that are compared with one another."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from app.config.rules import require_unique
from app.config.schema_lab import LabConfig
from app.core.errors import UserError


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: Name in folders and tables, such as "fault_1_log_std".
        label: Name for people.
        group: "reference", "fault" (one fault in the fixed agent), "fix" (one fix in the broken agent), or "value".
        faults: Numbers of the faults that it breaks or repairs.
        overrides: Overrides of ``app/train.py`` that make the arm, those of the whole lab first.
        epochs: Epochs of every run.
        reason: Task that it runs on, and why.
    """

    name: str
    label: str
    group: str
    faults: tuple[int, ...]
    overrides: tuple[str, ...]
    epochs: int
    reason: str


def arms_of(lab: LabConfig) -> tuple[Arm, ...]:
    """Return every arm of a lab, in the order of its file."""
    return tuple(
        Arm(name, arm.label, arm.group, arm.faults, (*lab.lab.overrides, *arm.overrides), arm.epochs, arm.reason)
        for name, arm in lab.lab.arms.items()
    )


def select_arms(arms: Sequence[Arm], names: Sequence[str] | None) -> tuple[Arm, ...]:
    """Return the chosen arms in their own order.

    Args:
        arms: Every arm.
        names: Names of the chosen ones; None: all of them.

    Raises:
        UserError: There is no such arm, or one is named twice.
    """
    if names is None:
        return tuple(arms)
    require_unique("arms", names)
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"The arms are {', '.join(known)}."
            raise UserError(f"arms = [{','.join(names)}]: this lab has no arm {name}. {advice}")
    return tuple(arm for arm in arms if arm.name in names)
