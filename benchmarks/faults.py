"""Effect of every repair: the repaired agent, the broken one, and the broken one with one fault repaired.

    python benchmarks/faults.py [--updates 2000] [--seeds 0 1] [--jobs 1] [--out file.json] [-- OVERRIDE ...]

Runs without images, where minutes are enough to distinguish the arms; `fix_norm` repairs the norm of the CNN and is the
same as `collapse` there. `-- env=sim` measures with images, which takes longer; `-- value=scalar` with the value
representation of the agent that collapsed (docs/lab.md, 10: with the default one even `collapse` drives).
Learning quantities are means over the last epoch, a tenth of the updates; lap shares are those of the last
policy. Over several seeds: the mean, and the range in brackets.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.config.faults import FAULTS
from benchmarks.common import machine, markdown, parser, publish
from benchmarks.learning import Job, Outcome, add_run_arguments, run_jobs

REPAIRS = dict.fromkeys(fault.switch.experiment for fault in FAULTS if fault.switch and fault.switch.experiment)
ARMS = {"default (all fixed)": "default", **{name: name for name in ("collapse", *REPAIRS)}}
QUANTITIES = {  # metric: format
    "q_mean": "{:.2f}",
    "loss_critic": "{:.3g}",
    "grad_norm_critic": "{:.3g}",
    "film_scale": "{:.3f}",
    "log_std_mean": "{:.2f}",
    "lap_share_det": "{:.2f}",
    "lap_share_stoch": "{:.2f}",
}
EPOCHS = 10


def jobs_of(arm: str, seeds: Sequence[int], updates: int, extra: Sequence[str]) -> list[Job]:
    """Make the runs of one arm."""
    experiment = () if arm == "default" else (f"experiment={arm}",)
    schedule = (f"training.epochs={EPOCHS}", f"training.updates_per_epoch={updates // EPOCHS}")
    overrides = ("env=sim_lidar", *experiment, "logger=quiet", *schedule, *extra)
    return [Job(f"{arm}-seed{seed}", seed, overrides) for seed in dict.fromkeys(seeds)]


def as_row(arm: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Summarize the seeds of one arm: the values of every quantity, and the ends of the runs."""
    last = [outcome.epochs[-1] for outcome in outcomes if outcome.epochs]
    values = {key: [epoch[key] for epoch in last if epoch.get(key) is not None] for key in QUANTITIES}
    return {"arm": arm, **values, "ends": [outcome.failure or "finished" for outcome in outcomes]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    cells = []
    for row in rows:
        ends = ", ".join(f"{row['ends'].count(end)} × {end}" for end in dict.fromkeys(row["ends"]))
        values = [_mean_and_range(row[key], form) for key, form in QUANTITIES.items()]
        cells.append((row["arm"], *values, ends))
    return markdown(("arm", *QUANTITIES, "end"), cells)


def _mean_and_range(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean = form.format(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} [{form.format(min(values))}, {form.format(max(values))}]"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train every arm with every seed and summarize the results."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--updates", type=int, default=2000, help=f"per run, a multiple of {EPOCHS}")
    args_parser.add_argument("--arms", nargs="+", choices=ARMS.values(), default=list(ARMS.values()))
    add_run_arguments(args_parser, "faults", seeds=(0, 1))
    args = args_parser.parse_args(arguments)
    if args.updates < EPOCHS or args.updates % EPOCHS:
        args_parser.error(f"--updates {args.updates}: must be a multiple of {EPOCHS}")
    jobs = [job for arm in args.arms for job in jobs_of(arm, args.seeds, args.updates, args.overrides)]
    outcomes = run_jobs(jobs, args.runs_dir, args.jobs)
    rows = [
        as_row(label, [outcome for outcome in outcomes if outcome.name.rpartition("-seed")[0] == arm])
        for label, arm in ARMS.items()
        if arm in args.arms
    ]
    report = {
        "benchmark": "faults",
        **machine(),
        "updates": args.updates,
        "overrides": args.overrides,
        "runs_dir": args.runs_dir,
        "results": rows,
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    publish(report, [table(rows)], args.out)
    return report


if __name__ == "__main__":
    main()
