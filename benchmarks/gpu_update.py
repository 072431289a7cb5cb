"""Updates per second and actions per second on a GPU, beside the plain path and beside a SAC in the pattern of LeanRL.

    python benchmarks/gpu_update.py [--rounds 15] [--updates 40] [--compiled] [--out gpu_update.json]

    plain      the update operation by operation: every tensor of a batch is copied by itself, and the metrics are read
               after every update
    one copy   operation by operation (`cuda_graphs=false`), but a batch is one packed copy, and the metrics of an
               update are read after the next batch is drawn
    graph      the default on a GPU: one packed copy, and the update replayed as a CUDA graph
    LeanRL     benchmarks/leanrl_peer.py with the widths and the batch of `model=mlp`, on the same packed batches

An update counts with drawing its batch from the replay. Candidates of one task take turns, and every turn ends with a
synchronisation. Actions are single ones, from the observation to the array, as collecting asks for them.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from app.envs.env_factory import make_spec
from app.models.actor import DrivingActor
from benchmarks.common import machine, markdown, number, parser, publish
from benchmarks.leanrl_peer import LeanSAC
from benchmarks.speed import Ours, make_ours

TASKS = {
    "droq_contextual, images": ("env=sim",),
    "droq_contextual, no images": ("env=sim_lidar",),
    "mlp": ("env=sim_lidar", "model=mlp"),
}
BATCHES = (64, 256)


def plain(ours: Ours, seed: int) -> Callable[[], Any]:
    """Return an update with a copy for every tensor, and with its metrics read."""
    calls = iter(range(sys.maxsize))

    def update() -> None:
        ours.agent.train(ours.memory.sample_apart(ours.memory.batch_size, (seed, next(calls))))

    return update


def overlapped(ours: Ours) -> Callable[[], Any]:
    """Return an update as the training loop does it: the metrics of the last one are read after the next is drawn."""
    running: list[Any] = []

    def update() -> None:
        batch = ours.memory.sample()
        while running:
            running.pop().read()
        running.append(ours.agent.start_update(batch))

    return update


def lean(ours: Ours, compiled: bool) -> Callable[[], Any]:
    """Return an update of the peer on packed batches of the same replay."""
    spec = make_spec(ours.config.env)
    peer = LeanSAC(spec.float_dim, spec.action_dim, ours.config.critic.hidden_dim, compiled)
    return lambda: peer.update(ours.memory.sample())


def rates(candidates: Mapping[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """Return the median calls per second of every candidate, in turns of ``calls`` calls."""
    taken = {name: [] for name in candidates}
    for turn in range(-1, rounds):
        for name, candidate in candidates.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                candidate()
            torch.cuda.synchronize()
            if turn >= 0:
                taken[name].append(calls / (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in taken.items()}


def updates(task: str, overrides: Sequence[str], batch: int, args: Any) -> list[dict[str, Any]]:
    """Compare the updates of one task."""
    graph, eager = (
        make_ours(1, batch, *overrides, "device=cuda", f"cuda_graphs={graphs}") for graphs in ("true", "false")
    )
    candidates = {"plain": plain(eager, 0), "one copy": overlapped(eager), "graph": overlapped(graph)}
    if task == "mlp":
        candidates |= {"LeanRL": lean(graph, False)}
        if args.compiled:
            candidates |= {"LeanRL, compiled": lean(graph, True)}
    return _rows(task, f"update, batch {batch}", rates(candidates, args.rounds, args.updates))


def actions(task: str, overrides: Sequence[str], args: Any) -> list[dict[str, Any]]:
    """Compare single actions on the CPU, on the GPU operation by operation, and as a graph."""
    ours = make_ours(1, 1, *overrides, "device=cuda")
    spec = make_spec(ours.config.env)
    spaces = spec.observation_space(), spec.action_space()
    cpu, gpu = (DrivingActor(*spaces, ours.config, spec, device) for device in ("cpu", "cuda:0"))
    actors = {"CPU": cpu, "plain": gpu, "graph": ours.agent.get_actor()}
    candidates = {name: (lambda actor=actor: actor.act_(ours.obs)) for name, actor in actors.items()}
    return _rows(task, "action", rates(candidates, args.rounds, 4 * args.updates))


def _rows(task: str, what: str, per_second: Mapping[str, float]) -> list[dict[str, Any]]:
    first = next(iter(per_second.values()))
    return [
        {"task": task, "what": what, "path": path, "per_s": rate, "ratio": rate / first}
        for path, rate in per_second.items()
    ]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--rounds", type=int, default=15)
    args_parser.add_argument("--updates", type=int, default=40, help="updates of one turn")
    args_parser.add_argument("--compiled", action="store_true", help="also compile the peer, which takes a minute")
    args = args_parser.parse_args(arguments)
    if not torch.cuda.is_available():
        args_parser.error("this machine has no CUDA device")
    rows = []
    for task, overrides in TASKS.items():
        for batch in BATCHES:
            rows += updates(task, overrides, batch, args)
        rows += actions(task, overrides, args)
    cells = [(r["task"], r["what"], r["path"], number(r["per_s"], "{:.0f}"), number(r["ratio"])) for r in rows]
    table = markdown(("task", "", "path", "per second", "ratio to the first"), cells, left=3)
    report = {"benchmark": "gpu_update", **machine(), "gpu": torch.cuda.get_device_name(), "results": rows}
    publish(report, [table], args.out)
    return report


if __name__ == "__main__":
    main()
