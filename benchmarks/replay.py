"""Time and memory of a batch from the replay, next to tmrl's ``MemoryTMFull`` on the same stream of steps.

    python benchmarks/replay.py [--out replay.json]

The batches are those of an update: our networks take uint8 images and scale them on the device, tmrl's images are
float32; "ours, as float" adds that conversion for both observations. Our batches also contain a context window and
future rewards, which tmrl's memory does not have. The memories take turns, so that a busy machine slows all of them
alike. Bytes per step are the memory that tracemalloc counts after filling, Python objects included.
"""

import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from app.config.schema import ReplayConfig
from app.core.tmrl_api import Buffer, TorchMemory
from app.envs.spec import ObservationSpec
from app.replay.buffer import ReplayMemory
from app.replay.storage import MemoryStorage
from benchmarks.common import machine, markdown, parser, publish, take_turns
from benchmarks.tmrl_peer import MemoryTMFull, get_local_buffer_sample_tm20_imgs

SENSORS, ACTION, SIZE = 22, 3, 64  # speed, gear, rpm and 19 lidar beams; gas, brake, steer; pixels
SPEC = ObservationSpec(
    sensors=SENSORS,
    action_dim=ACTION,
    action_history=2,
    image_shape=(4, SIZE, SIZE),
    window=16,
    window_sensors=(0, *range(3, SENSORS)),
    sensor_scale=(1.0,) * SENSORS,
    reward_scale=1.0,
)
CHUNK = 1000  # steps per buffer


def stream(rows: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the same random episodes at every call: chunks of (act, sensors, frame, reward, terminated)."""
    rng = np.random.default_rng(0)
    left = 0  # steps to the end of the episode
    for _ in range(0, rows, CHUNK):
        chunk = []
        for _ in range(CHUNK):
            act = rng.uniform(-1, 1, ACTION).astype(np.float32) if left else None
            sensors = rng.standard_normal(SENSORS, dtype=np.float32)
            frame = np.frombuffer(rng.bytes(SIZE * SIZE), np.uint8).reshape(SIZE, SIZE)
            chunk.append((act, sensors, frame, float(rng.normal()), left == 1))
            left = left - 1 if left else int(rng.integers(50, 500))
        yield chunk


def as_ours(act: Any, sensors: Any, frame: Any, reward: float, terminated: bool) -> tuple[Any, ...]:
    """Return the step as ``SampleCompressor`` would."""
    return act, {"sensors": sensors, "frame": frame}, reward, terminated, False, {}


def as_tmrl(act: Any, sensors: Any, frame: Any, reward: float, terminated: bool) -> tuple[Any, ...]:
    """Return the step of tmrl's own compressor; a reset of the game carries the default action."""
    obs = (sensors[:1].copy(), sensors[1:2].copy(), sensors[2:3].copy(), frame[None] / np.float32(256))
    default = np.zeros(ACTION, np.float32)
    return get_local_buffer_sample_tm20_imgs(default if act is None else act, obs, reward, terminated, False, {})


def fill(memory: TorchMemory, as_step: Callable[..., tuple[Any, ...]], rows: int) -> None:
    """Append the whole stream to a memory, one buffer at a time."""
    for chunk in stream(rows):
        buffer = Buffer()
        buffer.memory = [as_step(*step) for step in chunk]
        memory.append(buffer)


def filled(
    make: Callable[[], TorchMemory], as_step: Callable[..., tuple[Any, ...]], rows: int
) -> tuple[TorchMemory, float]:
    """Return a full memory and its bytes per step."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory = make()
    fill(memory, as_step, rows)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return memory, held / rows


def as_floats(memory: ReplayMemory) -> None:
    """Sample a batch and convert its images as the networks do."""
    batch = memory.sample()
    for obs in (batch.obs, batch.next_obs):
        obs["images"].float().mul_(1 / 255)


def measure(rows: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Compare both memories, each filled with ``rows`` steps.

    Returns:
        Per candidate p50_ms, p90_ms and bytes_per_step, and the ratios tmrl / ours.
    """
    cfg = ReplayConfig(capacity=rows, batch_size=batch_size, recent_share=0.0, recent_rows=1, keep_after_trial=True)
    ours, our_bytes = filled(
        lambda: ReplayMemory(SPEC, cfg, 1, 0.99, (1, 3, 5), 1, "cpu", seed=0, storage=MemoryStorage()), as_ours, rows
    )
    peer, peer_bytes = filled(
        lambda: MemoryTMFull(memory_size=rows, batch_size=batch_size, imgs_obs=4, act_buf_len=2),
        as_tmrl,
        rows,
    )
    taken = take_turns({"ours": ours.sample, "ours, as float": lambda: as_floats(ours), "tmrl": peer.sample}, repeats)
    result = {
        name: {"p50_ms": float(np.quantile(ms, 0.5)), "p90_ms": float(np.quantile(ms, 0.9))}
        for name, ms in taken.items()
    }
    for name, held in (("ours", our_bytes), ("ours, as float", our_bytes), ("tmrl", peer_bytes)):
        result[name]["bytes_per_step"] = held
    return {
        "rows": rows,
        "batch_size": batch_size,
        "candidates": result,
        "times_faster": result["tmrl"]["p50_ms"] / result["ours"]["p50_ms"],
        "times_faster_as_float": result["tmrl"]["p50_ms"] / result["ours, as float"]["p50_ms"],
        "times_smaller": peer_bytes / our_bytes,
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as a Markdown table."""
    columns = ("rows", "memory", "p50 ms", "p90 ms", "times faster", "bytes per step")
    cells = [
        (
            f"{result['rows']:,}",
            name,
            f"{measured['p50_ms']:.2f}",
            f"{measured['p90_ms']:.2f}",
            f"{result['candidates']['tmrl']['p50_ms'] / measured['p50_ms']:.1f}",
            f"{measured['bytes_per_step']:,.0f}",
        )
        for result in report["results"]
        for name, measured in result["candidates"].items()
    ]
    batch, threads = report["results"][0]["batch_size"], report["threads"]
    title = f"One batch of {batch}, images 4×{SIZE}×{SIZE}, {threads} threads"
    return f"{title}\n\n{markdown(columns, cells, left=2)}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument(
        "--rows", type=int, nargs="+", default=[20_000, 100_000], help="sizes of the replay, in steps"
    )
    args_parser.add_argument("--batch", type=int, default=256, help="rows of a batch")
    args_parser.add_argument("--repeats", type=int, default=100, help="timed batches of each memory")
    args_parser.add_argument("--threads", type=int, default=os.cpu_count(), help="PyTorch threads")
    args = args_parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    report = {
        "benchmark": "replay",
        **machine(),
        "threads": args.threads,
        "results": [measure(rows, args.batch, args.repeats) for rows in args.rows],
    }
    publish(report, [table(report)], args.out)
    return report


if __name__ == "__main__":
    main()
