"""Slow tests: real training, without images, on one core each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def start(runs_dir: Path, name: str, *overrides: str) -> subprocess.Popen:
    """Start a run on one thread."""
    fixed = ("threads=1", "logger=quiet", f"runs_dir={runs_dir}", f"run_name={name}")
    return subprocess.Popen([sys.executable, "app/train.py", *fixed, *overrides], cwd=ROOT)


def last_line(runs_dir: Path, name: str) -> dict:
    """The metrics of the last epoch."""
    return json.loads((runs_dir / name / "metrics.jsonl").read_text().splitlines()[-1])


def test_fixed_and_broken_arm_part_within_2000_updates(tmp_path):
    """The fixed agent's Q grows towards the returns it earns; the broken one's losses explode and its car stands."""
    arm = ("env=sim_lidar", "training.epochs=4", "training.rounds=1", "training.steps=500")
    runs = [start(tmp_path, "fixed", *arm), start(tmp_path, "broken", "experiment=collapse", *arm)]
    assert [run.wait() for run in runs] == [0, 0]
    fixed, broken = last_line(tmp_path, "fixed"), last_line(tmp_path, "broken")
    assert fixed["q_mean"] > 0  # rewards are progress: returns are at least about 0
    assert broken["q_mean"] < fixed["q_mean"] - 1
    assert broken["grad_norm_critic"] > 3 * fixed["grad_norm_critic"]
    assert broken["loss_critic"] > 3 * fixed["loss_critic"]
    assert broken["lap_share_det"] < 0.02 < fixed["lap_share_det"]


def test_the_fixed_agent_learns_to_drive(tmp_path):
    arm = ("env=sim_lidar", "training.epochs=8", "training.rounds=1", "training.steps=500")
    assert start(tmp_path, "drives", *arm).wait() == 0
    summary = json.loads((tmp_path / "drives" / "summary.json").read_text())
    assert summary["lap_share_det"] > 0.4


def test_sac_solves_pendulum(tmp_path):
    """A shorter form of benchmarks/core.py: 8 000 steps are enough to swing up."""
    task = ("model=mlp", "env=gym", "env.id=Pendulum-v1", "training.epochs=7", "training.rounds=1")
    schedule = ("training.steps=1000", "training.max_training_steps_per_env_step=1", "training.eval_episodes=20")
    assert start(tmp_path, "pendulum", *task, *schedule).wait() == 0
    summary = json.loads((tmp_path / "pendulum" / "summary.json").read_text())
    assert -300 < summary["return_test_det"] < -80
