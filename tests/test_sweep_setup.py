"""Start of a sweep: search space, fingerprint, refusals, jobs at once."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import optuna
import pytest

from app.config import multirun
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.replay.memory_check import estimate_memory
from app.runs.manifest import Manifest
from app.sweep import study_setup, study_store
from app.sweep.search_space import read_search_space
from app.sweep.study_fingerprint import recorded_study_fingerprint, require_same_study, study_fingerprint
from tests.helpers.make import compose, raw
from tests.helpers.sweeps import GAMMAS, SweepStarter

CORE_SPACE = {
    "agent.gamma": set(GAMMAS),
    "agent.betas_critic.1": {0.99, 0.995},
    "agent.betas_actor.1": {0.99, 0.995},
    "training.max_training_steps_per_env_step": set(range(2, 9)),
}
OTHER_KEYS = {
    "agent.lr_actor", "agent.lr_critic", "agent.lr_entropy", "agent.alpha", "agent.target_entropy", "agent.alpha_min",
    "agent.polyak", "agent.betas_actor.0", "agent.betas_critic.0", "agent.weight_decay_actor",
    "agent.weight_decay_critic", "replay.batch_size",
}  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[SweepStarter]:
    starter = SweepStarter(tmp_path, monkeypatch)
    yield starter
    starter.end_all()


def test_search_space_is_composed_with_the_optuna_sweeper_only():
    hydra = raw("hydra/sweeper=optuna", hydra=True).hydra
    assert set(read_search_space(raw("hydra/sweeper=optuna", "sweep=core", hydra=True).hydra).distributions) == set(
        CORE_SPACE
    )
    assert set(read_search_space(hydra).distributions) == set(CORE_SPACE) | OTHER_KEYS
    assert (hydra.sweeper.direction, hydra.sweeper.n_jobs, hydra.sweeper.max_failure_rate) == ("maximize", 1, 1.0)
    assert hydra.sweeper.sampler.multivariate and hydra.sweeper.sampler.constant_liar
    assert hydra.sweeper.storage == "sqlite:///sweeps/droq_contextual-sim/study.db"
    assert "launch" not in raw(hydra=True).hydra.sweeper
    raw("hydra/sweeper=optuna", "hydra/sweeper/sampler=random", hydra=True)  # has none of the keys of TPE


def test_new_study_is_recorded_and_can_be_continued(start, tmp_path):
    sweep = start()
    folder = sweep.folder
    assert folder.path == tmp_path / "droq_contextual-sim_lidar"
    assert "study.db" in {str(entry.path) for entry in Manifest.open(folder.path).entries(["study"])}
    assert sweep.study.user_attrs and sweep.study.directions[0].name == "MAXIMIZE"
    assert f"hydra.sweep.dir='{folder.path}'" in sweep.cfg.hydra.overrides.hydra
    assert f"hydra.sweeper.launch='{sweep.launch.id}'" in sweep.cfg.hydra.overrides.hydra
    sweep.end_launch()
    start("agent.lr_actor=1e-4")  # a smaller search space: the key was searched before


def test_study_lies_in_the_home_folder_that_a_file_names(start, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sweep = start("sweeps_dir='~/mine'")
    assert sweep.folder.path.parent == tmp_path / "mine" and sweep.folder.database.is_file()
    assert sweep.cfg.hydra.sweep.dir == str(sweep.folder.path)


def test_jobs_at_once_are_capped_by_memory(start, monkeypatch, capsys):
    monkeypatch.setattr(multirun, "usable_cores", lambda: 4)
    assert start("hydra/launcher=joblib").launch.batch_size == 4
    plenty = estimate_memory(make_spec(compose("env=sim_lidar").env), 100_000)
    monkeypatch.setattr(study_setup, "estimate_memory", lambda *_: replace(plenty, available_bytes=22 * 2**30 // 10))
    sweep = start("hydra/launcher=joblib", "hydra.sweeper.study_name=small")
    assert (sweep.launch.batch_size, sweep.cfg.hydra.launcher.n_jobs) == (2, 2)
    assert "2 jobs at once in place of 4" in capsys.readouterr().out
    monkeypatch.setattr(study_setup, "estimate_memory", lambda *_: replace(plenty, available_bytes=0))
    assert start("hydra/launcher=joblib", "hydra.sweeper.study_name=none").launch.batch_size == 1


def test_study_with_another_fingerprint_is_refused_with_the_differences(start):
    start().end_launch()
    with pytest.raises(UserError) as caught:
        start("encoder.dropout=0.1", "log_std_min=-2")
    for text in ("encoder.dropout: 0.0 → 0.1", "log_std_min: -20.0 → -2.0", "+restart=clean", "study_name"):
        assert text in str(caught.value)
    start("encoder.dropout=0.1", "hydra.sweeper.study_name=another")


def test_study_in_another_storage_carries_its_fingerprint(start, tmp_path):
    url = f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db"
    sweep = start(url)
    sweep.folder.fingerprint.unlink()
    sweep.end_launch()
    assert not sweep.folder.database.exists()
    with pytest.raises(UserError, match=r"encoder.dropout: 0.0 → 0.1"):
        start(url, "encoder.dropout=0.1")
    assert not sweep.folder.fingerprint.exists()  # a refused sweep leaves no trace


@pytest.mark.parametrize("elsewhere", [False, True], ids=["own_file", "storage_elsewhere"])
def test_recorded_settings_are_those_of_the_first_launch(start, tmp_path, elsewhere):
    storage = [f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db"] if elsewhere else []
    sweep = start(*storage)
    recorded = sweep.recorded_settings()
    sweep.end_launch()
    for rate in (1e-4, 2e-4):  # the second would be refused after the first if that were recorded
        sweep = start(*storage, f"agent.lr_actor={rate}", "logger=quiet")
        assert sweep.recorded_settings() == recorded
        sweep.end_launch()
    start(*storage, "+restart=clean", "encoder.dropout=0.1")
    assert "dropout: 0.1" in sweep.folder.config.read_text()  # another study


def test_key_that_one_launch_searched_may_be_fixed_by_another(start):
    sweep = start()
    before = sweep.recorded_settings()[1]
    assert before["log_std_min"] == -20
    sweep.end_launch()
    start(searched=("log_std_min=-20,-10",)).end_launch()
    known = sweep.recorded_settings()[1]
    assert "log_std_min" not in known and {**known, "log_std_min": -20} != before
    assert set(known["hydra.sweeper.params"]) == {*before["hydra.sweeper.params"], "log_std_min"}
    assert set(sweep.study.user_attrs["trackmania_droq.fingerprint"]) == set(known)
    start("log_std_min=-5")


def test_fingerprint_leaves_searched_keys_and_groups_out():
    one, other = compose("encoder.dropout=0.1"), compose()
    for searched, same in (("encoder.dropout", True), ("encoder", True), ("encoder.drop", False)):
        both = [study_fingerprint(config, {searched}, ["maximize"]) for config in (one, other)]
        assert (both[0] == both[1]) is same


def test_fingerprint_of_an_older_version_has_the_new_names():
    recorded = {"agent.alpha_floor": 0.02, "hydra.sweeper.params": ["agent.alpha_floor", "agent.gamma"]}
    current = recorded_study_fingerprint(recorded)
    assert current.pop("agent.deterministic_share") == 0.0  # a key that was added since
    assert current == {"agent.alpha_min": 0.02, "hydra.sweeper.params": ["agent.alpha_min", "agent.gamma"]}


def test_item_of_a_list_may_be_fixed_in_a_study_that_searches_it(start):
    start("sweep=core").end_launch()
    start("sweep=core", "agent.betas_critic.1=0.97").end_launch()
    start("sweep=core", searched=("agent.betas_critic.1=0.99,0.995",)).end_launch()
    with pytest.raises(UserError, match=re.escape("agent.betas_critic.0: 0.9 → 0.5")):  # which was never searched
        start("sweep=core", "agent.betas_critic=[0.5,0.97]")


def test_study_whose_fingerprint_has_a_whole_list_lets_its_searched_item_be_fixed():
    recorded = {"agent.betas_critic": [0.9, 0.95], "hydra.sweeper.params": ["agent.betas_critic.1"]}
    same = {"agent.betas_critic": [0.9, 0.5], "hydra.sweeper.params": []}
    require_same_study("the study", recorded, same)
    with pytest.raises(UserError, match=re.escape("agent.betas_critic.0: 0.9 → 0.8")):
        require_same_study("the study", recorded, same | {"agent.betas_critic": [0.8, 0.5]})


def test_device_that_this_machine_lacks_is_refused_once_before_anything_is_made(start, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for device in ({"searched": ("device=cpu,cuda",)}, {"searched": ("device=cuda:1,cpu",)}):
        with pytest.raises(UserError, match=r"device = cuda.*: this machine has 0 CUDA devices. Use device=auto"):
            start(**device)
    with pytest.raises(UserError, match="device = cuda: this machine has 0 CUDA devices"):
        start("device=cuda")
    assert not list(tmp_path.glob("**/study.db"))


def test_cluster_has_devices_of_its_own(start, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(study_setup, "runs_here", lambda launcher: False)
    start("device=cuda")


def test_only_launchers_of_this_machine_run_here():
    for launcher, here in (("basic", True), ("joblib", True), ("submitit_slurm", False)):
        assert multirun.runs_here(raw(f"hydra/launcher={launcher}", hydra=True).hydra.launcher) is here


def test_locked_study_is_named_and_not_to_be_cleared(start, monkeypatch):
    sweep = start()
    sweep.end_launch()
    monkeypatch.setattr(study_store, "_LOCK_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(sweep.folder.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            UserError, match=r"another program has locked it .*database is locked.*nothing is lost"
        ) as caught:
            start()
        assert "+restart=clean" not in str(caught.value)
        other.execute("ROLLBACK")
    start()


def test_damaged_study_may_be_cleared(start):
    sweep = start()
    sweep.end_launch()
    sweep.folder.database.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"cannot be used \(.*not a database.*goes with \+restart=clean"):
        start()


def test_trials_of_another_schedule_are_not_comparable(start):
    start().end_launch()
    for override, line in (
        ("training.epochs=3", "training.epochs: 10 → 3"),
        ("seed=1", "seed: 0 → 1"),
        ("health.objective_window=5", "health.objective_window: 3 → 5"),
        ("objective=stability", "objective: return_test_det → stability"),
        ("replay.capacity=50000", "replay.capacity: 100000 → 50000"),
    ):
        with pytest.raises(UserError, match=re.escape(line)):
            start(override)
    harmless = ("training.checkpoint_interval_s=5", "replay.keep_after_trial=true", "health.measure_states=0")
    start(*harmless, "pruner=none")  # change no score


def test_command_line_adds_to_the_search_and_fixes_what_it_names():
    cfg = raw("hydra/sweeper=optuna", hydra=True)
    cfg.hydra.overrides.task = ["agent.gamma=0.99", "norm=group,layer", "+restart=clean"]
    assert set(read_search_space(cfg.hydra).distributions) == (set(CORE_SPACE) | OTHER_KEYS) - {"agent.gamma"} | {
        "norm"
    }


@pytest.mark.parametrize(
    "space, refused",
    [
        ("choice(0.9,0.95)", True),  # Optuna allows no other choices
        ("interval(0.9,0.99)", True),  # nor another kind
        ("choice(0.99,0.995,0.999)", False),
        ("0.99", False),  # a fixed value is no part of the space
    ],
)
def test_incompatible_search_space_is_refused_before_a_trial_is_asked_for(start, space, refused):
    sweep = start()
    study = sweep.study
    study.tell(sweep.ask(), 1.0)
    asked_by_another_launch = study.ask()
    study.enqueue_trial({"agent.gamma": 0.99})
    sweep.end_launch()
    before, states = sweep.recorded_settings(), sweep.states
    override = f"agent.gamma={space}"
    if refused:
        with pytest.raises(UserError, match=r"searched agent.gamma in another way.*\+restart=clean.*study_name"):
            start(searched=(override,))
        assert sweep.recorded_settings() == before
    else:
        start(searched=(override,))
    assert states == ["COMPLETE", "RUNNING", "WAITING"] and asked_by_another_launch.number == 1
    assert sweep.states == (states if refused else ["COMPLETE", "FAIL", "WAITING"])  # no launch lives that asked for it
    again = study.ask()
    assert again.number == 2 and again.suggest_categorical("agent.gamma", GAMMAS) == 0.99


def test_bounds_of_a_search_space_may_change_but_not_its_scale(start):
    sweep = start()
    sweep.study.ask({"agent.lr_actor": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)})
    sweep.end_launch()
    start(searched=("agent.lr_actor=tag(log,interval(1e-6,1e-2))",)).end_launch()
    with pytest.raises(UserError, match=r"searched agent.lr_actor in another way"):
        start(searched=("agent.lr_actor=interval(1e-5,1e-3)",))


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
        ("hydra.sweeper.n_trials=many", "hydra.sweeper.n_trials = many: must be an integer at least 0"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs = 0: must be an integer at least 1"),
        ("hydra.sweeper.max_failure_rate=2", "hydra.sweeper.max_failure_rate = 2: must be a number at least 0"),
        ("hydra.sweeper.storage='sqlite:///:memory:'", "sqlite:///:memory:: nothing outlives the sweep there"),
        ("hydra.sweeper.storage='sqlite://'", "hydra.sweeper.storage = sqlite://: nothing outlives the sweep there"),
        ("role=worker", "role = worker: the trials of a search train in one process each. Use role=local."),
        ("encoder.heads=5", "encoder.heads = 5: must divide encoder.stream_dim"),  # a rule between keys
    ],
)
def test_wrong_setting_is_refused_before_anything_is_made(start, tmp_path, override, text):
    with pytest.raises(UserError, match=re.escape(text)):
        start(override)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("searched", "sentence"),
    [
        ("agent.lr_acotr=1,2", "agent.lr_acotr: there is no such key. Did you mean agent.lr_actor"),
        ("agent.alpha_floor=0.1,0.2", "agent.alpha_floor was renamed: use agent.alpha_min"),
        ("agent.gamma=choice(0.9", "hydra.sweeper.params: a key or value here or on the command line cannot be read"),
    ],
)
def test_searched_key_that_no_trial_accepts_is_refused_before_anything_is_made(start, tmp_path, searched, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        start(searched=(searched,))
    assert not list(tmp_path.glob("**/study.db"))


def test_space_that_optuna_cannot_search_is_refused(start):
    with pytest.raises(UserError, match=r"agent.gamma = glob\(\*\): Optuna cannot search this. Write choice"):
        start(searched=("agent.gamma=glob(*)",))


def test_missing_variable_in_the_configuration_is_named(start, monkeypatch):
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with pytest.raises(UserError, match="'OPTUNA_STORAGE' not found"):
        start("hydra.sweeper.storage='${oc.env:OPTUNA_STORAGE}'")


def test_folder_of_somebody_else_is_refused(start, tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds thesis.tex and no manifest.json"):
        start("hydra.sweeper.study_name=mine")


@pytest.mark.parametrize("host", ["@host:x/db", "@host/db"])
@pytest.mark.parametrize("scheme", ["postgresql:/user:", "postgresql://user:", "unknown+driver://user:"])
def test_password_of_a_storage_that_cannot_be_used_is_hidden(scheme, host):
    with pytest.raises(UserError, match="hydra.sweeper.storage = .*host.*: cannot be used") as caught:
        study_store.StudyStore(f"{scheme}hunter-22{host}", "mine").load()
    assert "hunter" not in str(caught.value)
