"""Optuna's figures of a study, in one look, as plain JSON; or a sentence where there is nothing to draw."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna import visualization
from plotly.graph_objects import Figure

from app.sweep.records import Record

COLOURS = {
    "finished": "#2b6cd4",
    "pruned": "#b87300",
    "collapsed": "#cf3f4f",
    "not finite": "#8a44c8",
    "failed": "#7a1f3d",
    "stopped": "#7d8590",
    "running": "#1f9e89",
    "waiting": "#b4bac2",
}
OTHER = "#4a5568"  # a trial that ended in another way

Drawn = dict[str, Any]  # "data" and "layout" of plotly

_GRID = "rgba(128, 128, 128, 0.25)"
_CLEAR = "rgba(0, 0, 0, 0)"


def make_figures(study: optuna.Study, records: Sequence[Record], best: Record | None) -> dict[str, Drawn | str]:
    """Return the figures by name; a text says why there is none.

    Args:
        study: with one objective.
        records: its trials, by number.
        best: of them.
    """
    scored = [record for record in records if record.score is not None]
    searched = {name for record in scored for name in record.params}
    ends = {record.number: record.end for record in records}
    no_score = "" if scored else "No trial has a score yet."
    no_param = no_score or ("" if searched else "Nothing was searched: the trials have no parameters.")
    some = [trial for trial in study.get_trials(deepcopy=False) if trial.intermediate_values]
    return {
        "history": no_score or _history(study, ends),
        "epochs": _epochs(study, ends, best) if some else "No trial has reported the score of an epoch yet.",
        "importances": no_param or _no_importances(scored) or _importances(study, len(searched)),
        "parallel": no_param or _parallel(study, sorted(searched)),
        "timeline": _timeline(study, ends) if any(record.began for record in records) else "No trial has begun yet.",
    }


def make_slices(study: optuna.Study, records: Sequence[Record]) -> dict[str, Drawn]:
    """Return for every parameter how the score depends on it."""
    searched = sorted({name for record in records if record.score is not None for name in record.params})
    ends = {record.number: record.end for record in records}
    short = short_names(searched)
    return {name: _slice(study, name, short[name], ends) for name in searched}


def colour(end: str) -> str:
    """Return the colour of trials that ended in this way."""
    return COLOURS[end] if end in COLOURS else OTHER


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of every dotted name that no other has, beginning with a letter."""
    return {name: _short(name, names) for name in names}


def _short(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if end[:1].isalpha() and sum(f".{other}".endswith(f".{end}") for other in names) == 1:
            return end
    return name


def _no_importances(scored: Sequence[Record]) -> str:
    if len({record.score for record in scored}) < 2:
        return "Importances compare scores, and all trials so far have the same one."
    names = {name for record in scored for name in record.params}
    if all(len({record.params.get(name) for record in scored}) == 1 for name in names):
        return "Importances compare values, and all trials so far have the same ones."
    return ""


def _history(study: optuna.Study, ends: Mapping[int, str]) -> Drawn:
    figure = visualization.plot_optimization_history(study)
    points, best = figure.data[0], figure.data[1]
    points.marker = {"color": [colour(ends[number]) for number in points.x], "size": 8}
    points.text = [ends[number] for number in points.x]
    points.hovertemplate = "trial %{x}: %{y:.4g}, %{text}<extra></extra>"
    best.line = {"color": "#555", "width": 1.5, "shape": "hv"}
    best.hovertemplate = "best so far: %{y:.4g}<extra></extra>"
    return _drawn(figure, 340, "trial", "score")


def _epochs(study: optuna.Study, ends: Mapping[int, str], best: Record | None) -> Drawn:
    figure = visualization.plot_intermediate_values(study)
    for trace in figure.data:
        number = int(trace.name.removeprefix("Trial"))
        is_best = best is not None and number == best.number
        trace.mode, trace.opacity = "lines+markers", 1.0 if is_best else 0.4
        trace.line = {"color": colour(ends[number]), "width": 4 if is_best else 1.2}
        trace.marker = {"color": colour(ends[number]), "size": 4}
        trace.hovertemplate = f"trial {number}, epoch %{{x}}: %{{y:.4g}}<extra></extra>"
    return _drawn(figure, 340, "epoch", "score so far")


def _importances(study: optuna.Study, bars: int) -> Drawn:
    figure = visualization.plot_param_importances(study)
    figure.update_traces(marker={"color": COLOURS["finished"]}, hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    return _drawn(figure, 90 + 26 * bars, "share of the importance", None)


def _slice(study: optuna.Study, name: str, title: str, ends: Mapping[int, str]) -> Drawn:
    figure = visualization.plot_slice(study, [name])
    for trace in figure.data:
        numbers = trace.marker.color  # Optuna colours by the number of the trial
        trace.text = [f"trial {number}, {ends[number]}" for number in numbers]
        trace.marker = {"color": [colour(ends[number]) for number in numbers], "size": 7, "opacity": 0.8}
        trace.hovertemplate = "%{x}: %{y:.4g}, %{text}<extra></extra>"
    if figure.layout.xaxis.type == "log":
        values = [value for trace in figure.data for value in trace.x]
        figure.update_xaxes(dtick=1 if max(values) >= 100 * min(values) else "D2")  # decades, or 1, 2 and 5
    return _drawn(figure, 230, title, None)


def _parallel(study: optuna.Study, names: Sequence[str]) -> Drawn:
    figure = visualization.plot_parallel_coordinate(study, target_name="score")
    short = short_names(names)
    axes = figure.layout.xaxis.ticktext
    figure.update_xaxes(ticktext=[axes[0], *(short[name] for name in names)], tickangle=-35)
    return _drawn(figure, 460, None, None)


def _timeline(study: optuna.Study, ends: Mapping[int, str]) -> Drawn:
    figure = visualization.plot_timeline(study)
    for trace in figure.data:
        trace.text = [f"trial {number}, {ends[number]}" for number in trace.y]
        trace.marker = {"color": [colour(ends[number]) for number in trace.y]}
        trace.hovertemplate = "%{text}<extra></extra>"
    drawn = _drawn(figure, min(700, 140 + 9 * len(ends)), None, "trial")
    drawn["layout"]["yaxis"]["autorange"] = "reversed"
    return drawn


def _drawn(figure: Figure, height: int, x: str | None, y: str | None) -> Drawn:
    """Return a figure without its own title and colours of paper, so that the page decides what it stands on."""
    figure.update_layout(
        template="none",
        title=None,
        width=None,
        height=height,
        showlegend=False,
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        margin={"l": 56, "r": 36, "t": 16, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#333"},
    )
    look = {"automargin": True, "gridcolor": _GRID, "zerolinecolor": _GRID, "exponentformat": "e"}
    figure.update_xaxes(title={"text": x, "font": {"size": 13}}, **look)
    figure.update_yaxes(title={"text": y, "font": {"size": 13}}, **look)
    return json.loads(figure.to_json())
