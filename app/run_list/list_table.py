"""Table of runs for the terminal: its order and its columns."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.core.console import print_line, printable
from app.reporting.number_format import UNKNOWN, lap_time, percent
from app.reporting.run_facts import DAMAGED, FINISHED, RUNNING, RunFacts
from app.run_list.find_runs import ListedRun

NO_RUN = "no run"
_STYLES = {RUNNING: "cyan", FINISHED: "green", DAMAGED: "red", NO_RUN: "red"}
_PLAIN_WIDTH = 200  # characters, where the output goes into a file or another program
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

# Order of a column, and whether the highest value comes first.
_ORDERS: dict[str, tuple[Callable[[RunFacts], Any], bool]] = {
    "age": (lambda facts: facts.changed, True),
    "state": (lambda facts: facts.state, False),
    "task": (lambda facts: facts.task, False),
    "model": (lambda facts: facts.model, False),
    "epochs": (lambda facts: facts.epochs, True),
    "lap_share": (lambda facts: facts.best_lap_share, True),
    "lap_time": (lambda facts: facts.best_lap_time, False),
    "held": (lambda facts: facts.held / facts.held_of if facts.held_of else None, True),
    "disk": (lambda facts: facts.disk_bytes, True),
}


def sort_runs(runs: Sequence[ListedRun], order: str, reverse: bool) -> list[ListedRun]:
    """Return runs in the order of a column; runs without a value there come last, in the order of their names.

    Args:
        runs: The runs.
        order: One of the values of ``sort``.
        reverse: Whether the order is reversed; runs without a value stay last.
    """
    by_name = sorted(runs, key=lambda run: run.name, reverse=order == "name" and reverse)
    if order == "name":
        return by_name
    value_of, highest_first = _ORDERS[order]
    values = {run.name: None if run.facts is None else value_of(run.facts) for run in by_name}
    known = [run for run in by_name if values[run.name] is not None]
    known.sort(key=lambda run: values[run.name], reverse=highest_first != reverse)
    return known + [run for run in by_name if values[run.name] is None]


def print_runs(console: Console, runs: Sequence[ListedRun]) -> None:
    """Print the table of runs, and below it why a folder or a file of it cannot be read."""
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH  # whole lines for grep and files
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, show_footer=len(runs) > 1)
    known = [run.facts for run in runs if run.facts is not None]
    table.add_column("run", f"{len(runs):,} runs", overflow="fold")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("task", overflow="fold")
    table.add_column("model", overflow="fold")
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("lap", justify="right", no_wrap=True)
    table.add_column("lap time", justify="right", no_wrap=True)
    table.add_column("× bound", justify="right", no_wrap=True)
    table.add_column("held", justify="right", no_wrap=True)
    table.add_column("disk", decimal(sum(facts.disk_bytes for facts in known)), justify="right", no_wrap=True)
    for run in runs:
        table.add_row(Text(run.name), *_cells(run.facts))
    console.print(table)
    for run in runs:
        if run.problem is not None:
            print_line(console, f"{run.name}: {printable(run.problem)}", "red")


def age(seconds: float) -> str:
    """Return a time that has passed in its largest unit, such as "5 min" or "2 d"."""
    size, unit = next((part for part in _UNITS if seconds >= part[0]), _UNITS[-1])
    return f"{max(0, int(seconds // size))} {unit}"


def held_text(facts: RunFacts) -> str:
    """Return how many epochs since the first full lap have one, such as "48/49"; "-" without a full lap."""
    return f"{facts.held}/{facts.held_of}" if facts.held_of else UNKNOWN


def ratio_text(facts: RunFacts) -> str:
    """Return how many times the bound the best lap time is, such as "1.05"; "-" if that is unknown."""
    return UNKNOWN if facts.best_lap_ratio is None else f"{facts.best_lap_ratio:.2f}"


def epochs_text(facts: RunFacts) -> str:
    """Return the completed epochs and those that were asked for, such as "12/50"."""
    return f"{facts.epochs}/{UNKNOWN if facts.epochs_asked is None else facts.epochs_asked}"


def _cells(facts: RunFacts | None) -> list[Text]:
    if facts is None:
        return ["", Text(NO_RUN, style=_STYLES[NO_RUN])]
    cells = [
        age(time.time() - facts.changed),
        Text(facts.state, style=_STYLES.get(facts.state, "yellow")),
        facts.task or UNKNOWN,
        facts.model or UNKNOWN,
        epochs_text(facts),
        percent(facts.best_lap_share),
        lap_time(facts.best_lap_time),
        ratio_text(facts),
        held_text(facts),
        decimal(facts.disk_bytes),
    ]
    return [cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells]
