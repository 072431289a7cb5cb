"""Post-mortem of a run as one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.ablation.evidence_panels import MEASURES
from app.ablation.failure_order import PostMortem, Suspect
from app.ablation.failure_text import band_text, fault_text, headline, label, lap_share_text, method
from app.ablation.health_bands import Band, Exit
from app.ablation.policy_videos import PolicyVideo
from app.ablation.repair_command import repair_command, repair_overrides
from app.reporting.page import FigureJson, render_page, traces_json
from app.reporting.palette import BLUE, GREEN, GREY, RED

_TEMPLATE = Path(__file__).with_name("failure.html.jinja")
_HEIGHT = 190  # pixels
# Okabe and Ito: distinguishable with any kind of colour vision.
_RUN, _BAND, _EXIT, _COLLAPSE = BLUE, GREEN, RED, GREY


def render_post_mortem(found: PostMortem, videos: Sequence[PolicyVideo], no_videos: str | None) -> str:
    """Return the page as HTML; everything from files is escaped.

    Args:
        found: What is known about the run.
        videos: Videos of its policies.
        no_videos: Sentence on why there are none; None if there are, or if none were asked for.
    """
    drawn: dict[str, FigureJson] = {}
    content = {
        "name": found.run.arm,
        "facts": _facts(found),
        "headline": headline(found),
        "exits": [_exit_row(found, one) for one in found.exits],
        "suspects": [_suspect(found, one) for one in found.suspects],
        "changes": found.changes,
        "compared": found.bands is not None,
        "videos": videos,
        "no_videos": no_videos,
        "panels": _panels(found, drawn),
        "has_exits": bool(found.exits),
        "has_collapse": found.collapse is not None,
        "colours": {"run": _RUN, "band": _BAND, "exit": _EXIT, "collapse": _COLLAPSE},
        "method": method(found),
    }
    return render_page(_TEMPLATE, content, drawn, {})


def _facts(found: PostMortem) -> dict[str, str]:
    facts = {"task": found.run.task, "epochs": str(found.run.last_epoch), "end": found.run.end}
    if found.bands is not None:
        facts["healthy runs"] = f"{found.bands.runs}, of {found.record}"
    return {**facts, "written": f"{datetime.now():%Y-%m-%d %H:%M}"}


def _exit_row(found: PostMortem, one: Exit) -> dict[str, str]:
    return {
        "epoch": str(one.epoch),
        "label": label(one.metric),
        "value": f"{one.value:.3g}",
        "band": band_text(one),
        "back": "never" if one.back is None else f"epoch {one.back}",
        "share": lap_share_text(found.run, one.epoch),
    }


def _suspect(found: PostMortem, suspect: Suspect) -> dict[str, Any]:
    """Return what the template shows of a fault."""
    exits = {one.metric: f"left its band in epoch {one.epoch}" for one in suspect.exits}
    known = found.bands.bands.keys() if found.bands is not None else ()
    states = {
        label(metric): exits.get(metric, "in its band" if _is_judged(found, metric, known) else "not known")
        for metric in suspect.metrics
    }
    faults = [state.fault for state in suspect.states]
    return {
        "title": fault_text(suspect),
        "why": " ".join(fault.why for fault in faults),
        "measures": states,
        "command": repair_command(found.config, faults),
        "advice": " ".join(repair_overrides(faults)),
    }


def _is_judged(found: PostMortem, metric: str, known: Sequence[str]) -> bool:
    return metric in known and not np.isnan(found.run.series(metric, found.run.last_epoch)).all()


def _panels(found: PostMortem, drawn: dict[str, FigureJson]) -> list[dict[str, str]]:
    """Return id and title of a figure for every measure of the run, and add the figures to ``drawn``."""
    exits = {one.metric: one for one in found.exits}
    panels = []
    for metric, (title, is_log) in MEASURES.items():
        series = found.run.series(metric, found.run.last_epoch)
        if np.isnan(series).all():
            continue
        key = f"figure-{len(drawn)}"
        band = found.bands.bands.get(metric) if found.bands is not None else None
        drawn[key] = _figure(found, metric, series, band, exits.get(metric), is_log)
        left = f"left in epoch {exits[metric].epoch}" if metric in exits else ""
        panels.append({"id": key, "title": title, "left": left})
    return panels


def _figure(
    found: PostMortem,
    metric: str,
    series: np.ndarray,
    band: Band | None,
    exit_: Exit | None,
    is_log: bool,
) -> FigureJson:
    """Return a measure of the run over its band; all figures have the same epochs."""
    epochs = len(series)
    traces = [_band_trace(band.extended(epochs))] if band is not None else []
    known = np.isfinite(series) & ((series > 0) | (not is_log))
    at = (np.flatnonzero(known) + 1).tolist()
    line = {
        "type": "scatter",
        "x": at,
        "y": series[known].tolist(),
        "mode": "lines+markers",
        "line": {"color": _RUN, "width": 2},
        "marker": {"size": 4},
        "name": "run",
        "hovertemplate": "epoch %{x}: %{y:.4g}<extra></extra>",
    }
    traces.append(line)
    if exit_ is not None:
        marker = {"color": _EXIT, "size": 12, "symbol": "circle-open", "line": {"width": 3}}
        point = {"type": "scatter", "x": [exit_.epoch], "y": [exit_.value], "mode": "markers", "marker": marker}
        traces.append({**point, "hoverinfo": "skip"})
    made = traces_json(traces, _HEIGHT, "epoch", None)
    made["layout"]["shapes"] = [
        *([_vertical(found.exits[0].epoch, _EXIT, "dot")] if found.exits else []),
        *([_vertical(found.collapse[0], _COLLAPSE, "dash")] if found.collapse is not None else []),
    ]
    made["layout"]["margin"] = {"l": 40, "r": 8, "t": 8, "b": 36}
    made["layout"]["xaxis"]["range"] = [0.5, epochs + 0.5]
    if metric.startswith("lap_share"):
        made["layout"]["yaxis"]["range"] = [0, 1.03]
    if is_log:
        made["layout"]["yaxis"] |= {"type": "log", "tickformat": "~g"}
    return made


def _vertical(epoch: int, colour: str, dash: str) -> dict[str, Any]:
    """Return a line over the whole height of a figure."""
    ends = {"x0": epoch, "x1": epoch, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
    return {"type": "line", **ends, "line": {"color": colour, "width": 1.5, "dash": dash}}


def _band_trace(band: Band) -> dict[str, Any]:
    known = np.isfinite(band.low) & np.isfinite(band.high)
    epochs = (np.flatnonzero(known) + 1).tolist()
    return {
        "type": "scatter",
        "x": epochs + epochs[::-1],
        "y": [*band.high[known].tolist(), *band.low[known].tolist()[::-1]],
        "fill": "toself",
        "fillcolor": _BAND,
        "opacity": 0.25,
        "line": {"width": 0},
        "mode": "lines",
        "name": "band",
        "hoverinfo": "skip",
    }
