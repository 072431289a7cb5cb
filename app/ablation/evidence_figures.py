"""Figures of the evidence by plotly, for the page."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.ablation.effects import Claim, Effect
from app.ablation.evidence_panels import Dash, Line, Panel, label_lines
from app.ablation.run_scores import Score
from app.reporting.page import FigureJson, traces_json

# Colour and marker of what an effect shows; the marker of a weak claim is hollow.
CLAIM_STYLES = {
    Claim.BETTER: ("#009E73", "triangle-up"),
    Claim.WORSE: ("#D55E00", "triangle-down"),
    Claim.NOTHING: ("#7F7F7F", "circle-open"),
    Claim.TOO_FEW: ("#7F7F7F", "x-thin-open"),
}
_ROW_HEIGHT, _LINE_HEIGHT = 16, 16  # pixels


def panel_figure(panel: Panel, height: int = 220) -> FigureJson:
    """Return a panel as a figure.

    Args:
        panel: The panel.
        height: Height in pixels.
    """
    traces = [*(_band(line) for line in panel.lines if line.band), *map(_line, panel.lines)]
    made = traces_json(traces, height, "epoch", None)
    made["layout"]["margin"] = {"l": 40, "r": 8, "t": 8, "b": 36}
    made["layout"]["xaxis"] |= {"rangemode": "tozero"} if panel.epochs is None else {"range": [0, panel.epochs + 0.5]}
    if panel.is_share:
        made["layout"]["yaxis"]["range"] = [0, 1.03]
    if panel.is_log:
        made["layout"]["yaxis"] |= {"type": "log", "dtick": _log_tick(panel), "tickformat": "~g"}
    return made


def forest_figure(rows: Sequence[tuple[str, Effect]], score: Score) -> FigureJson:
    """Return a forest plot: difference and interval of every arm, from top to bottom.

    Args:
        rows: Label of each arm and its effect.
        score: The score.
    """
    traces = []
    labels = [_wrapped(label) for label, _ in rows]
    for claim, (colour, symbol) in CLAIM_STYLES.items():
        for is_weak, marker in ((False, symbol), (True, f"{symbol}-open")):
            found = [
                (label, one)
                for label, (_, one) in zip(labels, rows, strict=True)
                if one.claim is claim and one.is_weak is is_weak
            ]
            if found:
                traces.append(_forest_trace(found, colour, marker))
    lines = sum(label.count("<br>") + 1 for label in labels)
    better = "right" if score.higher_is_better else "left"
    height = 80 + _ROW_HEIGHT * len(rows) + _LINE_HEIGHT * lines
    made = traces_json(traces, height, f"difference (better: {better})", None)
    made["layout"]["margin"] = {"l": 8, "r": 12, "t": 8, "b": 44}
    made["layout"]["yaxis"] |= {"type": "category", "categoryorder": "array", "categoryarray": labels[::-1]}
    made["layout"]["xaxis"] |= {"zeroline": True, "zerolinecolor": "#333", "zerolinewidth": 1.5}
    return made


def _forest_trace(rows: Sequence[tuple[str, Effect]], colour: str, symbol: str) -> dict[str, Any]:
    ends = [
        (one.difference, one.difference) if one.interval is None else (one.interval.low, one.interval.high)
        for _, one in rows
    ]
    return {
        "type": "scatter",
        "x": [one.difference for _, one in rows],
        "y": [label for label, _ in rows],
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - one.difference for (_, high), (_, one) in zip(ends, rows, strict=True)],
            "arrayminus": [one.difference - low for (low, _), (_, one) in zip(ends, rows, strict=True)],
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        "text": [
            f"{low:+.3g} to {high:+.3g}, {min(one.seeds)} seeds"
            for (low, high), (_, one) in zip(ends, rows, strict=True)
        ],
        "hovertemplate": "%{y}: %{x:+.3g}<br>%{text}<extra></extra>",
    }


def _band(line: Line) -> dict[str, Any]:
    known = np.isfinite(line.curve.low) & np.isfinite(line.curve.high)
    epochs = line.curve.epochs[known].tolist()
    return {
        "type": "scatter",
        "x": epochs + epochs[::-1],
        "y": [*line.curve.high[known].tolist(), *line.curve.low[known].tolist()[::-1]],
        "fill": "toself",
        "fillcolor": line.style.colour,
        "opacity": 0.2,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": line.curve.epochs.tolist(),
        "y": [value if math.isfinite(value) else None for value in line.curve.centre.tolist()],
        "mode": "lines" if len(line.curve.epochs) > 1 else "markers",
        "line": {"color": line.style.colour, "dash": _dash(line.style.dash), "width": 2},
        "marker": {"color": line.style.colour},
        "name": html.escape(line.label, quote=False),
        "text": [f"{runs} {'run' if runs == 1 else 'runs'}" for runs in line.curve.runs],
        "hovertemplate": "%{fullData.name}, epoch %{x}: %{y:.3g}, %{text}<extra></extra>",
    }


def _log_tick(panel: Panel) -> int | str:
    """Return the ticks of a logarithmic axis: decades, or 1, 2 and 5 where it spans little."""
    values = np.concatenate([line.curve.centre for line in panel.lines])
    values = values[values > 0]
    return 1 if not len(values) or values.max() > 30 * values.min() else "D2"


def _dash(dash: Dash) -> str:
    return ",".join(f"{length}px" for length in dash) if dash else "solid"


def _wrapped(label: str) -> str:
    """Return a label in lines, with what plotly would take for markup escaped."""
    return "<br>".join(html.escape(line, quote=False) for line in label_lines(label))
