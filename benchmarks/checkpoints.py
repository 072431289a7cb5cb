"""Cost of a checkpoint as a function of the replay's size, compared with tmrl's ``dump`` of the same content.

    python benchmarks/checkpoints.py [--sizes 10000 100000 1000000] [--samples 20] [--out checkpoints.json]

Ours is a real run of the default configuration with images of 64×64: a checkpoint is ``Trainer.save_checkpoint``, with
every fsync, after 250 new steps. The replay is full, and every row of its files has been written once, with random
steps through ``ReplayMemory.append``. The sizes take turns, so that a busy machine slows all alike. To resume is
``Trainer.start``: both checkpoints are read, their rows verified, and everything is restored.

tmrl's is ``dump_run_instance`` of a trainer with its own SAC and CNN (smaller networks than ours) and its own image
memory, filled with the same steps except for the lidar, which it does not keep; to resume is ``load_run_instance``.
tmrl does not wait for the disk: "and fsync" adds the time until its file is as durable as ours. Where memory or disk
do not suffice for a size, tmrl is left out, and the report says so.

"Cold" is the first time after the files were dropped from the system's cache, "warm" the next. Bytes written are those
of the checkpoint and of the new rows; the JSON also has the kernel's counter for this process (Linux).
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from app.config.schema import Config
from app.training.setup import prepare_process
from benchmarks.checkpoint_contenders import NEW_STEPS, Ours, Peer, configure, io_bytes
from benchmarks.common import ROOT, machine, markdown, number, parser, publish
from benchmarks.replay import SIZE

LIMIT = 1.5  # times the checkpoint of the smallest replay
WARM_UP = 3  # checkpoints of ours before the measured ones: then both files exist, and the ring protects their rows
PEER_SECONDS, PEER_MIN_SAMPLES = 60.0, 2  # tmrl writes checkpoints for so long, and at least so many
PEER_MEMORY, PEER_DISK = 8_500, 9_000  # bytes per step in memory while it is pickled, and on the disk for two files
RESERVE = 1 << 30  # bytes of memory and disk that stay free


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a new folder in ``folder``, which is removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkpoints-", dir=folder) as name:
        yield Path(name).resolve()


def drop_from_cache(folder: Path) -> None:
    """Drop the contents of all files below a folder from the system's cache, where the system can do that."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def shortage(rows: int, folder: Path) -> str | None:
    """Return what this machine lacks for tmrl's checkpoint of so many steps; None if nothing."""
    memory, disk = psutil.virtual_memory().available - RESERVE, shutil.disk_usage(folder).free - RESERVE
    for name, needed, available in (("memory", rows * PEER_MEMORY, memory), ("disk", rows * PEER_DISK, disk)):
        if needed > available:
            free = f"{available / 1e9:.1f} are free"
            return f"tmrl needs about {needed / 1e9:.1f} GB of {name} for {rows:,} steps; {free}."
    return None


def summary(contender: Ours | Peer, samples: Sequence[Mapping[str, float]], folder: Path) -> dict[str, Any]:
    """Return the statistics of one contender's samples and the cost of resuming it; it is closed at the end."""
    result = {"rows": contender.rows, "checkpoint": contender.name, "samples": len(samples)}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key.startswith("bytes"):
            result[key] = float(np.mean(values))
        else:
            result |= {f"{key}_p50": float(np.quantile(values, 0.5)), f"{key}_max": float(np.max(values))}
    for cache in ("cold", "warm"):
        contender.close()
        if cache == "cold":
            drop_from_cache(folder)
        before = io_bytes("read_bytes")
        result[f"go_on_{cache}_s"] = contender.resume()
        result[f"go_on_{cache}_bytes_read"] = io_bytes("read_bytes") - before
    contender.close()
    return result


def measure_ours(sizes: Sequence[int], samples: int, folder: Path) -> list[dict[str, Any]]:
    """Measure our checkpoints of all sizes, in turns."""
    with scratch(folder) as runs_dir:
        runs = [Ours(rows, runs_dir) for rows in sizes]
        for run in runs:
            run.fill()
        turns = [[run.sample() for run in runs] for _ in range(WARM_UP + samples)]
        taken = zip(*turns[WARM_UP:], strict=True)
        return [summary(run, own, runs_dir) for run, own in zip(runs, taken, strict=True)]


