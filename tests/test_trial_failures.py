"""Trials that cannot go on, repeat others, or find a foreign folder: what the study and the next launch see."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from app.config.load import ConfigError
from app.config.multirun import TrialJob
from app.core.errors import UserError
from app.runs.config_file import write_config
from app.sweep import study_store
from app.sweep.report.records import read_records
from app.sweep.study_store import END, ERROR, FOLDER, JOB, LAP_SHARE, LAP_TIME, LAUNCH, SCORE, StudyStore
from app.sweep.trial import machine_problem, run_job, run_trial
from app.training.run import RunResult
from app.training.stop import StopKind, Stopped, StopReason
from tests.helpers.make import compose

LAUNCH_ID = "elsewhere-1-20260101T000000"
SPACE = {"agent.gamma": optuna.distributions.CategoricalDistribution((0.9, 0.95))}


class Trials:
    """A study in a file, whose trials train nothing: the stand-in runs what a test sets as ``training``."""

    def __init__(self, base: Path):
        self.base, self.url = base, f"sqlite:///{base}/study.db"
        self.study = optuna.create_study(study_name="mine", storage=self.url, direction="maximize")
        self.training: Callable = finish
        self.trained: list[Path] = []

    def ask(self, gamma: float, **attributes: object) -> FrozenTrial:
        self.study.enqueue_trial({"agent.gamma": gamma})
        trial = self.study.ask(SPACE)
        known = {LAUNCH: LAUNCH_ID, JOB: trial.number, FOLDER: f"{trial.number:05d}"}
        for key, value in (known | attributes).items():
            trial.set_user_attr(key, value)
        return self.study.trials[trial.number]

    def run(self, trial: FrozenTrial, *overrides: str) -> float:
        gamma = trial.params["agent.gamma"]
        config = replace(compose("env=sim_lidar", *overrides), sweeps_dir=str(self.base), threads=1)
        config = replace(config, agent=replace(config.agent, gamma=gamma))
        return run_trial(config, TrialJob(self.base / "mine", self.url, LAUNCH_ID, trial.number))

    def complete(self, gamma: float, *overrides: str) -> FrozenTrial:
        trial = self.ask(gamma)
        self.study.tell(trial.number, self.run(trial, *overrides))
        return self.study.trials[trial.number]

    def attributes(self, trial: FrozenTrial) -> dict:
        return self.study.trials[trial.number].user_attrs

    def stand_in(self, folder, config, setup, console, stop, callbacks):
        self.trained.append(folder.path)
        write_config(folder.config, config)
        return self.training(callbacks[0])


def finish(callback, end: StopKind = StopKind.FINISHED) -> RunResult:
    for epoch in (1, 2):
        callback.report(epoch, 10.0 * epoch)
        if (reason := callback.stop_reason()) is not None:
            return RunResult(10.0 * epoch, reason, epoch)
    return RunResult(20.0, StopReason(end), 2)


@pytest.fixture
def trials(tmp_path, monkeypatch) -> Iterator[Trials]:
    trials = Trials(tmp_path)
    monkeypatch.setattr("app.sweep.trial.train_in_folder", trials.stand_in)
    monkeypatch.setattr("app.sweep.trial.set_up", lambda config: None)
    yield trials


def failing(error: BaseException) -> Callable:
    def train(_) -> RunResult:
        raise error

    return train


FULL = OSError(errno.ENOSPC, "No space left on device", "last.pt")


def as_user_error(_) -> RunResult:
    try:
        raise FULL
    except OSError:
        raise UserError("last.pt: cannot be written") from None


@pytest.mark.parametrize("training", [failing(FULL), as_user_error], ids=["error", "explained"])
def test_full_disk_ends_the_launch_and_leaves_the_trial_to_the_next_one(trials, training):
    trial, trials.training = trials.ask(0.9), training
    with pytest.raises(SystemExit, match=r"trial 0 of .*mine cannot go on: last.pt: No space left"):
        trials.run(trial)
    assert ERROR not in trials.attributes(trial) and not (trials.trained[0] / "error.txt").exists()
    assert trials.study.trials[0].state is TrialState.RUNNING  # until the session requeues it


def test_failure_of_one_trial_alone_is_no_problem_of_the_machine():
    assert machine_problem(UserError("wrong")) is None
    assert machine_problem(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None


def test_locked_storage_saves_the_trial_and_names_the_lock(trials, monkeypatch):
    monkeypatch.setattr(study_store, "_LOCK_TIMEOUT_S", 0.1)
    trial = trials.ask(0.9)
    with closing(sqlite3.connect(trials.base / "study.db", isolation_level=None)) as other:
        ends = []

        def train(callback) -> RunResult:
            other.execute("BEGIN EXCLUSIVE")
            ends.append(result := finish(callback))
            return result

        trials.training = train
        with pytest.raises(SystemExit, match=r"trial 0 .* another program has locked it .*database is locked"):
            trials.run(trial)
        assert ends[0].stop_reason.kind is StopKind.INTERRUPTED and ends[0].epochs == 1  # the run was saved
        other.execute("ROLLBACK")
    trials.training = finish
    assert trials.run(trial) == 20.0 and trials.attributes(trial)[SCORE] == 20.0  # the same one goes on
    assert trials.trained[0] == trials.trained[1]


def test_study_that_is_deleted_while_a_trial_runs_ends_the_launch(trials):
    trial, ends = trials.ask(0.9), []

    def train(callback) -> RunResult:
        optuna.delete_study(study_name="mine", storage=trials.url)
        ends.append(result := finish(callback))
        return result

    trials.training = train
    with pytest.raises(SystemExit, match="cannot go on: study mine in .*: was deleted while the sweep ran"):
        trials.run(trial)
    assert ends[0].stop_reason.kind is StopKind.INTERRUPTED
    with pytest.raises(SystemExit, match="job 0 of .*: was deleted while the sweep ran"):
        trials.run(trial)


def test_short_lock_costs_nothing(trials, monkeypatch):
    trial, timeouts = trials.ask(0.9), []
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.dbapi2.connect", lambda *a, **k: timeouts.append(k.get("timeout")) or connect(*a, **k))
    trials.run(trial)
    assert set(timeouts) == {60.0}


def test_stopped_trial_goes_on_with_its_own_settings_only(trials, capsys):
    first = trials.ask(0.9)
    trials.training = failing(Stopped(StopReason(StopKind.INTERRUPTED)))
    with pytest.raises(Stopped):
        trials.run(first)
    trials.training, before = finish, (trials.trained[0] / "config.yaml").read_bytes()
    other, same = trials.ask(0.95, **{FOLDER: "00000"}), trials.ask(0.9, **{FOLDER: "00000"})
    trials.run(other)
    assert (trials.trained[0] / "config.yaml").read_bytes() == before
    trials.run(same)
    assert trials.attributes(other)[FOLDER] == "00001" and trials.attributes(same)[FOLDER] == "00000"
    assert [path.name for path in trials.trained] == ["00000", "00001", "00000"]
    assert "begins anew in 00001: 00000 holds a trial with other settings (agent.gamma: 0.9 → 0.95)" in (
        capsys.readouterr().out
    )


def test_duplicate_of_a_finished_trial_takes_its_result(trials, capsys):
    first = trials.complete(0.9)
    again = trials.complete(0.9)
    assert len(trials.trained) == 1 and again.value == first.value == 20.0
    assert again.intermediate_values == first.intermediate_values
    assert again.user_attrs[FOLDER] == first.user_attrs[FOLDER]
    record = read_records(trials.study)[1]
    assert (record.end, record.reason) == ("finished", "repeats trial 0")
    assert "trial 1 has the settings of trial 0, and takes its result" in capsys.readouterr().out


def test_trial_is_no_duplicate_under_another_setting_or_of_a_pruned_one(trials):
    trials.complete(0.9, "training.epochs=3")
    trials.training = lambda callback: finish(callback, StopKind.PRUNED)
    trials.complete(0.9)
    trials.complete(0.95)
    trials.complete(0.9)
    assert len(trials.trained) == 4


def test_lap_share_and_lap_time_of_the_best_policy_are_recorded(trials, monkeypatch):
    best = {"lap_share_det": 0.75, "lap_time_det": None}
    monkeypatch.setattr("app.runs.run_folder.RunFolder.read_best_result", lambda self: best)
    attributes = trials.complete(0.9).user_attrs
    assert attributes[LAP_SHARE] == 0.75 and LAP_TIME not in attributes


def test_trial_with_an_invalid_configuration_has_its_reason_in_the_study(trials, capsys):
    trial = trials.ask(0.9)
    problem = "norm.groups = 7: must divide every channel count."

    def configure():
        raise ConfigError([problem])

    with pytest.raises(ConfigError):
        run_job(configure, TrialJob(trials.base / "mine", trials.url, LAUNCH_ID, trial.number))
    assert trials.attributes(trial)[ERROR] == problem and END not in trials.attributes(trial)
    assert f"trial 0 failed: {problem}" in capsys.readouterr().out


def test_trial_whose_job_cannot_read_the_study_is_left_to_the_next_launch(trials, monkeypatch):
    monkeypatch.setattr(study_store, "_LOCK_TIMEOUT_S", 0.1)
    trial = trials.ask(0.9)
    with closing(sqlite3.connect(trials.base / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SystemExit, match="cannot go on: .*locked"):
            trials.run(trial)
    assert not trials.trained and StudyStore(trials.url, "mine").trials(TrialState.RUNNING)


def test_trial_killed_after_its_first_line_of_log_can_go_on(trials):
    trial, trials.training = trials.ask(0.9), failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        trials.run(trial)
    trials.training = finish
    assert trials.run(trial) == 20.0
