"""Report of a validation: comparisons, ``validation.json``, ``validation.csv`` and tables on the console."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.config.schema_commands import ValidateConfig
from app.core.atomic_files import atomic_write, write_json
from app.core.console import print_line
from app.reporting.bootstrap import Interval, Precision
from app.reporting.number_format import significant
from app.sweep.validation.candidates import Candidate
from app.sweep.validation.statistics import (
    MEASURES,
    Comparison,
    Estimate,
    compare,
    few_seeds_warning,
)
from app.sweep.validation.validation_runs import PENDING, ValidationResult


@dataclass(frozen=True)
class ValidationReport:
    """Findings of a validation so far.

    Attributes:
        cfg: Settings of the validation.
        candidates: Candidates, the default first.
        results: Results of all runs.
        comparisons: Comparisons with the default, by measure and by name of the candidate.
        notes: Remarks on the selection of the candidates and on the seeds.
    """

    cfg: ValidateConfig
    candidates: Sequence[Candidate]
    results: Sequence[ValidationResult]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    notes: Sequence[str]

    @property
    def pending(self) -> int:
        """Number of runs that have not ended."""
        return sum(result.end == PENDING for result in self.results)

    @property
    def problems(self) -> list[str]:
        """Problems of runs, a line for each."""
        return [f"{result.run.name}: {result.problem}" for result in self.results if result.problem is not None]


def make_report(
    cfg: ValidateConfig, candidates: Sequence[Candidate], results: Sequence[ValidationResult], notes: Sequence[str]
) -> ValidationReport:
    """Compare every candidate with the default in every measure that a run has.

    Args:
        cfg: Settings of the validation.
        candidates: Candidates, the default first.
        results: Results of all runs.
        notes: Remarks on the selection of the candidates.
    """
    precision = Precision(cfg.confidence, cfg.bootstrap)
    comparisons: dict[str, dict[str, Comparison]] = {}
    for measure in MEASURES:
        values = {candidate.name: _values_by_seed(results, candidate, measure) for candidate in candidates}
        if any(values.values()):
            default = candidates[0].name
            comparisons[measure] = {
                name: compare(found, None if name == default else values[default], precision)
                for name, found in values.items()
            }
    warning = few_seeds_warning(cfg.seeds, cfg.confidence)
    return ValidationReport(cfg, candidates, results, comparisons, notes if warning is None else [*notes, warning])


def write_report(report: ValidationReport, folder: Path) -> tuple[Path, Path]:
    """Write ``validation.json``, and ``validation.csv`` with a line for every run; return both paths."""
    json_path, csv_path = folder / "validation.json", folder / "validation.csv"
    write_json(json_path, _json_content(report))
    with atomic_write(csv_path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("candidate", "trial", "seed", "end", *MEASURES, "folder"))
        for result in report.results:
            run, values = result.run, [result.measures.get(name) for name in MEASURES]
            writer.writerow((run.candidate.name, run.candidate.trial, run.seed, result.end, *values, run.folder.path))
    return json_path, csv_path


def print_report(report: ValidationReport, console: Console) -> None:
    """Print a table for every measure, then the verdict on every candidate, the problems and the notes."""
    share = f"{report.cfg.confidence * 100:g} %"
    for measure, comparisons in report.comparisons.items():
        name = f"objective, {report.candidates[0].config.objective}" if measure == "objective" else MEASURES[measure]
        print_line(console, f"{name} · with {share} intervals, and differences from the default", "bold")
        console.print(_table(comparisons))
    objective = report.comparisons.get("objective", {})
    for candidate in report.candidates[1:]:
        verdict = objective[candidate.name].verdict if objective else None
        search = f"{significant(candidate.score)} in the search, {candidate.end}"
        print_line(
            console, f"{candidate.name} ({search}): {verdict or 'nothing to compare with the default yet'}", "bold"
        )
        for line in candidate.settings:
            print_line(console, f"  {line}")
    for line in report.problems:
        print_line(console, line, "red")
    for line in report.notes:
        print_line(console, line, "yellow")


def _values_by_seed(results: Sequence[ValidationResult], candidate: Candidate, measure: str) -> dict[int, float]:
    return {
        result.run.seed: result.measures[measure]
        for result in results
        if result.run.candidate == candidate and measure in result.measures
    }


def _json_content(report: ValidationReport) -> dict[str, Any]:
    cfg = report.cfg
    return {
        "study": cfg.study,
        "objective": report.candidates[0].config.objective,
        "seeds": cfg.seeds,
        "confidence": cfg.confidence,
        "resamples": cfg.bootstrap,
        "runs_to_be_done": report.pending,
        "candidates": [_candidate_json(report, candidate) for candidate in report.candidates],
        "remarks": report.problems,
        "notes": report.notes,
    }


def _candidate_json(report: ValidationReport, candidate: Candidate) -> dict[str, Any]:
    runs = [result for result in report.results if result.run.candidate == candidate]
    return {
        "name": candidate.name,
        "trial": candidate.trial,
        "score_in_search": candidate.score,
        "end_in_search": candidate.end,
        "settings": candidate.settings,
        "measures": {
            measure: {
                "estimate": _estimate_json(comparisons[candidate.name].estimate),
                "difference_to_default": _estimate_json(comparisons[candidate.name].difference),
                "verdict": comparisons[candidate.name].verdict,
            }
            for measure, comparisons in report.comparisons.items()
        },
        "runs": [
            {"seed": result.run.seed, "end": result.end, **result.measures, "folder": result.run.folder.path}
            for result in runs
        ],
    }


def _estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    interval = None if estimate.interval is None else [estimate.interval.low, estimate.interval.high]
    return {"mean": estimate.mean, "interval": interval, "by_seed": estimate.values}


def _table(comparisons: Mapping[str, Comparison]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("by seed", overflow="fold")
    for name in ("mean", "interval", "difference", "interval"):
        table.add_column(name, justify="right")
    for name, comparison in comparisons.items():
        values = () if comparison.estimate is None else comparison.estimate.values.items()
        by_seed = Text("  ".join(f"{seed}={significant(value)}" for seed, value in values))
        table.add_row(Text(name), by_seed, *_cells(comparison.estimate, ""), *_cells(comparison.difference, "+"))
    return table


def _cells(estimate: Estimate | None, plus: str) -> tuple[str, str]:
    """Return the cells of a mean and its interval.

    Args:
        estimate: The mean; None gives empty cells.
        plus: Sign in front of positive numbers, "+" or none.
    """
    if estimate is None:
        return "", ""
    return _signed(estimate.mean, plus), _interval_text(estimate.interval, plus)


def _interval_text(interval: Interval | None, plus: str) -> str:
    if interval is None:
        return ""
    return f"{_signed(interval.low, plus)} … {_signed(interval.high, plus)}"


def _signed(value: float, plus: str) -> str:
    return f"{plus if value > 0 else ''}{significant(value)}"
