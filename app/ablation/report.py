"""Report of a lab: an HTML page, and a Markdown page with two pictures, made of a table of evidence."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.ablation.arms import Arm
from app.ablation.evidence_markdown import evidence_markdown
from app.ablation.evidence_page import render_evidence
from app.ablation.evidence_pictures import draw_effects, draw_learning_curves
from app.ablation.evidence_runs import EvidenceRun, read_evidence
from app.ablation.evidence_summary import summarize
from app.core.atomic_files import atomic_write
from app.core.errors import UserError

PEERS = "peers.csv"  # runs of other libraries, beside the table of evidence


def write_report(
    evidence: Path,
    arms: Sequence[Arm],
    folder: Path,
    *,
    command: str | None = None,
    run_overrides: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Path, Path]:
    """Write ``evidence.html`` and ``evidence.md``, the latter with its pictures beside it.

    Args:
        evidence: The table of evidence; ``peers.csv`` beside it is read, too.
        arms: Arms of the lab.
        folder: Folder of the report.
        command: The whole command of the lab, to be shown; None: none is shown.
        run_overrides: Overrides of one run by name of the arm, to be shown; of the other arms, their own.

    Returns:
        Paths of the HTML and of the Markdown page.

    Raises:
        UserError: A table cannot be read or is damaged, or the peers have a name of the lab.
    """
    runs, peers = read_evidence(evidence), _read_peers(evidence.with_name(PEERS))
    _require_other_names(runs, arms, peers, evidence)
    overrides = run_overrides or {}
    arms = [dataclasses.replace(arm, overrides=tuple(overrides.get(arm.name, arm.overrides))) for arm in arms]
    summary = summarize(runs, arms, peers)
    name = evidence.resolve().parent.name
    commands = [] if command is None else [command]
    page, markdown = folder / "evidence.html", folder / "evidence.md"
    curves, effects = folder / "evidence_curves.svg", folder / "evidence_effects.svg"
    if summary.tasks:
        draw_learning_curves(summary, curves)
        draw_effects(summary, effects)
    _write(page, render_evidence(summary, name, commands))
    _write(markdown, evidence_markdown(summary, name, commands, curves.name, effects.name))
    return page, markdown


def _read_peers(path: Path) -> tuple[EvidenceRun, ...]:
    return read_evidence(path, are_peers=True) if path.is_file() else ()


def _require_other_names(
    runs: Sequence[EvidenceRun], arms: Sequence[Arm], peers: Sequence[EvidenceRun], evidence: Path
) -> None:
    """Raise if runs of the peers would count as runs of the lab."""
    names = {run.arm for run in runs} | {arm.name for arm in arms}
    for run in peers:
        if run.arm in names:
            raise UserError(
                f"{evidence.with_name(PEERS)}: arm = {run.arm!r}, task = {run.task!r}, seed = {run.seed}: must not be "
                f"the name of an arm of the lab or of {evidence.name}. Give the peer a name of its own."
            )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
