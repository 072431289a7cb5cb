"""The outcome of a validation: as a value, as JSON, and as CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config.commands import ValidateConfig
from app.files import replacing, write_json
from app.validation.candidates import Candidate
from app.validation.comparison import MEASURES, Comparison, Estimate, Precision, caution, compare
from app.validation.runs import TO_BE_DONE, Result


@dataclass(frozen=True)
class Report:
    """What a validation has found so far.

    Attributes:
        cfg: what was asked for.
        candidates: the default first.
        results: of every run.
        comparisons: by measure and by name of the candidate.
        notes: what a person must know about the choice of the candidates, and of their seeds.
    """

    cfg: ValidateConfig
    candidates: Sequence[Candidate]
    results: Sequence[Result]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    notes: Sequence[str]

    @property
    def to_be_done(self) -> int:
        """The number of runs that have not ended."""
        return sum(result.end == TO_BE_DONE for result in self.results)

    @property
    def remarks(self) -> list[str]:
        """What is wrong with runs, a line for each of them."""
        return [f"{result.run.name}: {result.remark}" for result in self.results if result.remark]


def make_report(
    cfg: ValidateConfig, candidates: Sequence[Candidate], results: Sequence[Result], notes: Sequence[str]
) -> Report:
    """Compare every candidate with the default, the first of them, in every measure that there is."""
    precision = Precision(cfg.confidence, cfg.bootstrap)
    comparisons: dict[str, dict[str, Comparison]] = {}
    for measure in MEASURES:
        values = {
            candidate.name: {
                result.run.seed: result.measures[measure]
                for result in results
                if result.run.candidate == candidate and measure in result.measures
            }
            for candidate in candidates
        }
        if any(values.values()):
            default = candidates[0].name
            comparisons[measure] = {
                name: compare(found, None if name == default else values[default], precision)
                for name, found in values.items()
            }
    few = caution(cfg.seeds, cfg.confidence)
    return Report(cfg, candidates, results, comparisons, [*notes, few] if few else notes)


def write_report(report: Report, place: Path) -> tuple[Path, Path]:
    """Write ``validation.json``, and ``validation.csv`` with a line for every run; returns both paths."""
    as_json, as_csv = place / "validation.json", place / "validation.csv"
    write_json(as_json, _content(report))
    with replacing(as_csv) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("candidate", "trial", "seed", "end", *MEASURES, "folder"))
        for result in report.results:
            run, values = result.run, [result.measures[name] if name in result.measures else None for name in MEASURES]
            writer.writerow((run.candidate.name, run.candidate.trial, run.seed, result.end, *values, run.folder.path))
    return as_json, as_csv


def _content(report: Report) -> dict[str, Any]:
    cfg = report.cfg
    return {
        "study": cfg.study,
        "objective": report.candidates[0].config.objective,
        "seeds": cfg.seeds,
        "confidence": cfg.confidence,
        "resamples": cfg.bootstrap,
        "runs_to_be_done": report.to_be_done,
        "candidates": [_candidate(report, candidate) for candidate in report.candidates],
        "remarks": report.remarks,
        "notes": report.notes,
    }


def _candidate(report: Report, candidate: Candidate) -> dict[str, Any]:
    runs = [result for result in report.results if result.run.candidate == candidate]
    return {
        "name": candidate.name,
        "trial": candidate.trial,
        "score_in_search": candidate.score,
        "end_in_search": candidate.end,
        "settings": candidate.settings,
        "measures": {
            measure: {
                "estimate": _estimate(found[candidate.name].estimate),
                "difference_to_default": _estimate(found[candidate.name].difference),
                "verdict": found[candidate.name].verdict,
            }
            for measure, found in report.comparisons.items()
        },
        "runs": [
            {"seed": result.run.seed, "end": result.end, **result.measures, "folder": result.run.folder.path}
            for result in runs
        ],
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    interval = None if estimate.interval is None else [estimate.interval.low, estimate.interval.high]
    return {"mean": estimate.mean, "interval": interval, "by_seed": estimate.values}
