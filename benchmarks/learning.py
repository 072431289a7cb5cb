"""Training results of a configuration with several seeds, one row for each run.

    python benchmarks/learning.py [--seeds 0 1 2] [--jobs 1] [--out file.json] [-- OVERRIDE ...]

The arguments after `--` are passed to `python app/train.py`, for example `-- env=sim_lidar training=full`. The run
folders and logs stay in --runs-dir. A run that fails also gets a row. Columns:

    lap share, laps finished, lap time   of the best policy on starts that were not used to select it: mean (± standard
                                         deviation) over the episodes
    × bound                              lap time divided by that of the fastest lap along the centre line from the
                                         same start (simulator only)
    first lap, after                     first epoch in whose evaluation a deterministic episode finished the lap, and
                                         the training time until then
    last lap share                       of the last policy on the starts of every evaluation
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.reporting.number_format import duration
from benchmarks.common import ROOT, machine, markdown, number, parser, publish


@dataclass(frozen=True)
class Job:
    """One training run."""

    name: str  # unique among the jobs of a call
    seed: int
    overrides: tuple[str, ...]  # for app/train.py


@dataclass(frozen=True)
class Outcome:
    """Result of a training run, read from its folder."""

    name: str
    seed: int
    wall_s: float  # duration of the process
    failure: str | None  # reason why the run did not reach its end; None if it did
    summary: dict[str, Any]  # summary.json; empty if there is none
    epochs: list[dict[str, Any]]  # the lines of metrics.jsonl

    @property
    def first_lap(self) -> dict[str, Any] | None:
        """The first epoch in whose evaluation a deterministic episode finished the lap."""
        return next((epoch for epoch in self.epochs if epoch.get("laps_det")), None)


def run_jobs(jobs: Sequence[Job], runs_dir: Path, parallel: int) -> list[Outcome]:
    """Run every job in its own process, ``parallel`` at a time, and read its run folder.

    Ctrl-C ends the running jobs in the same way as a single run, and starts no more.

    Args:
        jobs: Training runs.
        runs_dir: New folder for the run folders and logs.
        parallel: Number of processes at a time; with more than one, each has one thread.
    """
    if runs_dir.exists():
        sys.exit(f"--runs-dir {runs_dir} exists already. Name a new folder.")
    runs_dir.mkdir(parents=True)
    shared = ("threads=1",) if parallel > 1 else ()
    pool = ThreadPoolExecutor(parallel)
    try:
        return list(pool.map(lambda job: _run(job, runs_dir, shared), jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def _run(job: Job, runs_dir: Path, overrides: tuple[str, ...]) -> Outcome:
    folder, log = runs_dir / job.name, runs_dir / f"{job.name}.log"
    identity = (f"seed={job.seed}", f"run_name={job.name}", f"runs_dir={quoted(runs_dir)}")
    command = [sys.executable, str(ROOT / "app" / "train.py"), *overrides, *job.overrides, *identity]
    print(f"{job.name}: started, {log}", file=sys.stderr, flush=True)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    outcome = read_run(job, folder, time.monotonic() - start, code, log)
    print(f"{job.name}: {outcome.failure or 'done'}, {duration(outcome.wall_s)}", file=sys.stderr, flush=True)
    return outcome


def read_run(job: Job, folder: Path, wall_s: float, code: int, log: Path) -> Outcome:
    """Read the folder of a run, which may have failed."""
    summary_file, metrics_file = folder / "summary.json", folder / "metrics.jsonl"
    summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.exists() else {}
    text = metrics_file.read_text(encoding="utf-8") if metrics_file.exists() else ""
    epochs = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    failure = None
    if code != 0 or not summary:
        failure = f"exit code {code}: {last_lines(log)}"
    elif summary["stop_reason"] != "finished":
        failure = summary["stop_reason"]
    return Outcome(job.name, job.seed, wall_s, failure, summary, epochs)


def last_lines(log: Path) -> str:
    """Return the last two lines of a log that contain letters or digits."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " · ".join([line.strip() for line in lines if any(map(str.isalnum, line))][-2:]) or "no output"


