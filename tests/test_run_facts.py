"""Facts of a run are what its files say; damaged files are told, not raised."""

import json
import math
import os
import shutil

import pytest

from app.health.full_laps import first_full_lap, held_epochs, held_share, worst_since_full_lap
from app.reporting.run_facts import run_facts, state_of
from app.runs.config_file import write_config
from app.runs.lock import Lock
from app.training.stop import StopKind, StopReason
from tests.helpers.make import compose

LAPS = {"laps_det": 1.0, "lap_share_det": 1.0, "lap_time_ratio_det": 1.1}
EPOCHS = (
    {"return_test_det": 20.0, "lap_share_det": 0.04, "laps_det": 0.0},
    {"return_test_det": 500.0, **LAPS, "lap_time_det": 27.5},
    {"return_test_det": 200.0, "lap_share_det": 0.4, "laps_det": 0.1, "lap_time_det": 24.0},
    {"return_test_det": 499.0, **LAPS, "lap_time_det": 26.5, "lap_time_ratio_det": 1.06},
    {"return_test_det": 480.0, "lap_share_det": 0.96, "laps_det": 0.9, "lap_time_det": 26.0},
)


@pytest.fixture(scope="module")
def config_yaml(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    write_config(path, compose("env=sim_lidar", "seed=3", "training.epochs=8"))
    return path


@pytest.fixture
def make_run(tmp_path, config_yaml):
    def make(lines=EPOCHS, **summary):
        path = tmp_path / "mine"
        path.mkdir()
        shutil.copy(config_yaml, path / "config.yaml")
        counters = [
            {"step": 500 * n, "epoch": n, "env_steps": 4000 * n, "wall_s": 30.0 * n} for n in range(1, len(lines) + 1)
        ]
        rows = [json.dumps(counter | line) + "\n" for counter, line in zip(counters, lines, strict=True)]
        (path / "metrics.jsonl").write_text("".join(rows))
        if summary:
            (path / "summary.json").write_text(json.dumps(summary))
        return path

    return make


def test_facts_are_those_of_the_files(make_run):
    facts = run_facts(make_run(stop_reason="interrupted", updates=2600))
    assert (facts.name, facts.task, facts.model, facts.seed) == ("mine", "sim_lidar", "droq_contextual", 3)
    assert (facts.epochs, facts.epochs_asked, facts.updates, facts.env_steps, facts.wall_s) == (5, 8, 2500, 20000, 150)
    assert facts.settings["agent.gamma"] == 0.99
    assert (facts.state, facts.reason, facts.problem) == ("stopped", "interrupted", None)


def test_best_policy_is_the_fastest_that_laps_from_every_start(make_run):
    facts = run_facts(make_run())
    assert (facts.best_epoch, facts.best_lap_time, facts.best_lap_ratio) == (4, 26.5, 1.06)
    assert (facts.best_return, facts.best_laps, facts.best_lap_share) == (499.0, 1.0, 1.0)


def test_lap_is_held_from_the_first_full_one_on(make_run):
    facts = run_facts(make_run())
    assert (facts.first_full_lap, facts.held, facts.held_of) == (2, 3, 4)


def test_held_epochs_leave_out_what_is_not_known():
    shares = [0.1, 0.96, 1.0, 0.4, math.nan, 1.0]
    assert first_full_lap(shares) == 2
    assert held_epochs(shares) == (3, 4) and held_share(shares) == 3 / 4
    assert worst_since_full_lap(shares) == 0.4
    assert (first_full_lap([0.1, 0.94]), held_share([0.1, 0.94]), worst_since_full_lap([0.1])) == (None, 0.0, 0.0)
    assert held_epochs([]) == (0, 0)


def test_task_without_laps_has_a_best_return_and_no_lap(make_run):
    facts = run_facts(make_run([{"return_test_det": -900.0}, {"return_test_det": -150.0}, {"return_test_det": None}]))
    assert (facts.best_epoch, facts.best_return) == (2, -150.0)
    assert (facts.best_lap_share, facts.best_lap_time, facts.first_full_lap, facts.held_of) == (None, None, None, 0)


@pytest.mark.parametrize("kind", StopKind)
def test_every_stop_reason_is_a_state(kind):
    states = {"finished", "stopped", "collapsed", "pruned", "failed"}
    assert state_of(str(StopReason(kind, "with: a detail"))) in states


def test_summary_older_than_the_metrics_says_nothing(make_run):
    facts = run_facts(make_run(stop_reason="finished", updates=1000))
    assert (facts.state, facts.reason) == ("stopped", None)


def test_owned_folder_is_running(make_run):
    path = make_run(stop_reason="finished", updates=2500)
    with Lock(path, "run"):
        assert run_facts(path).state == "running"
    assert run_facts(path).state == "finished"


def test_run_without_an_epoch_is_new(make_run):
    facts = run_facts(make_run([]))
    assert (facts.state, facts.epochs, facts.best_epoch) == ("no epoch yet", 0, None)


def test_failed_trial_is_told(make_run):
    path = make_run()
    (path / "error.txt").write_text("Traceback")
    assert run_facts(path).state == "failed"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", "{\n"),
        ("metrics.jsonl", "[1]\n"),
        ("metrics.jsonl", '{"epoch": 1}\n'),
        ("metrics.jsonl", '{"step": 1, "epoch": "one"}\n'),
        ("metrics.jsonl", '{"step": 1, "epoch": 1, "return_test_det": 1, "lap_share_det": "<b>"}\n'),
        ("config.yaml", "a: ["),
        ("config.yaml", "1"),
        ("config.yaml", "!!python/object/apply:os.system ['true']"),
        ("config.yaml", "seed: [1]"),
    ],
)
def test_damaged_file_becomes_a_fact(make_run, file, text):
    path = make_run()
    (path / file).write_text(text)
    facts = run_facts(path)
    assert facts.state == "damaged" and facts.problem.startswith(f"cannot be read: {file} (")
    assert "\n" not in facts.problem


def test_bytes_that_are_no_text_become_a_fact(make_run):
    path = make_run()
    (path / "metrics.jsonl").write_bytes(b"\xff\n")
    assert run_facts(path).problem.startswith("cannot be read: metrics.jsonl (UnicodeDecodeError")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"updates": "x", "stop_reason": "finished"}', "{}"])
def test_damaged_summary_says_nothing(make_run, text):
    path = make_run()
    (path / "summary.json").write_text(text)
    assert run_facts(path).state == "stopped"


def test_folder_that_is_no_run_is_told(tmp_path):
    facts = run_facts(tmp_path / "none")
    assert facts.state == "damaged" and facts.problem == "cannot be read: config.yaml (No such file or directory)"


def test_disk_use_counts_files_below_and_follows_no_link(make_run, tmp_path):
    path = make_run()
    before = run_facts(path).disk_bytes
    (path / "replay").mkdir()
    (path / "replay" / "rows.bin").write_bytes(bytes(1_000_000))
    (tmp_path / "elsewhere").write_bytes(bytes(9_000_000))
    (path / "link").symlink_to(tmp_path / "elsewhere")
    assert 1_000_000 <= run_facts(path).disk_bytes - before < 1_100_000


def test_last_change_is_that_of_the_newest_record(make_run):
    path = make_run()
    for file in (path / "config.yaml", path / "metrics.jsonl", path):
        os.utime(file, (1000, 1000))
    os.utime(path / "metrics.jsonl", (2000, 2000))
    assert run_facts(path).changed == 2000
