"""Learning curves of a run's page: one figure for each group of metrics that the run has."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.health.score import History
from app.reporting.page import FigureJson, traces_json
from app.reporting.palette import BLUE, GREEN, GREY, ORANGE, PINK, RED

_HEIGHT = 280  # pixels
_FEW_EPOCHS = 12
# Okabe and Ito: distinguishable with any kind of colour vision; no two lines of a figure differ in the colour alone.
_SOLID, _DASH, _DOT, _DASHDOT, _LONG = "solid", "dash", "dot", "dashdot", "longdash"
BAND = "± std"  # name of the trace of a spread


@dataclass(frozen=True)
class Curve:
    """One curve of a panel.

    Attributes:
        metric: Metric that it shows.
        label: Its name in the legend.
        colour: Its colour.
        dash: Its strokes.
        spread: Whether ``<metric>_std`` is drawn as a band around it.
    """

    metric: str
    label: str
    colour: str
    dash: str = _SOLID
    spread: bool = False


@dataclass(frozen=True)
class Panel:
    """One figure.

    Attributes:
        title: Title.
        unit: Title of the vertical axis.
        curves: Its curves; those without a value are left out.
        best: Metric of which the best epoch is marked; None: none.
        is_share: Whether the values lie between 0 and 1.
        is_percent: Whether they are shown in per cent.
        is_log: Whether the vertical axis is logarithmic; absolute values are shown then.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    best: str | None = None
    is_share: bool = False
    is_percent: bool = False
    is_log: bool = False


def _both(metric: str) -> tuple[Curve, ...]:
    """Return the curves of an evaluation: deterministic, stochastic, and of the policy that is not deployed."""
    return (
        Curve(f"{metric}_det", "deterministic", BLUE, spread=True),
        Curve(f"{metric}_stoch", "stochastic", ORANGE, _DASH, spread=True),
        Curve(f"{metric}_det_raw", "raw weights", GREEN, _DOT),
        Curve(f"{metric}_det_averaged", "averaged weights", GREEN, _DOT),
    )


PANELS = (
    Panel(
        "Covered share of the lap",
        "share of the lap",
        _both("lap_share"),
        "lap_share_det",
        is_share=True,
        is_percent=True,
    ),
    Panel("Lap time of the finished laps", "seconds", _both("lap_time"), "lap_time_det"),
    Panel(
        "Return of an episode",
        "return",
        (*_both("return_test"), Curve("return_train", "training", GREY, _DASHDOT)),
        "return_test_det",
    ),
    Panel(
        "Health score and its parts",
        "score, 0 to 1",
        (
            Curve("stability", "score", BLUE),
            Curve("stability_loss_smoothness", "smooth losses", ORANGE, _DASH),
            Curve("stability_return_consistency", "consistent returns", GREEN, _DOT),
            Curve("stability_entropy_health", "entropy", PINK, _DASHDOT),
            Curve("stability_positive_trend", "trend", GREY, _LONG),
            Curve("stability_performance", "performance", RED, _DOT),
        ),
        is_share=True,
    ),
    Panel(
        "Value",
        "discounted return",
        (
            Curve("q_mean", "mean Q", BLUE),
            Curve("q_target_mean", "Bellman target", ORANGE, _DASH),
            Curve("q_earned", "earned", GREEN, _DOT),
        ),
    ),
    Panel(
        "Losses",
        "absolute loss",
        (
            Curve("loss_critic", "critic", BLUE),
            Curve("loss_actor", "actor", ORANGE, _DASH),
            Curve("loss_prediction", "reward prediction", GREEN, _DOT),
            Curve("loss_entropy", "entropy coefficient", GREY, _DASHDOT),
        ),
        is_log=True,
    ),
    Panel(
        "Entropy of the policy",
        "nats; log-std",
        (Curve("entropy", "entropy", BLUE), Curve("log_std_mean", "mean log-std", GREEN, _DOT)),
    ),
    Panel(
        "Entropy coefficient and noise",
        "coefficient; standard deviation",
        (
            Curve("alpha", "coefficient", ORANGE),
            Curve("action_noise", "noise of all actions", BLUE, _DASH),
            Curve("steering_noise", "noise of the steering", GREEN, _DOT),
        ),
        is_log=True,
    ),
    Panel(
        "Gradient norms before clipping",
        "norm",
        (
            Curve("grad_norm_critic", "critic", BLUE),
            Curve("grad_norm_actor", "actor", ORANGE, _DASH),
            Curve("film_scale", "|scale| of FiLM", GREY, _DOT),
        ),
        is_log=True,
    ),
)


