"""Figures of a study by Optuna in a common style, as plain JSON, or a sentence if there is nothing to draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from app.core.system import keep_matplotlib_out_of_home
from app.reporting.page import FigureJson, figure_json
from app.sweep.report.records import TrialRecord, best_trial

keep_matplotlib_out_of_home()
from optuna import visualization  # noqa: E402  (imports matplotlib)

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
OTHER_COLOUR = "#4a5568"  # of trials that ended in another way
_FEW = 12  # whole numbers that an axis has a tick for each of


def make_figures(
    study: optuna.Study, records: Sequence[TrialRecord], best: TrialRecord | None
) -> dict[str, FigureJson | str]:
    """Return the figures by name, or a sentence in place of a figure that cannot be drawn yet.

    Args:
        study: Study with one objective.
        records: Its trials, by number.
        best: The best of them.
    """
    scored = [record for record in records if record.score is not None]
    searched = {name for record in scored for name in record.params}
    ends = {record.number: record.end for record in records}
    no_score = None if scored else "No trial has a score yet."
    no_param = no_score or (None if searched else "Nothing was searched: the trials have no parameters.")
    drawn = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
    reported = [trial for trial in drawn if trial.intermediate_values]
    return {
        "history": no_score or _history(study, records, ends),
        "epochs": _epochs(study, ends, best) if reported else "No trial has reported the score of an epoch yet.",
        "importances": no_param or _importances_problem(scored) or _importances(study, len(searched)),
        "parallel": no_param or _parallel(study, sorted(searched)),
        "timeline": _timeline(study, ends) if any(record.started for record in records) else "No trial has begun yet.",
    }


def make_slices(study: optuna.Study, records: Sequence[TrialRecord]) -> dict[str, FigureJson]:
    """Return a figure of the score over the values of every parameter."""
    searched = sorted({name for record in records if record.score is not None for name in record.params})
    ends = {record.number: record.end for record in records}
    short = short_names(searched)
    return {name: _slice(study, name, short[name], ends) for name in searched}


def colour(end: str) -> str:
    """Return the colour of trials with this end."""
    return COLOURS.get(end, OTHER_COLOUR)


def latest_space(study: optuna.Study, name: str) -> BaseDistribution:
    """Return the space of a parameter in the last trial that has it: launches may change it."""
    trials = reversed(study.get_trials(deepcopy=False))
    return next(trial.distributions[name] for trial in trials if name in trial.distributions)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for every dotted name its shortest end that no other name has and that begins with a letter."""
    return {name: _short_name(name, names) for name in names}


