"""Plain -m: every job says which it is, and a table compares the runs at the end."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from app.runs.config_file import write_config
from app.sweep.run_table import ComparedRun, print_runs
from tests.helpers.make import compose
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM

WIDE = {**os.environ, "COLUMNS": "160"}


def make_run(folder: Path, lap_share: float, lap_time: float | None, stop_reason: str | None = "finished") -> Path:
    folder.mkdir(parents=True)
    write_config(folder / "config.yaml", compose("env=sim_lidar"))
    row = {
        "step": 500,
        "epoch": 1,
        "updates": 500,
        "env_steps": 1000,
        "wall_s": 9.0,
        "return_test_det": 100 * lap_share,
    }
    row |= {"lap_share_det": lap_share, "laps_det": float(lap_share == 1), "lap_time_det": lap_time}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if stop_reason:
        (folder / "summary.json").write_text(json.dumps({"stop_reason": stop_reason, "updates": 500}))
    return folder


def printed(runs: list[ComparedRun]) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    print_runs(runs, console)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip("─ ")]


def test_table_has_every_run_and_the_mean_over_the_seeds_of_equal_settings(tmp_path):
    runs = [
        ComparedRun("", "seed=0", make_run(tmp_path / "a", 1.0, 25.0)),
        ComparedRun("", "seed=1", make_run(tmp_path / "b", 0.5, None)),
        ComparedRun("", "seed=2", make_run(tmp_path / "c", 0.0, None, stop_reason=None)),
        ComparedRun("norm=none", "seed=0", make_run(tmp_path / "d", 0.25, None)),
    ]
    lines = printed(runs)
    assert lines[0] == "run state epochs best epoch return lap share lap time"
    assert "seed=0 finished 1 1 100 1.00 0:25.000" in lines and "seed=1 finished 1 1 50.0 0.50 -" in lines
    assert "seed=2 stopped 1 1 0 0.00 -" in lines and "norm=none · seed=0 finished 1 1 25.0 0.25 -" in lines
    assert lines[-1] == "mean ± std of 2 finished runs 75 ± 35 0.75 ± 0.35 0:25.000"  # not of the one with norm=none


def test_single_run_has_no_table(tmp_path):
    assert printed([ComparedRun("", "", make_run(tmp_path / "a", 1.0, 25.0))]) == []
    assert printed([ComparedRun("", "", tmp_path / "never")]) == []


@pytest.mark.e2e
@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["basic", "joblib"]
)
def test_jobs_say_which_they_are_and_end_with_a_table(tmp_path, launcher):
    overrides = (*PENDULUM, "training.epochs=1", "seed=0,1", f"runs_dir={tmp_path}", *launcher)
    command = [sys.executable, "app/train.py", "-m", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=WIDE, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "job 1 of 2 · seed=0\n" in done.stdout and "job 2 of 2 · seed=1\n" in done.stdout
    assert "mean ± std of 2" in done.stdout


@pytest.mark.e2e
def test_failed_job_does_not_hide_the_table_of_the_others(tmp_path):
    overrides = (*PENDULUM, "training.epochs=1", "seed=0,1", "replay.batch_size=8,1000", f"runs_dir={tmp_path}")
    command = [sys.executable, "app/train.py", "-m", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=WIDE, capture_output=True, text=True, timeout=280)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "mean ± std of 2" in done.stdout
