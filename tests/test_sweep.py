"""How launches of a sweep begin: one fingerprint, a clean start, trials that were left behind, and what is left."""

import contextlib
import io
import json
import os
import pickle
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import OperationalError

from app.config import job as job_module
from app.config.schema import RestartConfig
from app.envs.factory import make_spec
from app.errors import UserError
from app.replay.forecast import forecast
from app.restart.study import StudyRestart
from app.runs.lock import Lock
from app.runs.manifest import KINDS, Manifest
from app.sweep import begin
from app.sweep import sweep as sweep_module
from app.sweep.attributes import FOLDER, JOB, LAUNCH, SCORE
from app.sweep.begin import begin_sweep, searched
from app.sweep.callback import StudyCallback
from app.sweep.fingerprint import study_fingerprint
from app.sweep.folder import StudyFolder
from app.sweep.launch import Enough, Launch, enrol
from app.sweep.storage import Stored
from tests.make import compose, raw
from tests.runs import ROOT

DEAD = 2**31 - 1  # no process has this number
GAMMAS = [0.99, 0.995, 0.999]
SPACE = {
    "agent.gamma": set(GAMMAS),
    "agent.betas_critic.1": {0.99, 0.995},
    "agent.betas_actor.1": {0.99, 0.995},
    "training.max_training_steps_per_env_step": set(range(2, 9)),
}
REST = {
    "agent.lr_actor", "agent.lr_critic", "agent.lr_entropy", "agent.alpha", "agent.target_entropy", "agent.alpha_floor",
    "agent.polyak", "agent.betas_actor.0", "agent.betas_critic.0", "agent.weight_decay_actor",
    "agent.weight_decay_critic", "replay.batch_size",
}  # fmt: skip


