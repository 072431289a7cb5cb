"""Comparison of runs as one HTML page: headline figures, overlaid learning curves, differences of configuration."""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from app.core.atomic_files import atomic_write
from app.core.console import print_line
from app.core.errors import UserError
from app.health.score import best_epoch
from app.reporting.curves import Lines, read_metrics
from app.reporting.number_format import UNKNOWN, duration, lap_time, percent, plus_minus
from app.reporting.page import FigureJson, render_page, traces_json
from app.reporting.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from app.run_list.find_runs import ListedRun
from app.run_list.list_table import epochs_text, held_text, ratio_text
from app.runs.run_folder import RunFolder

_TEMPLATE = Path(__file__).with_name("compare.html.jinja")
_PANEL_HEIGHT = 150  # pixels; six of them fit on a sheet of paper
_GAP = 0.3  # between two panels, as a share of the height that each has with its gap
_MARGINS = {"l": 52, "r": 12, "t": 28, "b": 48}  # pixels
_X_TITLES = {"updates": "updates", "epoch": "epoch", "env_steps": "environment steps", "wall_s": "hours of training"}
_SECONDS_PER_HOUR = 3600

# Okabe and Ito: distinguishable with any kind of colour vision; no two runs differ in the colour alone.
_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK, GREY)
_DASHES = {"solid": "", "dash": "9 6", "dot": "2 4", "dashdot": "9 4 2 4"}  # names of plotly, and lengths for SVG
MOST_RUNS = 2 * len(_COLOURS)

_NOT_COMPARED = ("run_name", "runs_dir", "sweeps_dir")  # which say where a run lies
_ABSENT = object()


@dataclass(frozen=True)
class Panel:
    """A metric that every run is drawn with.

    Attributes:
        metric: Name in ``metrics.jsonl``.
        title: Title with the unit.
        scale: Factor from the metric to that unit.
        is_log: Whether the axis is logarithmic.
        hover: Format of a value in the words of d3.
    """

    metric: str
    title: str
    scale: float = 1.0
    is_log: bool = False
    hover: str = ".4~g"


PANELS = (
    Panel("lap_share_det", "covered share of the lap, deterministic (%)", 100, hover=".1f"),
    Panel("lap_time_det", "lap time (s)", hover=".3f"),
    Panel("return_test_det", "return of an episode, deterministic"),
    Panel("q_mean", "mean Q"),
    Panel("loss_critic", "critic loss", is_log=True),
    Panel("entropy", "entropy of the policy (nats)"),
)


@dataclass(frozen=True)
class LineStyle:
    """Colour of a line and its dashes, by the name that plotly has for them."""

    colour: str
    dash: str

    @property
    def svg_dash(self) -> str:
        """Lengths of strokes and gaps in pixels; empty for a solid line."""
        return _DASHES[self.dash]


def write_comparison(page: Path, runs: Sequence[ListedRun], names: Sequence[str], x: str, console: Console) -> None:
    """Write the page that compares some runs, and print where it is.

    Args:
        page: The page to write.
        runs: The runs to choose from.
        names: Names of runs or patterns of them, in the order of the page.
        x: Metric of the horizontal axis: "updates", "epoch", "env_steps" or "wall_s".
        console: Console to print on.

    Raises:
        UserError: A name fits no run, too few or too many runs fit, one is damaged, or the page cannot be written.
    """
    chosen = choose_runs(runs, names)
    text = render_comparison(chosen, x)
    try:
        with atomic_write(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"page = {page}: cannot be written ({error.strerror}).") from None
    print_line(console, f"compared  {', '.join(run.name for run in chosen)}")
    print_line(console, f"page  {page}")


def choose_runs(runs: Sequence[ListedRun], names: Sequence[str]) -> list[ListedRun]:
    """Return the runs that some names or patterns mean, each once.

    Args:
        runs: The runs to choose from.
        names: Names as the table shows them, or their last parts; ``*`` and ``?`` stand for any characters.

    Raises:
        UserError: A name fits no run, fewer than two or more than MOST_RUNS fit, or one cannot be compared.
    """
    chosen: dict[str, ListedRun] = {}
    for name in names:
        found = {run.name: run for run in runs if fnmatchcase(run.name, name) or fnmatchcase(run.path.name, name)}
        if not found:
            close = difflib.get_close_matches(name, [run.name for run in runs], n=3)
            hint = f"Did you mean {' or '.join(close)}?" if close else "Without compare, the command lists every run."
            raise UserError(f"compare = {name}: no run below runs_dir that meets where has this name. {hint}")
        chosen |= found
    for run in chosen.values():
        if run.facts is None or run.problem is not None or not run.facts.epochs:
            raise UserError(f"compare = {run.name}: {run.problem or 'it has not finished an epoch'}. Leave it out.")
    if not 2 <= len(chosen) <= MOST_RUNS:
        raise UserError(
            f"compare = {', '.join(names)}: a page compares 2 to {MOST_RUNS} runs, and {len(chosen)} of them have "
            "such names. Name others."
        )
    return list(chosen.values())


