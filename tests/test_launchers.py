"""Launchers for clusters: presets, missing plugins and failures; real jobs with submitit's local launcher."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import pytest

from app.config.launchers import missing_plugin
from tests.helpers.make import CONF, raw
from tests.helpers.runs import ROOT, TINY, finish, start, wait_for
from tests.test_sweep_runs import NAME, run_sweep, states

HAS_RAY = importlib.util.find_spec("ray") is not None
LOCAL = "hydra/launcher=submitit_local"


def refused(*arguments: str, **environment: str) -> str:
    """Return the error message of a command that ends with exit code 1 before it trains."""
    command = [sys.executable, "app/train.py", "-m", "logger=quiet", *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_slurm_preset_sets_only_keys_of_the_plugin():
    own, preset = (raw(f"hydra/launcher={name}", hydra=True).hydra.launcher for name in ("submitit_slurm", "slurm"))
    assert preset._target_ == own._target_ and preset.keys() == own.keys()
    changed = {"partition", "timeout_min", "max_num_timeout", "cpus_per_task", "mem_gb", "gres", "array_parallelism"}
    assert {key for key in own if own[key] != preset[key]} == changed - {"partition", "gres"}
    assert raw("hydra/launcher=slurm", "hydra.launcher.partition=gpu", hydra=True).hydra.launcher.partition == "gpu"


@pytest.mark.skipif(not HAS_RAY, reason="the extra ray is not installed")
def test_ray_preset_is_the_plugins_with_a_cluster_and_cores():
    launcher = raw("hydra/launcher=ray_cluster", hydra=True).hydra.launcher
    assert launcher._target_ == raw("hydra/launcher=ray", hydra=True).hydra.launcher._target_
    assert launcher.ray == {"init": {"address": "auto"}, "remote": {"num_cpus": 4, "num_gpus": 0}}


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
@pytest.mark.parametrize("option", ["ray", "ray_cluster"])
def test_missing_launcher_is_reported_with_the_command_that_installs_it(option):
    assert refused(f"hydra/launcher={option}").splitlines() == [
        'hydra/launcher = ray: is not installed. Install it with: python -m pip install -e ".[ray]"'
    ]


def test_installation_is_known_for_every_preset_and_nothing_else():
    for preset in (CONF / "hydra" / "launcher").glob("*.yaml"):
        assert "pip install" in missing_plugin(f"hydra/launcher/{preset.stem}")
    assert '".[slurm]"' in missing_plugin("hydra/launcher/submitit_slurm")
    assert missing_plugin("hydra/launcher/nonsense") is None
    assert missing_plugin("model/ray") is None


def test_machine_without_slurm_gives_one_sentence(tmp_path):
    message = refused("hydra/launcher=slurm", f"runs_dir={tmp_path}", PATH=str(tmp_path))
    assert 'The jobs of submitit failed: Could not detect "srun"' in message
    assert "hydra/launcher=submitit_local" in message and len(message.splitlines()) == 1


def test_refusal_of_the_cluster_is_quoted_with_a_remedy(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in (
        ("srun", ":"),
        ("sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    message = refused("hydra/launcher=slurm", f"runs_dir={tmp_path / 'runs'}", PATH=f"{programs}:{os.environ['PATH']}")
    assert "failed: sbatch: error: invalid partition specified: nope. Set hydra.launcher.partition" in message


@pytest.mark.e2e
def test_every_job_of_submitit_has_its_own_run_folder(tmp_path):
    out = finish(start(tmp_path, "mine-${seed}", "-m", "seed=0,1", "training.epochs=1", LOCAL))
    assert {path.parent.name[:6] for path in tmp_path.glob("mine-*/summary.json")} == {"mine-0", "mine-1"}, out


@pytest.mark.slow
def test_killed_job_is_reported_and_continued_by_the_same_command(tmp_path):
    command, trial = (tmp_path, *TINY, LOCAL, "hydra.sweeper.n_trials=1"), tmp_path / NAME / "trials" / "00000"
    process = run_sweep(*command)
    wait_for(trial / "checkpoints" / "previous.pt", process)
    os.kill(json.loads((trial / ".owner.json").read_text())["pid"], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert "The jobs of submitit failed: Job " in err and "The same command continues" in err
    finish(run_sweep(*command))
    assert states(tmp_path) == {"FAIL": 1, "COMPLETE": 1}
    assert "Resuming" in (trial / "log.txt").read_text()
