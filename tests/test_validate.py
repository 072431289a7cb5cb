"""Runs of a validation, its report, its processes, and the real command."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console

from app.config import load, multirun
from app.config.load import ConfigError
from app.config.schema_commands import ValidateConfig
from app.core.atomic_files import process_exists
from app.core.errors import UserError
from app.runs.lock import Lock
from app.sweep.validation import validate_study as validate_study_module
from app.sweep.validation.validate_study import run_in_processes, validate_study
from app.sweep.validation.validation_report import make_report, print_report, write_report
from app.sweep.validation.validation_runs import PENDING, ValidationResult, ValidationRun, plan_runs, read_result
from tests.helpers.commands import refusal
from tests.helpers.make import CONF
from tests.helpers.runs import ROOT, TINY, finish, wait_for
from tests.helpers.studies import StudyForValidation, validate_config
from tests.helpers.work import work

FAST = ("training.max_training_steps_per_env_step=2", "training.checkpoint_interval_s=60")


@pytest.fixture
def made(tmp_path, compose) -> StudyForValidation:
    return StudyForValidation(tmp_path / "sweeps", compose(*TINY, *FAST))


@pytest.fixture
def runs(made, tmp_path):
    made.add(3.0, 0.995)
    return plan_runs(made.select()[0], (100, 101), tmp_path, "cpu", 1)


def write_run(run: ValidationRun, lines=(), **summary) -> None:
    """Write the metrics and the summary of a run."""
    run.folder.path.mkdir(parents=True)
    run.folder.metrics.write_text("".join(json.dumps({"step": i, **line}) + "\n" for i, line in enumerate(lines)))
    if summary:
        run.folder.summary.write_text(json.dumps(summary))


@pytest.mark.parametrize("summary", [{}, {"stop_reason": "interrupted", "objective": 4}, {"stop_reason": "terminated"}])
def test_stopped_run_does_not_count_yet(runs, summary):
    write_run(runs[0], [{"return_test_det": 4.0}], **summary)
    result = read_result(runs[0])
    assert (result.end, result.measures, result.problem) == (PENDING, {}, None)


def test_run_with_a_damaged_summary_does_not_count_yet(runs):
    for index, text in enumerate(("{", "[]", "null", '"stop_reason"', "7")):
        run = replace(runs[0], config=replace(runs[0].config, run_name=f"damaged-{index}"))
        run.folder.path.mkdir(parents=True)
        run.folder.summary.write_text(text)
        assert read_result(run).end == PENDING


def test_finished_run_counts_with_the_measures_that_it_has(runs):
    write_run(runs[0], stop_reason="finished", objective=4, return_test_det=5.5, lap_share_det=None)
    result = read_result(runs[0])
    assert (result.end, result.measures, result.problem) == ("finished", {"objective": 4, "return_test_det": 5.5}, None)


def test_diverged_run_counts_and_is_reported(runs):
    write_run(runs[0], stop_reason="not finite: loss_critic", objective=-2.0)
    result = read_result(runs[0])
    assert result.measures == {"objective": -2.0} and result.end == result.problem == "not finite: loss_critic"


def test_run_that_looks_collapsed_at_its_end_is_reported(runs):
    write_run(runs[0], [{"return_test_det": 1.0, "q_mean": None}], stop_reason="finished", objective=1.0)
    assert read_result(runs[0]).problem == "looks collapsed at its end: not finite: q_mean"


def test_failed_run_counts_with_its_objective_so_far_and_is_reported(runs):
    write_run(runs[0], [{"return_test_det": 1.0}, {"return_test_det": None}, {"return_test_det": 2.0}])
    result = read_result(runs[0], "OSError: disk full")
    assert result.end == "failed: OSError: disk full" and result.measures == {"objective": 1.5}
    assert "counts with what it reached in 3 epochs" in result.problem and str(runs[0].log) in result.problem
    nothing = read_result(runs[1], "OSError: disk full")
    assert nothing.measures == {} and "reached nothing that counts" in nothing.problem


def test_report_has_every_seed_and_every_problem(made, runs, tmp_path):
    candidates, notes = made.select()
    results = [ValidationResult(run, "finished", {"objective": 10.0 + 5 * index}) for index, run in enumerate(runs[:3])]
    results.append(ValidationResult(runs[3], "failed: [bold]x", {}, "failed: [bold]x"))
    report = make_report(validate_config(tmp_path), candidates, results, notes)
    write_report(report, tmp_path)
    content = json.loads((tmp_path / "validation.json").read_text())
    default, trial = content["candidates"]
    assert default["measures"]["objective"]["estimate"]["by_seed"] == {"100": 10.0, "101": 20.0}
    assert default["measures"]["objective"]["estimate"]["interval"] == [10.0, 20.0]
    assert trial["measures"]["objective"]["difference_to_default"]["by_seed"] == {"100": 5.0}
    assert trial["measures"]["objective"]["verdict"] == "one seed says nothing about chance"
    assert content["remarks"] == ["trial-0 seed 101: failed: [bold]x"] and "2 seeds are few" in content["notes"][1]
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [(row["candidate"], row["seed"], row["objective"]) for row in rows] == [
        ("default", "100", "10.0"), ("trial-0", "100", "15.0"), ("default", "101", "20.0"), ("trial-0", "101", ""),
    ]  # fmt: skip

    console = Console(width=100, record=True, file=open(os.devnull, "w"))
    print_report(report, console)
    text = console.export_text()
    for part in (
        "100=10.0",
        "101=20.0",
        "trial-0 (3.00 in the search, finished): one seed says",
        "+5.00",
        "agent.gamma: 0.99 → 0.995",
        "trial-0 seed 101: failed: [bold]x",
    ):
        assert part in text, part


@pytest.mark.e2e
def test_other_tasks_run_after_one_fails_or_is_killed(tmp_path):
    ended = {}
    tasks = [(tmp_path, what) for what in ("fails", "dies", "succeeds")]
    run_in_processes(work, tasks, 2, lambda _: None, lambda task, problem: ended.update({task[1]: problem}))
    assert ended == {"fails": "it cannot", "dies": "its process ended with exit code -9", "succeeds": None}


@pytest.mark.e2e
def test_interruption_lets_running_tasks_save_and_starts_no_other(tmp_path):
    def ended(*_: object) -> None:
        wait_for(tmp_path / "ready")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(work, [(tmp_path, what) for what in ("waits", "quick", "never")], 2, lambda _: None, ended)
    assert (tmp_path / "saved").exists() and (tmp_path / "quick.begun").exists()
    assert not (tmp_path / "never.begun").exists()


@pytest.mark.e2e
def test_second_interruption_kills_tasks_that_do_not_stop(tmp_path):
    def ended(*_: object) -> None:
        wait_for(tmp_path / "ready")
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()  # while it waits for the other
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(work, [(tmp_path, "stays"), (tmp_path, "quick")], 2, lambda _: None, ended)
    while process_exists(int((tmp_path / "ready").read_text())):  # the kernel clears it away in a moment
        time.sleep(0.01)


def words_for(made: StudyForValidation) -> list[str]:
    return ["study=mine", f"sweeps_dir={made.path.parent}", "top_k=1", "device=cpu", "bootstrap=1000"]


def validate(made: StudyForValidation, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "app/validate.py", *words_for(made), *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.e2e
def test_real_validation_continues_after_an_interruption_and_a_failed_run(made):
    made.add(3.0, 0.995)
    made.store()
    place, command = made.path / "validation", ("seeds=[100,101]", "jobs=2", "epochs=5")
    runs = plan_runs(made.select(epochs=5)[0], (100, 101), place, "cpu", 1)
    process = validate(made, *command)
    for run in runs[:2]:
        wait_for(run.folder.checkpoints.last, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, out + err
    assert "runs to be done: 4. The same command continues with them" in out
    stopped = [json.loads(path.read_text())["stop_reason"] for path in place.glob("*/summary.json")]
    assert stopped == 2 * ["terminated"]

    foreign = runs[3].folder.path / "thesis.tex"
    foreign.parent.mkdir()
    foreign.touch()
    out = finish(validate(made, *command))
    assert "trial-0 seed 101: failed: " in out and "holds thesis.tex" in out and "trial-0 seed 100: finished" in out
    assert len(list(place.glob("*/starts.jsonl"))) == 3
    assert [len(path.read_text().splitlines()) for path in place.glob("*seed100/starts.jsonl")] == [2, 2]

    foreign.unlink()
    out = finish(validate(made, *command))
    assert "4 runs, of which 3 have ended before" in out and out.count(" begins ") == 1 and "to be done" not in out
    content = json.loads((place / "validation.json").read_text())
    default, trial = content["candidates"]
    assert content["runs_to_be_done"] == 0 and not any("failed" in remark for remark in content["remarks"])
    assert [run["end"] for run in default["runs"] + trial["runs"]] == 4 * ["finished"]
    summaries = {path.parent.name: json.loads(path.read_text()) for path in place.glob("*/summary.json")}
    for candidate in (default, trial):
        for entry in candidate["runs"]:
            summary = summaries[Path(entry["folder"]).name]
            assert summary["epoch"] == 5 and entry["objective"] == summary["objective"]
            assert entry["return_test_det"] == summary["return_test_det"] and 0 <= entry["lap_share_det"] <= 1
    assert "agent.gamma: 0.99 → 0.995" in out and "differences from the default" in out


def test_wrong_command_is_refused_without_a_traceback(made, monkeypatch):
    made.add(3.0, 0.995)
    made.store()
    message = refusal("validate", [*words_for(made), "seeds=[0,100]"], monkeypatch)
    assert message.startswith("seeds = [0, 100]: the search has used seed 0")


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"study": "other"}, "study = other: "),
        ({"device": "cuda:99"}, "device = cuda:99: this machine has"),
    ],
)
def test_wrong_setting_is_refused_before_anything_is_made(made, changes, text):
    made.add(3.0, 0.995)
    made.store()
    with pytest.raises(UserError, match=re.escape(text)):
        validate_study(validate_config(made.path.parent, **changes))
    assert not (made.path / "validation").exists()


@pytest.mark.parametrize(
    "override, text",
    [
        ("seeds=[]", "seeds = []: must be a list of 1 or more integers"),
        ("seeds=[-1]", "seeds = [-1]: must be"),
        ("top_k=0", "top_k = 0: must be an integer at least 1"),
        ("jobs=0", "jobs = 0: must be an integer at least 1"),
        ("confidence=95", "confidence = 95: must be a number at least 0.5 and at most 0.999"),
        ("bootstrap=10", "bootstrap = 10: must be an integer at least 1000"),
        ("study=../mine", "study = ../mine: must be at most 100 letters"),
    ],
)
def test_wrong_value_is_refused_with_what_is_allowed(override, text):
    with initialize_config_dir(str(CONF)):
        cfg = hydra_compose("validate", ["study=mine", override])
    with pytest.raises(ConfigError, match=re.escape(text)):
        load.validate(cfg, ValidateConfig)


@pytest.mark.parametrize(("threads", "jobs", "expected"), [(1, 1, 1), (3, 2, 3), (0, 1, 0), (0, 2, 4)])
def test_runs_have_the_threads_of_the_study(tmp_path, compose, monkeypatch, threads, jobs, expected):
    made = StudyForValidation(tmp_path / "sweeps", compose(*TINY, f"threads={threads}"))
    made.add(3.0, 0.995)
    made.store()
    used = set()
    monkeypatch.setattr(multirun, "usable_cores", lambda: 8)
    monkeypatch.setattr(
        validate_study_module, "_train_pending", lambda runs, *_: used.update(r.config.threads for r in runs)
    )
    with pytest.raises(UserError, match="no run has reached anything"):
        validate_study(validate_config(made.path.parent, jobs=jobs))
    assert used == {expected}


def test_second_validation_of_a_study_at_the_same_time_is_refused(made):
    made.add(3.0, 0.995)
    made.store()
    with Lock(made.path / "validation", "validation"), pytest.raises(UserError, match="the validation is in use"):
        validate_study(validate_config(made.path.parent))