def render_comparison(runs: Sequence[ListedRun], x: str) -> str:
    """Return the page as HTML; everything from files is escaped.

    Args:
        runs: At least two runs with an epoch each.
        x: Metric of the horizontal axis.
    """
    styles = {run.name: line_style(i) for i, run in enumerate(runs)}
    lines = {run.name: read_metrics(RunFolder(run.path).metrics) for run in runs}
    content = {
        "runs": [
            {"name": run.name, "style": styles[run.name], "figures": _figures(run, lines[run.name])} for run in runs
        ],
        "names": [run.name for run in runs],
        "differences": [
            (key, [_as_text(value) for value in values])
            for key, values in differing_settings([run.facts.settings for run in runs])
        ],
        "written": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    return render_page(_TEMPLATE, content, {"curves": _curves(lines, styles, x)}, {})


def line_style(index: int) -> LineStyle:
    """Return the style of the run with this number, counted from 0; those of MOST_RUNS runs differ."""
    turn, colour = divmod(index, len(_COLOURS))
    return LineStyle(_COLOURS[colour], tuple(_DASHES)[(colour + turn) % len(_DASHES)])


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return every key whose value is not the same in all configurations, with the values; "absent" where it is not.

    Args:
        settings: The configuration of each run, by dotted key.
    """
    keys = sorted({key for one in settings for key in one} - set(_NOT_COMPARED))
    rows = [(key, [one.get(key, _ABSENT) for one in settings]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def _as_text(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    return value if isinstance(value, str) else json.dumps(value)


def _figures(run: ListedRun, lines: Lines) -> list[str]:
    """Return the cells of a run in the table of figures."""
    facts = run.facts
    return [
        facts.state,
        epochs_text(facts),
        f"{facts.updates or 0:,}",
        duration(facts.wall_s),
        UNKNOWN if facts.best_epoch is None else str(facts.best_epoch),
        percent(facts.best_lap_share),
        lap_time(facts.best_lap_time),
        ratio_text(facts),
        held_text(facts),
        plus_minus(facts.best_return, _number(best_epoch(lines).get("return_test_det_std"))),
    ]


def _curves(lines: Mapping[str, Lines], styles: Mapping[str, LineStyle], x: str) -> FigureJson:
    """Return one figure with a panel for each metric that a run has, all above the same horizontal axis."""
    panels = [panel for panel in PANELS if any(_series(one, panel, x)[0] for one in lines.values())]
    rows = max(1, len(panels))
    height = _PANEL_HEIGHT * rows + _MARGINS["t"] + _MARGINS["b"]
    traces = [
        _trace(row, name, _series(one, panel, x), styles[name], panel)
        for row, panel in enumerate(panels, start=1)
        for name, one in lines.items()
    ]
    made = traces_json(traces, height, None, None)
    layout = made["layout"]
    look_x, look_y = layout["xaxis"], layout["yaxis"]
    layout |= {"margin": _MARGINS, "hovermode": "x", "annotations": []}
    for row in range(1, rows + 1):
        number = _axis_number(row)
        layout[f"xaxis{number}"] = look_x | _shared_axis(row, rows, x)
        layout[f"yaxis{number}"] = look_y | {"anchor": f"x{number}", "domain": _heights(row, rows)}
    for row, panel in enumerate(panels, start=1):
        layout["annotations"].append(_panel_title(panel, _heights(row, rows)[1]))
        layout[f"yaxis{_axis_number(row)}"] |= _scale(panel)
    return made


def _axis_number(row: int) -> str:
    """Return the number that plotly gives to the axes of a panel, counted from 1 at the top; the first has none."""
    return str(row) if row > 1 else ""


def _heights(row: int, rows: int) -> list[float]:
    """Return the lower and the upper end of a panel, as shares of the figure from its bottom."""
    gap = _GAP / rows
    height = (1 - gap * (rows - 1)) / rows
    bottom = (rows - row) * (height + gap)
    return [bottom, bottom + height]


def _shared_axis(row: int, rows: int, x: str) -> dict[str, Any]:
    """Return the horizontal axis of a panel; they move together, and the lowest has the numbers and the title."""
    ticks = {"anchor": f"y{_axis_number(row)}", "tickformat": "~g" if x == "wall_s" else ",", "nticks": 8}
    if row < rows:
        return ticks | {"matches": f"x{rows}", "showticklabels": False}
    return ticks | {"title": {"text": _X_TITLES[x], "font": {"size": 13}}}


def _panel_title(panel: Panel, top: float) -> dict[str, Any]:
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": top, "yref": "paper", "yanchor": "bottom"}
    return {"text": panel.title, "showarrow": False, "font": {"size": 13}, **place}


def _scale(panel: Panel) -> dict[str, Any]:
    if panel.is_log:
        return {"type": "log", "tickformat": "~g"}
    return {"range": [0, 103]} if panel.metric.startswith("lap_share") else {}


def _trace(
    row: int, name: str, points: tuple[list[float], list[float]], style: LineStyle, panel: Panel
) -> dict[str, Any]:
    at, values = points
    number = _axis_number(row)
    return {
        "type": "scatter",
        "x": at,
        "y": values,
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
        "mode": "lines" if len(at) > 1 else "markers",
        "line": {"color": style.colour, "width": 2, "dash": style.dash},
        "marker": {"color": style.colour, "size": 7},
        "name": escape(name),  # plotly reads tags in it
        "hovertemplate": f"%{{y:{panel.hover}}}",
    }


def _series(lines: Lines, panel: Panel, x: str) -> tuple[list[float], list[float]]:
    """Return places on the horizontal axis and values, of the epochs that have both."""
    per_unit = _SECONDS_PER_HOUR if x == "wall_s" else 1
    points = [(_number(line.get(x)), _number(line.get(panel.metric))) for line in lines]
    known = [(at, value) for at, value in points if at is not None and value is not None]
    if panel.is_log:
        known = [(at, value) for at, value in known if value > 0]
    return [at / per_unit for at, _ in known], [value * panel.scale for _, value in known]


def _number(value: Any) -> float | None:
    """Return a finite number from a file; None for everything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
