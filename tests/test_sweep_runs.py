"""Sweeps with the real command, in processes of their own."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import END, EPOCHS, ERROR, FOLDER, StudyStore
from tests.helpers.commands import refusal
from tests.helpers.runs import ROOT, TINY, finish, start

SMALL = ("training=smoke", *(override for override in TINY if not override.startswith("training.")))
NAME = "droq_contextual-sim_lidar"
CHOICES = {
    "agent.gamma": {0.99, 0.995, 0.999},
    "agent.betas_critic.1": {0.99, 0.995},
    "agent.betas_actor.1": {0.99, 0.995},
    "training.max_training_steps_per_env_step": set(range(2, 9)),
}
BOUNDS = {
    "agent.lr_actor": (1e-5, 1e-3),
    "agent.lr_critic": (1e-5, 1e-3),
    "agent.lr_entropy": (1e-5, 1e-2),
    "agent.alpha": (0.05, 0.5),
    "agent.target_entropy": (-3.0, -0.5),
    "agent.alpha_min": (0.01, 0.2),
    "agent.polyak": (0.98, 0.999),
    "agent.betas_actor.0": (0.8, 0.95),
    "agent.betas_critic.0": (0.8, 0.95),
    "agent.weight_decay_actor": (1e-6, 1e-3),
    "agent.weight_decay_critic": (1e-6, 1e-3),
}
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def run_sweep(sweeps: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "app/train.py", "-m", "hydra/sweeper=optuna", f"sweeps_dir={sweeps}", *SMALL, *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def trials_of(sweeps: Path, name: str = NAME) -> list[FrozenTrial]:
    study = StudyStore(f"sqlite:///{sweeps / name / 'study.db'}", name).load()
    return [] if study is None else study.trials


def states(sweeps: Path) -> dict[str, int]:
    found = [trial.state.name for trial in trials_of(sweeps)]
    return {state: found.count(state) for state in found}


def wait_until(reached, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "ended too early"


def kept(folder: StudyFolder, trials: list[FrozenTrial]) -> dict[str, bytes]:
    done = [trial.user_attrs[FOLDER] for trial in trials if trial.state is TrialState.COMPLETE]
    return {name: (folder.trials / name / "metrics.jsonl").read_bytes() for name in done}


@pytest.mark.e2e
@pytest.mark.parametrize("launcher", [(), pytest.param(JOBLIB, marks=pytest.mark.slow)], ids=["alone", "joblib"])
def test_killed_sweep_continues_to_exactly_n_trials(tmp_path, launcher):
    command, folder = (tmp_path, *launcher, "hydra.sweeper.n_trials=6"), StudyFolder(tmp_path, NAME)
    process = run_sweep(*command)
    wait_until(lambda: states(tmp_path).get("COMPLETE", 0) >= 2 and states(tmp_path).get("RUNNING"), process)
    wait_until(lambda: list(folder.trials.glob("*/checkpoints/last.pt")), process)  # in the middle of one
    process.kill()
    process.communicate()
    before = kept(folder, trials_of(tmp_path))

    out = finish(run_sweep(*command))
    trials = trials_of(tmp_path)
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(finished) == 6 and {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    assert f"finished trials: {len(before)} of 6" in out and "trials that were stopped and continue first: " in out
    for trial in finished:
        assert all(float(trial.params[key]) in values for key, values in CHOICES.items())
        assert all(low <= trial.params[key] <= high for key, (low, high) in BOUNDS.items())
        assert trial.user_attrs[END] == "finished" and trial.user_attrs[EPOCHS] == 2
        assert list(trial.intermediate_values) == [1, 2]
    after = kept(folder, trials)
    assert len(after) == 6 == len(list(folder.trials.iterdir())) and before.items() <= after.items()
    for name in after:
        left = {path.name for path in (folder.trials / name).iterdir()}
        assert {"config.yaml", "metrics.jsonl", "best", "log.txt"} <= left and not {"replay", "checkpoints"} & left

    assert "nothing is left to do" in finish(run_sweep(*command))
    assert len(trials_of(tmp_path)) == len(trials)
    for name in ("best.yaml", "best.json", "trials.csv", "report.html"):
        assert (folder.path / name).stat().st_size
    assert not list(folder.launches.iterdir())


@pytest.mark.e2e
def test_sweep_continues_after_a_failed_and_a_diverged_trial(tmp_path):
    nowhere = f"{tmp_path}/nowhere"
    command = (tmp_path, "agent.lr_critic=0.001,1e30", f"training.init_from=null,{nowhere}")
    assert "nothing is left to do" in finish(run_sweep(*command, "hydra.sweeper.n_trials=0"))  # makes the study
    study = StudyStore(f"sqlite:///{tmp_path / NAME / 'study.db'}", NAME).load()
    for rate, source in ((1e-3, nowhere), (1e30, "null"), (1e-3, "null")):
        study.enqueue_trial({"agent.lr_critic": rate, "training.init_from": source})
    out = finish(run_sweep(*command, "hydra.sweeper.n_trials=3"))
    crashed, diverged, finished = trials_of(tmp_path)
    assert crashed.state is TrialState.FAIL and "there is no run with a best policy" in crashed.user_attrs[ERROR]
    assert "training.init_from" in (tmp_path / NAME / "trials" / crashed.user_attrs[FOLDER] / "error.txt").read_text()
    assert diverged.user_attrs[END].startswith("not finite: ") and math.isfinite(diverged.value)
    assert finished.user_attrs[END] == "finished" and math.isfinite(finished.value)
    assert "failed: training.init_from" in out and "Traceback" not in out


@pytest.mark.slow
def test_two_launches_share_a_study(tmp_path):
    command = (tmp_path, "hydra.sweeper.n_trials=5", "threads=1")
    both = [run_sweep(*command) for _ in range(2)]
    outputs = [finish(process) for process in both]
    assert states(tmp_path)["COMPLETE"] == 5 and not states(tmp_path).keys() & {"RUNNING", "FAIL"}
    assert all(" finished · score" in out for out in outputs)  # each has run some of them
    folders = [trial.user_attrs[FOLDER] for trial in trials_of(tmp_path) if trial.state is TrialState.COMPLETE]
    assert len(set(folders)) == 5


@pytest.mark.e2e
def test_clean_restart_happens_once_per_sweep(tmp_path):
    finish(run_sweep(tmp_path, "hydra.sweeper.n_trials=1", "replay.keep_after_trial=true"))
    (first,) = StudyFolder(tmp_path, NAME).trials.iterdir()
    assert (first / "checkpoints" / "last.pt").exists() and (first / "replay").exists()
    out = finish(run_sweep(tmp_path, "hydra.sweeper.n_trials=1", "+restart=clean", "encoder.dropout=0.1"))
    assert out.count(" removed · receipt ") == 1 and "Resuming" not in out
    assert [trial.state.name for trial in trials_of(tmp_path)] == ["COMPLETE"]
    assert not (first / "checkpoints" / "last.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_trial_continues_in_the_next_launch(tmp_path, number):
    command = (tmp_path, *TINY, "hydra.sweeper.n_trials=1", "training.checkpoint_interval_s=0")
    process, folder = run_sweep(*command), StudyFolder(tmp_path, NAME)
    wait_until(lambda: list(folder.trials.glob("*/checkpoints/previous.pt")), process)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    if number is not signal.SIGKILL:
        assert states(tmp_path) == {"FAIL": 1, "WAITING": 1} and (folder.path / "report.html").exists()
    finish(run_sweep(*command))
    assert [trial.state.name for trial in trials_of(tmp_path)] == ["FAIL", "COMPLETE"]
    (trial,) = folder.trials.iterdir()
    assert "Resuming " in (trial / "log.txt").read_text()


@pytest.mark.e2e
def test_ctrl_c_ends_the_job_and_every_job_after_it(tmp_path):
    process = start(tmp_path, "mine", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}", "training.epochs=3000")
    wait_until(lambda: list(tmp_path.glob("mine*/checkpoints/last.pt")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    (folder,) = tmp_path.glob("mine*/")
    assert json.loads((folder / "summary.json").read_text())["stop_reason"] == "interrupted"
    assert "The same command resumes the run." in out


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: a search needs -m"),
        (["sweep=optuna"], "Add -m hydra/sweeper=optuna."),
        (["-m", "sweep=core", "seed=0,1"], "Add -m hydra/sweeper=optuna."),
        (["restart=clean"], "Write +restart=clean or +restart=archive."),
        (["-m", "hydra/sweeper=optuna", "sweeps_dir=/dev/null/a", "+hydra.sweeper.params.seed='choice('"], "choice("),
    ],
)
def test_wrong_command_is_refused_with_advice(arguments, text, monkeypatch):
    assert text in refusal("train", [*TINY, *arguments], monkeypatch)
