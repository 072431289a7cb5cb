"""Command lines as people type them: understood, or answered with the right spelling."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from app.config.command_line import as_meant, misspelling, version_line
from app.config.load import ConfigError, load
from app.config.run_paths import missing_value, require_run
from app.core.errors import UserError
from tests.helpers import commands
from tests.helpers.make import raw

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path for path in (ROOT / "app").glob("*.py") if "@hydra.main" in path.read_text("utf-8"))
RUN_COMMANDS, STUDY_COMMANDS = ("evaluate", "export", "postmortem", "replay_viewer"), ("sweep_report", "validate")
TRAIN_KEYS = ("seed", "env", "training", "logger", "norm", "restart", "model", "run_name")


def answer(line: str, keys: tuple[str, ...] = TRAIN_KEYS) -> str | None:
    return misspelling(shlex.split(line), lambda: keys)


@pytest.mark.parametrize(
    ("line", "spelling"),
    [
        ("--seed 1", "seed=1"), ("--training.epochs=2", "training.epochs=2"), ("--run-name mine", "run_name=mine"),
        ("-c job --seed=2", "seed=2"), ("seed = 1", "seed=1"), ("seed= 1", "seed=1"), ("seed =1", "seed=1"),
        ("norm=batch seed", "seed=..."), ("sim_lidar", "env=sim_lidar"), ("smoke", "training=smoke"),
        ("clean", "+restart=clean"), ("collapse", "experiment=collapse"), ("sim_lidr", "env=sim_lidar?"),
        ("env sim_lidar", "env=sim_lidar"), ("--seed model=droq", "seed=..."),
        ("env.eval_tracks=[1, 2] seed=1", "'env.eval_tracks=[1, 2]'"), ("-m seed=0, 1", "'seed=0, 1'"),
        ("env.eval_tracks = [1, 2] seed=1", "env.eval_tracks=[1,2]"), ("-m seed=range(0, 3)", "'seed=range(0, 3)'"),
    ],
)  # fmt: skip
def test_word_that_is_no_setting_is_answered_with_its_spelling(line, spelling):
    assert answer(line).endswith(spelling)


def test_bare_path_is_answered_with_its_key():
    assert answer("runs/mine", ("run", "tracks")).endswith("run=runs/mine")
    assert answer("sweeps/mine", ("study", "top_k")).endswith("study=mine")
    assert answer("--run=runs/mine", ("run", "tracks")).endswith("run=runs/mine")  # Hydra has an option --run
    assert "run=b" not in answer("run=runs/a b", ("run", "tracks"))


@pytest.mark.parametrize(
    "line",
    ["", "seed=1", "+restart=clean ~agent", "-m seed=1,2", "--cfg job", "-c job seed=1", "--multirun seed=1",
     "a='b = c'", "--info defaults", "-cd conf seed=1", "run_name=", "'a=[1, 2]' b=1", "seed=1 -m env=sim ~agent"],
)  # fmt: skip
def test_settings_and_options_of_hydra_pass(line):
    assert answer(line) is None


def test_home_folder_in_a_file_is_expanded_as_on_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    cfg = raw("network.password=12345678")
    for key, value in (
        ("runs_dir", "~/runs"), ("sweeps_dir", "~"), ("training.init_from", "~/runs/a b"),
        ("training.demonstrations", "a/~/b"), ("network.password", "~/secret"), ("network.keys_dir", "~me/keys"),
    ):  # fmt: skip
        OmegaConf.update(cfg, key, value)
    config = load(cfg)
    assert (config.runs_dir, config.sweeps_dir) == ("/home/me/runs", "/home/me")
    assert (config.training.init_from, config.training.demonstrations) == ("/home/me/runs/a b", "a/~/b")
    assert (config.network.password, config.network.keys_dir) == ("~/secret", "~me/keys")


def test_home_folder_is_expanded_and_a_name_of_digits_stays_a_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert as_meant(["runs_dir=~/runs", "seed=1", "~agent"]) == ["runs_dir=/home/me/runs", "seed=1", "~agent"]
    assert as_meant(["training.init_from='~/a b'", "x=[~,c~/d]"]) == [
        "training.init_from='/home/me/a b'",
        "x=[/home/me,c~/d]",
    ]
    assert as_meant(["runs_dir=~/a,~/b", "a=~b"]) == ["runs_dir=/home/me/a,/home/me/b", "a=~b"]
    assert as_meant(["network.password=~/secret"]) == ["network.password=~/secret"]
    words = as_meant(["run_name=2026_09_30", "+network.password=12345678", "run_name=mine"])
    assert words == ["run_name='2026_09_30'", "+network.password='12345678'", "run_name=mine"]
    assert load(raw(words[0])).run_name == "2026_09_30"
    assert load(raw(*as_meant(["run_name=nan"]))).run_name == "nan"
    assert as_meant(["run_name=1e1_0", "run_name=.5"]) == ["run_name='1e1_0'", "run_name='.5'"]


def test_settings_on_both_sides_of_an_option_are_brought_together():
    assert as_meant(["seed=1", "--cfg", "job", "env=sim"]) == ["seed=1", "env=sim", "--cfg", "job"]
    assert as_meant(["-cd", "a=b", "seed=1"]) == ["-cd", "a=b", "seed=1"]  # Hydra takes these as they are


@pytest.mark.parametrize("override", ["agent.lr_actor=true", "seed=false", "threads=true"])
def test_truth_value_is_no_number(override):
    with pytest.raises(ConfigError, match="= (true|false): must be (an integer|a number)"):
        load(raw(override))


def test_version_is_that_of_the_project():
    assert version_line().startswith("trackmania-droq ") and "hydra-core" in version_line()


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("role=locall", "role=local"),
        ("health.on_collapse=stopp", "health.on_collapse=stop"),
        ("env.kind=simm", "env.kind=sim"),
    ],
)
def test_misspelt_name_is_answered_with_the_close_one(override, meant):
    with pytest.raises(ConfigError, match=f"Did you mean {meant}\\?"):
        load(raw(override))


def test_folder_of_a_study_is_answered_with_its_name(monkeypatch):
    for word in ("study=sweeps/mine", "study=sweeps/mine/"):
        assert "a letter first. Write study=mine." in commands.answer("validate", [word], monkeypatch)


def test_list_of_names_is_described_by_its_names():
    with pytest.raises(ConfigError, match="a list of 1 or more of study, replay, checkpoints, weights"):
        load(raw("+restart=clean", "restart.targets=[replays]"))


def make_run(folder: Path, age_s: float = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    os.utime(folder / "config.yaml", (1e9 - age_s, 1e9 - age_s))
    return folder


def test_missing_run_names_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert missing_value("run") == (
        "run: is missing. Write run=runs/NAME. There is none below runs/: python app/train.py makes one."
    )
    for age, name in enumerate("abcd"):
        make_run(Path("runs") / name, age)
    (tmp_path / "runs" / "no_run").mkdir()
    assert missing_value("run").endswith("The newest runs are runs/a, runs/b, runs/c.")
    with pytest.raises(UserError, match=r"run = runs/zzz: holds no run .*The newest runs are runs/a"):
        require_run("run", "runs/zzz")


def test_missing_study_names_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "hydra/sweeper=optuna makes one" in missing_value("study")
    for age, name in enumerate("ab"):
        path = tmp_path / "sweeps" / name / "fingerprint.json"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert missing_value("study").endswith("The newest studies are a, b.")


def test_wrong_run_is_answered_with_the_one_that_was_meant(tmp_path):
    run = make_run(tmp_path / "droq-seed0")
    (run / "best").mkdir()
    require_run("run", str(run))
    with pytest.raises(UserError, match=r"It is a part of one: write run=\S*droq-seed0\."):
        require_run("run", str(run / "best"))
    with pytest.raises(UserError, match=r"Did you mean run=\S*droq-seed0\?"):
        require_run("run", str(tmp_path / "droq-sed0"))


def test_bare_name_is_that_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs") / "droq-seed0")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").touch()  # of Hydra
    with pytest.raises(UserError, match=r"Did you mean run=runs.droq-seed0\?"):
        require_run("run", "droq-seed0")


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        *((name, ["run=runs/none"], "run = runs/none: holds no run") for name in RUN_COMMANDS),
        *((name, ["study=none"], "study = none: sweeps/none/study.db does not hold it") for name in STUDY_COMMANDS),
        ("evaluate", [], "run: is missing. Write run=runs/NAME."),
        ("validate", ["study=none", "seeds=[3,3]"], "seeds = [3, 3]: must not name a value twice"),
    ],
)
def test_wrong_run_or_study_is_refused_before_anything_slow_is_imported(name, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.answer(name, words, monkeypatch, work_is_there=False).startswith(sentence)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_checks_its_packages_before_it_imports_them(script):
    lines = script.read_text("utf-8").splitlines()
    check = next(index for index, line in enumerate(lines) if line.startswith("require_packages("))
    first = next(index for index, line in enumerate(lines) if line.startswith(("import hydra", "from app.config")))
    assert check < first


def test_missing_package_is_one_sentence():
    bare = [sys.executable, "-S", "app/train.py", "model=droq"]  # -S: without installed packages
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "package hydra is not installed" in done.stderr and "make train" in done.stderr


def test_advice_and_version_reach_the_terminal():
    train = [sys.executable, "app/train.py"]
    done = subprocess.run([*train, "sim_lidar"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.strip().endswith("env=sim_lidar")
    done = subprocess.run([*train, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("trackmania-droq ")


def test_full_errors_do_not_change_how_a_command_line_is_read():
    shown = subprocess.run(
        [sys.executable, "app/train.py", "run_name=2026_09_30", "--cfg", "job"],
        cwd=ROOT, env={**os.environ, "HYDRA_FULL_ERROR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "run_name: '2026_09_30'" in shown.stdout
