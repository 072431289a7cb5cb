"""Content of the page about a run, from the files of its folder."""

import base64
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from app.config.faults import FaultState, shown_faults
from app.config.rules import warnings
from app.config.schema import Config
from app.core.json_data import parse_json, read_json
from app.health.collapse import rule_findings
from app.health.score import History, best_epoch
from app.health.standstill import standstill
from app.reporting.number_format import UNKNOWN, duration, lap_time, percent, plus_minus, significant
from app.reporting.page import FigureJson, render_page
from app.reporting.report_figures import draw_panels
from app.reporting.run_commands import next_commands
from app.reporting.run_facts import RUNNING, figures_of
from app.runs.fingerprint import differences
from app.runs.run_folder import RunFolder
from app.runs.run_overrides import run_overrides, spell

VIDEO_LIMIT = 8_000_000  # bytes of the file; in the page it takes a third more
_DETERMINISTIC = "deterministic"
_TEMPLATE = Path(__file__).with_name("run_report.html.jinja")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def render_report(
    folder: RunFolder,
    config: Config,
    history: History,
    state: str,
    stop_reason: str | None,
    collapse: tuple[int, str] | None,
) -> str:
    """Return the page as HTML; everything from files is escaped.

    Args:
        folder: Folder of the run.
        config: Its configuration.
        history: Metrics of every epoch.
        state: State of the run, such as "running".
        stop_reason: Reason why it has stopped; None while it goes on.
        collapse: First epoch after which the run counts as collapsed, and why; None if it does not.
    """
    figures, best = figures_of(history), _kept_epoch(folder, history)
    summary = _read_json(folder.summary)
    judged, is_new = _judged(summary, best)
    episodes = _episodes(summary, judged if is_new else None)
    drawn, panels = _panels(history, best)
    content = {
        "name": folder.path.absolute().name,
        "facts": _facts(config, figures, state),
        "stop_reason": stop_reason if stop_reason != state else None,
        "tiles": _tiles(figures, judged),
        "said": _said(config, judged, is_new, episodes),
        "warnings": warnings(config),
        "collapse": collapse,
        "standstill": standstill(history, config),
        "panels": panels,
        "episodes": episodes,
        "why_no_episodes": _why_no_episodes(bool(best), is_new, state == RUNNING),
        "video": _video(folder, config, is_new, state == RUNNING),
        "faults": [_fault_row(one) for one in shown_faults(config)],
        "scores": _scores(history),
        "rules": rule_findings(history, config) if history else {},
        "has_score": config.env.return_range is not None,
        **_settings(config),
        **_starts(folder.starts),
        "commands": next_commands(folder.path, config, has_policy=bool(best)),
        "can_repeat": run_overrides(config) is not None,
    }
    return render_page(_TEMPLATE, content, drawn, {})


def _kept_epoch(folder: RunFolder, history: History) -> Mapping[str, Any]:
    """Return the metrics of the epoch whose policy is kept; a restart may have removed that of a better one."""
    kept = _read_json(folder.best_result).get("best_epoch")
    return next((line for line in history if line["epoch"] == kept), None) or best_epoch(history)


