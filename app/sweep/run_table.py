"""Table of the runs of a plain ``-m``, with mean and standard deviation over the seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.reporting.number_format import UNKNOWN, lap_share, lap_time, plus_minus
from app.reporting.run_facts import FINISHED, RunFacts, run_facts

Form = Callable[[float | None, float | None], str]  # mean and standard deviation as text
Value = Callable[[RunFacts], float | None]

_LEAST_RUNS = 2  # for a table, and for a mean
# Figures by the name of their column, of the evaluation that chose the best policy of a run.
_FIGURES: dict[str, tuple[Value, Form]] = {
    "return": (lambda run: run.best_return, plus_minus),
    "lap share": (lambda run: run.best_lap_share, lap_share),
    "lap time": (lambda run: run.best_lap_time, lap_time),
}


@dataclass(frozen=True)
class ComparedRun:
    """A run among those of a command.

    Attributes:
        settings: What differs from the others beside the seed, such as "agent.gamma=0.95"; may be empty.
        seed: Its seed, such as "seed=1"; empty if only one was asked for.
        folder: Run folder.
    """

    settings: str
    seed: str
    folder: Path

    @property
    def label(self) -> str:
        """Everything that differs from the others."""
        return " · ".join(filter(None, (self.settings, self.seed))) or self.folder.name


def print_runs(runs: Sequence[ComparedRun], console: Console) -> None:
    """Print what each run reached; a single run has said it already."""
    found = [(run, run_facts(run.folder)) for run in runs if (run.folder / "config.yaml").is_file()]
    if len(found) >= _LEAST_RUNS:
        console.print(run_table(found))


def run_table(runs: Sequence[tuple[ComparedRun, RunFacts]]) -> Table:
    """Return the table: a row for each run, and one for the finished runs of equal settings.

    Args:
        runs: Runs with their facts, in their order.
    """
    figures = {
        name: figure
        for name, figure in _FIGURES.items()
        if name == "return" or any(figure[0](facts) is not None for _, facts in runs)
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("state", "epochs", "best epoch", *figures):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for run, facts in runs:
        best = UNKNOWN if facts.best_epoch is None else str(facts.best_epoch)
        cells = [form(value(facts), None) for value, form in figures.values()]
        table.add_row(Text(run.label), facts.state, str(facts.epochs), best, *cells)
    table.add_section()
    for settings in dict.fromkeys(run.settings for run, _ in runs):
        finished = [facts for run, facts in runs if run.settings == settings and facts.state == FINISHED]
        if len(finished) >= _LEAST_RUNS:
            means = [_mean(form, [value(facts) for facts in finished]) for value, form in figures.values()]
            label = " · ".join(filter(None, (settings, f"mean ± std of {len(finished)} finished runs")))
            table.add_row(Text(label), "", "", "", *means)
    return table


def _mean(form: Form, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return UNKNOWN
    return form(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)