def draw_panels(history: History, best: Mapping[str, float | None]) -> dict[str, FigureJson]:
    """Return the figures by their titles, of the panels that have a value.

    Args:
        history: Metrics of every epoch.
        best: Metrics of the epoch whose policy is kept, which is marked; empty if there is none.
    """
    return {panel.title: figure for panel in PANELS if (figure := _draw(panel, history, best)) is not None}


def _draw(panel: Panel, history: History, best: Mapping[str, float | None]) -> FigureJson | None:
    traces: list[dict[str, Any]] = []
    number = ".1%" if panel.is_percent else ".4g"  # format of a value
    for curve in panel.curves:
        values = _values(history, curve.metric, panel.is_log)
        if any(value is not None for value in values):
            traces += _band(history, curve, panel.is_share) if curve.spread else []
            traces.append(_line(history, values, curve, number))
    if not traces:
        return None
    if panel.best is not None and best.get(panel.best) is not None:
        traces.append(_star(best["epoch"], best[panel.best], number))
    made = traces_json(traces, _HEIGHT, "epoch", panel.unit)
    layout, last = made["layout"], history[-1]["epoch"]
    layout["margin"] = {"l": 56, "r": 12, "t": 8, "b": 44}
    layout["showlegend"] = True
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}}
    layout["xaxis"] |= {"range": [1 - 0.03 * last, 1.03 * last], "tickformat": ",d"}
    if last <= _FEW_EPOCHS:
        layout["xaxis"]["dtick"] = 1
    if panel.is_share:
        layout["yaxis"]["range"] = [-0.02, 1.04]
    if panel.is_percent:
        layout["yaxis"]["tickformat"] = ".0%"
    if panel.is_log:
        layout["yaxis"] |= {"type": "log", "tickformat": "~g", **_log_ticks(traces)}
    return made


def _values(history: History, metric: str, is_log: bool) -> list[float | None]:
    """Return the value of every epoch, or None; for a logarithmic axis the absolute value, and no zero."""
    values = [line.get(metric) for line in history]
    return [abs(value) if value else None for value in values] if is_log else values


def _line(history: History, values: Sequence[float | None], curve: Curve, number: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [line["epoch"] for line in history],
        "y": list(values),
        "mode": "lines+markers",  # a value between two gaps is no line
        "line": {"color": curve.colour, "width": 2, "dash": curve.dash},
        "marker": {"size": 6 if len(values) <= _FEW_EPOCHS else 3},
        "name": curve.label,
        "hovertemplate": f"{curve.label}, epoch %{{x}}: %{{y:{number}}}<extra></extra>",
    }


def _star(epoch: int, value: float, number: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [epoch],
        "y": [value],
        "mode": "markers",
        "marker": {"color": RED, "size": 15, "symbol": "star"},
        "name": "best",
        "hovertemplate": f"best policy, epoch {epoch}: %{{y:{number}}}<extra></extra>",
    }


def _band(history: History, curve: Curve, is_share: bool) -> list[dict[str, Any]]:
    """Return the spread around a curve as one area for each stretch of epochs that have one; no share leaves [0, 1]."""
    low, high = (0.0, 1.0) if is_share else (-math.inf, math.inf)
    epochs: list[int | None] = []
    edges: list[float | None] = []
    for has_spread, lines in itertools.groupby(history, lambda line: _spread(line, curve.metric) is not None):
        if not has_spread:
            continue
        points = [(line["epoch"], line[curve.metric], _spread(line, curve.metric)) for line in lines]
        upper = [(epoch, min(mean + std, high)) for epoch, mean, std in points]
        lower = [(epoch, max(mean - std, low)) for epoch, mean, std in points]
        for epoch, edge in (*upper, *reversed(lower), (None, None)):  # None ends an area
            epochs.append(epoch)
            edges.append(edge)
    if not epochs:
        return []
    return [
        {
            "type": "scatter",
            "x": epochs,
            "y": edges,
            "fill": "toself",
            "fillcolor": curve.colour,
            "opacity": 0.15,
            "line": {"width": 0},
            "mode": "lines",
            "name": BAND,
            "showlegend": False,
            "hoverinfo": "skip",
        }
    ]


def _spread(line: Mapping[str, float | None], metric: str) -> float | None:
    return None if line.get(metric) is None else line.get(f"{metric}_std")


def _log_ticks(traces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the distance of the ticks of a logarithmic axis: 1, 2, 5, or decades only; without any span, plotly's."""
    values = [value for trace in traces for value in trace["y"] if value is not None]
    decades = math.log10(max(values) / min(values))
    if decades < 0.5:
        return {}
    return {"dtick": "D2"} if decades < 2 else {"dtick": max(1, round(decades / 5))}
