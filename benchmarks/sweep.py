"""Trials per hour of one job, of two jobs at once and of two launches, and the cost of a trial beside its training.

    python benchmarks/sweep.py [--trials 6] [--updates 150] [--rounds 2] [--quick] [--out sweep.json]

Trials per hour: real launches of `python app/train.py -m hydra/sweeper=optuna sweep=core env=sim_lidar`, with networks
of the default size and a short schedule. Every trial does the same work: the keys of `sweep=core` are fixed, and the
only searched key does not change the time. The time runs from the start of the first training to the end of the last
trial; what comes before (imports of torch and tmrl, the study, the start of a worker) is shown separately. The ways of
running take turns, so that other load on the machine slows all of them.

The cost of a trial beside its training: a sweep of tiny trials with every dimension of `sweep=optuna`, from one
request for a trial to the next, less the time in `app.training.run.train_in_folder`, but with the reports that are made
there. Its peer is Optuna's `study.optimize` with the same space, storage, sampler, pruner and function, without Hydra.

The results of a study: best.yaml, best.json, trials.csv and report.html, where the libraries are loaded already, and
by `python app/sweep_report.py` from its start to its end. Studies lie in temporary folders.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import optuna

from app.runs.run_folder import RunFolder
from app.sweep.study_folder import find_study
from app.sweep.study_store import FOLDER
from benchmarks.common import ROOT, machine, markdown, number, parser, publish
from benchmarks.sweep_costs import STUDY, finished_trials, overhead, results

SAME_WORK = (
    "env=sim_lidar", "sweep=core", "agent.gamma=0.99", "agent.betas_critic.1=0.99", "agent.betas_actor.1=0.99",
    "training.max_training_steps_per_env_step=2", "agent.weight_decay_actor=interval(1e-9,2e-9)", "pruner=none",
    "health.on_collapse=warn", "training.epochs=1", "logger=quiet",
)  # fmt: skip
REFERENCE = "one job, one thread"
WAYS = {  # launches at once, and overrides of each
    REFERENCE: (1, "threads=1"),
    "one job, two threads": (1, "threads=2"),
    "joblib, two jobs": (1, "threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "two launches": (2, "threads=1"),
}
SIZES = {"trials": 6, "updates": 150, "rounds": 2, "costs": 20}
QUICK = {"trials": 2, "updates": 10, "rounds": 1, "costs": 10}
RESULTS_TRIALS = 50  # of the study whose results are written
AIM_S = 0.5  # seconds of a trial beside its training


def measure(trials: int, updates: int, launches: int, *overrides: str) -> dict[str, float]:
    """Run a sweep in processes of its own; return trials per hour, and the seconds before the first training.

    Raises:
        SystemExit: The sweep or one of its trials failed.
    """
    with tempfile.TemporaryDirectory() as name:
        base, began = Path(name), time.time()
        size = (f"hydra.sweeper.n_trials={trials}", f"training.updates_per_epoch={updates}")
        launch(base, launches, *size, *SAME_WORK, *overrides)
        done = finished_trials(base, trials)
        folder = find_study(base, STUDY, None)[0]
        # A run writes its configuration when it starts to train.
        configs = [RunFolder(folder.trials / trial.user_attrs[FOLDER]).config for trial in done]
        first = min(config.stat().st_mtime for config in configs)
        last = max(trial.datetime_complete.timestamp() for trial in done)
        return {"trials_per_hour": 3600 * trials / (last - first), "start_s": first - began}


def launch(base: Path, launches: int, *overrides: str) -> None:
    """Launch the same sweep several times at once and wait for all; after a failure the others are stopped."""
    study = (f"sweeps_dir='{base}'", f"hydra.sweeper.study_name={STUDY}")
    command = [sys.executable, "app/train.py", "-m", "hydra/sweeper=optuna", *study, *overrides]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(launches)]
    try:
        for process in processes:
            if process.wait():
                raise SystemExit(f"exit code {process.returncode} of: {' '.join(command)}")
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def throughput(trials: int, updates: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every way in turns; return a row for each, with medians over the rounds."""
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, (launches, *overrides) in WAYS.items():
            samples[way].append(measure(trials, updates, launches, *overrides))
            print(f"{way}: {samples[way][-1]['trials_per_hour']:.0f} trials an hour", file=sys.stderr, flush=True)
    return compare(samples)


def compare(samples: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return a row for each way: medians, the range of the rates, and the ratio to the rate of one job."""
    rows = []
    for way, taken in samples.items():
        rates = [sample["trials_per_hour"] for sample in taken]
        row = {"way": way, "trials_per_hour": statistics.median(rates), "least": min(rates), "most": max(rates)}
        rows.append({**row, "start_s": statistics.median(sample["start_s"] for sample in taken)})
    reference = next(row["trials_per_hour"] for row in rows if row["way"] == REFERENCE)
    return [{**row, "ratio": row["trials_per_hour"] / reference} for row in rows]


def tables(report: Mapping[str, Any]) -> list[str]:
    """Return the report as Markdown tables."""
    ways = [
        (
            row["way"],
            f"{row['trials_per_hour']:.0f}",
            f"{row['least']:.0f} to {row['most']:.0f}",
            f"{row['ratio']:.2f} ×",
            f"{row['start_s']:.1f} s",
        )
        for row in report["throughput"]
    ]
    ours, plain = report["overhead"]["ours"], report["overhead"]["plain_optuna"]
    costs = [
        ("in all, median", *(number(of["median_s"], "{:.3f}") for of in (ours, plain))),
        ("in all, max", *(number(of["max_s"], "{:.3f}") for of in (ours, plain))),
        *((part, *(number(of["parts_s"][part], "{:.3f}") for of in (ours, plain))) for part in ours["parts_s"]),
    ]
    written = report["results"]
    notes = (
        f"The aim for a trial beside its training is {AIM_S} s and {'reached' if report['aim_holds'] else 'missed'}.\n"
        f"The results of {written['trials']} trials: {written['median_s']:.2f} s, as a sweep writes them; "
        f"{written['command_s']:.1f} s by python app/sweep_report.py."
    )
    return [
        markdown(("way", "trials per hour", "of the rounds", "ratio", "before the first training"), ways),
        markdown((f"s beside the training, {ours['trials']} trials", "ours", "plain Optuna"), costs),
        notes,
    ]


def read_arguments(arguments: Sequence[str] | None) -> Namespace:
    """Parse the command line; ``--quick`` changes the defaults of the others."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument(
        "--trials", type=int, help="trials of each way of running, in each round; an even number"
    )
    arguments_parser.add_argument("--updates", type=int, help="updates of a trial")
    arguments_parser.add_argument("--rounds", type=int, help="rounds, in each of which every way runs once")
    arguments_parser.add_argument("--costs", type=int, help="tiny trials whose cost beside their training is measured")
    arguments_parser.add_argument(
        "--quick", action="store_true", help="few and short trials, to check that the benchmark runs"
    )
    arguments_parser.set_defaults(**(QUICK if arguments_parser.parse_args(arguments).quick else SIZES))
    return arguments_parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args = read_arguments(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    costs = overhead(args.costs)
    report = {
        "benchmark": "sweep",
        **machine(),
        "trials": args.trials,
        "updates": args.updates,
        "rounds": args.rounds,
        "overhead": costs,
        "aim_s": AIM_S,
        "aim_holds": costs["ours"]["median_s"] <= AIM_S,
        "results": results(RESULTS_TRIALS),
        "throughput": throughput(args.trials, args.updates, args.rounds),
    }
    publish(report, tables(report), args.out)
    return report


if __name__ == "__main__":
    main()
