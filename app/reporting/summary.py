"""Tables: the summary of a run, and the episodes of an evaluation."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.core.console import format_duration, format_number
from app.evaluation.results import Episode, Evaluation, mean_std

# Key of the summary -> label and format; "<key>_std", if there is one, follows the mean.
_ROWS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "stop_reason": ("stopped", str),
    "objective": ("objective", format_number),
    "best_epoch": ("best epoch", "{:,}".format),
    "return_test_det": ("return, deterministic", "{:.2f}".format),
    "return_test_stoch": ("return, stochastic", "{:.2f}".format),
    "native_return_det": ("the game's own score", "{:.1f}".format),
    "lap_share_det": ("lap share, deterministic", "{:.2f}".format),
    "lap_share_stoch": ("lap share, stochastic", "{:.2f}".format),
    "laps_det": ("finished laps", "{:.0%}".format),
    "lap_time_det": ("lap time", "{:.2f} s".format),
    "lap_share_det_raw": ("lap share, raw weights", "{:.2f}".format),
    "lap_share_det_averaged": ("lap share, averaged weights", "{:.2f}".format),
    "updates": ("updates", "{:,}".format),
    "env_steps": ("environment steps", "{:,}".format),
    "wall_s": ("wall time", format_duration),
    "updates_per_s": ("updates per second", format_number),
}
# Key -> second key that is shown on the same line where it is known, and its format.
_BESIDE: dict[str, tuple[str, Callable[[Any], str]]] = {
    "lap_time_det": ("lap_time_ratio_det", "{:.2f} × the bound on the centre line".format),
}


class _Column(NamedTuple):
    """Column of numbers, one for every episode."""

    name: str
    value_of: Callable[[Episode], float | None]
    format: str

    def cell(self, value: float | None) -> str:
        return "-" if value is None else self.format.format(value)


_ALWAYS = (
    _Column("return", lambda episode: episode.ret, "{:.2f}"),
    _Column("steps", lambda episode: episode.length, "{:,.0f}"),
)
_LAPS = (
    _Column("lap share", lambda episode: episode.lap_share, "{:.2f}"),
    _Column("lap time", lambda episode: episode.lap_time, "{:.2f} s"),
)
_RATIO = _Column("× bound", lambda episode: episode.lap_time_ratio, "{:.2f}")
_NATIVE = _Column("game's score", lambda episode: episode.native_return, "{:.1f}")


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
        table.add_row(*place, *(column.cell(column.value_of(episode)) for column in columns), outcome)
    table.add_section()
    pairs = [_mean_std([column.value_of(episode) for episode in episodes]) for column in columns]
    means, stds = ([column.cell(pair[i]) for column, pair in zip(columns, pairs, strict=True)] for i in (0, 1))
    if laps:
        finished = sum(episode.outcome == "lap" for episode in episodes)
        table.add_row("mean", "", *means, f"{finished} of {len(episodes)} laps", style="bold")
        table.add_row("± std", "", *stds, "", style="bold")
    else:
        table.add_row(*means, "mean", style="bold")
        table.add_row(*stds, "± std", style="bold")
    return table


def _mean_std(column: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in column if value is not None]
    return mean_std(known) if known else (None, None)


def _value(summary: Mapping[str, Any], key: str, show: Callable[[Any], str]) -> str:
    """Return a mean, its standard deviation where there is one, and the value that is shown beside it."""
    text = show(summary[key])
    if _known(summary, f"{key}_std"):
        text += f" ± {show(summary[f'{key}_std'])}"
    other, show_other = _BESIDE.get(key, ("", str))
    return f"{text} · {show_other(summary[other])}" if _known(summary, other) else text


def _known(summary: Mapping[str, Any], key: str) -> bool:
    value = summary.get(key)
    return value is not None and not (isinstance(value, float) and math.isnan(value))
