"""Short real runs in processes of their own, and the parts of their results that must be reproducible."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from app.runs.checkpoint import read_checkpoint
from app.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("wall_s", "updates_per_s", "sampling_duration", "training_step_duration")

SMALL_NETWORK = (  # with every part of model=droq_contextual
    "encoder.stream_dim=8", "encoder.heads=2", "encoder.ffn_dim=8", "encoder.context_dim=8",
    "encoder.film_hidden_dim=8", "encoder.layers=1", "actor.hidden_dim=16", "critic.hidden_dim=16",
    "model.float_dim=8", "model.fused_dim=16",
)  # fmt: skip
# A small network, a replay whose files wrap (1 024 rows of slack), and ten checkpoints per second.
TINY = (
    "env=sim_lidar", "logger=quiet", "threads=1", *SMALL_NETWORK, "replay.capacity=100", "replay.batch_size=8",
    "training.start_training=60", "training.epochs=3", "training.updates_per_epoch=20",
    "training.max_training_steps_per_env_step=0.05", "training.update_model_interval=7", "training.eval_episodes=2",
    "training.eval_episodes_stochastic=1", "training.eval_episodes_other=1", "training.checkpoint_interval_s=0.1",
    "env.max_steps=90",
)  # fmt: skip


def start(runs_dir: Path, name: str, *overrides: str) -> subprocess.Popen:
    """Start a tiny run in a process of its own."""
    command = [sys.executable, "app/train.py", *TINY, f"runs_dir={runs_dir}", f"run_name={name}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def finish(process: subprocess.Popen) -> str:
    """Wait for a run to succeed; return its output."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    return out + err


def wait_for(path: Path, process: subprocess.Popen | None = None) -> None:
    """Wait until a file exists or the process has ended."""
    deadline = time.monotonic() + 120
    while not path.exists() and (process is None or process.poll() is None) and time.monotonic() < deadline:
        time.sleep(0.01)


def result(path: Path) -> dict[str, Any]:
    """Return everything of a finished run that must not depend on how often it was stopped."""
    folder = RunFolder(path)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    state = read_checkpoint(folder.checkpoints.last)
    return {
        "agent": state["training"]["agent"],
        "replay": state["training"]["replay"] | {"segments": None},  # which depend on the times of the checkpoints
        "episode": state["interface"],
        "rng": state["rng"],
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "best": load_file(folder.best_actor) | load_file(folder.best_model),
        "summary": _comparable_summary(folder),
    }


def _comparable_summary(folder: RunFolder) -> dict[str, Any]:
    summary = json.loads(folder.summary.read_text())
    return {key: value for key, value in summary.items() if key not in (*TIMES, "paths", "run_name", "selection")}


def first_difference(one: Any, other: Any, where: str = "result") -> str | None:
    """Return where two results differ, bit for bit; None if they are equal."""
    if isinstance(one, torch.Tensor):
        equal = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return None if equal else where
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return f"{where}: {one.keys() ^ other.keys()}"
        return next((found for key in one if (found := first_difference(one[key], other[key], f"{where}/{key}"))), None)
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{where}: lengths {len(one)} and {len(other)}"
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, (a, b) in pairs if (found := first_difference(a, b, f"{where}/{i}"))), None)
    return None if one == other or (one != one and other != other) else f"{where}: {one} and {other}"
