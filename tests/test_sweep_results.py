"""What a study leaves: a configuration that trains, rows, and a page that is whole, harmless and needs no network."""

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from app.config.load import load
from app.config.schema import LONGEST_NAME, Config
from app.errors import UserError
from app.reporting.formatting import make_console
from app.runs.config_file import write_config
from app.runs.manifest import Manifest
from app.sweep.attributes import END, EPOCHS, ERROR, FOLDER
from app.sweep.delta import command
from app.sweep.figures import short_names
from app.sweep.folder import StudyFolder
from app.sweep.records import counts, ranked, read_records
from app.sweep.results import Results, write_results
from tests.make import CONF, compose
from tests.runs import ROOT

SPACE = {
    "agent.gamma": CategoricalDistribution((0.99, 0.995, 0.999)),
    "agent.betas_critic.1": CategoricalDistribution((0.99, 0.995)),
    "agent.betas_actor.0": FloatDistribution(0.8, 0.95),
    "agent.lr_critic": FloatDistribution(1e-5, 1e-3, log=True),
    "training.max_training_steps_per_env_step": IntDistribution(2, 8),
    "norm": CategoricalDistribution(("group", "layer")),
}
FOUND = {
    "agent.gamma": 0.999,
    "agent.betas_critic.1": 0.995,
    "agent.betas_actor.0": 0.8123456789,
    "agent.lr_critic": 3.3e-05,
    "training.max_training_steps_per_env_step": 5,
}
OF_TRIALS = {"health.on_collapse": "stop", "logger": "quiet", "seed": "7", "device": "cpu", "threads": "1"}
NAME = "droq_contextual-sim"


@pytest.fixture
def folder(tmp_path) -> StudyFolder:
    return StudyFolder(tmp_path / "sweeps", NAME)


