"""Report of a lab as one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.ablation.effects import Claim
from app.ablation.evidence_figures import CLAIM_STYLES, forest_figure, panel_figure
from app.ablation.evidence_panels import PanelGroup, PanelMaker
from app.ablation.evidence_summary import REFERENCES, EvidenceSummary, TaskEvidence
from app.ablation.evidence_text import headline, method
from app.ablation.report_tables import arm_table, score_table, verdict_table
from app.ablation.run_scores import SCORES, Score
from app.reporting.number_format import duration
from app.reporting.page import FigureJson, render_page

_TEMPLATE = Path(__file__).with_name("evidence.html.jinja")
_LARGE, _SMALL = 260, 190  # heights in pixels
_CLAIM_MARKS = (  # in the legend: claim, text, and a character like its marker
    (Claim.BETTER, "better", "▲"),
    (Claim.BETTER, "better, weak", "△"),
    (Claim.WORSE, "worse", "▼"),
    (Claim.WORSE, "worse, weak", "▽"),
    (Claim.NOTHING, "shows nothing", "○"),
    (Claim.TOO_FEW, "too few seeds", "✕"),
)


def render_evidence(summary: EvidenceSummary, name: str, commands: Sequence[str]) -> str:
    """Return the page as HTML; everything from files is escaped.

    Args:
        summary: Summary of the evidence.
        name: Name of the lab.
        commands: Commands that made it.
    """
    drawn: dict[str, FigureJson] = {}
    tasks = [_task_content(task, drawn) for task in summary.tasks]
    content = {
        "name": name,
        "facts": _facts(summary),
        "tasks": tasks,
        "claims": [(text, CLAIM_STYLES[claim][0], mark) for claim, text, mark in _CLAIM_MARKS],
        "method": method(summary),
        "commands": commands,
        "problems": summary.problems,
        "not_begun": [arm.label for arm in summary.not_begun],
    }
    return render_page(_TEMPLATE, content, drawn, {})


def _facts(summary: EvidenceSummary) -> dict[str, str]:
    runs = [run for task in summary.tasks for arm in task.arms for run in arm.runs]
    wall_s = sum(float(np.nan_to_num(run.series("wall_s", run.last_epoch)[-1])) for run in runs if run.epochs)
    return {
        "runs": str(len(runs)),
        "epochs": f"{sum(len(run.epochs) for run in runs):,}",
        "time of all runs": duration(wall_s),
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
    }


def _task_content(task: TaskEvidence, drawn: dict[str, FigureJson]) -> dict[str, Any]:
    """Return what the template shows of a task, and add its figures to ``drawn``."""
    maker = PanelMaker(task)
    return {
        "task": task.task,
        "headline": headline(task),
        "verdicts": verdict_table(task),
        "forests": _forests(task, SCORES[:1], drawn),
        "learning": _panel_groups(maker.learning(), _LARGE, drawn),
        "mechanisms": _panel_groups(maker.mechanisms(), _LARGE, drawn),
        "measures": _panel_groups(maker.measures(), _SMALL, drawn),
        "other_forests": _forests(task, SCORES[1:], drawn),
        "scores": score_table(task),
        "arms": arm_table(task),
    }


def _panel_groups(groups: Sequence[PanelGroup], height: int, drawn: dict[str, FigureJson]) -> list[dict[str, Any]]:
    return [
        {
            "title": group.title,
            "text": group.text,
            "legend": group.legend,
            "figures": [_add(drawn, panel.title, panel_figure(panel, height)) for panel in group.panels],
        }
        for group in groups
    ]


def _add(drawn: dict[str, FigureJson], title: str, figure: FigureJson) -> dict[str, str]:
    """Add a figure under a new name, and return name and title."""
    key = f"figure-{len(drawn)}"
    drawn[key] = figure
    return {"id": key, "title": title}


def _forests(task: TaskEvidence, scores: Sequence[Score], drawn: dict[str, FigureJson]) -> list[dict[str, str]]:
    """Return a forest plot for each of the scores and every reference arm."""
    found = []
    for score in scores:
        for reference in REFERENCES:
            rows = task.effects(reference, score)
            if rows:
                found.append(_add(drawn, f"{score.label}, against {reference}", forest_figure(rows, score)))
    return found