def _judged(summary: Mapping[str, Any], best: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return the metrics of the best policy, and whether they are from starts that did not choose it.

    A summary counts if it is about the policy that is the best one now, and contains an evaluation.
    """
    is_new = bool(best) and summary.get("best_epoch") == best["epoch"] and _is_number(summary.get("return_test_det"))
    return (summary, True) if is_new else (best, False)


def _facts(config: Config, figures: Mapping[str, Any], state: str) -> dict[str, str]:
    return {
        "state": f"{RUNNING} when this page was written" if state == RUNNING else state,
        "task": config.env.name,
        "model": config.model.name,
        "seed": str(config.seed),
        "epochs": f"{figures.get('epochs', 0)} of {config.training.epochs}",
        "updates": f"{figures.get('updates', 0):,}",
        "environment steps": f"{figures.get('env_steps') or 0:,}",
        "time": duration(figures.get("wall_s")),
        "written": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
    }


def _tiles(figures: Mapping[str, Any], judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headline figures with their labels; those of laps only where the task has some."""
    if not judged:
        return []
    tiles = []
    if "lap_share_det" in judged:
        tiles.append((percent(judged.get("laps_det")), "of the episodes finish the lap"))
        if judged.get("laps_det") != 1.0:
            tiles.append((percent(judged["lap_share_det"]), "of the lap covered"))
        if (seconds := judged.get("lap_time_det")) is not None:
            tiles.append((lap_time(seconds), "lap time"))
        if (ratio := judged.get("lap_time_ratio_det")) is not None:
            tiles.append((f"{significant(ratio)} ×", "the bound on the centre line"))
        first = figures["first_full_lap"]
        held = UNKNOWN if first is None else f"{figures['held']} of {figures['held_of']}"
        tiles.append((held, "no full lap yet" if first is None else f"epochs hold the lap, since epoch {first}"))
    tiles.append((significant(judged.get("return_test_det"), 4), "return"))
    if "native_return_det" in judged:
        tiles.append((significant(judged["native_return_det"]), "the game's own score"))
    return tiles


def _said(config: Config, judged: Mapping[str, Any], is_new: bool, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what the headline figures are figures of, and the spread of those that have one."""
    if not judged:
        return []
    epoch = judged["best_epoch" if is_new else "epoch"]
    count = sum(row["policy"] == _DETERMINISTIC for row in rows) or config.training.eval_episodes
    episodes = (
        "one deterministic episode, from a start" if count == 1 else f"{count} deterministic episodes, from starts"
    )
    chosen = "that did not choose it" if is_new else "that chose it"
    lines = [f"Best policy, of epoch {epoch}, in {episodes} {chosen}."]
    spread = [
        f"{name} {show(judged[f'{key}_det'], judged.get(f'{key}_det_std'))}"
        for key, name, show in (
            ("lap_share", "covered share of the lap", percent),
            ("lap_time", "lap time", lap_time),
            ("return_test", "return", plus_minus),
        )
        if judged.get(f"{key}_det") is not None
    ]
    if count > 1:
        lines.append(f"Mean ± standard deviation over the starts: {', '.join(spread)}.")
    return lines


def _panels(history: History, best: Mapping[str, Any]) -> tuple[dict[str, FigureJson], list[dict[str, str]]]:
    """Return the figures by id, and id and title of each."""
    figures = draw_panels(history, best) if history else {}
    panels = [{"id": f"figure-{number}", "title": title} for number, title in enumerate(figures)]
    return {panel["id"]: figures[panel["title"]] for panel in panels}, panels


def _episodes(summary: Mapping[str, Any], judged: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return a row for every episode of the evaluation at the end; empty if it is not about the best policy of now."""
    if judged is None:
        return []
    try:
        return [
            {"policy": policy, **_episode_row(episode)}
            for policy in (_DETERMINISTIC, "stochastic")
            for episode in summary["episodes"][policy]
        ]
    except _UNREADABLE:  # an older version wrote no episodes
        return []


def _why_no_episodes(has_policy: bool, is_new: bool, is_running: bool) -> str:
    if not has_policy:
        return "There is no policy yet that could be driven."
    if is_new:
        return "An older version drove the best policy from new starts, and did not record its episodes."
    now = "The first command below does it now."
    if is_running:
        return f"The best policy is driven from new starts when the run ends. {now}"
    return f"The best policy was not driven from new starts. {now}"


def _episode_row(episode: Mapping[str, Any]) -> dict[str, str]:
    has_laps, bound, time = episode["lap_share"] is not None, episode["lap_bound"], episode["lap_time"]
    return {
        "track": str(episode["track"]) if has_laps else "",
        "start": percent(episode["start"]) if has_laps else "",
        "share": percent(episode["lap_share"]) if has_laps else "",
        "time": lap_time(time) if has_laps else "",
        "ratio": significant(time / bound) if time and bound else "",
        "return": significant(episode["ret"], 4),
        "steps": f"{episode['length']:,}",
        "outcome": str(episode["outcome"]).replace("_", " "),
    }


def _video(folder: RunFolder, config: Config, is_new: bool, is_running: bool) -> dict[str, str | None]:
    """Return the video as a data URI and what it shows, or a sentence on why there is none.

    Args:
        folder: Folder of the run.
        config: Its configuration.
        is_new: Whether the evaluation that the video was made with is about the policy that is the best one now.
        is_running: Whether the run goes on.
    """
    path = folder.best_video
    try:
        size = path.stat().st_size
        if size > VIDEO_LIMIT:
            limit = decimal(VIDEO_LIMIT)
            return {"data": None, "text": f"{path} has {decimal(size)}, and this page takes up to {limit}."}
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return {"data": None, "text": _why_no_video(config, is_running)}
    recorded = datetime.fromtimestamp(path.stat().st_mtime)
    policy = "the best policy" if is_new else "an earlier best policy"
    text = f"The best of the deterministic episodes of {policy}, recorded {recorded:%Y-%m-%d %H:%M}."
    return {"data": f"data:video/mp4;base64,{data}", "text": text}


def _why_no_video(config: Config, is_running: bool) -> str:
    if config.env.real_time:
        return f"There is no video: {config.env.name} shows itself."
    if not config.logger.video:
        return "There is no video: logger.video is false."
    return f"There is no video{' yet: the best episode is recorded when the run ends' if is_running else ''}."


def _fault_row(state: FaultState) -> dict[str, Any]:
    words = {None: "not used", True: "fixed", False: "BROKEN"}
    return {
        "number": state.fault.number,
        "name": state.fault.name,
        "why": state.fault.why,
        "settings": state.settings,
        "state": words[state.fixed],
    }


def _scores(history: History) -> dict[str, str]:
    """Return the newest health score and its parts, by their names; empty where there is none."""
    last = history[-1] if history else {}
    parts = ["stability", *(name for name in last if name.startswith("stability_"))]
    names = {name: name.removeprefix("stability_").replace("_", " ") for name in parts}
    return {
        "health score" if name == "stability" else label: f"{last[name]:.2f}"
        for name, label in names.items()
        if last.get(name) is not None
    }


def _settings(config: Config) -> dict[str, Any]:
    """Return the groups and keys in which a run differs from the defaults of ``conf/``."""
    found = run_overrides(config)
    if found is None:
        return {"groups": "", "changed": None}
    changed = [(key, spell(found.defaults[key]), spell(value)) for key, value in found.changed.items()]
    return {"groups": " ".join(f"{group}={option}" for group, option in found.groups.items()), "changed": changed}


def _starts(path: Path) -> dict[str, Any]:
    """Return the starts of a run with what changed from one to the next, and the environment of the last one.

    A start without updates begins a run: those before it are of an earlier one, which a restart has cleared.
    """
    starts: list[dict[str, Any]] = []
    environment: dict[str, str] = {}
    for line in _read_lines(path):
        with contextlib.suppress(*_UNREADABLE):  # what can be read is shown
            now = {str(key): str(value) for key, value in line.get("environment", {}).items()}
            updates, changed = line["updates"], [str(one) for one in line["changed"]]
            if not updates:
                starts, environment = [], {}
            moved = differences(environment, now) if starts and environment and now else []
            starts.append({"time": str(line["time"]), "updates": f"{updates:,}", "changed": [*changed, *moved]})
            environment = now or environment
    return {"starts": starts, "environment": environment}


def _read_lines(path: Path) -> Iterator[Any]:
    """Yield the content of every line of JSON that can be read."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        with contextlib.suppress(*_UNREADABLE):
            yield parse_json(line)


def _read_json(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of JSON; empty if there is none, or none that can be read."""
    try:
        content = read_json(path)
    except _UNREADABLE:
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