def add_run_arguments(made: ArgumentParser, name: str, seeds: Sequence[int]) -> None:
    """Add the arguments of every benchmark that trains; the run folders go below ``runs/`` by default."""
    made.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    made.add_argument("--jobs", type=int, default=1, help="number of runs at a time; each has one thread if > 1")
    made.add_argument(
        "--runs-dir", type=absolute, default=new_runs_dir(name), help="new folder for the runs; default: one in runs/"
    )
    made.add_argument("overrides", nargs="*", help="after --: arguments of app/train.py")


def new_runs_dir(name: str) -> Path:
    """Return a path below ``runs/`` that does not exist yet."""
    return ROOT / "runs" / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"


def absolute(path: str) -> Path:
    """Return a path of the command line as an absolute one."""
    return Path(path).absolute()


def quoted(path: Path) -> str:
    """Quote a path for Hydra's grammar, in which blanks, commas and brackets mean something."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Return the row of one seed; None where there is no value."""
    summary, first, final = outcome.summary, outcome.first_lap, outcome.epochs[-1] if outcome.epochs else {}
    counters = summary or final
    return {
        "seed": outcome.seed,
        "failure": outcome.failure,
        "wall_s": outcome.wall_s,
        **{key: counters.get(key) for key in ("updates", "env_steps")},
        **{
            key: summary.get(key)
            for key in (
                "best_epoch", "return_test_det", "return_test_stoch", "lap_share_det", "lap_share_det_std",
                "lap_share_stoch", "lap_share_stoch_std", "laps_det", "lap_time_det", "lap_time_ratio_det",
            )
        },
        "first_lap_epoch": first and first["epoch"],
        "first_lap_wall_s": first and first["wall_s"],
        "last_lap_share_det": final.get("lap_share_det"),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    columns = (
        "seed", "wall time", "updates", "env steps", "best epoch", "lap share det", "lap share stoch",
        "laps finished", "lap time", "× bound", "first lap", "after", "last lap share", "end",
    )  # fmt: skip
    cells = [
        (
            str(row["seed"]),
            duration(row["wall_s"]),
            *(number(row[key], "{:,}") for key in ("updates", "env_steps", "best_epoch")),
            *(with_spread(row, f"lap_share_{policy}") for policy in ("det", "stoch")),
            number(row["laps_det"], "{:.0%}"),
            number(row["lap_time_det"], "{:.2f} s"),
            number(row["lap_time_ratio_det"]),
            number(row["first_lap_epoch"], "epoch {}"),
            "-" if row["first_lap_wall_s"] is None else duration(row["first_lap_wall_s"]),
            number(row["last_lap_share_det"]),
            row["failure"] or "finished",
        )
        for row in rows
    ]
    return markdown(columns, cells)


def with_spread(row: dict[str, Any], key: str) -> str:
    """Format a mean with the standard deviation over its episodes."""
    return "-" if row[key] is None else f"{row[key]:.2f} ± {row[f'{key}_std']:.2f}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train every seed and publish the results."""
    args_parser = parser(__doc__)
    add_run_arguments(args_parser, "learning", seeds=(0, 1, 2))
    args = args_parser.parse_args(arguments)
    jobs = [Job(f"seed{seed}", seed, tuple(args.overrides)) for seed in dict.fromkeys(args.seeds)]
    outcomes = run_jobs(jobs, args.runs_dir, args.jobs)
    rows = [as_row(outcome) for outcome in outcomes]
    report = {
        "benchmark": "learning",
        **machine(),
        "overrides": args.overrides,
        "jobs": args.jobs,
        "runs_dir": args.runs_dir,
        "results": rows,
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    publish(report, [table(rows)], args.out)
    return report


if __name__ == "__main__":
    sys.exit(any(row["failure"] for row in main()["results"]))
