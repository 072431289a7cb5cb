"""Steps per CPU second of the simulator: one car, Gymnasium's vector of single cars, and all cars moved at once.

    python benchmarks/simulator.py [--cars 16 64 256] [--seconds 4] [--out simulator.json]

Every candidate drives the same random actions, whose episodes are short, so that the cost of a reset counts in full.
They take turns, on one thread. CPU seconds, not those of the clock: on a busy machine the ratios stay. A step of N cars
counts N times.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium  # noqa: E402
import numpy as np  # noqa: E402

import app.envs  # noqa: E402, F401  (registers the simulator)
from benchmarks.common import machine, markdown, parser, publish  # noqa: E402

TASKS = {"without images": "TrackSimLidar-v0", "16 × 16 images": "TrackSim-v0"}
BLOCK = 50  # steps of a turn


class Candidate:
    """One way to drive some cars.

    Args:
        task: Id of the environment.
        cars: Number of cars; 0 for a single environment that is no vector.
        mode: As of ``gymnasium.make_vec``.
    """

    def __init__(self, task: str, cars: int, mode: str | None):
        self.cars, self._vector = max(cars, 1), cars > 0
        quick = {"disable_env_checker": True} if mode != "vector_entry_point" else {}
        made = gymnasium.make_vec(task, cars, mode, **quick) if self._vector else gymnasium.make(task, **quick)
        self._env, self.steps, self.seconds = made, 0, 0.0
        self._env.reset(seed=1)
        rng = np.random.default_rng(0)
        actions = np.tanh(rng.normal([0.8, -1.2, 0.0], 0.4, (BLOCK, self.cars, 3))).astype(np.float32)
        self._actions = actions if self._vector else actions[:, 0]

    def drive(self) -> None:
        """Drive one block of steps and add its CPU time."""
        start = time.process_time()
        for action in self._actions:
            _, _, terminated, truncated, _ = self._env.step(action)
            if not self._vector and (terminated or truncated):
                self._env.reset()
        self.seconds += time.process_time() - start
        self.steps += BLOCK * self.cars

    @property
    def rate(self) -> float:
        """Steps per CPU second."""
        return self.steps / self.seconds


def measure(task: str, cars: list[int], seconds: float) -> dict[str, float]:
    """Return steps per CPU second by name of the candidate, each measured for at least ``seconds``."""
    candidates = {"one car": Candidate(task, 0, None)}
    for count in cars:
        candidates[f"SyncVectorEnv of {count}"] = Candidate(task, count, "sync")
        candidates[f"all {count} at once"] = Candidate(task, count, "vector_entry_point")
    for candidate in candidates.values():  # the first block fills caches
        candidate.drive()
        candidate.steps, candidate.seconds = 0, 0.0
    while min(candidate.seconds for candidate in candidates.values()) < seconds:
        for candidate in candidates.values():
            if candidate.seconds < seconds:
                candidate.drive()
    return {name: candidate.rate for name, candidate in candidates.items()}


def main() -> None:
    """Measure, and print JSON and tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--cars", type=int, nargs="+", default=[16, 64, 256])
    arguments.add_argument("--seconds", type=float, default=4.0, help="CPU seconds of every candidate")
    args = arguments.parse_args()
    rates = {name: measure(task, args.cars, args.seconds) for name, task in TASKS.items()}
    tables = []
    for name, found in rates.items():
        rows = [[candidate, f"{rate:,.0f}", f"{rate / found['one car']:.1f} ×"] for candidate, rate in found.items()]
        tables.append(markdown([name, "steps per CPU second", "times one car"], rows))
    publish({"machine": machine(), "steps_per_cpu_s": rates}, tables, args.out)


if __name__ == "__main__":
    main()
