"""``report.html``: whole, harmless, without need of a network; and the command that writes it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from app.runs.config_file import write_config
from app.sweep.report.best_config import train_command
from app.sweep.report.figures import short_names
from app.sweep.report.html import default_value
from app.sweep.report.writer import write_results
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import END, EPOCHS, ERROR, FOLDER
from tests.helpers.browser import launched_browser, needs_browser, opened_page
from tests.helpers.commands import refusal
from tests.helpers.html_page import ReportTags, drawn
from tests.helpers.make import compose, raw
from tests.helpers.runs import ROOT
from tests.helpers.studies import (
    NAME,
    PARAMS,
    as_overrides,
    compose_best,
    make_study,
    make_trial,
    make_trials,
    write_trial_config,
)


@pytest.fixture
def folder(tmp_path) -> StudyFolder:
    return StudyFolder(tmp_path / "sweeps", NAME)


def test_page_shows_every_figure_and_the_ten_best(folder):
    write_config(folder.path / "config.yaml", compose("agent.lr_critic=0.00012"))
    (folder.trials / "00011").mkdir(parents=True)
    page = ReportTags(write_results(folder, make_study(*make_trials(12), make_trial(None, error="the disk is full"))))
    names = ["history", "epochs", "importances", "slice-0", "slice-1", "parallel", "timeline"]
    assert page.ids() == names
    assert "1e-05 … 0.001, log scale 0.00012" in page.text  # the space and the default
    assert "0.99, 0.995, 0.999" in page.text
    top, wrong = page.text.split("Top 10")[1].split("What went wrong")
    assert re.findall(r"\b(\d+) \1 finished", top) == [str(number) for number in range(11, 1, -1)]
    assert "the disk is full" in wrong
    assert [attrs["href"] for tag, attrs in page.found if tag == "a"] == ["trials/00011/"] * 2


def test_figures_are_drawn_from_the_trials(folder):
    figures = drawn(write_results(folder, make_study(make_trial(None), *make_trials(3))))
    scores, best = figures["history"]["data"][:2]
    assert (scores["x"], scores["y"]) == ([1, 2, 3], [0.0, 1.0, 2.0])
    assert (best["x"], best["y"]) == ([1, 2, 3], [0.0, 1.0, 2.0])
    assert figures["slice-0"]["data"][0]["x"] == ["0.99", "0.995", "0.999"]  # choices are categories
    assert figures["slice-1"]["data"][0]["x"] == pytest.approx([1e-5, 2e-5, 3e-5])
    assert [trace["name"] for trace in figures["epochs"]["data"]] == ["Trial1", "Trial2", "Trial3"]
    assert [trace["line"]["width"] for trace in figures["epochs"]["data"]] == [1.2, 1.2, 4]
    colours = {trace["text"][0]: trace["marker"]["color"][0] for trace in figures["timeline"]["data"]}
    assert colours["trial 0, failed"] != colours["trial 1, finished"] == scores["marker"]["color"][0]


def test_best_score_so_far_is_never_that_of_a_collapsed_trial(folder):
    study = make_study(make_trial(9.0, end="collapsed: Q"), make_trial(1.0), make_trial(8.0, end="not finite: Q"))
    best = drawn(write_results(folder, study))["history"]["data"][1]
    assert (best["x"], best["y"]) == ([1, 2], [1.0, 1.0])


def test_axes_have_whole_ticks_short_names_and_no_quotes(folder):
    params = [{"norm": ("group", "layer")[i % 2], "training.max_training_steps_per_env_step": 2 + i} for i in range(4)]
    figures = drawn(write_results(folder, make_study(*(make_trial(float(i), one) for i, one in enumerate(params)))))
    axes = [figures["history"]["layout"]["xaxis"], figures["epochs"]["layout"]["xaxis"]]
    axes += [figures["slice-1"]["layout"]["xaxis"], figures["timeline"]["layout"]["yaxis"]]
    assert [axis["dtick"] for axis in axes] == [1] * 4
    assert set(figures["slice-0"]["data"][0]["x"]) == {"group", "layer"}
    assert figures["slice-0"]["layout"]["yaxis"]["title"]["text"] == "score"
    assert set(figures["importances"]["data"][0]["y"]) == {"norm", "max_training_steps_per_env_step"}
    steps = [label["text"] for label in figures["parallel"]["layout"]["annotations"] if label["x"] == 2]
    assert steps and all(float(text).is_integer() for text in steps)


def test_default_of_a_group_is_its_option_and_one_outside_the_space_is_told(folder):
    write_config(folder.path / "config.yaml", compose("agent.lr_critic=0.002"))
    params = {"norm": "layer", "agent.lr_critic": 1e-4, "agent.gamma": 0.995}
    text = ReportTags(write_results(folder, make_study(make_trial(1.0, params)))).text
    assert "group, layer group layer" in text
    assert "log scale 0.002 outside the space 0.0001" in text and text.count("outside the space") == 1


def test_page_of_trials_that_all_failed_after_an_epoch_is_written(folder):
    failed = make_trial(1.0)
    failed.state, failed.value = TrialState.FAIL, None
    page = ReportTags(write_results(folder, make_study(failed)))
    assert "No trial has reported the score of an epoch yet." in page.text


def test_default_of_a_list_is_the_choice_that_means_the_same():
    config = raw("agent.betas_actor=[0.9,0.99]")
    found = [
        default_value(config, "agent.betas_actor", CategoricalDistribution(choices))
        for choices in (("[0.5,0.9]", "[0.9, 0.99]"), ("[0.5,0.9]",))
    ]
    assert found == ["[0.9, 0.99]", None]
    assert default_value(raw("env=sim_lidar"), "env", CategoricalDistribution(("sim", "sim_lidar"))) == "sim_lidar"


def test_laps_of_trials_are_shown_in_per_cent(folder):
    text = ReportTags(write_results(folder, make_study(make_trial(1.0, lap_share=0.756, lap_time=32.1)))).text
    assert "1 76 % 0:32.100" in text


@needs_browser
def test_default_and_best_are_visible_on_a_narrow_screen(folder):
    results = write_results(folder, make_study(make_trial(20.0)))
    without_figures = results.report.with_name("tables.html")
    without_figures.write_text(re.sub("<script.*?</script>", "", results.report.read_text(), flags=re.DOTALL))
    with launched_browser() as browser, opened_page(browser, without_figures, width=390) as opened:
        cells = opened.page.locator(".searched td.n").all()
        boxes = [cell.bounding_box() for cell in cells]
        assert len(boxes) == 2 * len(PARAMS) and all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
        assert opened.page.locator(".searched td.n").first.evaluate(
            "cell => getComputedStyle(cell, '::before').content.includes('default')"
        )
        assert not opened.problems


@pytest.mark.parametrize(
    ("trials", "sentence", "figures"),
    [
        ([], "No trial has begun yet.", []),
        ([create_trial(state=TrialState.WAITING)], "nothing has begun", []),
        ([make_trial(None), make_trial(None)], "No trial has a score yet.", ["timeline"]),
        ([make_trial(None, {}, state=TrialState.RUNNING)], "No trial has a parameter", ["timeline"]),
        ([make_trial(1.0, {})], "the trials have no parameters", ["history", "epochs", "timeline"]),
        ([make_trial(1.0), make_trial(1.0)], "all trials so far have the same one", None),
        ([make_trial(1.0, {"agent.gamma": 0.99}), make_trial(2.0, {"agent.gamma": 0.99})], "have the same ones", None),
        ([make_trial(float("inf"))], "No trial has a score yet.", None),
    ],
)
def test_page_of_a_small_study_says_what_is_missing(folder, trials, sentence, figures):
    results = write_results(folder, make_study(*trials))
    page = ReportTags(results)
    assert sentence in page.text
    assert figures is None or page.ids() == figures
    assert set(drawn(results)) == set(page.ids())


def test_page_of_one_trial_with_one_parameter_has_its_figures(folder):
    page = ReportTags(write_results(folder, make_study(make_trial(1.0, {"agent.gamma": 0.99}))))
    assert page.ids() == ["history", "epochs", "slice-0", "parallel", "timeline"]


def test_page_of_a_study_with_several_objectives_has_no_best_trial(folder):
    study = optuna.create_study(study_name=NAME, directions=["maximize", "minimize"])
    study.add_trial(create_trial(values=[1.0, 2.0], user_attrs={END: "finished"}))
    results = write_results(folder, study)
    assert results.best is None
    assert "several objectives" in ReportTags(results).text


def test_page_of_a_minimised_study_shows_its_lowest_score_as_the_best(folder):
    results = write_results(folder, make_study(make_trial(3.0), make_trial(2.0), direction="minimize"))
    assert results.best.number == 1
    assert "minimises score" in ReportTags(results).text


def test_page_needs_nothing_from_outside(folder):
    page = ReportTags(write_results(folder, make_study(*make_trials(3))))
    policies = [attrs["content"] for tag, attrs in page.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none';")
    addresses = [attrs[key] for _, attrs in page.found for key in ("src", "href") if key in attrs]
    assert addresses == ["data:,"]


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\n- evil: 1 ${oc.env:HOME} {{7*7}}"


def test_hostile_text_from_the_storage_is_harmless(folder):
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

    tags = [tag for tag, _ in ReportTags(results).found]
    nonces = [attrs.get("nonce") for tag, attrs in ReportTags(results).found if tag == "script"]
    assert tags.count("script") == 2 and "img" not in tags
    assert len(set(nonces)) == 1 and f"script-src 'nonce-{nonces[0]}'" in results.report.read_text()
    assert not any(name.startswith("on") for _, attrs in ReportTags(results).found for name in attrs)
    assert set(yaml.safe_load(results.yaml.read_text())) == {"defaults", "run_name"}
    assert all(line.startswith("#") for line in results.yaml.read_text().splitlines()[:4])


def test_names_are_shortened_as_far_as_they_stay_unique():
    names = ["agent.gamma", "agent.betas_actor.0", "agent.betas_actor.1", "a.dropout", "b.dropout", "norm"]
    short = ["gamma", "betas_actor.0", "betas_actor.1", "a.dropout", "b.dropout", "norm"]
    assert list(short_names(names).values()) == short


@pytest.fixture
def kept(folder) -> StudyFolder:
    """A study that a sweep has left in its folder."""
    write_trial_config(folder, "00000", *as_overrides(PARAMS))
    study = optuna.create_study(study_name=NAME, storage=f"sqlite:///{folder.database}", direction="maximize")
    study.set_user_attr("trackmania_droq.fingerprint", {})
    study.add_trials([make_trial(1.5, folder="00000"), make_trial(None, error="oh")])
    return folder


def test_command_writes_the_results_again_at_any_time(kept, monkeypatch, capsys):
    assert refusal("sweep_report", [f"study={NAME}", f"sweeps_dir={kept.base}"], monkeypatch) is None
    out, err = capsys.readouterr()
    assert err == ""
    assert "trials  finished 1, failed 1" in out
    assert f"train   {train_command(kept)}" in out
    assert "history" in (kept.path / "report.html").read_text()
    assert compose_best(kept).agent.gamma == PARAMS["agent.gamma"]


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
def test_wrong_command_is_refused_with_advice(kept, words, sentences, monkeypatch):
    message = refusal("sweep_report", [f"sweeps_dir={kept.base}", *words], monkeypatch)
    assert message is not None and all(sentence in message for sentence in sentences), message
    assert not Path(kept.path / "report.html").exists()


def test_figures_write_nothing_into_the_home_folder(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"} | {
        "HOME": str(tmp_path)
    }
    script = "import app.sweep.report.figures"
    subprocess.run([sys.executable, "-B", "-c", script], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())
