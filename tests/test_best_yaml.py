"""``best.yaml``: the best trial as a configuration that trains."""

import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from app.config.types import LONGEST_NAME
from app.runs.config_file import write_config
from app.sweep.report import writer
from app.sweep.report.writer import write_results
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import END, FOLDER
from tests.helpers.make import compose
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import Killed
from tests.helpers.studies import (
    NAME,
    PARAMS,
    TRIAL_OVERRIDES,
    as_overrides,
    compose_best,
    learned_settings,
    make_study,
    make_trial,
    write_trial_config,
)


@pytest.fixture
def folder(tmp_path) -> StudyFolder:
    return StudyFolder(tmp_path / "sweeps", NAME)


@pytest.mark.parametrize(
    ("fixed", "params"),
    [
        ({}, {}),
        ({"env": "sim_lidar", "training.epochs": "3", "log_std_min": "-2"}, PARAMS),
        ({"model": "droq", "training": "smoke", "norm": "batch", "critic.dropout": "0.1"}, PARAMS),
        ({"training": "smoke", "training.updates_per_epoch": "5", "training.max_training_steps_per_env_step": "3"}, {}),
        ({"experiment": "collapse", "env.track.length": "500.0", "objective": "stability"}, PARAMS),
        ({"model": "mlp", "env": "gym", "env.id": "Pendulum-v1"}, {"agent.gamma": 0.99}),
        ({"env.train_tracks": "[3,4]", "agent.betas_critic": "[0.8,0.9]"}, {"agent.betas_actor.0": 0.85}),
        ({}, {"norm": "layer", "agent.betas_critic.1": 0.99}),
    ],
)
def test_best_yaml_makes_the_configuration_of_the_trial(folder, fixed, params):
    config = write_trial_config(folder, "00000", *as_overrides({**TRIAL_OVERRIDES, **fixed, **params}))
    write_results(folder, make_study(make_trial(1.0, params, fixed={**TRIAL_OVERRIDES, **fixed}, folder="00000")))
    assert learned_settings(compose_best(folder)) == learned_settings(config)


