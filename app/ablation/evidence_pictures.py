"""Pictures of the evidence by matplotlib, for the Markdown page: learning curves and effects as SVG."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.ablation.effects import Claim, Effect
from app.ablation.evidence_figures import CLAIM_STYLES
from app.ablation.evidence_panels import Dash, Line, Panel, PanelMaker, label_lines
from app.ablation.evidence_summary import REFERENCES, EvidenceSummary
from app.ablation.run_scores import PRIMARY
from app.core.atomic_files import atomic_write
from app.core.system import keep_matplotlib_out_of_home

_COLUMNS = 4
_PANEL = (3.1, 2.2)  # inches
_MARKERS = {Claim.BETTER: "^", Claim.WORSE: "v", Claim.NOTHING: "o", Claim.TOO_FEW: "x"}
_STYLE = {
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "evidence",  # the same table gives the same file
}


def draw_learning_curves(summary: EvidenceSummary, out: Path) -> None:
    """Draw the lap share of every arm over those of the reference arms.

    Args:
        summary: Summary of the evidence.
        out: The SVG file.
    """
    panels = [
        (task.task, panel) for task in summary.tasks for group in PanelMaker(task).learning() for panel in group.panels
    ]
    several = len(summary.tasks) > 1
    rows = max(1, math.ceil(len(panels) / _COLUMNS))
    columns = max(1, min(_COLUMNS, len(panels)))

    def draw(figure: Any) -> None:
        axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for axis, (task, panel) in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, f"{task}: {panel.title}" if several else panel.title)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()

    _save(out, (_PANEL[0] * columns, _PANEL[1] * rows), draw)


def draw_effects(summary: EvidenceSummary, out: Path) -> None:
    """Draw forest plots of the first score, a row for each task, a column for each reference arm.

    Args:
        summary: Summary of the evidence.
        out: The SVG file.
    """
    forests = {task.task: {name: task.effects(name, PRIMARY) for name in REFERENCES} for task in summary.tasks}
    heights = [max(2, *map(len, found.values())) for found in forests.values()]

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(forests), len(REFERENCES), squeeze=False, height_ratios=heights)
        for row, (task, found) in zip(axes, forests.items(), strict=True):
            for axis, (reference, effects) in zip(row, found.items(), strict=True):
                _draw_forest(axis, effects, f"{task}: against {reference}")

    _save(out, (11.0, 0.34 * sum(heights) + 1.0 * len(heights)), draw)


def _save(out: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    keep_matplotlib_out_of_home()
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        with atomic_write(out) as temporary:
            figure.savefig(temporary, metadata={"Date": None})


def _draw_panel(axis: Any, panel: Panel, title: str) -> None:
    for line in panel.lines:
        _draw_line(axis, line)
    axis.set_title(_plain(title))
    axis.set_ylim(0.0, 1.03)
    axis.set_xlim(0, panel.epochs)


def _draw_line(axis: Any, line: Line) -> None:
    curve, colour = line.curve, line.style.colour
    marker = "o" if len(curve.epochs) == 1 else None
    axis.plot(
        curve.epochs, curve.centre, color=colour, linestyle=_line_style(line.style.dash), linewidth=1.5, marker=marker
    )
    axis.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _draw_forest(axis: Any, rows: Sequence[tuple[str, Effect]], title: str) -> None:
    for place, (_, one) in enumerate(rows):
        colour = CLAIM_STYLES[one.claim][0]
        if one.interval is not None:
            axis.plot([one.interval.low, one.interval.high], [place, place], color=colour, linewidth=1.8)
        face = "white" if one.claim is Claim.NOTHING or one.is_weak else colour
        axis.plot(one.difference, place, marker=_MARKERS[one.claim], color=colour, markerfacecolor=face, markersize=7)
    axis.axvline(0.0, color="#333333", linewidth=1)
    axis.set_yticks(range(len(rows)), [_plain(label) for label, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_title(_plain(title))
    axis.set_xlabel(f"difference of {PRIMARY.label}")


def _line_style(dash: Dash) -> Any:
    return (0, tuple(length / 1.5 for length in dash)) if dash else "-"


def _plain(text: str) -> str:
    """Return a text in lines that matplotlib draws as they are: a dollar sign begins mathematics."""
    return "\n".join(label_lines(text)).replace("$", r"\$")
