"""Trials of a study as records: ranking, ends, ``best.json``, ``trials.csv``."""

import csv
import json

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from app.core.console import make_console
from app.core.errors import UserError
from app.runs.config_file import write_config
from app.runs.manifest import Manifest
from app.sweep.report.records import TrialRecord, count_ends, ranked, read_records
from app.sweep.report.writer import write_results
from app.sweep.study_folder import StudyFolder
from tests.helpers.html_page import ReportTags
from tests.helpers.make import compose
from tests.helpers.studies import NAME, PARAMS, as_overrides, make_study, make_trial, write_trial_config


@pytest.fixture
def folder(tmp_path) -> StudyFolder:
    return StudyFolder(tmp_path / "sweeps", NAME)


def records_of(*trials: FrozenTrial, direction: str = "maximize") -> list[TrialRecord]:
    return read_records(make_study(*trials, direction=direction))


@pytest.mark.parametrize(("direction", "order"), [("maximize", [1, 3, 0]), ("minimize", [0, 1, 3])])
def test_trials_are_ranked_by_score_then_by_number(direction, order):
    records = records_of(make_trial(1.0), make_trial(2.0), make_trial(None), make_trial(2.0), direction=direction)
    assert [record.number for record in ranked(records, direction)] == order


BROKEN = ("collapsed: stuck at 0.2", "not finite: loss_actor")


@pytest.mark.parametrize(("direction", "luck"), [("maximize", 9.0), ("minimize", -9.0)])
@pytest.mark.parametrize("end", BROKEN)
def test_broken_trial_is_never_the_best(folder, direction, luck, end):
    found = {"agent.gamma": 0.995}
    write_trial_config(folder, "00001", *as_overrides(found))
    trials = (make_trial(luck, found, end=end, folder="00000"), make_trial(1.0, found, folder="00001"))
    study = make_study(*trials, direction=direction)
    assert [record.number for record in ranked(read_records(study), direction)] == [1, 0]
    results = write_results(folder, study)
    assert results.best.number == 1 and "# trial 1 in trials/00001" in results.yaml.read_text()
    assert json.loads(results.json.read_text())["number"] == 1
    assert "Trial 1 reached 1" in ReportTags(results).text


@pytest.mark.parametrize("end", BROKEN)
def test_study_of_broken_trials_has_no_best_trial_and_says_why(folder, end, capsys):
    write_trial_config(folder, "00000")
    write_results(folder, make_study(make_trial(1.0, {}, folder="00000")))
    results = write_results(folder, make_study(make_trial(None), make_trial(3.0, {}, end=end, folder="00000")))
    assert (results.best, results.command) == (None, None) and not results.yaml.exists()
    results.print(make_console())
    assert "best    no trial with a score has ended well" in capsys.readouterr().out
    text = ReportTags(results).text
    assert "No trial with a score has ended well." in text and "reached" not in text


def test_trials_are_counted_by_end(folder):
    study = make_study(
        make_trial(1.0),
        make_trial(1.0, end="pruned"),
        make_trial(1.0, end="collapsed: stuck at 0.2"),
        make_trial(None, error="no memory"),
        make_trial(1.0, end="not finite: loss_actor"),
        make_trial(None, state=TrialState.RUNNING),
        create_trial(state=TrialState.WAITING),
        make_trial(1.0, end=""),
    )
    expected = {
        "finished": 2, "pruned": 1, "collapsed": 1, "not finite": 1, "failed": 1, "running": 1, "waiting": 1
    }  # fmt: skip
    assert count_ends(read_records(study)) == expected
    assert json.loads(write_results(folder, study).json.read_text())["trials"] == expected


def test_trial_that_another_one_continued_is_stopped_not_failed():
    records = records_of(
        make_trial(None, folder="00000"),
        make_trial(None, folder="00001"),
        make_trial(1.0, folder="00000"),
        make_trial(None, error="oh"),
    )
    assert [record.end for record in records] == ["stopped", "failed", "finished", "failed"]
    assert records[0].reason == "trial 2 continued it"
    repeated = records_of(make_trial(None, folder="a"), make_trial(1.0, folder="a"), make_trial(1.0, folder="a"))
    assert repeated[0].reason == "trial 1 continued it"  # the last one has taken its result


def test_stopped_trial_that_nobody_has_continued_yet_is_stopped():
    record = records_of(make_trial(None, folder="00000", end="stopped"))[0]
    assert (record.end, record.reason) == ("stopped", "")


def test_tables_show_lap_share_and_lap_time(folder):
    study = make_study(make_trial(1.0, {}, lap_share=0.5), make_trial(2.0, {}, lap_share=1.0, lap_time=32.1))
    results = write_results(folder, study)
    rows = list(csv.DictReader(results.csv.read_text().splitlines()))
    assert [(row["lap_share"], row["lap_time"]) for row in rows] == [("0.5", ""), ("1.0", "32.1")]
    text = ReportTags(results).text
    assert "lap share" in text and "0:32.100" in text
    assert "lap share" not in ReportTags(write_results(folder, make_study(make_trial(1.0, {})))).text


@pytest.mark.parametrize("name", ["..", ".", "", "../../etc", "/etc", "a\\b", "C:", 5, None])
def test_run_folder_outside_of_the_study_is_ignored(name):
    assert records_of(make_trial(1.0, folder=name))[0].folder is None


def test_best_json_names_the_trial_and_its_folder(folder):
    write_config(folder.path / "config.yaml", compose("objective=stability"))
    study = make_study(
        make_trial(0.25), make_trial(0.75, folder="00001", epochs=2, end="pruned"), make_trial(None, error="oh")
    )
    results = write_results(folder, study)
    assert json.loads(results.json.read_text()) == {
        "study": NAME,
        "objective": "stability",
        "direction": "maximize",
        "number": 1,
        "folder": str(folder.trials / "00001"),
        "score": 0.75,
        "end": "pruned",
        "parameters": PARAMS,
        "command": results.command,
        "trials": {"finished": 1, "pruned": 1, "failed": 1},
    }
    assert "did not run to its end: pruned" in results.report.read_text()


def test_trials_csv_has_a_row_for_every_trial(folder):
    study = make_study(
        make_trial(1.5, {"agent.gamma": 0.99}, folder="00000", epochs=2),
        make_trial(None, {"agent.lr_critic": 1e-4}, error="bad, very\n\nbad"),
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


def test_results_are_listed_for_a_restart(folder):
    write_trial_config(folder, "00000", "training.epochs=3")
    write_results(folder, make_study(make_trial(1.0, {}, fixed={"training.epochs": "3"}, folder="00000")))
    listed = {str(entry.path) for entry in Manifest.open(folder.path).entries(["study"])}
    assert listed == {"best.yaml", "best.json", "trials.csv", "report.html", "schedule/default.yaml"}
    folder.open()  # made by this program: a later sweep may use it
    folder.close()


def test_results_that_cannot_be_written_raise_a_user_error(folder):
    (folder.path / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match="report.*cannot be written"):
        write_results(folder, make_study(make_trial(1.0)))
