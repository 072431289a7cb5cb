"""Launches of a study: orphaned trials, shared studies, the number of trials, the end of a session."""

import json
import os
import platform
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

from app.core.errors import UserError
from app.runs.lock import Lock
from app.sweep import session as session_module
from app.sweep.session import Launch, StudyComplete, assign_trial, launch_parent
from app.sweep.study_store import FOLDER, JOB, LAUNCH, SCORE, StudyStore
from tests.helpers.sweeps import DEAD_PID, GAMMAS, SweepStarter, living_launch


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[SweepStarter]:
    starter = SweepStarter(tmp_path, monkeypatch)
    yield starter
    starter.end_all()


def test_trial_of_a_killed_launch_is_requeued_first_with_its_folder(start):
    sweep = start()
    tried = sweep.ask_and_assign().params
    sweep.kill_launch()
    again = start()
    assert again.states == ["FAIL", "WAITING"]
    continued = again.ask_and_assign()
    assert continued.params["agent.gamma"] == tried["agent.gamma"]
    assert continued.user_attrs[FOLDER] == "00000"  # the one with its checkpoint


def test_new_study_never_uses_a_folder_that_it_does_not_know(start):
    sweep = start()
    sweep.folder.trials.mkdir(exist_ok=True)
    (sweep.folder.trials / "00000").mkdir()  # of a study that was deleted
    (sweep.folder.trials / "00001").symlink_to("nowhere")
    folders = [sweep.ask_and_assign().user_attrs[FOLDER] for _ in range(3)]
    assert folders == ["00000-2", "00001-2", "00002"]


