"""Table of evidence: ``evidence.csv`` with a row for every run and epoch of a lab."""

import csv
import math
from collections.abc import Iterator, Mapping
from typing import Any

from filelock import FileLock

from app.ablation.lab_runs import FAILED, LabFolder, LabRun
from app.core.atomic_files import atomic_write
from app.core.errors import UserError
from app.health.collapse import first_collapse
from app.health.score import History
from app.runs.config_file import read_config

RUN_COLUMNS = ("arm", "seed", "task", "end", "collapsed_at")
EPOCH_COLUMNS = ("epoch", "updates", "env_steps", "wall_s")

_LOCK_TIMEOUT_S = 60.0
_NO_METRICS = (*EPOCH_COLUMNS, "step")  # names in metrics.jsonl that are columns already, or say the same as one

Row = dict[str, Any]


def write_evidence(folder: LabFolder) -> None:
    """Write the table of all planned runs of a lab, atomically; other writers wait, so that the newest state stays."""
    with FileLock(folder.path / ".evidence.lock", timeout=_LOCK_TIMEOUT_S):
        rows = [row for run in folder.read_plan() for row in _rows(run)]
        known = {*RUN_COLUMNS, *_NO_METRICS}
        metrics = sorted({name for row in rows for name in row} - known)
        columns = (*RUN_COLUMNS, *EPOCH_COLUMNS, *metrics)
        with atomic_write(folder.evidence) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def collapse_epoch(run: LabRun, history: History) -> int | None:
    """Return the first epoch after which the rules of ``health`` call a run collapsed, counted from 1; or None.

    Args:
        run: The run, whose own configuration has the rules.
        history: Its metrics.

    Raises:
        UserError: Its configuration cannot be read.
    """
    found = first_collapse(history, read_config(run.folder.config))
    return None if found is None else found[0]


def _rows(run: LabRun) -> Iterator[Row]:
    """Yield the rows of a run: one for every epoch, or one without an epoch."""
    row: Row = {"arm": run.arm, "seed": run.seed, "task": run.task, "end": run.end()}
    try:
        history = run.history()
        row["collapsed_at"] = (run.collapsed_at() or collapse_epoch(run, history)) if history else None
    except UserError as error:
        yield row | {"end": f"{FAILED}: {' '.join(str(error).split())}"}
        return
    for metrics in history or [{}]:
        yield row | _finite(metrics)


def _finite(metrics: Mapping[str, float | None]) -> Row:
    return {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}


def _cell(value: object) -> str:
    """Return a cell: numbers with six significant digits, whole numbers in full, nothing for None."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
