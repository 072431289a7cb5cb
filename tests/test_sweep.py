"""A study has one owner, one fingerprint and a clean start; every job of -m has a folder of its own."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import combinations

import optuna
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from app.config.job import TRIALS, Job, as_job, own_name
from app.config.load import load
from app.config.schema import LONGEST_NAME, RestartConfig
from app.errors import UserError
from app.restart.study import StudyRestart
from app.runs.lock import Lock
from app.runs.manifest import KINDS, Manifest
from app.sweep import begin
from app.sweep.begin import begin_sweep, searched, study_fingerprint
from app.sweep.callback import StudyCallback
from app.sweep.folder import StudyFolder
from app.sweep.storage import Stored
from tests.make import CONF
from tests.runs import ROOT, TINY, finish, start

SPACE = {
    "agent.gamma": {0.99, 0.995, 0.999},
    "agent.betas_critic.1": {0.99, 0.995},
    "agent.betas_actor.1": {0.99, 0.995},
    "training.max_training_steps_per_env_step": set(range(2, 9)),
}


def raw(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", list(overrides), return_hydra_config=hydra)


# ------------------------------------------------------------------------------------------- folders of jobs


def job_folder(*overrides: str, study=None) -> str:
    cfg = raw(*overrides)
    return as_job(load(cfg), cfg, Job(overrides, study)).run_name


def test_the_default_run_name_shows_model_env_and_seed_already():
    assert job_folder("seed=1") == "droq_contextual-sim-seed1"
    assert job_folder("model=droq", "env=sim_lidar", "seed=3") == "droq-sim_lidar-seed3"
    assert job_folder("seed=1", "agent.gamma=0.999") == "droq_contextual-sim-seed1__agent.gamma-0.999"


def test_a_given_run_name_shows_what_it_is_composed_of():
    assert job_folder("run_name=mine", "seed=1", "env=sim_lidar") == "mine__env-sim_lidar__seed-1"
    assert job_folder("run_name='mine-${seed}'", "seed=1", "env=sim_lidar") == "mine-1__env-sim_lidar"
    # A name that is not the option's tells two options apart no more.
    assert job_folder("env=sim_lidar", "env.name=car") != job_folder("env=sim", "env.name=car")


def test_what_changes_nothing_that_is_learned_is_no_part_of_the_name():
    silent = (
        "runs_dir=/a b", "sweeps_dir=c", "device=cpu", "threads=2", "logger=quiet", "logger.video=false",
        "hydra.job.chdir=false", "+restart=clean", "restart.dry_run=False",
    )  # fmt: skip
    assert own_name("mine", silent) == "mine"


def test_the_same_overrides_lead_to_the_same_folder_in_any_order():
    overrides = ["agent.gamma=0.99", "training=smoke", "agent.betas_actor=[0.9,0.99]", "+training.init_from='a b'"]
    assert own_name("mine", overrides) == own_name("mine", reversed(overrides))


def test_two_sets_of_overrides_never_share_a_folder():
    long = [f"encoder.prediction_weight={number}" for number in (1, 2)]
    sets = [
        [], ["a=1"], ["a=-1"], ["a=1", "b=2"], ["a=1-b-2"], ["a=1__b-2"], ["a=1_"], ["a=[1,2]"], ["a=[[1],2]"],
        ["a=[1,[2]]"], ["a=x/y"], ["a=x_y"], ["a=x y"], ["a=x\\ y"], ["a='x y'"], ["a=ü"], ["a=ö"], ["a="], ["a=''"],
        ["~a"], ["a/b=1"], ["a.b=1"], ["a=" + 90 * "x"], ["a=" + 91 * "x"],
        *([*(f"section.key{n}=0.123456" for n in range(9)), weight] for weight in long),
    ]  # fmt: skip
    names = [own_name(base, overrides) for base in ("mine", "mine2", LONGEST_NAME * "m") for overrides in sets]
    for one, other in combinations(names, 2):
        assert one != other
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) <= LONGEST_NAME for name in names)


def test_a_long_name_is_cut_between_overrides_and_ends_in_a_hash():
    name = own_name("droq-sim-seed0", [f"{key}=0.995" for key in SPACE])
    start_of_it = "droq-sim-seed0__betas_actor.1-0.995__betas_critic.1-0.995__gamma-0.995__"
    assert re.fullmatch(re.escape(start_of_it) + "[0-9a-f]{10}", name)


def test_a_trial_runs_below_its_study_and_does_not_start_clean_again(tmp_path):
    cfg = raw("+restart=clean", "agent.gamma=0.99")
    job = Job(("agent.gamma=0.99", "+restart=clean"), tmp_path)
    trial = as_job(load(cfg), cfg, job)
    assert (trial.runs_dir, trial.restart) == (str(tmp_path / TRIALS), None)
    assert as_job(load(cfg), cfg, Job(job.overrides, None)).restart.mode == "delete"


# ----------------------------------------------------------------------------------------- the beginning


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Begin a sweep in this process, as Hydra's callback would; its folders are closed at the end."""
    opened = []

    def begin_with(*overrides: str) -> StudyFolder:
        cfg = raw("hydra/sweeper=optuna", "env=sim_lidar", f"sweeps_dir={tmp_path}", *overrides, hydra=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        folder = begin_sweep(cfg)
        opened.append(folder)
        folder.cfg = cfg
        return folder

    yield begin_with
    for folder in opened:
        folder.close()


def stored(folder: StudyFolder) -> Stored:
    return Stored(f"sqlite:///{folder.database}", folder.path.name)


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
    assert set(hydra.sweeper.params) == set(SPACE) == searched(hydra)
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
    folder.close()
    sweep("agent.lr_actor=1e-4")  # poisons nothing


def test_a_trial_that_was_stopped_is_taken_up_again_first(sweep):
    folder = sweep()
    trial = stored(folder).find().ask()
    tried = trial.suggest_categorical("agent.gamma", SPACE["agent.gamma"])
    folder.close()
    again = stored(sweep()).find()
    assert [trial.state.name for trial in again.trials] == ["FAIL", "WAITING"]
    assert again.ask().suggest_categorical("agent.gamma", SPACE["agent.gamma"]) == tried


def test_a_study_has_one_owner(sweep, tmp_path):
    folder = sweep()
    script = (
        "import sys; from pathlib import Path; from app.errors import UserError; from app.sweep.folder import *\n"
        "try: StudyFolder(Path(sys.argv[1]), sys.argv[2]).open()\nexcept UserError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), folder.path.name]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"{folder.path}: the study is in use by process" in out
    with pytest.raises(UserError, match="the study is in use"):
        sweep("+restart=clean")
    assert folder.database.exists()


def test_a_study_of_another_fingerprint_is_refused_with_the_differences(sweep):
    sweep().close()
    with pytest.raises(UserError) as caught:
        sweep("encoder.dropout=0.1", "log_std_min=-2")
    for text in ("encoder.dropout: 0.0 → 0.1", "log_std_min: -20.0 → -2.0", "+restart=clean", "study_name"):
        assert text in str(caught.value)
    sweep("encoder.dropout=0.1", "hydra.sweeper.study_name=another")


def test_the_study_in_a_storage_elsewhere_has_its_fingerprint_with_it(sweep, tmp_path):
    url = f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db"
    folder = sweep(url)
    (folder.fingerprint).unlink()
    folder.close()
    assert not folder.database.exists()
    with pytest.raises(UserError, match=r"encoder.dropout: 0.0 → 0.1"):
        sweep(url, "encoder.dropout=0.1")
    assert not folder.fingerprint.exists()  # what is refused leaves no mark


def test_what_is_searched_belongs_to_the_trials(compose):
    one, other = compose("encoder.dropout=0.1"), compose()
    assert study_fingerprint(one, {"encoder.dropout"}) == study_fingerprint(other, {"encoder.dropout"})
    assert study_fingerprint(one, {"encoder"}) == study_fingerprint(other, {"encoder"})
    assert study_fingerprint(one, {"encoder.drop"}) != study_fingerprint(other, {"encoder.drop"})


def test_the_command_line_adds_to_the_search_and_fixes_what_it_names():
    cfg = raw("hydra/sweeper=optuna", hydra=True)
    cfg.hydra.overrides.task = ["agent.gamma=0.99", "norm=group,layer", "+restart=clean"]
    assert searched(cfg.hydra) == set(SPACE) - {"agent.gamma"} | {"norm"}


@pytest.mark.parametrize(
    "override, text",
    [
        ("hydra.sweeper.study_name=../out", "hydra.sweeper.study_name = ../out: names a folder below sweeps_dir"),
        ("hydra.sweeper.study_name=null", "hydra.sweeper.study_name = null: names a folder"),
        ("hydra.sweep.dir=elsewhere", "hydra.sweep.dir = elsewhere: the folder of a study is sweeps_dir/study_name"),
        ("hydra.sweeper.storage=nonsense", "hydra.sweeper.storage = nonsense: cannot be used"),
        ("hydra.sweeper.storage=7", "hydra.sweeper.storage = 7: must be the address of a storage"),
        ("hydra.sweeper.storage=foo://u:secret@host/db", "hydra.sweeper.storage = foo://u:***@host/db: cannot be used"),
        ("sweeps_dir='a?b'", "sweeps_dir = a?b: the address of an SQLite file cannot hold its '?'"),
        ("agent.gamma=2", "agent.gamma = 2: must be a number"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction = up: must be minimize or maximize"),
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
    folder.close()
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
    folder.close()
    sweep("+restart=archive")
    (archive,) = folder.path.glob("archive/*")
    assert (archive / "trials/a/checkpoints/last.pt").read_text() == "checkpoints"
    assert Stored(f"sqlite:///{archive}/study.db", folder.path.name).find().best_value == 3.0
    assert not stored(folder).find().trials


def test_nothing_goes_while_a_trial_runs(sweep):
    folder = sweep()
    files = trial_run(folder, "a") + trial_run(folder, "b")
    folder.close()
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
    folder.close()
    sweep("+restart=clean")
    assert all(path.exists() for path in files) and not (other.trials / "a" / ".lock").exists()


def test_only_this_study_goes_from_a_shared_storage(sweep, tmp_path):
    url = f"sqlite:///{tmp_path}/all.db"
    foreign = optuna.create_study(study_name="foreign", storage=url)
    foreign.tell(foreign.ask(), 1.0)
    folder = sweep(f"hydra.sweeper.storage={url}")
    study = Stored(url, folder.path.name).find()
    study.tell(study.ask(), 2.0)
    folder.close()

    sweep(f"hydra.sweeper.storage={url}", "+restart=archive").close()
    names = optuna.get_all_study_names(url)
    kept = next(name for name in names if name.startswith(f"{folder.path.name}-archived-"))
    assert optuna.load_study(study_name=kept, storage=url).best_value == 2.0
    assert set(names) == {"foreign", folder.path.name, kept}
    assert [json.loads(path.read_text())["kept_as"] for path in folder.path.glob("history/*/receipt.json")] == [kept]

    sweep(f"hydra.sweeper.storage={url}", "+restart=clean").close()
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


def test_a_job_in_another_process_gets_no_lock(tmp_path):
    callback = StudyCallback()
    callback._folder = StudyFolder(tmp_path, "mine")
    callback._folder.open()
    assert pickle.loads(pickle.dumps(callback))._folder is None
    callback.on_multirun_end(config=None)
    StudyFolder(tmp_path, "mine").open()


# ----------------------------------------------------------------------------------------- the real command


SMALL = ("training=smoke", *(override for override in TINY if not override.startswith("training.")))


def run_sweep(sweeps, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "app/train.py", "-m", "hydra/sweeper=optuna", f"sweeps_dir={sweeps}", *SMALL, *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def test_a_real_sweep_starts_clean_once_and_fails_trial_by_trial(tmp_path):
    finish(run_sweep(tmp_path, "hydra.sweeper.n_trials=2"))
    folder = StudyFolder(tmp_path, "droq_contextual-sim_lidar")
    first = stored(folder).find().trials
    assert [trial.state.name for trial in first] == 2 * ["COMPLETE"]
    assert all(float(trial.params[key]) in SPACE[key] for trial in first for key in SPACE)
    assert len(list(folder.trials.glob("*/checkpoints/last.pt"))) == len({str(trial.params) for trial in first})

    out = finish(run_sweep(tmp_path, "hydra.sweeper.n_trials=1", "+restart=clean", "encoder.dropout=0.1"))
    assert out.count(" cleared · receipt ") == 1 and "goes on" not in out
    assert [trial.number for trial in stored(folder).find().trials] == [0]
    assert len(list(folder.trials.glob("*/checkpoints/last.pt"))) == 1

    other = ("hydra.sweeper.study_name=other", "hydra.sweeper.n_trials=1", f"training.init_from={tmp_path}/none")
    process = run_sweep(tmp_path, *other)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    assert "no trial of the study has finished" in err and "training.init_from" in err


@pytest.mark.slow
def test_a_killed_trial_goes_on_with_the_next_launch(tmp_path):
    command = (tmp_path, *TINY, "hydra.sweeper.n_trials=1", "training.checkpoint_interval_s=0")
    process = run_sweep(*command)
    folder = StudyFolder(tmp_path, "droq_contextual-sim_lidar")
    while not list(folder.trials.glob("*/checkpoints/previous.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    out = finish(run_sweep(*command))
    assert "trials that were stopped and go on first: 1" in out and "goes on after" in out
    assert [trial.state.name for trial in stored(folder).find().trials] == ["FAIL", "COMPLETE"]
    assert len(list(folder.trials.iterdir())) == 1


def test_ctrl_c_ends_the_job_and_every_job_after_it(tmp_path):
    process = start(tmp_path, "mine", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}", "training.epochs=3000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("mine*/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    (folder,) = tmp_path.glob("mine*/")
    assert json.loads((folder / "summary.json").read_text())["stop_reason"] == "interrupted"
    assert "The same command goes on from here." in out


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna: a search needs -m"),
        (["sweep=optuna"], "Add hydra/sweeper=optuna."),
        (["restart=clean"], "Write +restart=clean or +restart=archive."),
        (["-m", "hydra/sweeper=optuna", "sweeps_dir=/dev/null/a", "+hydra.sweeper.params.seed='choice('"], "choice("),
    ],
)
def test_a_wrong_command_is_told_in_words(arguments, text):
    command = [sys.executable, "app/train.py", *TINY, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and text in done.stderr and "Traceback" not in done.stderr
