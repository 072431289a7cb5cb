"""Metrics of several runs as one CSV file, which can be kept when the run folders are deleted.

    python benchmarks/metrics_csv.py docs/data/exploration.csv runs/a runs/b

One line for each run and epoch. Values are rounded to five digits; cells without a value are empty.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.reporting.curves import read_metrics

COLUMNS = (
    "epoch", "updates", "env_steps", "wall_s", "lap_share_det", "laps_det", "lap_time_det", "lap_share_det_raw",
    "lap_share_stoch", "native_return_det", "return_train", "q_mean", "q_target_clipped", "td_error", "loss_critic",
    "grad_norm_critic", "grad_norm_actor", "alpha", "entropy", "film_scale", "lap_time_ratio_det",
)  # fmt: skip


def rows_of(run: Path) -> list[list[str]]:
    """Return the lines of a run's metrics as cells."""
    lines = read_metrics(run / "metrics.jsonl")
    return [[run.name, *(_cell(line.get(name)) for name in COLUMNS)] for line in lines]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def main(arguments: Sequence[str]) -> None:
    """Write the file."""
    if len(arguments) < 2:
        sys.exit(__doc__)
    out, *runs = map(Path, arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", *COLUMNS])
        for run in runs:
            writer.writerows(rows_of(run))


if __name__ == "__main__":
    main(sys.argv[1:])
