"""Tables of the report as plain text, for the page and for Markdown."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from app.ablation.arms import Arm
from app.ablation.evidence_summary import REFERENCES, ArmEvidence, TaskEvidence
from app.ablation.evidence_text import effect_text, estimate_text, improvement_text, verdict
from app.ablation.run_scores import PRIMARY, SCORES


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        columns: Titles.
        rows: Cells of every row.
        left: Number of columns that are aligned to the left; the others hold numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int


def verdict_table(task: TaskEvidence) -> TextTable:
    """Return what the first score shows of every arm beside the reference arms."""
    names = [name for name in REFERENCES if task.find(name) is not None]
    columns = [title for name in names for title in (f"difference from {name}", f"P(better than {name})")]
    return TextTable(
        ("arm", "verdict", *columns),
        tuple((arm.arm.label, verdict(task, arm), *_effect_cells(arm, names)) for arm in task.arms),
        left=2,
    )


def score_table(task: TaskEvidence) -> TextTable:
    """Return the scores of every arm; of the reference arms also over the epochs of the shorter ones."""
    rows = [
        (
            arm.arm.label,
            str(scores.epochs),
            str(len(scores.seeds)),
            "–" if scores.env_steps is None else f"{scores.env_steps:,.0f}",
            *(estimate_text(scores.estimates.get(score.name), score) for score in SCORES),
        )
        for arm in task.arms
        for scores in arm.scores
    ]
    return TextTable(("arm", "epochs", "seeds", "env steps", *(score.label for score in SCORES)), tuple(rows), left=1)


def arm_table(task: TaskEvidence) -> TextTable:
    """Return what every arm is: faults, task and reason, and the command of one of its runs."""
    rows = [
        (
            arm.arm.label,
            arm.arm.name,
            ", ".join(map(str, arm.arm.faults)),
            f"{task.task}. {arm.arm.reason}",
            run_command(arm.arm),
        )
        for arm in task.arms
    ]
    return TextTable(("arm", "name", "faults", "task, and why", "one run"), tuple(rows), left=5)


def run_command(arm: Arm) -> str:
    """Return the command that makes one run of an arm; empty for an arm that is not of the lab."""
    if not arm.overrides:
        return ""
    given = {override.partition("=")[0] for override in arm.overrides}
    others = {"training.epochs": arm.epochs, "seed": 0}
    missing = [f"{key}={value}" for key, value in others.items() if key not in given]
    return shlex.join(["python", "app/train.py", *arm.overrides, *missing])


def _effect_cells(arm: ArmEvidence, references: Sequence[str]) -> list[str]:
    cells = []
    for name in references:
        found = arm.effects.get(name, {}).get(PRIMARY.name)
        cells += [effect_text(found, PRIMARY), improvement_text(found)]
    return cells