def make_study(*trials: FrozenTrial, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(study_name=NAME, direction=direction)
    study.add_trials(trials)
    return study


def trial(score: float | None, params: dict[str, Any] | None = None, **attributes: Any) -> FrozenTrial:
    """A finished trial; one without a score failed. Attributes are given by the last part of their name."""
    params = dict(FOUND) if params is None else params
    fixed = attributes.pop("fixed", {})
    state = attributes.pop("state", TrialState.FAIL if score is None else TrialState.COMPLETE)
    ours = {f"trial.{name}": value for name, value in attributes.items()}
    return create_trial(
        state=state,
        value=score,
        params=params,
        distributions={name: SPACE[name] for name in params},
        user_attrs={**({END: "finished"} if score is not None else {}), **fixed, **ours},
        intermediate_values={} if score is None else {1: score / 2, 2: score},
    )


def keep_config(folder: StudyFolder, name: str, *overrides: str) -> Config:
    """Leave the configuration that a trial with these overrides has in its run folder."""
    config = replace(compose(*overrides), run_name=name, runs_dir=str(folder.trials))
    write_config(folder.trials / name / "config.yaml", config)
    return config


def as_overrides(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def compose_best(folder: StudyFolder, *overrides: str) -> Config:
    """Compose what the printed command would."""
    _, _, _, config_dir, option = shlex.split(command(folder))
    with initialize_config_dir(str(CONF)):
        return load(hydra_compose("config", [f"hydra.searchpath=[file://{config_dir}]", option, *overrides]))


def learned(config: Config) -> dict[str, Any]:
    """The configuration without what a trial has for its own sake."""
    values = asdict(config)
    for key in ("seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger", "restart", "pruner"):
        values.pop(key, None)
    values["health"].pop("on_collapse")
    values["replay"].pop("keep", None)
    return values


# ------------------------------------------------------------------------------------------------- best.yaml


@pytest.mark.parametrize(
    ("fixed", "params"),
    [
        ({}, {}),
        ({"env": "sim_lidar", "training.epochs": "3", "log_std_min": "-2"}, FOUND),
        ({"model": "droq", "training": "smoke", "norm": "batch", "critic.dropout": "0.1"}, FOUND),
        ({"training": "smoke", "training.steps": "5", "training.max_training_steps_per_env_step": "3"}, {}),
        ({"experiment": "collapse", "env.track.length": "500.0", "objective": "stability"}, FOUND),
        ({"model": "mlp", "env": "gym", "env.id": "Pendulum-v1"}, {"agent.gamma": 0.99}),
        ({"env.train_tracks": "[3,4]", "agent.betas_critic": "[0.8,0.9]"}, {"agent.betas_actor.0": 0.85}),
        ({}, {"norm": "layer", "agent.betas_critic.1": 0.99}),
    ],
)
def test_best_yaml_makes_the_configuration_of_the_trial(folder, fixed, params):
    config = keep_config(folder, "00000", *as_overrides({**OF_TRIALS, **fixed, **params}))
    write_results(folder, make_study(trial(1.0, params, fixed={**OF_TRIALS, **fixed}, folder="00000")))
    assert learned(compose_best(folder)) == learned(config)


def test_the_command_line_has_the_last_word_over_best_yaml(folder):
    fixed = {"env": "sim_lidar", "training.epochs": "3", "training.eval_episodes": "1"}
    keep_config(folder, "00000", *as_overrides({**fixed, **FOUND}))
    write_results(folder, make_study(trial(1.0, fixed=fixed, folder="00000")))

    full, best = compose("training=full").training, compose_best(folder, "training=full", "env=sim", "seed=5")
    found = FOUND["training.max_training_steps_per_env_step"]
    assert best.training == replace(full, max_training_steps_per_env_step=found)
    assert best.env == compose("env=sim").env
    assert best.agent.gamma == FOUND["agent.gamma"]
    assert compose_best(folder, "agent.gamma=0.99").agent.gamma == 0.99
    assert compose_best(folder, "training.epochs=50").training.epochs == 50


def test_a_run_with_best_yaml_never_goes_on_with_the_trial(folder):
    config = keep_config(folder, "00000", *as_overrides(OF_TRIALS))
    write_results(folder, make_study(trial(1.0, {}, fixed=OF_TRIALS, folder="00000")))
    best, default = compose_best(folder, "seed=5"), compose()
    assert best.run_name == f"{NAME}-best-seed5" != config.run_name
    assert best.runs_dir == default.runs_dir
    assert (best.device, best.threads, best.logger) == (default.device, default.threads, default.logger)
    assert best.health.on_collapse == "warn"


@pytest.mark.parametrize("name", ["null", "model", "training", "hydra", "x--", LONGEST_NAME * "m"])
def test_every_study_name_has_a_command_that_hydra_takes(tmp_path, name):
    folder = StudyFolder(tmp_path / "sweeps", name)
    fixed = {"training": "smoke", "training.epochs": "3"}
    keep_config(folder, "00000", *as_overrides({**fixed, "agent.gamma": 0.999}))
    results = write_results(folder, make_study(trial(1.0, {"agent.gamma": 0.999}, fixed=fixed, folder="00000")))
    best = compose_best(folder, f"seed={2**32 - 1}")
    assert (best.agent.gamma, best.training.epochs, best.training.steps) == (0.999, 3, 4)
    assert len(best.run_name) <= LONGEST_NAME
    assert results.command in results.yaml.read_text()
    assert compose_best(folder, "training=full").training.epochs == 100


def test_the_command_in_best_yaml_runs_as_it_stands(folder):
    keep_config(folder, "00000", *as_overrides({"env": "sim_lidar", **FOUND}))
    results = write_results(folder, make_study(trial(2.5, fixed={"env": "sim_lidar"}, folder="00000")))
    header = [line for line in results.yaml.read_text().splitlines() if line.startswith("#")]
    assert header[1] == "# trial 0 in trials/00000 · score 2.5 · finished"
    (line,) = (line.removeprefix("#").strip() for line in header if "app/train.py" in line)
    words = [sys.executable, *shlex.split(line)[1:], "training=full", "--cfg", "job"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert (shown["env"]["name"], shown["agent"]["gamma"], shown["training"]["epochs"]) == ("sim_lidar", 0.999, 100)


def test_a_trial_on_another_machine_is_taken_from_the_study_s_configuration(folder):
    fixed = {"env": "sim_lidar", "training.epochs": "3"}
    write_config(folder.path / "config.yaml", compose(*as_overrides(fixed)))
    write_results(folder, make_study(trial(1.0, fixed=fixed, folder="00000")))
    assert learned(compose_best(folder)) == learned(compose(*as_overrides({**fixed, **FOUND})))


def test_without_a_configuration_there_is_no_best_yaml_and_an_older_one_goes(folder):
    keep_config(folder, "00000", "training.epochs=3")
    first = write_results(folder, make_study(trial(1.0, {}, fixed={"training.epochs": "3"}, folder="00000")))
    schedules = folder.path / "schedule"
    assert first.yaml.is_file() and len(list(schedules.iterdir())) == 1
    second = write_results(folder, make_study(trial(1.0, {}, folder="00001")))
    assert second.command == "" and not second.yaml.exists() and not list(schedules.iterdir())
    assert "no best.yaml" in second.report.read_text()


def test_the_schedule_of_an_earlier_best_trial_is_gone(folder):
    for name, option in (("00000", "smoke"), ("00001", "full")):
        fixed = {"training": option, "training.epochs": "3"}
        keep_config(folder, name, *as_overrides(fixed))
        write_results(folder, make_study(trial(1.0, {}, fixed=fixed, folder=name)))
    assert [path.name for path in (folder.path / "schedule").iterdir()] == ["full.yaml"]


def test_attributes_of_others_do_not_get_into_best_yaml(folder):
    config = keep_config(folder, "00000")
    others = {"note": "looks good", "../x": "1", "": "2", "me@home": "3", "hydra/launcher": "joblib", "sweep": "core"}
    write_results(folder, make_study(trial(1.0, {}, fixed=others, folder="00000")))
    text = (folder.path / "best.yaml").read_text()
    assert set(yaml.safe_load(text)) == {"defaults", "run_name"}
    assert learned(compose_best(folder)) == learned(config)


# ------------------------------------------------------------------------------------------- best.json, trials.csv


def records_of(*trials: FrozenTrial, direction: str = "maximize"):
    return read_records(make_study(*trials, direction=direction))


@pytest.mark.parametrize(("direction", "order"), [("maximize", [1, 3, 0]), ("minimize", [0, 1, 3])])
def test_trials_are_ranked_by_score_and_of_equals_the_earlier_comes_first(direction, order):
    records = records_of(trial(1.0), trial(2.0), trial(None), trial(2.0), direction=direction)
    assert [record.number for record in ranked(records, direction)] == order


BROKEN = ("collapsed: stuck at 0.2", "not finite: loss_actor")


@pytest.mark.parametrize(("direction", "luck"), [("maximize", 9.0), ("minimize", -9.0)])
@pytest.mark.parametrize("end", BROKEN)
def test_a_trial_that_broke_is_never_the_best_however_high_its_score(folder, direction, luck, end):
    found = {"agent.gamma": 0.995}
    keep_config(folder, "00001", *as_overrides(found))
    trials = (trial(luck, found, end=end, folder="00000"), trial(1.0, found, folder="00001"))
    study = make_study(*trials, direction=direction)
    assert [record.number for record in ranked(read_records(study), direction)] == [1, 0]
    results = write_results(folder, study)
    assert results.best.number == 1 and "# trial 1 in trials/00001" in results.yaml.read_text()
    assert json.loads(results.json.read_text())["number"] == 1
    assert "Trial 1 reached 1" in Tags(results).text


@pytest.mark.parametrize("end", BROKEN)
def test_a_study_of_broken_trials_recommends_none_and_says_why(folder, end, capsys):
    keep_config(folder, "00000")
    write_results(folder, make_study(trial(1.0, {}, folder="00000")))
    results = write_results(folder, make_study(trial(None), trial(3.0, {}, end=end, folder="00000")))
    assert (results.best, results.command) == (None, "") and not results.yaml.exists()
    results.tell(make_console())
    assert "best    no trial with a score has ended well" in capsys.readouterr().out
    text = Tags(results).text
    assert "No trial with a score has ended well." in text and "reached" not in text


def test_trials_are_counted_by_how_they_ended(folder):
    waiting = create_trial(state=TrialState.WAITING)
    study = make_study(
        trial(1.0), trial(1.0, end="pruned"), trial(1.0, end="collapsed: stuck at 0.2"), trial(None, error="no memory"),
        trial(1.0, end="not finite: loss_actor"), trial(None, state=TrialState.RUNNING), waiting, trial(1.0, end=""),
    )  # fmt: skip
    expected = {
        "finished": 2, "pruned": 1, "collapsed": 1, "not finite": 1, "failed": 1, "running": 1, "waiting": 1
    }  # fmt: skip
    assert (
        counts(read_records(study)) == expected == json.loads(write_results(folder, study).json.read_text())["trials"]
    )


def test_a_stopped_trial_that_another_went_on_with_has_not_failed():
    records = records_of(
        trial(None, folder="00000"), trial(None, folder="00001"), trial(1.0, folder="00000"), trial(None, error="oh")
    )
    assert [record.end for record in records] == ["stopped", "failed", "finished", "failed"]
    assert records[0].reason == "trial 2 went on with it"


@pytest.mark.parametrize("name", ["..", ".", "", "../../etc", "/etc", "a\\b", "C:", 5, None])
def test_a_folder_that_leads_elsewhere_is_none(name):
    assert records_of(trial(1.0, folder=name))[0].folder is None


def test_best_json_says_which_trial_and_where(folder):
    write_config(folder.path / "config.yaml", compose("objective=stability"))
    study = make_study(trial(0.25), trial(0.75, folder="00001", epochs=2, end="pruned"), trial(None, error="oh"))
    results = write_results(folder, study)
    assert json.loads(results.json.read_text()) == {
        "study": NAME,
        "objective": "stability",
        "direction": "maximize",
        "number": 1,
        "folder": str(folder.trials / "00001"),
        "score": 0.75,
        "end": "pruned",
        "parameters": FOUND,
        "command": results.command,
        "trials": {"finished": 1, "pruned": 1, "failed": 1},
    }
    assert "did not run to its end: pruned" in results.report.read_text()


def test_trials_csv_has_a_row_for_every_trial(folder):
    study = make_study(
        trial(1.5, {"agent.gamma": 0.99}, folder="00000", epochs=2),
        trial(None, {"agent.lr_critic": 1e-4}, error="bad, very\n\nbad"),
        create_trial(state=TrialState.WAITING),
    )
    rows = list(csv.DictReader(write_results(folder, study).csv.read_text().splitlines()))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert [row["end"] for row in rows] == ["finished", "failed", "waiting"]
    assert [row["score"] for row in rows] == ["1.5", "", ""]
    assert (rows[0]["epochs"], rows[0]["folder"], float(rows[0]["duration_s"]) >= 0) == ("2", "00000", True)
    assert rows[1]["reason"] == "bad, very bad"
    assert [row["agent.gamma"] for row in rows] == ["0.99", "", ""]
    assert [row["agent.lr_critic"] for row in rows] == ["", "0.0001", ""]


# ------------------------------------------------------------------------------------------------- report.html


class Tags(HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, results: Results):
        super().__init__()
        self.found, self.text, self._inside = [], "", ""
        self.feed(results.report.read_text())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside, self.text = tag, f"{self.text} "

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    def ids(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.found if tag == "div" and "id" in attrs]


def spread(number: int) -> list[FrozenTrial]:
    """Trials with other values each."""
    params = [{"agent.gamma": (0.99, 0.995, 0.999)[i % 3], "agent.lr_critic": 1e-5 * (i + 1)} for i in range(number)]
    return [trial(float(i), values, folder=f"{i:05d}") for i, values in enumerate(params)]


def test_the_page_shows_every_figure_and_the_ten_best(folder):
    write_config(folder.path / "config.yaml", compose("agent.lr_critic=0.00012"))
    (folder.trials / "00011").mkdir(parents=True)
    page = Tags(write_results(folder, make_study(*spread(12), trial(None, error="the disk is full"))))
    names = ["history", "epochs", "importances", "slice-0", "slice-1", "parallel", "timeline"]
    assert page.ids() == names
    assert "1e-05 … 0.001, log scale 0.00012" in page.text  # the space and the default
    assert "0.99, 0.995, 0.999" in page.text
    top, wrong = page.text.split("Top 10")[1].split("What went wrong")
    assert re.findall(r"\b(\d+) \1 finished", top) == [str(number) for number in range(11, 1, -1)]
    assert "the disk is full" in wrong
    assert [attrs["href"] for tag, attrs in page.found if tag == "a"] == ["trials/00011/"] * 2


def drawn(results: Results) -> dict[str, Any]:
    (line,) = re.findall(r"^const drawn = (.*);$", results.report.read_text(), re.MULTILINE)
    return json.loads(line)


def test_figures_are_drawn_from_the_trials(folder):
    figures = drawn(write_results(folder, make_study(trial(None), *spread(3))))
    scores, best = figures["history"]["data"][:2]
    assert (scores["x"], scores["y"]) == ([1, 2, 3], [0.0, 1.0, 2.0])
    assert best["y"][1:] == [0.0, 1.0, 2.0]
    assert figures["slice-0"]["data"][0]["x"] == ["0.99", "0.995", "0.999"]  # choices are categories
    assert figures["slice-1"]["data"][0]["x"] == pytest.approx([1e-5, 2e-5, 3e-5])
    assert [trace["name"] for trace in figures["epochs"]["data"]] == ["Trial1", "Trial2", "Trial3"]
    assert [trace["line"]["width"] for trace in figures["epochs"]["data"]] == [1.2, 1.2, 4]
    colours = {trace["text"][0]: trace["marker"]["color"][0] for trace in figures["timeline"]["data"]}
    assert colours["trial 0, failed"] != colours["trial 1, finished"] == scores["marker"]["color"][0]


@pytest.mark.parametrize(
    ("trials", "sentence", "figures"),
    [
        ([], "No trial has begun yet.", []),
        ([create_trial(state=TrialState.WAITING)], "nothing has begun", []),
        ([trial(None), trial(None)], "No trial has a score yet.", ["timeline"]),
        ([trial(None, {}, state=TrialState.RUNNING)], "No trial has a parameter", ["timeline"]),
        ([trial(1.0, {})], "the trials have no parameters", ["history", "epochs", "timeline"]),
        ([trial(1.0), trial(1.0)], "all trials so far have the same one", None),
        ([trial(1.0, {"agent.gamma": 0.99}), trial(2.0, {"agent.gamma": 0.99})], "have the same ones", None),
        ([trial(float("inf"))], "No trial has a score yet.", None),
    ],
)
def test_a_study_with_little_in_it_gives_a_page_that_says_what_is_missing(folder, trials, sentence, figures):
    results = write_results(folder, make_study(*trials))
    page = Tags(results)
    assert sentence in page.text
    assert figures is None or page.ids() == figures
    assert set(drawn(results)) == set(page.ids())


def test_one_trial_with_one_parameter_is_enough_for_a_page(folder):
    page = Tags(write_results(folder, make_study(trial(1.0, {"agent.gamma": 0.99}))))
    assert page.ids() == ["history", "epochs", "slice-0", "parallel", "timeline"]


def test_a_study_with_several_objectives_has_no_best_trial_but_a_page(folder):
    study = optuna.create_study(study_name=NAME, directions=["maximize", "minimize"])
    study.add_trial(create_trial(values=[1.0, 2.0], user_attrs={END: "finished"}))
    results = write_results(folder, study)
    assert results.best is None
    assert "several objectives" in Tags(results).text


def test_a_minimised_study_shows_its_lowest_score_as_the_best(folder):
    results = write_results(folder, make_study(trial(3.0), trial(2.0), direction="minimize"))
    assert results.best.number == 1
    assert "minimises score" in Tags(results).text


def test_the_page_needs_nothing_from_outside(folder):
    page = Tags(write_results(folder, make_study(*spread(3))))
    policies = [attrs["content"] for tag, attrs in page.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none';")
    addresses = [attrs[key] for _, attrs in page.found for key in ("src", "href") if key in attrs]
    assert addresses == ["data:,"]


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\n- evil: 1 ${oc.env:HOME} {{7*7}}"


def test_nothing_from_the_storage_can_act(folder):
    space = {HOSTILE: FloatDistribution(0.0, 1.0), "choice": CategoricalDistribution((HOSTILE, "b"))}
    attributes = {END: f"collapsed: {HOSTILE}", FOLDER: f"a {HOSTILE}", EPOCHS: 2, HOSTILE: HOSTILE, "env": HOSTILE}
    study = optuna.create_study(study_name=HOSTILE, direction="maximize")
    for score, end in ((1.0, "collapsed"), (2.0, "pruned"), (3.0, HOSTILE)):
        attributes[END] = f"{end}: {HOSTILE}"
        params = {HOSTILE: score / 4, "choice": HOSTILE}
        study.add_trial(create_trial(value=score, params=params, distributions=space, user_attrs=attributes))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={ERROR: HOSTILE}))
    write_config(folder.path / "config.yaml", compose())
    results = write_results(folder, study)
    assert results.best.number == 2

    tags = [tag for tag, _ in Tags(results).found]
    nonces = [attrs.get("nonce") for tag, attrs in Tags(results).found if tag == "script"]
    assert tags.count("script") == 2 and "img" not in tags
    assert len(set(nonces)) == 1 and f"script-src 'nonce-{nonces[0]}'" in results.report.read_text()
    assert not any(name.startswith("on") for _, attrs in Tags(results).found for name in attrs)
    assert set(yaml.safe_load(results.yaml.read_text())) == {"defaults", "run_name"}
    assert all(line.startswith("#") for line in results.yaml.read_text().splitlines()[:4])


def test_names_are_shortened_as_far_as_they_stay_apart():
    names = ["agent.gamma", "agent.betas_actor.0", "agent.betas_actor.1", "a.dropout", "b.dropout", "norm"]
    short = ["gamma", "betas_actor.0", "betas_actor.1", "a.dropout", "b.dropout", "norm"]
    assert list(short_names(names).values()) == short


# ------------------------------------------------------------------------------------------------- the folder


def test_a_restart_takes_the_results_with_the_study(folder):
    keep_config(folder, "00000", "training.epochs=3")
    write_results(folder, make_study(trial(1.0, {}, fixed={"training.epochs": "3"}, folder="00000")))
    listed = {str(entry.path) for entry in Manifest.open(folder.path).entries(["study"])}
    assert listed == {"best.yaml", "best.json", "trials.csv", "report.html", "schedule/default.yaml"}
    folder.open()  # made by this program: a later sweep may use it
    folder.close()


def test_results_that_cannot_be_written_are_told_in_words(folder):
    (folder.path / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match="report.*cannot be written"):
        write_results(folder, make_study(trial(1.0)))


# ------------------------------------------------------------------------------------------------- the command


def run_report(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "app/sweep_report.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def kept(folder) -> StudyFolder:
    """A study that a sweep has left in its folder."""
    keep_config(folder, "00000", *as_overrides(FOUND))
    study = optuna.create_study(study_name=NAME, storage=f"sqlite:///{folder.database}", direction="maximize")
    study.set_user_attr("trackmania_droq.fingerprint", {})
    study.add_trials([trial(1.5, folder="00000"), trial(None, error="oh")])
    return folder


def test_the_command_writes_the_results_again_at_any_time(kept):
    done = run_report(f"study={NAME}", f"sweeps_dir={kept.base}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "trials  finished 1, failed 1" in done.stdout
    assert f"train   {command(kept)}" in done.stdout
    assert "history" in (kept.path / "report.html").read_text()
    assert compose_best(kept).agent.gamma == FOUND["agent.gamma"]


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["study=other"], ["study = other:", NAME]),
        ([], ["study"]),
        (["study=../x"], ["study = ../x: must be", "a letter first"]),
        ([f"study={NAME}", "storage=sqlite:////no/such/folder/study.db"], [f"study = {NAME}: is not in storage"]),
        ([f"study={NAME}", "storage=nonsense"], ["nonsense: cannot be used"]),
        ([f"study={NAME}", "storag=x"], ["storag: there is no such key. Did you mean storage?"]),
    ],
)
def test_a_mistake_gets_a_sentence(kept, words, sentences):
    done = run_report(f"sweeps_dir={kept.base}", *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(sentence in done.stderr for sentence in sentences), done.stderr
    assert not Path(kept.path / "report.html").exists()
