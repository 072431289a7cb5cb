"""Our agents next to SAC of Stable-Baselines3 (PyTorch) and SAC and DroQ of sbx (JAX), on one CPU thread each.

    python benchmarks/peers.py [--only updates,laps] [--seeds 0 1 2] [--max-cpu-seconds 300] [--out peers.json]

The peers live in an environment of their own:

    python -m venv .venv-peers && .venv-peers/bin/python -m pip install -r benchmarks/peers-requirements.txt

    updates  Updates per CPU second, replay sampling included, at equal widths (hidden layers 256, 256) and equal
             batches. Agents take turns, so that a busy machine slows all alike; the first turn is not counted, and
             "warm-up" is what it cost more than the others (compilation). sbx compiles a loop over the updates of
             one call, hence its two rows. "as shipped" has our own widths. "ours is ×": above 1 ours is faster.
    laps     CPU seconds (user and system, all threads of the process, from its start) until the first evaluation in
             which all 10 deterministic starts finish the lap. Evaluation, imports and compilation count for all
             alike; so do our checkpoints and the one sampled episode that our evaluations add. "start" is the part
             before the first step; JAX compiles after it, too. The clock is read when the evaluation's line is
             there, at most 0.1 s late. All evaluate after every 500 updates, from the same starts. --hold N goes
             on for N evaluations more.

The peers see the vector `floats` of env=sim_lidar, scaled as our networks scale it, and run twice: with the settings
of their libraries (SAC: batch 256, 1 update a step; DroQ: 20 updates of the critic and 1 of the policy a step), and
"as ours": with our batch, updates per step, n-step returns, discount, target rate, entropy, learning rate and betas.
Our agents run through the real command. Every seed is reported; one over --max-cpu-seconds is ended.

Leave the machine to it: beside other work the same training was seen to take twice the CPU seconds. "load" is the mean
number of busy processes at a run's end; at one thread it should be about 1.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.config.schema import Config
from app.core.atomic_files import strict_json
from app.evaluation.episodes import make_starts
from benchmarks.common import ROOT, compose_config, machine, markdown, number, parser, publish
from benchmarks.learning import absolute, new_runs_dir, quoted
from benchmarks.peers_laps import READY, LapRun, Limits, laps_table, run_until_lap, summarize, summary_table

# All that our own agents are told stands here.
TASK = ("env=sim_lidar", "threads=1", "device=cpu")
EQUAL = ("actor.hidden_dim=256", "actor.num_layers=2", "critic.hidden_dim=256", "critic.num_layers=2")
SCALAR = ("value=scalar",)  # the peers' critics regress one number
INTERVAL, STARTS = 500, 10  # updates between two evaluations; deterministic starts of each
SCHEDULE = (
    "logger=quiet",
    "training.epochs=10000",
    f"training.updates_per_epoch={INTERVAL}",
    f"training.eval_episodes={STARTS}",
    "training.eval_episodes_stochastic=1",
    "training.eval_episodes_other=0",
)
OURS = ("droq", "mlp")  # values of `model`; the first is what the others are compared with

HOW_TO_INSTALL = "The top of benchmarks/peers.py has the command that makes the peers' environment."
BATCHES = (64, 256)
STEPS = 400  # of random driving, from which the batches of updates are drawn
PER_CALL = 10  # updates that sbx does in one call
DROQ = {"dropout_rate": 0.01, "layer_norm": True}  # makes DroQ of sbx's SAC
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class Peer(NamedTuple):
    """An agent of another library."""

    library: str  # sb3 or sbx
    agent: dict[str, Any]  # arguments of its SAC


class Rates(NamedTuple):
    """Turns of one agent and the CPU seconds that they took."""

    family: str  # SAC or DroQ: agents of one family are compared
    batch: int
    agent: str
    per_call: int  # updates
    updates: int  # of a turn
    warm_up_cpu_s: float  # of the first turn, compilation included
    cpu_s: list[float]  # of every turn after it

    @property
    def median(self) -> float:
        """Updates per CPU second, the median over the turns."""
        return self.updates / statistics.median(self.cpu_s)


def lap_peers(config: Config) -> dict[str, Peer]:
    """Return the peers of ``laps`` by name: with the settings of their libraries, and with those of ``config``."""
    shared = {"buffer_size": config.replay.capacity, "batch_size": 256}
    droq = {"gradient_steps": 20, "policy_delay": 20, "policy_kwargs": DROQ}
    return {
        "sb3-sac": Peer("sb3", shared | {"gradient_steps": 1}),
        "sbx-sac": Peer("sbx", shared | {"gradient_steps": 1}),
        "sbx-droq": Peer("sbx", shared | droq),
        "sb3-sac-as-ours": Peer("sb3", as_ours(config, "sb3")),
        "sbx-sac-as-ours": Peer("sbx", as_ours(config, "sbx")),
        "sbx-droq-as-ours": Peer("sbx", as_ours(config, "sbx", DROQ)),
    }


def as_ours(config: Config, library: str, networks: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Translate our settings into arguments of a library's SAC; its one learning rate is that of our critic.

    Args:
        config: Ours.
        library: sb3 or sbx, which gets its updates in fewer and longer calls.
        networks: Arguments of its networks.
    """
    agent, betas = config.agent, config.agent.betas_critic
    ratio = Fraction(config.training.max_training_steps_per_env_step).limit_denominator(100)  # updates / steps
    calls = math.ceil((PER_CALL if library == "sbx" else 1) / ratio.numerator)
    optimizer = {"betas": betas} if library == "sb3" else {"b1": betas[0], "b2": betas[1]}
    return {
        "buffer_size": config.replay.capacity,
        "batch_size": config.replay.batch_size,
        "learning_starts": config.training.start_training,
        "train_freq": calls * ratio.denominator,
        "gradient_steps": calls * ratio.numerator,
        "n_steps": agent.n_step,
        "gamma": agent.gamma,
        "tau": round(1 - agent.polyak, 9),
        "ent_coef": f"auto_{agent.alpha}",
        "target_entropy": "auto" if agent.target_entropy is None else agent.target_entropy,
        "learning_rate": agent.lr_critic,
        "policy_kwargs": {**(networks or {}), "optimizer_kwargs": optimizer},
    }


