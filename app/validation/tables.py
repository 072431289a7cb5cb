"""The outcome of a validation on the console."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.reporting.formatting import number, tell
from app.validation.bootstrap import Interval
from app.validation.comparison import MEASURES, Comparison, Estimate
from app.validation.report import Report


def print_report(report: Report, console: Console) -> None:
    """Print a table for every measure, and below them in words what they show."""
    share = f"{report.cfg.confidence * 100:g} %"
    for measure, comparisons in report.comparisons.items():
        name = f"objective, {report.candidates[0].config.objective}" if measure == "objective" else MEASURES[measure]
        tell(console, f"{name} · with {share} intervals, and differences from the default", "bold")
        console.print(_table(comparisons))
    objective = report.comparisons["objective"] if "objective" in report.comparisons else {}
    for candidate in report.candidates[1:]:
        verdict = objective[candidate.name].verdict if objective else ""
        search = f"{number(candidate.score)} in the search, {candidate.end}"
        tell(console, f"{candidate.name} ({search}): {verdict or 'nothing to compare with the default yet'}", "bold")
        for line in candidate.settings:
            tell(console, f"  {line}")
    for line in report.remarks:
        tell(console, line, "red")
    for line in report.notes:
        tell(console, line, "yellow")


def _table(comparisons: Mapping[str, Comparison]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("by seed", overflow="fold")
    for name in ("mean", "interval", "difference", "interval"):
        table.add_column(name, justify="right")
    for name, found in comparisons.items():
        values = () if found.estimate is None else found.estimate.values.items()
        by_seed = Text("  ".join(f"{seed}={number(value)}" for seed, value in values))
        table.add_row(Text(name), by_seed, *_cells(found.estimate, ""), *_cells(found.difference, "+"))
    return table


def _cells(estimate: Estimate | None, sign: str) -> tuple[str, str]:
    """A mean and its interval; ``sign`` "+" shows the sign of what is positive, too."""
    if estimate is None:
        return "", ""
    return _signed(estimate.mean, sign), _interval(estimate.interval, sign)


def _interval(interval: Interval | None, sign: str) -> str:
    if interval is None:
        return ""
    return f"{_signed(interval.low, sign)} … {_signed(interval.high, sign)}"


def _signed(value: float, sign: str) -> str:
    return f"{sign if value > 0 else ''}{number(value)}"
