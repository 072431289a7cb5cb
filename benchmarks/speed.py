"""Speed of one update and of one action, next to tmrl's SAC with its CNN on the same content.

    python benchmarks/speed.py [--only a,c,d] [--repeats 20] [--threads 2] [--out speed.json]

    a  one update (critic and actor) at batch 64 and 256: our default agent against tmrl's SpinupSacAgent with
       its VanillaCNNActorCritic. Both get the same transitions of env=sim: ours as its replay delivers them
       (uint8 images, scaled within the update; lidar and context window besides), tmrl's as its memory does
       (float32 images in [0, 1]).
    c  one act on one core, from the observation to the action, as a rollout worker asks for it.
    d  one update without images at batch 64 on one core, next to the prototype and the aim.

(b), the replay, is benchmarks/replay.py. All candidates of a section take turns, so that a busy machine slows
all alike: the ratios last, the milliseconds belong to the machine and its load. Everything runs on the CPU in
one process, under the settings that training makes (threads, no denormal numbers, freed memory kept).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from app.agents.droq import DroQAgent
from app.config.schema import ReplayConfig
from app.envs.factory import make_env
from app.replay.batch import Batch
from app.replay.compress import SampleCompressor
from app.replay.memory import ReplayMemory
from app.replay.storage import MemoryStorage
from app.tmrl_api import Buffer
from app.training.setup import prepare
from benchmarks.common import compose_config, machine, markdown, number, parser, publish, take_turns
from benchmarks.tmrl_peer import SpinupSacAgent, VanillaCNNActorCritic

BATCHES = (64, 256)
SIZES = (64, 32, 16)  # pixels; tmrl's CNN takes 64
STEPS = 400  # of the simulator, from which the batches are drawn
PROTOTYPE_MS, AIM_MS = 52.0, 35.0  # (d): what the prototype took, and what is wanted


class Ours(NamedTuple):
    """Our agent and what it works on."""

    agent: DroQAgent
    batch: Batch
    obs: dict[str, np.ndarray]  # one observation as the environment gives it
    memory: ReplayMemory  # the batch is a sample of it


def make_ours(threads: int, batch_size: int, *overrides: str) -> Ours:
    """Build our agent and a batch of real transitions, driven with random actions."""
    config = compose_config("device=cpu", f"threads={threads}", *overrides)
    device = prepare(config.device, config.threads, config.seed)
    env = make_env(config.env, config.env.train_tracks, config.seed)
    agent = DroQAgent(env.observation_space, env.action_space, device, config=config, spec=env.spec_)
    agent.get_actor()
    memory = ReplayMemory(
        env.spec_,
        ReplayConfig(capacity=2 * STEPS, batch_size=batch_size, recent_share=0.0, recent_rows=1, keep=True),
        config.agent.n_step,
        config.agent.gamma,
        config.encoder.prediction_horizons if config.model.contextual else (),
        nb_steps=1,
        device=device,
        seed=config.seed,
        storage=MemoryStorage(),
    )
    obs = _drive(env, memory)
    return Ours(agent, memory.sample(), obs, memory)


def _drive(env: Any, memory: ReplayMemory) -> dict[str, np.ndarray]:
    """Fill the memory with random driving; returns the last observation."""
    compress, buffer, rng = SampleCompressor(env.spec_), Buffer(), np.random.default_rng(0)
    ended = True
    while len(buffer.memory) < STEPS:
        if ended:
            obs, info = env.reset()
            act, reward, terminated, truncated = None, 0.0, False, False
        else:
            act = rng.uniform(-1, 1, env.spec_.action_dim).astype(np.float32)
            act[0] = abs(act[0])  # gas, so that the car moves
            obs, reward, terminated, truncated, info = env.step(act)
        buffer.append_sample(compress(act, obs, reward, terminated, truncated, info))
        ended = terminated or truncated
    memory.append(buffer)
    return obs


def make_peer(ours: Ours) -> SpinupSacAgent:
    """Build tmrl's agent with its default CNN."""
    return SpinupSacAgent(
        observation_space=None,  # tmrl's CNN reads its sizes from its constants
        action_space=ours.agent.action_space,
        device="cpu",
        model_cls=VanillaCNNActorCritic,
    )


def as_tmrl(obs: dict[str, Any], action_dim: int) -> tuple[Any, ...]:
    """(speed, gear, rpm, images, act1, act2) of observations of ours: arrays (...) or tensors (B, ...)."""
    floats, a = obs["floats"], action_dim
    images = obs["images"] / np.float32(255)
    sensors = (floats[..., i : i + 1] for i in range(3))
    return *sensors, images, floats[..., -2 * a : -a], floats[..., -a:]