def _short_name(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if end[:1].isalpha() and sum(f".{other}".endswith(f".{end}") for other in names) == 1:
            return end
    return name


def _importances_problem(scored: Sequence[TrialRecord]) -> str | None:
    """Return why the importances of the parameters cannot be computed, or None."""
    if len({record.score for record in scored}) < 2:
        return "Importances compare scores, and all trials so far have the same one."
    names = {name for record in scored for name in record.params}
    if all(len({record.params.get(name) for record in scored}) == 1 for name in names):
        return "Importances compare values, and all trials so far have the same ones."
    return None


def _history(study: optuna.Study, records: Sequence[TrialRecord], ends: Mapping[int, str]) -> FigureJson:
    figure = visualization.plot_optimization_history(study)
    points, best = figure.data[0], figure.data[1]
    points.marker = {"color": [colour(ends[number]) for number in points.x], "size": 8}
    points.text = [ends[number] for number in points.x]
    points.hovertemplate = "trial %{x}: %{y:.4g}, %{text}<extra></extra>"
    best.x, best.y = _best_so_far(records, study.direction.name.lower())  # without trials that collapsed
    best.line = {"color": "#555", "width": 1.5, "shape": "hv"}
    best.hovertemplate = "best so far: %{y:.4g}<extra></extra>"
    _whole_ticks(figure.layout.xaxis, list(ends))
    return figure_json(figure, 340, "trial", "score")


def _best_so_far(records: Sequence[TrialRecord], direction: str) -> tuple[list[int], list[float]]:
    """Return the numbers of the trials from the first good one on, and the best score until each."""
    numbers, scores, best = [], [], None
    for record in records:
        best = best_trial([record] if best is None else [best, record], direction)
        if best is not None:
            numbers.append(record.number)
            scores.append(best.score)
    return numbers, scores


def _whole_ticks(axis: Any, values: Sequence[int]) -> None:
    """Let an axis of whole numbers have no ticks between them."""
    if max(values) - min(values) <= _FEW:
        axis.dtick, axis.tickformat = 1, ",d"


def _epochs(study: optuna.Study, ends: Mapping[int, str], best: TrialRecord | None) -> FigureJson:
    figure = visualization.plot_intermediate_values(study)
    for trace in figure.data:
        number = int(trace.name.removeprefix("Trial"))
        is_best = best is not None and number == best.number
        trace.mode, trace.opacity = "lines+markers", 1.0 if is_best else 0.4
        trace.line = {"color": colour(ends[number]), "width": 4 if is_best else 1.2}
        trace.marker = {"color": colour(ends[number]), "size": 4}
        trace.hovertemplate = f"trial {number}, epoch %{{x}}: %{{y:.4g}}<extra></extra>"
    _whole_ticks(figure.layout.xaxis, [epoch for trace in figure.data for epoch in trace.x])
    return figure_json(figure, 340, "epoch", "score so far")


def _importances(study: optuna.Study, bars: int) -> FigureJson:
    figure = visualization.plot_param_importances(study)
    figure.update_traces(marker={"color": COLOURS["finished"]}, hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    for trace in figure.data:
        short = short_names(trace.y)
        trace.y = [short[name] for name in trace.y]
    return figure_json(figure, 90 + 26 * bars, "importance", None)


def _slice(study: optuna.Study, name: str, title: str, ends: Mapping[int, str]) -> FigureJson:
    figure, space = visualization.plot_slice(study, [name]), latest_space(study, name)
    if isinstance(space, CategoricalDistribution) and figure.layout.xaxis.categoryarray is not None:
        # Optuna puts texts in quotes.
        figure.update_xaxes(categoryarray=[_unquoted(value) for value in figure.layout.xaxis.categoryarray])
    for trace in figure.data:
        if isinstance(space, CategoricalDistribution):
            trace.x = [_unquoted(value) for value in trace.x]
        numbers = trace.marker.color  # Optuna colours by the number of the trial
        trace.text = [f"trial {number}, {ends[number]}" for number in numbers]
        trace.marker = {"color": [colour(ends[number]) for number in numbers], "size": 7, "opacity": 0.8}
        trace.hovertemplate = "%{x}: %{y:.4g}, %{text}<extra></extra>"
    if figure.layout.xaxis.type == "log":
        values = [value for trace in figure.data for value in trace.x]
        dtick = 1 if max(values) >= 10 * min(values) else "D2"  # decades, or 1, 2 and 5
        figure.update_xaxes(dtick=dtick, tickformat="~g", tickangle=0)
    elif isinstance(space, IntDistribution):
        _whole_ticks(figure.layout.xaxis, [space.low, space.high])
    return figure_json(figure, 230, title, "score")


def _parallel(study: optuna.Study, names: Sequence[str]) -> FigureJson:
    figure = visualization.plot_parallel_coordinate(study, target_name="score")
    short = short_names(names)
    axes = figure.layout.xaxis.ticktext
    figure.update_xaxes(ticktext=[axes[0], *(short[name] for name in names)], tickangle=-35)
    whole = {at for at, name in enumerate(names, start=1) if isinstance(latest_space(study, name), IntDistribution)}
    figure.layout.annotations = [
        label for label in figure.layout.annotations if label.x not in whole or "." not in label.text
    ]
    return figure_json(figure, 460, None, None)


def _unquoted(value: object) -> str:
    return str(value).strip("'")


def _timeline(study: optuna.Study, ends: Mapping[int, str]) -> FigureJson:
    figure = visualization.plot_timeline(study)
    for trace in figure.data:
        trace.text = [f"trial {number}, {ends[number]}" for number in trace.y]
        trace.marker = {"color": [colour(ends[number]) for number in trace.y]}
        trace.hovertemplate = "%{text}<extra></extra>"
    timeline = figure_json(figure, min(700, 140 + 9 * len(ends)), None, "trial")
    timeline["layout"]["yaxis"]["autorange"] = "reversed"
    if len(ends) <= _FEW:
        timeline["layout"]["yaxis"] |= {"dtick": 1}
    return timeline
