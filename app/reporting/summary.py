"""Tables: the summary of a run, and the episodes of an evaluation."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.evaluation.results import Episode, Evaluation, mean_std, spread_of
from app.reporting.number_format import UNKNOWN, duration, lap_share, lap_time, percent, plus_minus, significant

# Key of the summary -> label and format of a value.
_ROWS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "stop_reason": ("stopped", str),
    "objective": ("objective", significant),
    "best_epoch": ("best epoch", "{:,}".format),
    "return_test_det": ("return, deterministic", plus_minus),
    "return_test_stoch": ("return, stochastic", plus_minus),
    "native_return_det": ("the game's own score", plus_minus),
    "lap_share_det": ("lap share, deterministic", lap_share),
    "lap_share_stoch": ("lap share, stochastic", lap_share),
    "laps_det": ("finished laps", percent),
    "lap_time_det": ("lap time", lap_time),
    "lap_share_det_raw": ("lap share, raw weights", lap_share),
    "lap_share_det_averaged": ("lap share, averaged weights", lap_share),
    "updates": ("updates", "{:,}".format),
    "env_steps": ("environment steps", "{:,}".format),
    "wall_s": ("wall time", duration),
    "updates_per_s": ("updates per second", significant),
}
_WITH_SPREAD = (plus_minus, lap_share, lap_time)  # formats that take a standard deviation, too
# Key -> second key that is shown on the same line where it is known, and its format.
_BESIDE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "lap_time_det": ("lap_time_ratio_det", "{:.2f} × the centre-line bound".format),
}


class _Column(NamedTuple):
    """Column of numbers, one for every episode, and the formats of a value and of a standard deviation."""

    name: str
    value_of: Callable[[Episode], float | None]
    show: Callable[[float], str]
    show_std: Callable[[float], str]


_ALWAYS = (
    _Column("return", lambda episode: episode.ret, "{:.2f}".format, "{:.2f}".format),
    _Column("steps", lambda episode: episode.length, "{:,.0f}".format, "{:,.0f}".format),
)
_LAPS = (
    _Column("lap share", lambda episode: episode.lap_share, lap_share, lap_share),
    _Column("lap time", lambda episode: episode.lap_time, lap_time, "{:.2f} s".format),
)
_RATIO = _Column("× bound", lambda episode: episode.lap_time_ratio, "{:.2f}".format, "{:.2f}".format)
_NATIVE = _Column("game's score", lambda episode: episode.native_return, "{:.1f}".format, "{:.1f}".format)


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the summary of a run.

    Args:
        console: Console to print on.
        summary: "run_name"; "paths", a mapping of names to paths; and any of the keys of ``_ROWS``, whose results
            belong to the best epoch. A key that is missing, None or NaN is left out; other keys are not shown.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, (label, show) in _ROWS.items():
        if _known(summary, key):
            grid.add_row(label, Text(_value(summary, key, show)))
    title = Text(f"summary of {summary['run_name']}", style="bold")
    console.print(Panel(grid, title=title, title_align="left", border_style="cyan"))
    for name, path in summary["paths"].items():  # outside the frame, so that a path can be copied whole
        console.print(Text.assemble((f"{name:<10} ", "cyan"), str(path)), soft_wrap=True)


def print_evaluation(console: Console, evaluation: Evaluation, title: str) -> None:
    """Print a table of the episodes of each policy, with mean and standard deviation.

    Args:
        console: Console to print on.
        evaluation: The evaluation; a policy without episodes is left out.
        title: Headline of the tables.
    """
    policies = {"deterministic": evaluation.deterministic, "stochastic": evaluation.stochastic}
    for policy, episodes in policies.items():
        if episodes:
            console.print(Text(f"{title} · {policy}", style="bold"))
            console.print(_episodes(episodes))


def _episodes(episodes: Sequence[Episode]) -> Table:
    laps = any(not math.isnan(episode.lap_share) for episode in episodes)
    columns = [*_ALWAYS, *(_LAPS if laps else ())]
    columns += [
        column for column in (_RATIO, _NATIVE) if any(column.value_of(episode) is not None for episode in episodes)
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*(("track", "start") if laps else ()), *(column.name for column in columns)):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    for episode in episodes:
        outcome = Text(episode.outcome, style="green" if episode.outcome == "lap" else "")
        place = [str(episode.track), f"{episode.start:.2f}"] if laps else []
        cells = (_cell(column.value_of(episode), column.show) for column in columns)
        table.add_row(*place, *cells, outcome)
    table.add_section()
    known = [[value for one in episodes if (value := column.value_of(one)) is not None] for column in columns]
    pairs = [mean_std(values) if values else (None, None) for values in known]
    means = [_cell(mean, column.show) for column, (mean, _) in zip(columns, pairs, strict=True)]
    stds = [
        _cell(std if len(values) > 1 else None, column.show_std)
        for column, (_, std), values in zip(columns, pairs, known, strict=True)
    ]
    finished = f"{sum(episode.outcome == 'lap' for episode in episodes)} of {len(episodes)} laps"
    table.add_row(*(("mean", "") if laps else ()), *means, finished if laps else "mean", style="bold")
    if len(episodes) > 1:
        table.add_row(*(("± std", "") if laps else ()), *stds, "" if laps else "± std", style="bold")
    return table


def _cell(value: float | None, show: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else show(value)


def _value(summary: Mapping[str, Any], key: str, show: Callable[..., str]) -> str:
    """Return a mean, its standard deviation where there is one, and the value that is shown beside it."""
    text = show(summary[key], spread_of(summary, key)) if show in _WITH_SPREAD else show(summary[key])
    other, show_other = _BESIDE.get(key, ("", str))
    return f"{text} · {show_other(summary[other])}" if _known(summary, other) else text


def _known(summary: Mapping[str, Any], key: str) -> bool:
    value = summary.get(key)
    return value is not None and not (isinstance(value, float) and math.isnan(value))