def batch_as_tmrl(batch: Batch) -> tuple[Any, ...]:
    """The same transitions as tmrl's memory would deliver them."""
    dim = batch.action.shape[1]
    obs, coming = (tuple(part.contiguous() for part in as_tmrl(o, dim)) for o in (batch.obs, batch.next_obs))
    return obs, batch.action, batch.reward, coming, batch.terminated, batch.truncated


def updates(threads: int, repeats: int) -> list[dict[str, Any]]:
    """(a) One update at both batch sizes."""
    rows = []
    for size in BATCHES:
        candidates: dict[str, Callable[[], Any]] = {}
        for pixels in SIZES:
            ours = make_ours(threads, size, "env=sim", f"env.image_size={pixels}")
            candidates[f"ours, {pixels} px"] = _update(ours.agent, ours.batch)
            if pixels == 64:
                candidates["tmrl, 64 px"] = _update(make_peer(ours), batch_as_tmrl(ours.batch))
        rows += _rows("a", f"update, batch {size}", threads, candidates, repeats, "tmrl, 64 px", warmup=2)
    return rows


def actions(repeats: int) -> list[dict[str, Any]]:
    """(c) One action on one core."""
    candidates: dict[str, Callable[[], Any]] = {}
    for pixels in SIZES:
        ours = make_ours(1, 1, "env=sim", f"env.image_size={pixels}")
        candidates[f"ours, {pixels} px"] = _act(ours.agent.get_actor(), ours.obs)
        if pixels == 64:
            obs = as_tmrl(ours.obs, ours.batch.action.shape[1])
            candidates["tmrl, 64 px"] = _act(make_peer(ours).get_actor(), obs)
    return _rows("c", "act", 1, candidates, repeats, "tmrl, 64 px", warmup=20)


def update_without_images(repeats: int) -> list[dict[str, Any]]:
    """(d) One update of the contextual agent without images on one core."""
    ours = make_ours(1, 64, "env=sim_lidar")
    candidates = {"ours, no images": _update(ours.agent, ours.batch)}
    rows = _rows("d", "update, batch 64", 1, candidates, repeats, None, warmup=5)
    return [{**row, "prototype_ms": PROTOTYPE_MS, "aim_ms": AIM_MS} for row in rows]


def _update(agent: Any, batch: Any) -> Callable[[], Any]:
    return lambda: agent.train(batch)


def _act(actor: Any, obs: Any) -> Callable[[], Any]:
    return lambda: actor.act_(obs)


def _rows(
    section: str,
    what: str,
    threads: int,
    candidates: dict[str, Callable[[], Any]],
    repeats: int,
    reference: str | None,
    warmup: int,
) -> list[dict[str, Any]]:
    """Time the candidates; one row for each, with how many times faster than ``reference`` it is."""
    taken = take_turns(candidates, repeats, warmup)
    rows = []
    for name, ms in taken.items():
        row = {"section": section, "what": what, "threads": threads, "candidate": name, "repeats": repeats}
        row |= {"p50_ms": np.quantile(ms, 0.5), "p99_ms": np.quantile(ms, 0.99), "min_ms": ms.min()}
        if reference is not None:
            row["times_faster_p50"] = np.quantile(taken[reference], 0.5) / row["p50_ms"]
            row["times_faster_min"] = taken[reference].min() / row["min_ms"]
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results for a person."""
    columns = ("", "candidate", "threads", "p50 ms", "p99 ms", "min ms", "× tmrl (p50)", "× tmrl (min)")
    cells = []
    for row in rows:
        what = f"({row['section']}) {row['what']}"
        times = [number(row[key]) for key in ("p50_ms", "p99_ms", "min_ms")]
        ratios = [number(row.get(key)) for key in ("times_faster_p50", "times_faster_min")]
        cells.append((what, row["candidate"], str(row["threads"]), *times, *ratios))
        for name in ("prototype", "aim") if "aim_ms" in row else ():
            cells.append((what, name, str(row["threads"]), number(row[f"{name}_ms"]), *["-"] * 4))
    return markdown(columns, cells, left=2)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--only", default="a,c,d", help="sections, such as a,d")
    args_parser.add_argument("--repeats", type=int, default=20, help="of a; c takes 50 and d 5 times as many")
    args_parser.add_argument("--threads", type=int, default=2, help="PyTorch threads of a; c and d take 1")
    args = args_parser.parse_args(arguments)
    sections = {
        "a": lambda: updates(args.threads, args.repeats),
        "c": lambda: actions(50 * args.repeats),
        "d": lambda: update_without_images(5 * args.repeats),
    }
    wanted = args.only.split(",")
    if unknown := set(wanted) - set(sections):
        args_parser.error(f"--only {args.only}: no section {', '.join(sorted(unknown))}; choose of a,c,d")
    rows = [row for name in wanted for row in sections[name]()]
    report = {"benchmark": "speed", **machine(), "results": rows}
    publish(report, [table(rows)], args.out)
    return report


if __name__ == "__main__":
    main()
