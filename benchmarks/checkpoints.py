"""What a checkpoint costs against the size of the replay, next to tmrl's ``dump`` of the same content.

    python benchmarks/checkpoints.py [--sizes 10000 100000 1000000] [--samples 20] [--out checkpoints.json]

Ours is the real run of the default configuration with frames of 64×64: a checkpoint is ``Trainer.save_checkpoint``,
with every fsync, after as many new steps as an epoch collects. Its replay is full, and every row of its files has been
written once: random steps went in through ``ReplayMemory.append``. The sizes take turns, so that a busy machine slows
all alike. To go on is ``Trainer.begin``: both checkpoints read, the rows that they count on verified, everything
restored.

tmrl's is ``dump_run_instance`` of a trainer with its own SAC and CNN (smaller networks than ours) and its own image
memory, filled with the same steps but for the lidar, which it does not keep; to go on is ``load_run_instance``. tmrl
waits for no disk: "and fsync" adds what it takes until its file is as durable as ours. Where memory or disk cannot
take a size, tmrl's is left out, and the report says so.

"Cold" is with the files dropped from the system's cache, "warm" the time after. Bytes written are those of the
checkpoint and of the new rows; the JSON also has what the kernel counted for this process (Linux).
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
from app.training.setup import prepare
from benchmarks.checkpoint_contenders import Ours, Peer, configure, io_bytes, steps_of_epoch
from benchmarks.common import ROOT, machine, markdown, number, parser, publish
from benchmarks.replay import SIZE

BAR = 1.5  # times a checkpoint of the smallest replay
WARM_UP = 3  # checkpoints of ours before the measured ones: both files are there, and the ring has its protection
PEER_SECONDS, PEER_LEAST = 60.0, 2  # tmrl: checkpoints are written for so long, but so many at least
PEER_MEMORY, PEER_DISK = 8_500, 9_000  # bytes per step while it is pickled, and of two files on the disk
LEFT_FREE = 1 << 30  # bytes of memory and disk that this program does not take


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a new folder in ``folder`` that is removed with all that is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkpoints-", dir=folder) as name:
        yield Path(name).resolve()


def drop_from_cache(folder: Path) -> None:
    """Have the system forget the contents of all files below a folder, where it can be asked to."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lacking(rows: int, folder: Path) -> str:
    """Say what this machine lacks for tmrl's checkpoint of so many steps; "" if nothing."""
    memory, disk = psutil.virtual_memory().available - LEFT_FREE, shutil.disk_usage(folder).free - LEFT_FREE
    for what, needed, there in (("memory", rows * PEER_MEMORY, memory), ("disk", rows * PEER_DISK, disk)):
        if needed > there:
            return f"tmrl's needs about {needed / 1e9:.1f} GB of {what} for {rows:,} steps; {there / 1e9:.1f} are free."
    return ""


def summary(contender: Ours | Peer, samples: Sequence[Mapping[str, float]], folder: Path) -> dict[str, Any]:
    """Sum up the samples of one contender: p50 and max of the times, mean of the bytes; then close it and go on."""
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
        result[f"go_on_{cache}_s"] = contender.go_on()
        result[f"go_on_{cache}_bytes_read"] = io_bytes("read_bytes") - before
    contender.close()
    return result


def measure_ours(sizes: Sequence[int], samples: int, folder: Path) -> list[dict[str, Any]]:
    """Measure our checkpoints at all sizes, in turns."""
    with scratch(folder) as runs_dir:
        runs = [Ours(rows, runs_dir) for rows in sizes]
        for run in runs:
            run.fill()
        turns = [[run.sample() for run in runs] for _ in range(WARM_UP + samples)]
        taken = zip(*turns[WARM_UP:], strict=True)
        return [summary(run, own, runs_dir) for run, own in zip(runs, taken, strict=True)]


def measure_peer(rows: int, samples: int, folder: Path, config: Config) -> dict[str, Any]:
    """Measure tmrl's checkpoints at one size, or say why not."""
    if trouble := lacking(rows, folder):
        return {"rows": rows, "checkpoint": Peer.name, "left_out": trouble}
    with scratch(folder) as place:
        peer = Peer(rows, place, config)
        peer.fill()
        taken: list[dict[str, float]] = []
        began = time.monotonic()
        while len(taken) < PEER_LEAST or (len(taken) < samples and time.monotonic() - began < PEER_SECONDS):
            taken.append(peer.sample())
        return summary(peer, taken, place)


def compare(ours: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ratios: our largest replay to our smallest, and tmrl's checkpoint to ours at each size."""
    by_size = sorted(ours, key=lambda result: result["rows"])
    growth = {key: by_size[-1][key] / by_size[0][key] for key in ("seconds_p50", "seconds_rows_p50", "bytes")}
    quantities = ("seconds_p50", "seconds_durable_p50", "bytes", "go_on_cold_s", "go_on_warm_s")
    return {
        "largest_to_smallest": growth,
        "bar": BAR,
        "within_bar": growth["seconds_p50"] <= BAR,
        "tmrl_to_ours": [
            {"rows": own["rows"], **{key: peer[key] / own[key] for key in quantities}}
            for own, peer in zip(ours, peers, strict=True)
            if "left_out" not in peer
        ],
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the report for a person."""
    columns = (
        "replay", "checkpoint", "samples", "p50 s", "max s", "rows' p50 s", "MB written", "go on, cold s", "warm s",
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
        f"that of the rows alone), {ratio['bytes']:.2f} × the bytes; the bar is {BAR} × the time and "
        f"{'holds' if report['within_bar'] else 'is MISSED'}."
    )
    title = f"A checkpoint after {report['new_steps']} new steps, frames of {SIZE}×{SIZE}, replay full"
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
    args_parser.add_argument("--samples", type=int, default=20, help="checkpoints of each; fewer of a slow tmrl's")
    args_parser.add_argument("--folder", type=Path, default=ROOT / "runs", help="on the disk to measure")
    args = args_parser.parse_args(arguments)
    prepare("cpu", threads=1, seed=0)
    config = configure(max(args.sizes), args.folder)
    ours = measure_ours(args.sizes, args.samples, args.folder)
    peers = [measure_peer(rows, args.samples, args.folder, config) for rows in args.sizes]
    report = {
        "benchmark": "checkpoints",
        **machine(),
        "new_steps": steps_of_epoch(config),
        "ours": ours,
        "tmrl": peers,
        **compare(ours, peers),
    }
    publish(report, [table(report)], args.out)
    return report


if __name__ == "__main__":
    main()