def test_trial_that_ended_before_its_batch_counts_as_complete(start):
    sweep = start("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    ended, _ = sweep.ask_and_assign(), sweep.ask_and_assign()
    ended.set_user_attr(SCORE, 2.5)
    sweep.kill_launch()
    again = start("hydra.sweeper.n_trials=3")
    trials = again.study.trials
    assert again.states == ["COMPLETE", "FAIL", "WAITING"]
    assert trials[0].value == 2.5 and trials[2].user_attrs[FOLDER] == "00001"
    assert again.launch.remaining == 2


def test_ended_session_keeps_finished_trials_and_requeues_the_others(start, capsys):
    sweep = start("hydra.sweeper.n_jobs=2")
    trials = [sweep.ask_and_assign(), sweep.ask_and_assign()]
    trials[1].set_user_attr(SCORE, 2.5)
    sweep.session.end()
    assert sweep.states == ["FAIL", "COMPLETE", "WAITING"]
    assert "continues first: 1" in capsys.readouterr().out
    assert json.loads((sweep.folder.path / "best.json").read_text())["score"] == 2.5


def test_trial_of_a_living_launch_keeps_running(start):
    sweep = start()
    with living_launch(sweep.folder) as other:
        trials = [sweep.ask() for _ in range(3)]
        trials[0].set_user_attr(LAUNCH, other)
        trials[1].set_user_attr(LAUNCH, "elsewhere-1-20260101T000000")  # on another machine, so its state is unknown
        trials[2].set_user_attr(LAUNCH, f"{platform.node()}-{DEAD_PID}-20260101T000000")
        sweep.end_launch()
        start().end_launch()
        assert sweep.states[:3] == ["RUNNING", "RUNNING", "FAIL"]
        with pytest.raises(UserError, match="the study is in use by process"):
            start("+restart=clean")
    assert sweep.folder.database.exists()
    start().end_launch()
    assert sweep.states[:3] == ["FAIL", "RUNNING", "FAIL"]


def test_survivor_of_two_launches_says_that_a_trial_of_the_other_is_left(start, capsys):
    sweep = start()
    killed = Launch(sweep.folder.launches, sweep.store, sweep.session.space, n_trials=50, batch_size=1, remaining=1)
    killed.assign_trial(sweep.ask())  # by a process that died: nobody holds its lock
    (sweep.folder.launches / killed.id).mkdir()
    sweep.session.end()
    assert "trials of another launch that was killed: 1. The same command continues them." in capsys.readouterr().out
    start()
    assert sweep.states == ["FAIL", "WAITING"]


def test_trial_that_a_killed_launch_had_only_asked_for_takes_no_place(start):
    sweep = start("hydra.sweeper.n_trials=1")
    sweep.study.ask()
    assert start("hydra.sweeper.n_trials=1") is None  # the launch that asked for it lives
    sweep.kill_launch()
    again = start("hydra.sweeper.n_trials=1")
    assert again.states == ["FAIL"] and again.launch.remaining == 1


def test_launches_are_counted(start):
    numbers = []
    for _ in range(3):
        sweep = start()
        numbers.append(sweep.launch.earlier)
        sweep.end_launch()
    assert numbers == [0, 1, 2]


def test_trial_whose_job_outlives_its_launch_keeps_running(start, monkeypatch):
    monkeypatch.setattr(session_module, "_SAVE_TIMEOUT_S", 0.0)
    sweep = start()
    trial = sweep.ask_and_assign()
    sweep.kill_launch()
    with Lock(sweep.folder.trials / trial.user_attrs[FOLDER], "run"):
        start().end_launch()
        assert sweep.states[0] == "RUNNING"
    start().end_launch()
    assert sweep.states[0] == "FAIL"


def test_n_trials_is_the_number_of_finished_trials_in_all(start, capsys):
    sweep = start("hydra.sweeper.n_trials=3")
    study = sweep.study
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    sweep.end_launch()
    again = start("hydra.sweeper.n_trials=3")
    assert again.launch.remaining == 1
    assert "finished trials: 2 of 3" in capsys.readouterr().out
    study.tell(study.ask(), 3.0)
    again.end_launch()
    assert start("hydra.sweeper.n_trials=3") is None
    out = capsys.readouterr().out
    assert "finished trials: 3 of 3" in out and "nothing is left to do" in out and "best    trial" in out
    assert start("hydra.sweeper.n_trials=5").launch.remaining == 2


def test_launches_that_share_a_study_run_no_more_trials_than_wanted(start):
    """Both start when one trial is left; the one that asks second releases its trial."""
    sweep = start("hydra.sweeper.n_trials=1")
    first, second = sweep.ask(), sweep.ask()
    assign_trial(sweep.cfg, first)
    other = Launch(sweep.folder.launches, sweep.store, sweep.session.space, n_trials=1, batch_size=1, remaining=1)
    with pytest.raises(StudyComplete):
        other.assign_trial(second)
    assert sweep.states == ["RUNNING", "WAITING"]
    kept = second.params["agent.gamma"]
    assert sweep.study.ask().suggest_categorical("agent.gamma", GAMMAS) == kept


def test_stopped_trial_continues_before_one_that_was_released(start):
    sweep = start("hydra.sweeper.n_trials=3")
    released, stopped = sweep.ask(), sweep.ask()
    kept = [trial.params["agent.gamma"] for trial in (stopped, released)]
    assign_trial(sweep.cfg, stopped)
    released.set_user_attr(LAUNCH, sweep.launch.id)
    sweep.store.release([released.number])
    sweep.kill_launch()
    again = start("hydra.sweeper.n_trials=3")
    assert again.states == ["FAIL", "FAIL", "WAITING", "WAITING"]
    asked = [again.study.ask() for _ in kept]
    assert [trial.suggest_categorical("agent.gamma", GAMMAS) for trial in asked] == kept
    assert asked[0].user_attrs[FOLDER] == "00001"  # the one with its checkpoint


def test_released_trial_that_another_launch_asks_for_stays_with_it(start, monkeypatch):
    sweep = start()
    released, stopped = sweep.ask_and_assign(), sweep.ask_and_assign()
    sweep.store.release([released.number])
    claimed = sweep.store._claim_released(sweep.study)
    assert [trial.number for trial in claimed] == [released.number]
    assert sweep.store._claim_released(sweep.study) == [] and sweep.states == ["RUNNING", "RUNNING"]
    assert stopped.number == 1


FINITE = (
    "agent.gamma=0.99,0.995", "agent.betas_actor.1=0.99", "agent.betas_critic.1=0.99",
    "training.max_training_steps_per_env_step=2",
)  # fmt: skip


def test_study_ends_when_every_combination_of_values_has_been_tried(start, capsys):
    sweep = start("sweep=core", searched=FINITE)

    def ask(gamma: float) -> optuna.Trial:
        sweep.study.enqueue_trial({"agent.gamma": gamma})
        trial = sweep.study.ask()
        trial.suggest_categorical("agent.gamma", (0.99, 0.995))
        for key, _, value in (text.partition("=") for text in sweep.session.space.overrides):
            if key not in trial.params:  # as the Optuna sweeper does
                trial.set_user_attr(key, value)
        assign_trial(sweep.cfg, trial)
        return trial

    for gamma in (0.99, 0.99, 0.995):
        sweep.study.tell(ask(gamma), 1.0)
    with pytest.raises(StudyComplete):
        ask(0.99)
    sweep.session.end()
    assert "all 2 combinations of the searched values have been tried" in capsys.readouterr().out
    assert start("sweep=core", searched=FINITE) is None
    out = capsys.readouterr().out
    assert "finished trials: 3 of 50" in out and "all 2 combinations" in out and "best    trial" in out
    wider = (*FINITE[:-1], "training.max_training_steps_per_env_step=range(2,4)")
    assert start("sweep=core", searched=wider).launch.remaining == 47


def test_batch_runs_whole_if_one_of_its_trials_is_wanted(start):
    sweep = start("hydra.sweeper.n_trials=2")
    sweep.study.tell(sweep.study.ask(), 1.0)
    launch = Launch(sweep.folder.launches, sweep.store, sweep.session.space, n_trials=2, batch_size=2, remaining=2)
    trials = [sweep.ask(), sweep.ask()]
    for trial in trials:
        launch.assign_trial(trial)
    assert [trial.user_attrs[JOB] for trial in trials] == [0, 1] and launch.remaining == 0


def test_only_a_launch_that_is_the_parent_is_watched():
    here, parent = platform.node(), os.getppid()
    assert launch_parent(f"{here}-{parent}-20260101T000000") == parent
    assert launch_parent(f"{here}-{os.getpid()}-20260101T000000") is None
    assert launch_parent(f"elsewhere-{parent}-20260101T000000") is None


def test_launches_may_make_the_tables_of_a_new_storage_at_once(tmp_path):
    file, together = tmp_path / "study.db", threading.Barrier(6)
    file.touch()

    def connect(_: int) -> optuna.Study | None:
        together.wait()
        return StudyStore(f"sqlite:///{file}", "mine").load()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(connect, range(6))) == [None] * 6
