"""CPU time of one update and of one action, compared with another version of this project.

    git worktree add ../before 5f8e550
    python benchmarks/update_cost.py --before ../before [--rounds 30] [--out file.json]

Each version runs in its own process with one thread, on a batch of 64 transitions of the simulator and with its own
defaults: `model=droq_contextual`, with and without images. CPU seconds of the process are measured, not wall time, and
the versions take turns, so that a busy machine slows both alike.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.common import ROOT, machine, markdown, number, parser, publish

TASKS = {"images of 16 × 16": "env=sim", "no images": "env=sim_lidar"}
UPDATES, ACTS = 5, 50  # of one round

_CHILD = """
import sys, time
sys.path.insert(0, ".")
from benchmarks.speed import make_ours
ours = make_ours(1, 64, sys.argv[1])
actor = ours.agent.get_actor()
work = {"update": lambda: ours.agent.train(ours.batch), "act": lambda: actor.act_(ours.obs)}
for line in sys.stdin:
    name, count = line.split()
    began = time.process_time()
    for _ in range(int(count)):
        work[name]()
    print(1e3 * (time.process_time() - began) / int(count), flush=True)
"""


class Version:
    """Process of one checkout of the project, which updates and acts on request.

    Args:
        folder: Root of the checkout.
        task: Value of ``env=…``.
    """

    def __init__(self, folder: Path, task: str):
        command = [sys.executable, "-c", _CHILD, task]
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def milliseconds(self, task: str, count: int) -> float:
        """Do ``count`` updates or actions, and return the CPU milliseconds of one."""
        print(task, count, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Stop the process."""
        self._process.stdin.close()
        self._process.wait()


def compare(before: Path, task: str, rounds: int) -> list[dict[str, Any]]:
    """Measure both versions; return a row for the update and one for the action."""
    versions = {"before": Version(before, task), "now": Version(ROOT, task)}
    taken = {(what, name): [] for what in ("update", "act") for name in versions}
    for turn in range(-2, rounds):
        for what, count in (("update", UPDATES), ("act", ACTS)):
            for name, version in versions.items():
                ms = version.milliseconds(what, count)
                if turn >= 0:
                    taken[what, name].append(ms)
    for version in versions.values():
        version.close()
    return [_row(what, taken[what, "before"], taken[what, "now"]) for what in ("update", "act")]


def _row(what: str, before: Sequence[float], now: Sequence[float]) -> dict[str, Any]:
    p50 = float(np.median(before)), float(np.median(now))
    ratios = np.asarray(now) / np.asarray(before)
    return {"what": what, "before_ms": p50[0], "now_ms": p50[1], "ratio": float(np.median(ratios))}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--before", type=Path, required=True, help="checkout of the version to compare with")
    args_parser.add_argument("--rounds", type=int, default=30)
    args = args_parser.parse_args(arguments)
    if not (args.before / "benchmarks" / "speed.py").is_file():
        args_parser.error(f"--before {args.before}: is not a checkout of this project")
    rows = [{"task": name, **row} for name, task in TASKS.items() for row in compare(args.before, task, args.rounds)]
    cells = [
        (row["task"], row["what"], *(number(row[key]) for key in ("before_ms", "now_ms", "ratio"))) for row in rows
    ]
    table = markdown(("task", "", "before, CPU ms", "now, CPU ms", "now / before"), cells, left=2)
    report = {"benchmark": "update_cost", **machine(), "results": rows}
    publish(report, [table], args.out)
    return report


if __name__ == "__main__":
    main()
