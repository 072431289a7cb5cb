"""Short real runs in processes of their own, and what may be compared of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from app.runs.checkpoint import read
from app.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("wall_s", "updates_per_s", "sampling_duration", "training_step_duration")

# A small network, a replay that wraps, its files, too (1 024 rows of slack), and ten checkpoints a second.
TINY = (
    "env=sim_lidar", "logger=quiet", "threads=1", "encoder.stream_dim=8", "encoder.heads=2", "encoder.ffn_dim=8",
    "encoder.context_dim=8", "encoder.film_hidden_dim=8", "encoder.layers=1", "actor.hidden_dim=16",
    "critic.hidden_dim=16", "model.float_dim=8", "model.fused_dim=16", "replay.capacity=100", "replay.batch_size=8",
    "training.start_training=60", "training.epochs=3", "training.rounds=2", "training.steps=10",
    "training.max_training_steps_per_env_step=0.05", "training.update_model_interval=7", "training.eval_episodes=2",
    "training.eval_episodes_stochastic=1", "training.checkpoint_interval_s=0.1", "env.max_steps=90",
)  # fmt: skip


def start(runs_dir: Path, name: str, *overrides: str) -> subprocess.Popen:
    """Start a tiny run."""
    command = [sys.executable, "app/train.py", *TINY, f"runs_dir={runs_dir}", f"run_name={name}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def finish(process: subprocess.Popen) -> str:
    """Wait for a run to end well; returns its output."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    return out + err


def wait_for(path: Path, process: subprocess.Popen | None = None) -> None:
    """Wait until a file is there, or the process has ended."""
    deadline = time.monotonic() + 120
    while not path.exists() and (process is None or process.poll() is None) and time.monotonic() < deadline:
        time.sleep(0.01)


def result(path: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was stopped."""
    folder = RunFolder(path)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    state = read(folder.checkpoints.last)
    return {
        "agent": state["training"]["agent"],
        "replay": state["training"]["replay"] | {"segments": None},  # where they are cut depends on the checkpoints
        "episode": state["interface"],
        "rng": state["rng"],
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "best": load_file(folder.best_actor) | load_file(folder.best_model),
        "summary": _judged(folder),
    }


def _judged(folder: RunFolder) -> dict[str, Any]:
    summary = json.loads(folder.summary.read_text())
    return {key: value for key, value in summary.items() if key not in (*TIMES, "paths", "run_name", "selection")}


def same(one: Any, other: Any, where: str = "") -> str:
    """Return where two results differ, bit for bit; "" if nowhere."""
    if isinstance(one, torch.Tensor):
        equal = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return "" if equal else where
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return f"{where}: {one.keys() ^ other.keys()}"
        return next((found for key in one if (found := same(one[key], other[key], f"{where}/{key}"))), "")
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{where}: lengths {len(one)} and {len(other)}"
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, (a, b) in pairs if (found := same(a, b, f"{where}/{i}"))), "")
    return "" if one == other or (one != one and other != other) else f"{where}: {one} and {other}"
