"""Time of one update and of one action, next to tmrl's SAC with its CNN on the same data.

    python benchmarks/speed.py [--only update,act] [--repeats 20] [--threads 2] [--out speed.json]

    update            one update of critic and actor at batch 64 and 256: our default agent against tmrl's
                      SpinupSacAgent with its VanillaCNNActorCritic. Both get the same transitions of env=sim: ours
                      as its replay delivers them (uint8 images, scaled within the update; lidar and context window
                      besides), tmrl's as its memory does (float32 images in [0, 1]).
    update_no_images  one update of our agent without images, batch 64, one thread.
    act               one action on one thread, from the observation to the action, as a rollout worker asks for it.
    act_exported      the same by the files of app/export.py on onnxruntime, next to the actor they were made from;
                      needs pip install -e ".[export]".

The candidates of a section take turns, so that a busy machine slows all of them alike: ratios can be compared between
machines, milliseconds cannot. Everything runs on the CPU in one process, under the settings of a training run (threads,
no denormal numbers, freed memory kept). benchmarks/replay.py measures the replay.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from app.agents.sac import SACAgent
from app.config.schema import Config, ReplayConfig
from app.core.tmrl_api import Buffer
from app.envs.env_factory import make_env
from app.export_bundle.bundle import write_bundle
from app.export_bundle.driver import BundleActor
from app.export_bundle.onnx_export import Policy, require_packages, to_onnx
from app.models.actor import DrivingActor
from app.replay.batch import Batch
from app.replay.buffer import ReplayMemory
from app.replay.row_format import SampleCompressor
from app.replay.storage import MemoryStorage
from app.training.setup import prepare_process
from benchmarks.common import compose_config, machine, markdown, number, parser, publish, take_turns
from benchmarks.tmrl_peer import SpinupSacAgent, VanillaCNNActorCritic

BATCHES = (64, 256)
SIZES = (64, 32, 16)  # pixels; tmrl's CNN takes 64
STEPS = 400  # steps of the simulator, from which the batches are drawn


class Ours(NamedTuple):
    """Our agent with a batch and an observation to work on."""

    agent: SACAgent
    batch: Batch
    obs: dict[str, np.ndarray]  # one observation as the environment returns it
    memory: ReplayMemory  # the batch is a sample of it
    config: Config


def make_ours(threads: int, batch_size: int, *overrides: str) -> Ours:
    """Build our agent and a batch of real transitions, driven with random actions."""
    config = compose_config("device=cpu", f"threads={threads}", *overrides)
    device = prepare_process(config.device, config.threads, config.seed)
    env = make_env(config.env, config.env.train_tracks, config.seed)
    agent = SACAgent(env.observation_space, env.action_space, device, config=config, spec=env.observation_spec)
    agent.get_actor()
    memory = ReplayMemory(
        env.observation_spec,
        ReplayConfig(capacity=2 * STEPS, batch_size=batch_size, recent_share=0.0, recent_rows=1, keep_after_trial=True),
        config.agent.n_step,
        config.agent.gamma,
        config.encoder.prediction_horizons if config.model.contextual else (),
        nb_steps=1,
        device=device,
        seed=config.seed,
        storage=MemoryStorage(),
    )
    obs = _drive(env, memory)
    return Ours(agent, memory.sample(), obs, memory, config)


def _drive(env: Any, memory: ReplayMemory) -> dict[str, np.ndarray]:
    """Fill the memory with random driving, and return the last observation."""
    compress, buffer, rng = SampleCompressor(env.observation_spec), Buffer(), np.random.default_rng(0)
    ended = True
    while len(buffer.memory) < STEPS:
        if ended:
            obs, info = env.reset()
            act, reward, terminated, truncated = None, 0.0, False, False
        else:
            act = rng.uniform(-1, 1, env.observation_spec.action_dim).astype(np.float32)
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
    """Return our observations as tmrl's: (speed, gear, rpm, images, act1, act2), arrays (...) or tensors (B, ...)."""
    floats, a = obs["floats"], action_dim
    images = obs["images"] / np.float32(255)
    sensors = (floats[..., i : i + 1] for i in range(3))
    return *sensors, images, floats[..., -2 * a : -a], floats[..., -a:]


def batch_as_tmrl(batch: Batch) -> tuple[Any, ...]:
    """Return the same transitions as tmrl's memory would deliver them."""
    dim = batch.action.shape[1]
    obs, next_obs = (tuple(part.contiguous() for part in as_tmrl(o, dim)) for o in (batch.obs, batch.next_obs))
    return obs, batch.action, batch.reward, next_obs, batch.terminated, batch.truncated


def updates(threads: int, repeats: int) -> list[dict[str, Any]]:
    """Time one update at both batch sizes."""
    rows = []
    for size in BATCHES:
        candidates: dict[str, Callable[[], Any]] = {}
        for pixels in SIZES:
            ours = make_ours(threads, size, "env=sim", f"env.image_size={pixels}")
            candidates[f"ours, {pixels} px"] = _update(ours.agent, ours.batch)
            if pixels == 64:
                candidates["tmrl, 64 px"] = _update(make_peer(ours), batch_as_tmrl(ours.batch))
        rows += _rows(f"update, batch {size}", threads, candidates, repeats, "tmrl, 64 px", warmup=2)
    return rows


