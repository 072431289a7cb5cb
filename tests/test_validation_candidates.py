"""Candidates of a validation, and the configurations of their runs."""

from dataclasses import replace

import pytest

from app.core.errors import UserError
from app.sweep.study_store import END, FOLDER
from app.sweep.validation.validation_runs import plan_runs
from tests.helpers.runs import TINY
from tests.helpers.studies import StudyForValidation


@pytest.fixture
def made(tmp_path, compose) -> StudyForValidation:
    return StudyForValidation(tmp_path / "sweeps", compose(*TINY))


def test_default_is_first_and_the_best_trials_follow(made):
    for score, gamma in ((1.0, 0.991), (3.0, 0.992), (None, 0.993), (2.0, 0.994)):
        made.add(score, gamma)
    candidates, notes = made.select()
    assert [candidate.name for candidate in candidates] == ["default", "trial-1", "trial-3"]
    assert candidates[1].settings == ("agent.gamma: 0.99 → 0.992",) and candidates[0].settings == ()
    assert (candidates[1].score, candidates[1].end, notes) == (3.0, "finished", [])


def test_broken_trial_is_never_a_candidate(made):
    made.add(9.0, 0.991, **{END: "not finite: loss_critic"}), made.add(8.0, 0.992, **{END: "collapsed: stuck"})
    with pytest.raises(UserError, match="has no finished trial to compare"):
        made.select()
    made.add(1.0, 0.993)
    candidates, notes = made.select()
    assert [candidate.name for candidate in candidates] == ["default", "trial-2"]
    assert notes == ["top_k = 2: there are only 1 such trials"]


def test_best_trial_of_a_minimised_study_is_the_lowest(tmp_path, compose):
    made = StudyForValidation(tmp_path, compose(*TINY), direction="minimize")
    made.add(5.0, 0.991), made.add(-2.0, 0.992)
    assert [candidate.name for candidate in made.select(top_k=1)[0]] == ["default", "trial-1"]


def test_trials_with_equal_settings_count_once(made):
    made.add(5.0, 0.995), made.add(4.0, 0.995), made.add(3.0, 0.99), made.add(1.0, 0.98)
    candidates, notes = made.select(top_k=2)
    assert [candidate.name for candidate in candidates] == ["default", "trial-0", "trial-3"]
    assert notes == [
        "trial 1 has the settings of trial-0, and counts once with it",
        "trial 2 has the settings of default, and counts once with it",
    ]


def test_trial_without_its_configuration_is_left_out_with_the_reason(made):
    for score in range(5):
        made.add(score, 0.9 + 0.01 * score)
    (made.path / "trials/00004/config.yaml").unlink()
    for name, content in (("00003", b"agent: ["), ("00002", b"[]"), ("00001", b"\xff\xfe\x00")):
        (made.path / "trials" / name / "config.yaml").write_bytes(content)
    candidates, notes = made.select()
    assert [candidate.name for candidate in candidates] == ["default", "trial-0"]
    assert "trial 4 (score 4) is left out" in notes[0] and "00004/config.yaml: cannot be read" in notes[0]
    assert all(f"trials/0000{number}/config.yaml: is damaged" in notes[4 - number] for number in (3, 2, 1))
    assert notes[4] == "top_k = 2: there are only 1 such trials"


def test_trial_folder_outside_of_the_study_is_never_read(made):
    made.add(3.0, 0.995, **{FOLDER: "../../elsewhere"})
    with pytest.raises(UserError, match="no finished trial to compare.\n.*does not name its folder"):
        made.select()


@pytest.mark.parametrize(
    "old, new, text",
    [
        ("gamma: 0.995", "gamma: 2", r"is not valid, .*agent.gamma = 2: must be"),
        ("gamma:", "gama:", r"another version of this program wrote it:\n  agent.gamma: is missing.*\n  agent.gama = "),
    ],
    ids=["value", "key"],
)
def test_invalid_configuration_of_a_trial_is_reported_with_its_path(made, old, new, text):
    made.add(3.0, 0.995)
    path = made.path / "trials/00000/config.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"00000/config.yaml: {text}"):
        made.select()


def test_study_without_its_configuration_is_refused_with_advice(made):
    made.add(3.0, 0.995)
    (made.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"config.yaml is missing.*give its command once more"):
        made.select()


def test_seed_of_the_search_is_refused(made):
    made.add(3.0, 0.995), made.add(1.0, 0.98, seed="7"), made.add(None, 0.97, seed=8)
    for seed in (made.default.seed, 7, 8):
        with pytest.raises(UserError, match=rf"seeds = \[100, {seed}\]: the search has used seed {seed}"):
            made.select(seeds=(100, seed))
    made.select(seeds=(100, 9))


def test_number_of_epochs_applies_to_every_candidate(made):
    longer = replace(made.default, training=replace(made.default.training, epochs=9))
    made.add(3.0, 0.99, longer)
    candidates, _ = made.select()
    assert candidates[1].settings == ("training.epochs: 3 → 9",)
    made.add(2.0, 0.98)
    candidates, notes = made.select(epochs=5)
    assert {candidate.config.training.epochs for candidate in candidates} == {5}
    assert "trial 0 has the settings of default" in notes[0]  # which is all that told them apart


def test_runs_with_other_settings_never_share_a_folder(made, tmp_path):
    made.add(3.0, 0.995)
    one, other = made.select()[0], made.select(epochs=5)[0]
    names = {run.config.run_name for run in plan_runs([*one, *other], (100, 101), tmp_path, "cpu", 1)}
    assert len(names) == 8


def test_run_differs_from_its_trial_only_where_it_must(made, tmp_path):
    made.add(3.0, 0.995)
    candidates, _ = made.select()
    runs = plan_runs(candidates, (100, 101), tmp_path, "cuda:1", 4)
    assert [run.name for run in runs] == [
        "default seed 100", "trial-0 seed 100", "default seed 101", "trial-0 seed 101",
    ]  # fmt: skip
    config, trial = runs[1].config, candidates[1].config
    assert (config.seed, config.device, config.threads, config.runs_dir) == (100, "cuda:1", 4, str(tmp_path))
    assert (config.health.on_collapse, config.replay.keep_after_trial) == ("warn", True)
    same = {"agent", "model", "env", "training", "encoder", "actor", "critic", "norm", "backbone", "objective"}
    assert all(getattr(config, part) == getattr(trial, part) for part in same)
