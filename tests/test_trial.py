"""Trials in the process that runs them: reports, pruning, early ends, failures, clean-up."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from app.config.multirun import TrialJob
from app.config.schema import Config
from app.core.errors import UserError
from app.core.processes import is_orphan
from app.sweep.study_store import END, EPOCHS, ERROR, FOLDER, JOB, LAUNCH, SCORE, StudyStore
from app.sweep.trial import run_trial
from tests.helpers.make import compose
from tests.helpers.runs import ROOT, TINY

LAUNCH_ID = "elsewhere-1-20260101T000000"
QUICK = (
    *TINY, "env.window=4", "training.updates_per_epoch=4", "training.max_training_steps_per_env_step=2",
    "env.max_steps=25", "training.start_training=30", "training.eval_episodes=1",
    "training.checkpoint_interval_s=1000", "health.measure_states=0",
)  # fmt: skip


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    """Three finished trials, each with a score of 1 000 after the first epoch."""
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="mine", storage=url, direction="maximize")
    for _ in range(3):
        trial = study.ask()
        trial.report(1000.0, 1)
        study.tell(trial, 1000.0)
    return study


def run(study: optuna.Study, base: Path, *overrides: str) -> tuple[float, optuna.trial.FrozenTrial, Path]:
    """Run the next trial; returns its score, the trial as the study has it, and its folder."""
    trial, config = study.ask(), compose(*QUICK, f"sweeps_dir={base}", *overrides)
    for key, value in ((LAUNCH, LAUNCH_ID), (JOB, 7), (FOLDER, "00003")):
        trial.set_user_attr(key, value)
    job = TrialJob(base / "mine", f"sqlite:///{base}/study.db", LAUNCH_ID, 7)
    try:
        score = run_trial(replace(config, threads=1), job)
    except Exception:
        score = math.nan
    return score, study.trials[trial.number], base / "mine" / "trials" / "00003"


def test_trial_reports_every_epoch_and_keeps_its_results(study, tmp_path):
    score, trial, folder = run(study, tmp_path, "pruner=none", "replay.keep_after_trial=false")
    assert list(trial.intermediate_values) == [1, 2, 3] and trial.intermediate_values[3] == score
    assert (trial.user_attrs[END], trial.user_attrs[EPOCHS], trial.user_attrs[SCORE]) == ("finished", 3, score)
    left = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "best", "log.txt"} <= left
    assert not {"replay", "checkpoints", "error.txt"} & left
    assert "summary of 00003" in (folder / "log.txt").read_text()
    summary, lines = (
        json.loads((folder / "summary.json").read_text()),
        (folder / "metrics.jsonl").read_text().splitlines(),
    )
    assert summary["objective"] == pytest.approx(score)
    assert score == pytest.approx(sum(json.loads(line)["return_test_det"] for line in lines) / 3)


def test_ended_trial_counts_even_if_its_launch_is_killed(study, tmp_path):
    score, trial, _ = run(study, tmp_path, "pruner=none", "training.epochs=1")
    assert trial.state is optuna.trial.TrialState.RUNNING
    assert StudyStore(f"sqlite:///{tmp_path}/study.db", "mine").requeue_orphans(lambda _: True) == []
    ended = study.trials[trial.number :]
    assert [(trial.state.name, trial.value) for trial in ended] == [("COMPLETE", score)]  # and none waits


def test_replay_is_kept_if_configured(study, tmp_path):
    *_, folder = run(study, tmp_path, "pruner=none", "replay.keep_after_trial=true", "training.epochs=1")
    assert (folder / "replay").exists() and (folder / "checkpoints" / "last.pt").exists()


def test_pruned_trial_ends_early_with_its_score(study, tmp_path):
    prune = ("pruner.n_startup_trials=1", "pruner.n_warmup_epochs=0", "pruner.n_min_trials=1")
    score, trial, folder = run(study, tmp_path, *prune)
    assert (trial.user_attrs[END], trial.user_attrs[EPOCHS]) == ("pruned", 1)
    assert list(trial.intermediate_values.values()) == [score] and math.isfinite(score)
    assert json.loads((folder / "summary.json").read_text())["stop_reason"] == "pruned"
    assert trial.state is optuna.trial.TrialState.RUNNING  # until the sweeper tells the study its score


@pytest.mark.parametrize("objective", ["return_test_det", "stability"])
def test_collapsed_trial_ends_early_with_its_worst_score_and_the_reason(study, tmp_path, objective):
    hopeless = ("health.on_collapse=stop", "health.collapse.low_score=1", "health.collapse.low_epochs=2")
    score, trial, folder = run(study, tmp_path, f"objective={objective}", "pruner=none", *hopeless)
    assert trial.user_attrs[END].startswith("collapsed: ") and trial.user_attrs[EPOCHS] == 2
    returns = [json.loads(line)["return_test_det"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert score == pytest.approx(0.0 if objective == "stability" else min(returns))


DIVERGES = ("pruner=none", "agent.lr_critic=1e30")


@pytest.mark.parametrize(("objective", "lowest"), [("return_test_det", -70.0), ("stability", 0.0)])
def test_diverged_trial_has_the_lowest_score(study, tmp_path, objective, lowest):
    score, trial, _ = run(study, tmp_path, f"objective={objective}", "env.return_range=[-70,500]", *DIVERGES)
    assert trial.user_attrs[END].startswith("not finite: ") and score == trial.user_attrs[SCORE] == lowest


def test_diverged_trial_without_a_return_range_has_a_finite_score(study, tmp_path):
    score, trial, _ = run(study, tmp_path, "env.return_range=null", *DIVERGES)
    assert trial.user_attrs[END].startswith("not finite: ") and math.isfinite(score)


def test_failed_trial_leaves_its_reason_in_the_folder_and_in_the_study(study, tmp_path, monkeypatch):
    monkeypatch.setattr("app.training.trainer.Trainer.start", lambda *_: 1 / 0)
    _, trial, folder = run(study, tmp_path)
    assert trial.user_attrs[ERROR] == "ZeroDivisionError: division by zero" and END not in trial.user_attrs
    assert "Traceback" in (folder / "error.txt").read_text()


def test_broken_storage_does_not_hide_why_a_trial_failed(study, tmp_path, monkeypatch, capsys):
    def breaks(*_: object) -> None:
        raise StorageInternalError("the disk is full")

    def crash(*_: object) -> None:
        monkeypatch.setattr(optuna.Trial, "set_user_attr", breaks)
        raise ZeroDivisionError

    monkeypatch.setattr("app.training.trainer.Trainer.start", crash)
    _, trial, folder = run(study, tmp_path)
    assert ERROR not in trial.user_attrs
    reason = (folder / "error.txt").read_text()
    assert "ZeroDivisionError" in reason and "StorageInternalError" not in reason
    assert "failed: ZeroDivisionError" in capsys.readouterr().out


def test_user_error_is_recorded_without_a_traceback(study, tmp_path):
    _, trial, folder = run(study, tmp_path, "training.init_from=nowhere")
    assert "training.init_from = nowhere" in trial.user_attrs[ERROR]
    assert "Traceback" not in (folder / "error.txt").read_text()


def test_job_without_a_trial_is_refused(study, tmp_path):
    job = TrialJob(tmp_path / "mine", f"sqlite:///{tmp_path}/study.db", LAUNCH_ID, 8)
    config: Config = compose(*QUICK, f"sweeps_dir={tmp_path}")
    with pytest.raises(UserError, match="no trial for job 8"):
        run_trial(config, job)


def test_collapsed_trial_continues_with_a_warning_if_configured(study, tmp_path, capsys):
    hopeless = ("health.on_collapse=warn", "health.collapse.low_score=1", "health.collapse.low_epochs=2")
    _, trial, folder = run(study, tmp_path, "pruner=none", *hopeless)
    assert trial.user_attrs[END] == "finished"
    assert (folder / "log.txt").read_text().count("looks collapsed: ") == 1


def test_job_is_terminated_when_its_launch_is_gone():
    """A grandchild whose parent ends gets SIGTERM; while the parent lives it does not."""
    child = (
        "import os, time; from app.core.processes import terminate_with_parent; terminate_with_parent(os.getppid()); "
        "print('watching', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=sys.stdout); "
        "time.sleep(1.5); print(p.poll(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", parent, child]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert {process.stdout.readline().strip() for _ in range(2)} == {"watching", "None"}
    process.kill()
    assert process.stdout.read() == ""  # until the grandchild has let go of its output
    process.stdin.close()
    process.wait()


def test_process_is_an_orphan_only_without_its_parent():
    assert is_orphan(1 << 22) and not is_orphan(os.getppid()) and not is_orphan(None)