def updates_without_images(repeats: int) -> list[dict[str, Any]]:
    """Time one update of the contextual agent without images on one thread."""
    ours = make_ours(1, 64, "env=sim_lidar")
    return _rows("update, batch 64", 1, {"ours, no images": _update(ours.agent, ours.batch)}, repeats, None, warmup=5)


def actions(repeats: int) -> list[dict[str, Any]]:
    """Time one action on one thread."""
    candidates: dict[str, Callable[[], Any]] = {}
    for pixels in SIZES:
        ours = make_ours(1, 1, "env=sim", f"env.image_size={pixels}")
        candidates[f"ours, {pixels} px"] = _act(ours.agent.get_actor(), ours.obs)
        if pixels == 64:
            obs = as_tmrl(ours.obs, ours.batch.action.shape[1])
            candidates["tmrl, 64 px"] = _act(make_peer(ours).get_actor(), obs)
    return _rows("act", 1, candidates, repeats, "tmrl, 64 px", warmup=20)


def exported_actions(repeats: int) -> list[dict[str, Any]]:
    """Time one action of exported actors on one thread, next to the actors that they were made from."""
    require_packages()
    rows = []
    for pixels in SIZES:
        ours = make_ours(1, 2, "env=sim", f"env.image_size={pixels}")
        actor = ours.agent.get_actor()
        original, exported = f"ours, {pixels} px", f"exported, {pixels} px"
        candidates = {original: _act(actor, ours.obs), exported: _act(export_actor(actor, ours.batch), ours.obs)}
        rows += _rows("act", 1, candidates, repeats, original, warmup=20)
    return rows


def export_actor(actor: DrivingActor, batch: Batch) -> BundleActor:
    """Export an actor as app/export.py does, and load the files."""
    with tempfile.TemporaryDirectory(prefix="speed-") as name:
        folder = Path(name)
        description = {"made_by": __file__, "run": "", "interface": {}, "observation": {"image_shape": None}}
        write_bundle(folder, description, to_onnx(Policy(actor.net), batch.obs))
        return BundleActor(folder=folder)


def _update(agent: Any, batch: Any) -> Callable[[], Any]:
    return lambda: agent.train(batch)


def _act(actor: Any, obs: Any) -> Callable[[], Any]:
    return lambda: actor.act_(obs)


def _rows(
    what: str,
    threads: int,
    candidates: dict[str, Callable[[], Any]],
    repeats: int,
    reference: str | None,
    warmup: int,
) -> list[dict[str, Any]]:
    """Time the candidates; return one row for each, with how many times faster than ``reference`` it is."""
    taken = take_turns(candidates, repeats, warmup)
    rows = []
    for name, ms in taken.items():
        row = {"what": what, "threads": threads, "candidate": name, "repeats": repeats, "reference": reference}
        row |= {"p50_ms": np.quantile(ms, 0.5), "p99_ms": np.quantile(ms, 0.99), "min_ms": ms.min()}
        if reference is not None:
            row["times_faster_p50"] = np.quantile(taken[reference], 0.5) / row["p50_ms"]
            row["times_faster_min"] = taken[reference].min() / row["min_ms"]
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    columns = ("", "candidate", "threads", "p50 ms", "p99 ms", "min ms", "reference", "× as fast (p50)", "(min)")
    cells = []
    for row in rows:
        times = [number(row[key]) for key in ("p50_ms", "p99_ms", "min_ms")]
        ratios = [number(row.get(key)) for key in ("times_faster_p50", "times_faster_min")]
        cells.append((row["what"], row["candidate"], str(row["threads"]), *times, row["reference"] or "-", *ratios))
    return markdown(columns, cells, left=2)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--only", help="comma-separated sections; default: all")
    args_parser.add_argument("--repeats", type=int, default=20, help="updates; 5 times as many without images, 50 acts")
    args_parser.add_argument("--threads", type=int, default=2, help="PyTorch threads of update; the others have 1")
    args = args_parser.parse_args(arguments)
    sections = {
        "update": lambda: updates(args.threads, args.repeats),
        "update_no_images": lambda: updates_without_images(5 * args.repeats),
        "act": lambda: actions(50 * args.repeats),
        "act_exported": lambda: exported_actions(50 * args.repeats),
    }
    chosen = args.only.split(",") if args.only else list(sections)
    if unknown := set(chosen) - set(sections):
        args_parser.error(f"--only {args.only}: no section {', '.join(sorted(unknown))}; use {', '.join(sections)}")
    rows = [row for name in chosen for row in sections[name]()]
    report = {"benchmark": "speed", **machine(), "results": rows}
    publish(report, [table(rows)], args.out)
    return report


if __name__ == "__main__":
    main()