def measure_peer(rows: int, samples: int, folder: Path, config: Config) -> dict[str, Any]:
    """Measure tmrl's checkpoints of one size, or return why they are left out."""
    if (problem := shortage(rows, folder)) is not None:
        return {"rows": rows, "checkpoint": Peer.name, "left_out": problem}
    with scratch(folder) as place:
        peer = Peer(rows, place, config)
        peer.fill()
        taken: list[dict[str, float]] = []
        start = time.monotonic()
        while len(taken) < PEER_MIN_SAMPLES or (len(taken) < samples and time.monotonic() - start < PEER_SECONDS):
            taken.append(peer.sample())
        return summary(peer, taken, place)


def compare(ours: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return ratios: our largest replay to our smallest, and tmrl's checkpoint to ours for each size."""
    by_size = sorted(ours, key=lambda result: result["rows"])
    growth = {key: by_size[-1][key] / by_size[0][key] for key in ("seconds_p50", "seconds_rows_p50", "bytes")}
    quantities = ("seconds_p50", "seconds_durable_p50", "bytes", "go_on_cold_s", "go_on_warm_s")
    return {
        "largest_to_smallest": growth,
        "bar": LIMIT,
        "within_bar": growth["seconds_p50"] <= LIMIT,
        "tmrl_to_ours": [
            {"rows": own["rows"], **{key: peer[key] / own[key] for key in quantities}}
            for own, peer in zip(ours, peers, strict=True)
            if "left_out" not in peer
        ],
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text."""
    columns = (
        "replay", "checkpoint", "samples", "p50 s", "max s", "rows' p50 s", "MB written", "resume, cold s", "warm s",
        "× ours, s", "× ours, MB",
    )  # fmt: skip
    cells, notes = [], []
    for own, peer in zip(report["ours"], report["tmrl"], strict=True):
        cells.append(_cells(own, "ours", "seconds", own))
        if "left_out" in peer:
            notes.append(peer["left_out"])
            continue
        cells.append(_cells(peer, "tmrl", "seconds", own))
        cells.append(_cells(peer, "tmrl, and fsync", "seconds_durable", own))
    ratio = report["largest_to_smallest"]
    notes.append(
        f"Ours, largest replay to smallest: {ratio['seconds_p50']:.2f} × the time ({ratio['seconds_rows_p50']:.2f} × "
        f"that of the rows alone), {ratio['bytes']:.2f} × the bytes; the limit is {LIMIT} × the time and "
        f"is {'kept' if report['within_bar'] else 'EXCEEDED'}."
    )
    title = f"A checkpoint after {report['new_steps']} new steps, images of {SIZE}×{SIZE}, replay full"
    return "\n\n".join([title, markdown(columns, cells, left=2), "\n".join(notes)])


def _cells(result: Mapping[str, Any], name: str, seconds: str, ours: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{result['rows']:,}",
        name,
        str(result["samples"]),
        *(number(result.get(key), "{:.3f}") for key in (f"{seconds}_p50", f"{seconds}_max", "seconds_rows_p50")),
        f"{result['bytes'] / 1e6:,.1f}",
        *(number(result[f"go_on_{cache}_s"]) for cache in ("cold", "warm")),
        f"{result[f'{seconds}_p50'] / ours['seconds_p50']:.1f}",
        f"{result['bytes'] / ours['bytes']:.1f}",
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="steps held")
    args_parser.add_argument("--samples", type=int, default=20, help="checkpoints of each size; fewer if tmrl is slow")
    args_parser.add_argument("--folder", type=Path, default=ROOT / "runs", help="on the disk to measure")
    args = args_parser.parse_args(arguments)
    prepare_process("cpu", threads=1, seed=0)
    config = configure(max(args.sizes), args.folder)
    ours = measure_ours(args.sizes, args.samples, args.folder)
    peers = [measure_peer(rows, args.samples, args.folder, config) for rows in args.sizes]
    report = {
        "benchmark": "checkpoints",
        **machine(),
        "new_steps": NEW_STEPS,
        "ours": ours,
        "tmrl": peers,
        **compare(ours, peers),
    }
    publish(report, [table(report)], args.out)
    return report


if __name__ == "__main__":
    main()