def test_best_yaml_is_never_left_beside_the_schedule_of_another_trial(folder, monkeypatch):
    """A process may be killed between the two files."""
    trials = []
    for number, epochs in enumerate(("3", "4")):
        write_trial_config(folder, f"{number:05d}", f"training.epochs={epochs}")
        trials.append(make_trial(float(number), {}, fixed={"training.epochs": epochs}, folder=f"{number:05d}"))
    write_results(folder, make_study(trials[0]))
    monkeypatch.setattr(writer, "best_yaml", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        write_results(folder, make_study(*trials))
    assert [path.name for path in folder.path.glob("**/*.yaml") if folder.trials not in path.parents] == [
        "default.yaml"
    ]


def test_command_line_overrides_best_yaml(folder):
    fixed = {"env": "sim_lidar", "training.epochs": "3", "training.eval_episodes": "1"}
    write_trial_config(folder, "00000", *as_overrides({**fixed, **PARAMS}))
    write_results(folder, make_study(make_trial(1.0, fixed=fixed, folder="00000")))

    full, best = compose("training=full").training, compose_best(folder, "training=full", "env=sim", "seed=5")
    found = PARAMS["training.max_training_steps_per_env_step"]
    assert best.training == replace(full, max_training_steps_per_env_step=found)
    assert best.env == compose("env=sim").env
    assert best.agent.gamma == PARAMS["agent.gamma"]
    assert compose_best(folder, "agent.gamma=0.99").agent.gamma == 0.99
    assert compose_best(folder, "training.epochs=50").training.epochs == 50


def test_run_with_best_yaml_never_continues_the_trial(folder):
    config = write_trial_config(folder, "00000", *as_overrides(TRIAL_OVERRIDES))
    write_results(folder, make_study(make_trial(1.0, {}, fixed=TRIAL_OVERRIDES, folder="00000")))
    best, default = compose_best(folder, "seed=5"), compose()
    assert best.run_name == f"{NAME}-best-seed5" != config.run_name
    assert best.runs_dir == default.runs_dir
    assert (best.device, best.threads, best.logger) == (default.device, default.threads, default.logger)
    assert best.health.on_collapse == "warn"


@pytest.mark.parametrize("name", ["null", "model", "training", "hydra", "x--", LONGEST_NAME * "m"])
def test_command_of_every_study_name_is_valid_for_hydra(tmp_path, name):
    folder = StudyFolder(tmp_path / "sweeps", name)
    fixed = {"training": "smoke", "training.epochs": "3"}
    write_trial_config(folder, "00000", *as_overrides({**fixed, "agent.gamma": 0.999}))
    results = write_results(folder, make_study(make_trial(1.0, {"agent.gamma": 0.999}, fixed=fixed, folder="00000")))
    best = compose_best(folder, f"seed={2**32 - 1}")
    assert (best.agent.gamma, best.training.epochs, best.training.updates_per_epoch) == (0.999, 3, 4)
    assert len(best.run_name) <= LONGEST_NAME
    assert results.command in results.yaml.read_text()
    assert compose_best(folder, "training=full").training.epochs == 100


def test_command_in_best_yaml_runs_as_it_is(folder):
    write_trial_config(folder, "00000", *as_overrides({"env": "sim_lidar", **PARAMS}))
    results = write_results(folder, make_study(make_trial(2.5, fixed={"env": "sim_lidar"}, folder="00000")))
    header = [line for line in results.yaml.read_text().splitlines() if line.startswith("#")]
    assert header[1] == "# trial 0 in trials/00000 · score 2.5 · finished"
    (line,) = (line.removeprefix("#").strip() for line in header if "app/train.py" in line)
    words = [sys.executable, *shlex.split(line)[1:], "training=full", "--cfg", "job"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert (shown["env"]["name"], shown["agent"]["gamma"], shown["training"]["epochs"]) == ("sim_lidar", 0.999, 100)


def test_best_trial_on_another_machine_uses_the_configuration_of_the_study(folder):
    fixed = {"env": "sim_lidar", "training.epochs": "3"}
    write_config(folder.path / "config.yaml", compose(*as_overrides(fixed)))
    write_results(folder, make_study(make_trial(1.0, fixed=fixed, folder="00000")))
    assert learned_settings(compose_best(folder)) == learned_settings(compose(*as_overrides({**fixed, **PARAMS})))


def test_best_yaml_is_removed_if_no_configuration_is_here(folder):
    write_trial_config(folder, "00000", "training.epochs=3")
    first = write_results(folder, make_study(make_trial(1.0, {}, fixed={"training.epochs": "3"}, folder="00000")))
    schedules = folder.path / "schedule"
    assert first.yaml.is_file() and len(list(schedules.iterdir())) == 1
    second = write_results(folder, make_study(make_trial(1.0, {}, folder="00001")))
    assert second.command is None and not second.yaml.exists() and not list(schedules.iterdir())
    assert "no best.yaml" in second.report.read_text()


def test_schedule_of_an_earlier_best_trial_is_removed(folder):
    for name, option in (("00000", "smoke"), ("00001", "full")):
        fixed = {"training": option, "training.epochs": "3"}
        write_trial_config(folder, name, *as_overrides(fixed))
        write_results(folder, make_study(make_trial(1.0, {}, fixed=fixed, folder=name)))
    assert [path.name for path in (folder.path / "schedule").iterdir()] == ["full.yaml"]


def test_best_yaml_of_an_older_study_has_the_present_names(folder):
    config = write_trial_config(folder, "00000", "agent.alpha_min=0.02", "training.epochs=3")
    path = folder.trials / "00000" / "config.yaml"
    path.write_text(path.read_text().replace("alpha_min:", "alpha_floor:"))
    space = {"agent.alpha_floor": FloatDistribution(0.01, 0.2)}
    attributes = {END: "finished", FOLDER: "00000", "training.epochs": "3"}
    trial = create_trial(value=1.0, params={"agent.alpha_floor": 0.02}, distributions=space, user_attrs=attributes)
    write_results(folder, make_study(trial))
    assert learned_settings(compose_best(folder)) == learned_settings(config)


def test_attributes_of_others_are_left_out_of_best_yaml(folder):
    config = write_trial_config(folder, "00000")
    others = {"note": "looks good", "../x": "1", "": "2", "me@home": "3", "hydra/launcher": "joblib", "sweep": "core"}
    write_results(folder, make_study(make_trial(1.0, {}, fixed=others, folder="00000")))
    text = (folder.path / "best.yaml").read_text()
    assert set(yaml.safe_load(text)) == {"defaults", "run_name"}
    assert learned_settings(compose_best(folder)) == learned_settings(config)