class PeerProcess:
    """A peer that waits in a process of its own for updates to do.

    Args:
        python: Of the peers' environment.
        peer: Which.
        env: The section ``env`` of our configuration.
    """

    def __init__(self, python: Path, peer: Peer, env: Mapping[str, Any]):
        request = {"task": "updates", "env": env, "seed": 0, "steps": STEPS, **peer._asdict()}
        self._process = subprocess.Popen(
            peer_command(python, request),
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._read()["versions"]

    def __call__(self, updates: int) -> float:
        """Do so many updates; return the CPU seconds that they took."""
        print(updates, file=self._process.stdin, flush=True)
        return self._read()["cpu_s"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"A peer ended with exit code {self._process.wait()}. Its own message stands above.")
        return json.loads(line)


def peer_command(python: Path, request: Mapping[str, Any]) -> list[str]:
    """Return the command line of a peer process."""
    return [str(python), str(ROOT / "benchmarks" / "peers_process.py"), strict_json(request)]


def time_updates(python: Path, turns: int, updates: int) -> tuple[list[Rates], dict[str, str]]:
    """Time updates of all agents.

    Args:
        python: Of the peers' environment.
        turns: How often every agent's turn comes; one more before them warms up.
        updates: Updates a turn, a multiple of ``PER_CALL``.

    Returns:
        The rates, and the versions of the peers' packages.
    """
    config = compose_config(*TASK, "model=droq")
    rates: list[Rates] = []
    for batch in BATCHES:
        peers = {
            ("SAC", "SB3 SAC", 1): _equal_peer("sb3", batch, 1),
            ("SAC", "sbx SAC", 1): _equal_peer("sbx", batch, 1),
            ("SAC", "sbx SAC", PER_CALL): _equal_peer("sbx", batch, PER_CALL),
            ("DroQ", "sbx DroQ", 1): _equal_peer("sbx", batch, 1, config.agent.n_step, DROQ),
            ("DroQ", "sbx DroQ", PER_CALL): _equal_peer("sbx", batch, PER_CALL, config.agent.n_step, DROQ),
        }
        processes = {key: PeerProcess(python, peer, asdict(config.env)) for key, peer in peers.items()}
        candidates: dict[tuple[str, str, int], Callable[[int], float]] = {
            ("SAC", "ours, mlp", 1): _our_updates(batch, "model=mlp", *EQUAL, *SCALAR),
            ("DroQ", "ours, droq", 1): _our_updates(batch, "model=droq", *EQUAL, *SCALAR),
            ("DroQ", "ours, droq as shipped", 1): _our_updates(batch, "model=droq"),
            **processes,
        }
        taken: dict[tuple[str, str, int], list[float]] = {key: [] for key in candidates}
        for _ in range(1 + turns):
            for key, candidate in candidates.items():
                taken[key].append(candidate(updates))
        rates += [
            Rates(family, batch, agent, per_call, updates, cpu_s[0], cpu_s[1:])
            for (family, agent, per_call), cpu_s in taken.items()
        ]
        for process in processes.values():
            process.close()
    return rates, process.versions


def _equal_peer(
    library: str, batch: int, per_call: int, n_step: int = 1, networks: Mapping[str, Any] | None = None
) -> Peer:
    """Return a peer of the width of ``EQUAL`` that learns nothing before it is told to."""
    agent = {"batch_size": batch, "gradient_steps": per_call, "n_steps": n_step}
    agent |= {"buffer_size": 2 * STEPS, "learning_starts": STEPS + 1}
    return Peer(library, agent | {"policy_kwargs": {**(networks or {}), "net_arch": [256, 256]}})


def _our_updates(batch: int, *overrides: str) -> Callable[[int], float]:
    """Return a function that does updates with our agent and returns their CPU seconds."""
    from benchmarks.speed import make_ours  # changes constants of tmrl, which nothing else here needs

    ours = make_ours(1, batch, TASK[0], *overrides)

    def update(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            ours.agent.train(ours.memory.sample())
        return time.process_time() - began

    return update


def run_laps(python: Path, agents: Sequence[str], seeds: Sequence[int], limits: Limits, runs_dir: Path) -> list[LapRun]:
    """Train every agent with every seed, one process after the other.

    Args:
        python: Of the peers' environment.
        agents: Names.
        seeds: Of every agent.
        limits: When a training is ended.
        runs_dir: A new folder, for the run folders and logs.
    """
    config = compose_config(*TASK, "model=droq")
    peers, starts = lap_peers(config), make_starts(config.env.eval_tracks, STARTS, offset=0.0)
    shared = {"task": "laps", "env": asdict(config.env), "starts": [astuple(start) for start in starts]}
    shared |= {"interval": INTERVAL, "ready": READY}
    runs_dir.mkdir(parents=True)
    runs = []
    for seed in seeds:
        for agent in agents:
            name = f"{agent}-seed{seed}"
            if agent in OURS:
                told = (f"model={agent}", f"seed={seed}", f"run_name={name}", f"runs_dir={quoted(runs_dir)}")
                command = [sys.executable, str(ROOT / "app" / "train.py"), *TASK, *SCHEDULE, *told]
            else:
                (runs_dir / name).mkdir()
                request = shared | {"seed": seed, "folder": str(runs_dir / name), **peers[agent]._asdict()}
                command = peer_command(python, request)
            run = run_until_lap(agent, seed, command, runs_dir / name, ONE_THREAD, limits)
            runs.append(run)
            print(f"{name}: {run.failure or 'done'}, {run.cpu_s:.0f} CPU s", file=sys.stderr, flush=True)
            with (runs_dir / "laps.jsonl").open("a", encoding="utf-8") as file:  # in case this process is ended
                file.write(strict_json(asdict(run)) + "\n")
    return runs


def rates_as_rows(rates: Sequence[Rates]) -> list[dict[str, Any]]:
    """Add to every agent its rates, and how many times faster our agent of its family is at its batch."""
    ours = {}
    for rate in rates:
        ours.setdefault((rate.family, rate.batch), rate.median)  # the first of a family is ours
    return [
        {
            **rate._asdict(),
            "per_cpu_s": rate.median,
            "per_cpu_s_min": rate.updates / max(rate.cpu_s),
            "per_cpu_s_max": rate.updates / min(rate.cpu_s),
            "warm_up_extra_cpu_s": max(0.0, rate.warm_up_cpu_s - rate.updates / rate.median),
            "ours_times_faster": ours[rate.family, rate.batch] / rate.median,
        }
        for rate in rates
    ]


def updates_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rates as Markdown."""
    columns = ("", "agent", "batch", "updates a call", "updates / CPU s", "min", "max", "ours is ×", "warm-up")
    cells = [
        (
            row["family"],
            row["agent"],
            str(row["batch"]),
            str(row["per_call"]),
            *(number(row[key], "{:.0f}") for key in ("per_cpu_s", "per_cpu_s_min", "per_cpu_s_max")),
            number(row["ours_times_faster"]),
            number(row["warm_up_extra_cpu_s"], "{:.1f} s"),
        )
        for row in sorted(rows, key=lambda row: (row["family"] != "SAC", row["batch"]))
    ]
    return markdown(columns, cells, left=2)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    names = [*OURS, *lap_peers(compose_config(*TASK, "model=droq"))]
    args_parser = parser(__doc__)
    add_arguments(args_parser, names)
    args = args_parser.parse_args(arguments)
    parts = args.only.split(",")
    if unknown := set(parts) - {"updates", "laps"}:
        args_parser.error(f"--only {args.only}: no part {', '.join(sorted(unknown))}. Choose updates, laps or both.")
    if args.updates % PER_CALL:
        args_parser.error(f"--updates {args.updates}: must be a multiple of {PER_CALL}.")
    if not args.peers_python.exists():
        args_parser.error(f"--peers-python {args.peers_python}: there is no such file. {HOW_TO_INSTALL}")
    if args.runs_dir.exists():
        args_parser.error(f"--runs-dir {args.runs_dir}: it exists already. Name a new folder.")
    report: dict[str, Any] = {"benchmark": "peers", **machine()}
    tables = []
    if "updates" in parts:
        rates, report["peers"] = time_updates(args.peers_python, args.turns, args.updates)
        report["updates"] = rates_as_rows(rates)
        tables.append(updates_table(report["updates"]))
    if "laps" in parts:
        limits = Limits(args.max_cpu_seconds, args.hold)
        runs = run_laps(args.peers_python, args.agents, dict.fromkeys(args.seeds), limits, args.runs_dir)
        rows = [run.as_row() for run in runs]
        report |= {"max_cpu_s": limits.cpu_s, "hold": limits.hold, "runs_dir": args.runs_dir, "laps": rows}
        report["summary"] = summarize(rows, OURS[0])
        report["runs"] = [asdict(run) for run in runs]
        tables += [laps_table(rows), summary_table(report["summary"], OURS[0])]
    publish(report, tables, args.out)
    return report


def add_arguments(args_parser: ArgumentParser, names: Sequence[str]) -> None:
    """Add the arguments of this benchmark."""
    add = args_parser.add_argument
    add(
        "--peers-python",
        type=absolute,
        default=ROOT / ".venv-peers" / "bin" / "python",
        help="of the peers' environment",
    )
    add("--only", default="updates,laps", help="parts")
    add("--turns", type=int, default=10, help="of every agent in updates")
    add("--updates", type=int, default=200, help=f"a turn, a multiple of {PER_CALL}")
    add("--agents", nargs="+", choices=names, default=names, help="in laps; all by default", metavar="NAME")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="in laps")
    add("--max-cpu-seconds", type=float, default=300.0, help="of one training in laps")
    add("--hold", type=int, default=0, help="evaluations after the first with 10 of 10 laps")
    add("--runs-dir", type=absolute, default=new_runs_dir("peers"), help="a new folder, else one in runs/")


if __name__ == "__main__":
    sys.exit(any(row["failure"] for row in main().get("laps", ())))
