"""Check of the algorithm: return of SAC on Pendulum-v1 after 20 000 steps, against that of published implementations.

    python benchmarks/core.py [--seeds 0 1 2] [--jobs 1] [--out core.json] [-- OVERRIDE ...]

Trains `model=mlp env=gym env.id=Pendulum-v1`, one update per step, by `python app/train.py`. The mean return of the
best policy on 20 starts that were not used to select it must lie in [-250, -100], the range of published
implementations of SAC. The return of the last policy, on the 20 starts of every evaluation, is shown beside it. The
exit code is 1 if a seed is outside the range.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.reporting.number_format import duration
from benchmarks.common import machine, markdown, number, parser, publish
from benchmarks.learning import Job, Outcome, add_run_arguments, run_jobs

BAND = (-250.0, -100.0)
ENV_STEPS = 20_000
WARM_UP = 1000  # env steps before the first update
EPOCH = 1000  # updates
OVERRIDES = (
    "model=mlp",
    "env=gym",
    "env.id=Pendulum-v1",
    "logger=quiet",
    f"training.start_training={WARM_UP}",
    f"training.epochs={(ENV_STEPS - WARM_UP) // EPOCH}",
    f"training.updates_per_epoch={EPOCH}",
    "training.max_training_steps_per_env_step=1",
    "training.update_model_interval=1",
    "training.eval_episodes=20",
    "training.eval_episodes_stochastic=1",
)


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Return the result of one seed as a row."""
    summary, last = outcome.summary, outcome.epochs[-1] if outcome.epochs else {}
    best = summary.get("return_test_det")
    return {
        "seed": outcome.seed,
        "return_best": best,
        "return_best_std": summary.get("return_test_det_std"),
        "best_epoch": summary.get("best_epoch"),
        "return_last": last.get("return_test_det"),
        "env_steps": summary.get("env_steps"),
        "wall_s": outcome.wall_s,
        "failure": outcome.failure,
        "in_band": outcome.failure is None and best is not None and BAND[0] <= best <= BAND[1],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    columns = ("seed", "return, best", "best epoch", "return, last", "env steps", "wall time", "in the band")
    cells = [
        (
            str(row["seed"]),
            f"{number(row['return_best'], '{:.1f}')} ± {number(row['return_best_std'], '{:.1f}')}",
            number(row["best_epoch"], "{}"),
            number(row["return_last"], "{:.1f}"),
            number(row["env_steps"], "{:,}"),
            duration(row["wall_s"]),
            row["failure"] or ("yes" if row["in_band"] else "NO"),
        )
        for row in rows
    ]
    return markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train every seed and compare it with the range."""
    args_parser = parser(__doc__)
    add_run_arguments(args_parser, "core", seeds=(0, 1, 2))
    args = args_parser.parse_args(arguments)
    overrides = (*OVERRIDES, *args.overrides)
    jobs = [Job(f"seed{seed}", seed, overrides) for seed in dict.fromkeys(args.seeds)]
    outcomes = run_jobs(jobs, args.runs_dir, args.jobs)
    rows = [as_row(outcome) for outcome in outcomes]
    curves = {outcome.name: [epoch["return_test_det"] for epoch in outcome.epochs] for outcome in outcomes}
    report = {
        "benchmark": "core",
        **machine(),
        "overrides": overrides,
        "band": BAND,
        "runs_dir": args.runs_dir,
        "results": rows,
        "curves": curves,  # deterministic return after every epoch
    }
    publish(report, [table(rows)], args.out)
    return report


if __name__ == "__main__":
    sys.exit(not all(row["in_band"] for row in main()["results"]))