# ----------------------------------------------------------------------------------------- the beginning


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Begin a launch in this process, as Hydra's callback would; ``leave`` ends it, as does the end of the test."""
    launches = []

    def begin_with(*overrides: str) -> StudyFolder:
        cfg = raw("hydra/sweeper=optuna", "env=sim_lidar", f"sweeps_dir={tmp_path}", *overrides, hydra=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        sweep = begin_sweep(cfg)
        launches.append(sweep.launch)
        folder = sweep.folder
        folder.cfg, folder.sweep, folder.leave = cfg, sweep, sweep.launch.end
        folder.die = sweep.launch._lock.release  # what a kill leaves: the kernel gives the lock back, the files stay
        return folder

    yield begin_with
    for launch in launches:
        launch.end()


def stored(folder: StudyFolder) -> Stored:
    return Stored(f"sqlite:///{folder.database}", folder.path.name)


def ask(folder: StudyFolder) -> optuna.Trial:
    """Ask for a trial, as the sweeper would."""
    trial = stored(folder).find().ask()
    trial.suggest_categorical("agent.gamma", GAMMAS)
    return trial


@contextlib.contextmanager
def a_living_launch(folder: StudyFolder) -> Iterator[str]:
    """Another process that shares the study."""
    name = f"{platform.node()}-1-20260101T000000"
    script = "import sys; from pathlib import Path; from app.runs.lock import Lock\n"
    script += "with Lock(Path(sys.argv[1]), 'launch'): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(folder.launches / name)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield name
        process.stdin.close()


def trial_run(folder: StudyFolder, name: str) -> list:
    """Make what a trial leaves; returns its files of the kinds that a restart takes."""
    root = folder.trials / name
    files = {"replay": root / "replay/rows.bin", "checkpoints": root / "checkpoints/last.pt"}
    files["weights"] = root / "best/actor.safetensors"
    root.mkdir(parents=True)
    for kind, path in files.items():
        Manifest.open(root).add(kind, path)
        path.parent.mkdir()
        path.write_text(kind)
    (root / "metrics.jsonl").write_text("{}\n")
    return list(files.values())


def test_the_search_space_applies_with_the_sweeper_and_nothing_else():
    hydra = raw("hydra/sweeper=optuna", hydra=True).hydra
    assert searched(raw("hydra/sweeper=optuna", "sweep=core", hydra=True).hydra) == set(SPACE)
    assert searched(hydra) == set(SPACE) | REST
    assert (hydra.sweeper.direction, hydra.sweeper.n_jobs, hydra.sweeper.max_failure_rate) == ("maximize", 1, 1.0)
    assert hydra.sweeper.sampler.multivariate and hydra.sweeper.sampler.constant_liar
    assert hydra.sweeper.storage == "sqlite:///sweeps/droq_contextual-sim/study.db"
    assert not raw(hydra=True).hydra.callbacks
    raw("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", hydra=True)  # no key of TPE's stands in its way


def test_a_study_is_made_signed_and_listed_and_goes_on(sweep, tmp_path):
    folder = sweep()
    assert folder.path == tmp_path / "droq_contextual-sim_lidar"
    assert "study.db" in {str(entry.path) for entry in Manifest.open(folder.path).entries(["study"])}
    assert stored(folder).find().user_attrs and stored(folder).find().directions[0].name == "MAXIMIZE"
    assert f"hydra.sweep.dir='{folder.path}'" in folder.cfg.hydra.overrides.hydra
    folder.leave()
    sweep("agent.lr_actor=1e-4")  # a smaller search space: what it fixes was searched before


def test_a_trial_that_was_stopped_is_taken_up_again_first(sweep):
    folder = sweep()
    trial = ask(folder)
    tried = trial.params
    enrol(folder.cfg, trial)
    folder.die()
    again = stored(sweep()).find()
    assert [trial.state.name for trial in again.trials] == ["FAIL", "WAITING"]
    goes_on = again.ask()
    assert goes_on.suggest_categorical("agent.gamma", GAMMAS) == tried["agent.gamma"]
    enrol(folder.cfg, goes_on)
    assert goes_on.user_attrs[FOLDER] == "00000"  # where its checkpoint lies


def test_a_trial_that_had_ended_before_its_batch_is_not_trained_again(sweep):
    folder = sweep("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    ended, stopped = ask(folder), ask(folder)
    for trial in (ended, stopped):
        enrol(folder.cfg, trial)
    ended.set_user_attr(SCORE, 2.5)
    folder.die()
    again = sweep("hydra.sweeper.n_trials=3")
    trials = stored(again).find().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "WAITING"]
    assert trials[0].value == 2.5 and trials[2].user_attrs[FOLDER] == "00001"
    assert again.cfg.hydra.sweeper.n_trials == 2  # it counts


def test_a_launch_that_is_stopped_keeps_what_had_ended_in_its_batch(sweep, capsys):
    folder = sweep("hydra.sweeper.n_jobs=2")
    trials = [ask(folder), ask(folder)]
    for trial in trials:
        enrol(folder.cfg, trial)
    trials[1].set_user_attr(SCORE, 2.5)
    folder.sweep.end()
    assert [trial.state.name for trial in stored(folder).find().trials] == ["FAIL", "COMPLETE", "WAITING"]
    assert "goes on with first: 1" in capsys.readouterr().out
    assert json.loads((folder.path / "best.json").read_text())["score"] == 2.5


def test_a_trial_that_another_launch_runs_is_left_to_it(sweep):
    folder = sweep()
    with a_living_launch(folder) as other:
        trials = [ask(folder) for _ in range(3)]
        trials[0].set_user_attr(LAUNCH, other)
        trials[1].set_user_attr(LAUNCH, "elsewhere-1-20260101T000000")  # on another machine: nobody here knows
        trials[2].set_user_attr(LAUNCH, f"{platform.node()}-{DEAD}-20260101T000000")
        folder.leave()
        sweep().leave()
        assert [trial.state.name for trial in stored(folder).find().trials[:3]] == ["RUNNING", "RUNNING", "FAIL"]
        with pytest.raises(UserError, match="the study is in use by process"):
            sweep("+restart=clean")
    assert folder.database.exists()
    sweep().leave()
    assert [trial.state.name for trial in stored(folder).find().trials[:3]] == ["FAIL", "RUNNING", "FAIL"]


def test_a_trial_is_not_taken_from_a_job_that_outlived_its_launch(sweep, monkeypatch):
    monkeypatch.setattr(sweep_module, "_PATIENCE", 0.0)
    folder = sweep()
    trial = ask(folder)
    enrol(folder.cfg, trial)
    folder.die()
    with Lock(folder.trials / trial.user_attrs[FOLDER], "run"):
        sweep().leave()
        assert stored(folder).find().trials[0].state.name == "RUNNING"
    sweep().leave()
    assert stored(folder).find().trials[0].state.name == "FAIL"


def test_n_trials_is_the_number_of_finished_trials_in_all(sweep, capsys):
    folder = sweep("hydra.sweeper.n_trials=3")
    study = stored(folder).find()
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    folder.leave()
    again = sweep("hydra.sweeper.n_trials=3")
    assert again.cfg.hydra.sweeper.n_trials == 1
    assert "finished trials: 2 of 3" in capsys.readouterr().out
    study.tell(study.ask(), 3.0)
    again.leave()
    with pytest.raises(SystemExit) as caught:
        sweep("hydra.sweeper.n_trials=3")
    out = capsys.readouterr().out
    assert caught.value.code == 0 and "finished trials: 3 of 3" in out and "nothing is left to do" in out
    assert sweep("hydra.sweeper.n_trials=5").cfg.hydra.sweeper.n_trials == 2


def test_launches_that_share_a_study_run_no_more_than_wanted(sweep):
    """Both begin when one trial is left; the one that asks second puts its trial back."""
    folder = sweep("hydra.sweeper.n_trials=1")
    first, second = ask(folder), ask(folder)
    enrol(folder.cfg, first)
    other = Launch(folder.launches, wanted=1, batch=1, left=1)
    with pytest.raises(Enough):
        other.enrol(second)
    assert [trial.state.name for trial in stored(folder).find().trials] == ["RUNNING", "WAITING"]
    kept = second.params["agent.gamma"]
    assert stored(folder).find().ask().suggest_categorical("agent.gamma", GAMMAS) == kept


def test_a_batch_runs_whole_if_one_of_it_is_wanted(sweep):
    folder = sweep("hydra.sweeper.n_trials=2")
    stored(folder).find().tell(stored(folder).find().ask(), 1.0)
    launch = Launch(folder.launches, wanted=2, batch=2, left=2)
    trials = [ask(folder), ask(folder)]
    for trial in trials:
        launch.enrol(trial)
    assert [trial.user_attrs[JOB] for trial in trials] == [0, 1]


def test_jobs_at_once_are_capped_by_memory(sweep, monkeypatch, capsys):
    monkeypatch.setattr(job_module, "usable_cores", lambda: 4)
    assert sweep("hydra/launcher=joblib").cfg.hydra.sweeper.n_jobs == 4
    plenty = forecast(make_spec(compose("env=sim_lidar").env), 100_000)
    monkeypatch.setattr(begin, "forecast", lambda *_: replace(plenty, available_bytes=22 * 2**30 // 10))
    cfg = sweep("hydra/launcher=joblib", "hydra.sweeper.study_name=small").cfg
    assert (cfg.hydra.sweeper.n_jobs, cfg.hydra.launcher.n_jobs) == (2, 2)
    assert "2 jobs at once in place of 4" in capsys.readouterr().out
    monkeypatch.setattr(begin, "forecast", lambda *_: replace(plenty, available_bytes=0))
    assert sweep("hydra/launcher=joblib", "hydra.sweeper.study_name=none").cfg.hydra.sweeper.n_jobs == 1


def test_a_study_of_another_fingerprint_is_refused_with_the_differences(sweep):
    sweep().leave()
    with pytest.raises(UserError) as caught:
        sweep("encoder.dropout=0.1", "log_std_min=-2")
    for text in ("encoder.dropout: 0.0 → 0.1", "log_std_min: -20.0 → -2.0", "+restart=clean", "study_name"):
        assert text in str(caught.value)
    sweep("encoder.dropout=0.1", "hydra.sweeper.study_name=another")


def test_the_study_in_a_storage_elsewhere_has_its_fingerprint_with_it(sweep, tmp_path):
    url = f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db"
    folder = sweep(url)
    (folder.fingerprint).unlink()
    folder.leave()
    assert not folder.database.exists()
    with pytest.raises(UserError, match=r"encoder.dropout: 0.0 → 0.1"):
        sweep(url, "encoder.dropout=0.1")
    assert not folder.fingerprint.exists()  # what is refused leaves no mark


def as_it_began(folder: StudyFolder) -> tuple:
    return folder.config.read_bytes(), json.loads(folder.fingerprint.read_text())


@pytest.mark.parametrize("elsewhere", [False, True], ids=["own_file", "storage_elsewhere"])
def test_a_launch_that_fixes_more_does_not_become_what_the_study_is_compared_with(sweep, tmp_path, elsewhere):
    storage = [f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db"] if elsewhere else []
    folder = sweep(*storage)
    began = as_it_began(folder)
    folder.leave()
    for rate in (1e-4, 2e-4):  # the second would not go with the first
        folder = sweep(*storage, f"agent.lr_actor={rate}", "logger=quiet")
        assert as_it_began(folder) == began
        folder.leave()
    sweep(*storage, "+restart=clean", "encoder.dropout=0.1")
    assert "dropout: 0.1" in folder.config.read_text()  # another study


def test_what_one_launch_searched_as_well_another_may_fix(sweep):
    folder = sweep()
    before = json.loads(folder.fingerprint.read_text())
    assert before["log_std_min"] == -20
    cfg = folder.cfg
    folder.leave()
    cfg.hydra.overrides.task.append("log_std_min=-20,-10")
    begin_sweep(cfg).launch.end()
    known = json.loads(folder.fingerprint.read_text())
    assert "log_std_min" not in known and {**known, "log_std_min": -20} != before
    assert set(known["hydra.sweeper.params"]) == {*before["hydra.sweeper.params"], "log_std_min"}
    assert set(stored(folder).find().user_attrs["trackmania_droq.fingerprint"]) == set(known)
    sweep("log_std_min=-5")


def test_what_is_searched_belongs_to_the_trials():
    one, other = compose("encoder.dropout=0.1"), compose()
    for searched_, same in (("encoder.dropout", True), ("encoder", True), ("encoder.drop", False)):
        both = [study_fingerprint(config, {searched_}, ["maximize"]) for config in (one, other)]
        assert (both[0] == both[1]) is same


def test_trials_of_another_schedule_are_not_comparable(sweep):
    sweep().leave()
    for override, line in (
        ("training.epochs=3", "training.epochs: 10 → 3"),
        ("seed=1", "seed: 0 → 1"),
        ("health.last=5", "health.last: 3 → 5"),
        ("objective=stability", "objective: return_test_det → stability"),
        ("replay.capacity=50000", "replay.capacity: 100000 → 50000"),
    ):
        with pytest.raises(UserError, match=re.escape(line)):
            sweep(override)
    sweep("training.checkpoint_interval_s=5", "replay.keep=true", "pruner=none")  # changes no score


def test_the_command_line_adds_to_the_search_and_fixes_what_it_names():
    cfg = raw("hydra/sweeper=optuna", hydra=True)
    cfg.hydra.overrides.task = ["agent.gamma=0.99", "norm=group,layer", "+restart=clean"]
    assert searched(cfg.hydra) == (set(SPACE) | REST) - {"agent.gamma"} | {"norm"}


@pytest.mark.parametrize(
    "override, text",
    [
        ("hydra.sweeper.study_name=../out", "hydra.sweeper.study_name = ../out: must have at most"),
        ("hydra.sweeper.study_name=null", "hydra.sweeper.study_name = null: must have"),
        ("hydra.sweeper.study_name=agent", "hydra.sweeper.study_name = agent: is a section of the configuration"),
        ("hydra.sweep.dir=elsewhere", "hydra.sweep.dir = elsewhere: the folder of a study is sweeps_dir/study_name"),
        ("hydra.sweeper.storage=nonsense", "hydra.sweeper.storage = nonsense: cannot be used"),
        ("hydra.sweeper.storage=null", "hydra.sweeper.storage = null: must be the address of a storage"),
        ("hydra.sweeper.storage=7", "hydra.sweeper.storage = 7: must be the address of a storage"),
        ("hydra.sweeper.storage=foo://u:secret@host/db", "hydra.sweeper.storage = foo://u:***@host/db: cannot be used"),
        ("sweeps_dir='a?b'", "sweeps_dir = a?b: the address of an SQLite file cannot hold its '?'"),
        ("agent.gamma=2", "agent.gamma = 2: must be a number"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction = up: must be minimize or maximize"),
        ("hydra.sweeper.direction=[maximize,minimize]", "'minimize']: a run has one objective. Use maximize."),
        ("hydra.sweeper.n_trials=-1", "hydra.sweeper.n_trials = -1: must be an integer at least 0"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs = 0: must be an integer at least 1"),
        ("hydra.sweeper.storage='sqlite:///:memory:'", "sqlite:///:memory:: nothing outlives the sweep there"),
        ("hydra.sweeper.storage='sqlite://'", "hydra.sweeper.storage = sqlite://: nothing outlives the sweep there"),
        ("role=worker", "role = worker: the trials of a search train in one process each. Use role=local."),
        ("encoder.heads=5", "encoder.heads = 5: must divide encoder.stream_dim"),  # a rule between keys
    ],
)
def test_a_mistake_is_told_in_words_before_anything_is_made(sweep, tmp_path, override, text):
    with pytest.raises(UserError, match=re.escape(text)):
        sweep(override)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_folder_that_somebody_else_made_is_refused(sweep, tmp_path):
    theirs = tmp_path / "mine"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds thesis.tex and no manifest.json"):
        sweep("hydra.sweeper.study_name=mine")


# ----------------------------------------------------------------------------------------- starting clean


def test_a_study_starts_clean_with_its_trials(sweep):
    folder = sweep()
    files = trial_run(folder, "a") + trial_run(folder, "b")
    folder.leave()
    with pytest.raises(SystemExit) as caught:
        sweep("+restart=clean", "restart.dry_run=true")
    assert caught.value.code == 0
    assert all(path.exists() for path in (*files, folder.database))

    sweep("+restart=clean", "encoder.dropout=0.1")
    assert not any(path.exists() for path in files)
    assert (folder.trials / "a" / "metrics.jsonl").exists() and not stored(folder).find().trials
    (receipt,) = folder.path.glob("history/*/receipt.json")
    content = json.loads(receipt.read_text())
    assert {entry["kind"] for entry in content["files"]} == set(KINDS) and content["complete"]


def test_an_archived_study_is_whole(sweep):
    folder = sweep()
    trial_run(folder, "a")
    study = stored(folder).find()
    study.tell(study.ask(), 3.0)
    folder.leave()
    sweep("+restart=archive")
    (archive,) = folder.path.glob("archive/*")
    assert (archive / "trials/a/checkpoints/last.pt").read_text() == "checkpoints"
    assert Stored(f"sqlite:///{archive}/study.db", folder.path.name).find().best_value == 3.0
    assert not stored(folder).find().trials


def test_nothing_goes_while_a_trial_runs(sweep):
    folder = sweep()
    files = trial_run(folder, "a") + trial_run(folder, "b")
    folder.leave()
    with Lock(folder.trials / "b", "run"), pytest.raises(UserError, match=r"trials.b: the run is in use by process"):
        sweep("+restart=clean")
    assert all(path.exists() for path in (*files, folder.database))


@pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")
def test_a_link_among_the_trials_is_left_alone(sweep, tmp_path):
    folder = sweep()
    other = StudyFolder(tmp_path, "other")
    files = trial_run(other, "a")
    folder.trials.mkdir()
    (folder.trials / "a").symlink_to(other.trials / "a")
    folder.leave()
    sweep("+restart=clean")
    assert all(path.exists() for path in files) and not (other.trials / "a" / ".lock").exists()


def test_only_this_study_goes_from_a_shared_storage(sweep, tmp_path):
    url = f"sqlite:///{tmp_path}/all.db"
    foreign = optuna.create_study(study_name="foreign", storage=url)
    foreign.tell(foreign.ask(), 1.0)
    folder = sweep(f"hydra.sweeper.storage={url}")
    study = Stored(url, folder.path.name).find()
    study.tell(study.ask(), 2.0)
    folder.leave()

    sweep(f"hydra.sweeper.storage={url}", "+restart=archive").leave()
    names = optuna.get_all_study_names(url)
    kept = next(name for name in names if name.startswith(f"{folder.path.name}-archived-"))
    assert optuna.load_study(study_name=kept, storage=url).best_value == 2.0
    assert set(names) == {"foreign", folder.path.name, kept}
    assert [json.loads(path.read_text())["kept_as"] for path in folder.path.glob("history/*/receipt.json")] == [kept]

    sweep(f"hydra.sweeper.storage={url}", "+restart=clean").leave()
    for overrides in ([], ["+restart=clean"]):
        with pytest.raises(UserError, match="foreign .*was not made by this program"):
            sweep(f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=foreign", *overrides)
    assert optuna.load_study(study_name="foreign", storage=url).best_value == 1.0


def test_the_checkpoints_of_trials_do_not_stay_without_their_replay(tmp_path):
    restart = RestartConfig(mode="delete", targets=["replay"], dry_run=False, tmrl_run=None)
    with pytest.raises(UserError, match=r"restart.targets = \[replay\].*Name checkpoints as well"):
        StudyRestart(StudyFolder(tmp_path, "mine"), None, restart, Console(file=io.StringIO()))


# ----------------------------------------------------------------------------------------- Hydra's callback


def test_no_error_lets_the_sweep_go_on(monkeypatch, capsys):
    for error, code in ((UserError("a: wrong"), "a: wrong"), (RuntimeError("a bug"), 1)):
        monkeypatch.setattr(begin, "begin_sweep", lambda _, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(SystemExit) as caught:
            StudyCallback().on_multirun_start(config=None)
        assert caught.value.code == code
    assert "a bug" in capsys.readouterr().err


def test_a_job_in_another_process_is_no_launch(sweep):
    callback = StudyCallback()
    callback._sweep = begin_sweep(sweep().cfg)
    copy = pickle.loads(pickle.dumps(callback))
    assert copy._sweep is None
    copy.on_multirun_end(config=None)
    callback.on_multirun_end(config=None)
    assert not list(callback._sweep.folder.launches.iterdir()) or callback._sweep.launch is None


def end_with(folder: StudyFolder, fails) -> str:
    """Let Hydra's callback end a launch out of which an exception comes; returns what it says."""
    callback = StudyCallback()
    callback._sweep = folder.sweep
    with pytest.raises(SystemExit) as caught:
        try:
            fails()
        finally:
            callback.on_multirun_end(config=None)
    return str(caught.value.code)


def test_trials_that_a_changed_search_space_cannot_run_do_not_stay_running(sweep):
    folder = sweep()
    study = stored(folder).find()
    study.tell(ask(folder), 1.0)
    of_another_launch = study.ask()  # it is about to sign it
    study.enqueue_trial({"agent.gamma": 0.99}, user_attrs={FOLDER: "00007"})
    goes_on, fresh = study.ask(), study.ask()
    space = {"agent.gamma": CategoricalDistribution((0.9, 0.95))}
    sweeper = OptunaSweeperImpl(None, "maximize", None, None, 3, 2, 1.0, None, None)
    told = end_with(folder, lambda: sweeper._configure_trials([goes_on, fresh], space, {}, []))
    assert "the study cannot go on with this search space" in told and "+restart=clean" in told
    states = {trial.number: trial.state.name for trial in study.get_trials()}
    assert states[of_another_launch.number] == "RUNNING"
    assert (states[goes_on.number], states[fresh.number]) == ("WAITING", "FAIL")
    again = study.ask()
    assert again.number == goes_on.number and again.suggest_categorical("agent.gamma", GAMMAS) == 0.99


@pytest.mark.parametrize(
    "error", [StorageInternalError("the disk\nis full"), OperationalError("INSERT", {}, Exception("the disk is full"))]
)
def test_a_storage_that_breaks_on_the_way_is_told_in_words(sweep, error):
    folder = sweep()
    told = end_with(folder, lambda: (_ for _ in ()).throw(error))
    assert told.startswith(f"{folder.path}: the storage cannot be used any more: ") and "the disk" in told
    assert "\n" not in told and "The same command goes on" in told


def test_a_launch_that_is_terminated_between_two_trials_leaves_its_results(sweep):
    folder = sweep()
    cfg, before = folder.cfg, signal.getsignal(signal.SIGTERM)
    folder.leave()
    callback = StudyCallback()
    try:
        callback.on_multirun_start(cfg)
        trial = ask(folder)
        enrol(cfg, trial)
        with pytest.raises(SystemExit) as caught:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                callback.on_multirun_end(config=None)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143 and (folder.path / "report.html").exists()
    assert [trial.state.name for trial in stored(folder).find().trials] == ["FAIL", "WAITING"]
    assert not list(folder.launches.iterdir())
