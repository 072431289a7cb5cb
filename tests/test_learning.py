"""Slow tests: real training, without images, on one core each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


AS_MEASURED = (  # the settings of the table in docs/results.md: the old agent's value, rates and sizes
    "training.max_training_steps_per_env_step=2",
    "agent.n_step=1",
    "agent.lr_actor=3e-4",
    "value=scalar",
    "encoder.layers=2",
    "encoder.stream_dim=48",
    "encoder.ffn_dim=128",
    "encoder.context_dim=64",
    "actor.hidden_dim=512",
    "critic.hidden_dim=512",
)


def start(runs_dir: Path, name: str, *overrides: str) -> subprocess.Popen:
    """Start a run on one thread."""
    fixed = ("threads=1", "logger=quiet", f"runs_dir={runs_dir}", f"run_name={name}")
    return subprocess.Popen([sys.executable, "app/train.py", *fixed, *overrides], cwd=ROOT)


def lines(runs_dir: Path, name: str) -> list[dict]:
    """The metrics of every epoch."""
    return [json.loads(line) for line in (runs_dir / name / "metrics.jsonl").read_text().splitlines()]


def test_fixed_and_broken_arm_part_within_2000_updates(tmp_path):
    """The fixed agent's Q grows towards the returns it earns; the broken one's gradients explode and its car stands.

    Measured on seed 0, per epoch of 500 updates: Q mean 0.9, 2.8, 4.9, 7.2 against 1.6, 2.7, -1.7, -5.8; norm of the
    critic's gradient 4, 3, 5, 9 against 39, 149, 168, 2; FiLM scale at most 0.12 against 5.95; the least lap share of
    an epoch 0.024 against 0.000 (40 steps without progress).
    """
    arm = ("env=sim_lidar", "training.epochs=4", "training.rounds=1", "training.steps=500", *AS_MEASURED)
    runs = [start(tmp_path, "fixed", *arm), start(tmp_path, "broken", "experiment=collapse", *arm)]
    assert [run.wait() for run in runs] == [0, 0]
    fixed, broken = lines(tmp_path, "fixed"), lines(tmp_path, "broken")

    def most(epochs: list[dict], name: str) -> float:
        return max(epoch[name] for epoch in epochs)

    assert fixed[-1]["q_mean"] > 0 > broken[-1]["q_mean"]  # rewards are progress: returns are about 0 at least
    assert most(broken, "grad_norm_critic") > 5 * most(fixed, "grad_norm_critic")
    assert most(broken, "loss_critic") > 1.5 * most(fixed, "loss_critic")
    assert most(broken, "film_scale") > 5 * most(fixed, "film_scale")
    assert min(epoch["lap_share_det"] for epoch in broken) < 0.005 < min(epoch["lap_share_det"] for epoch in fixed)


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
