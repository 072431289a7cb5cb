"""Restart of a study: ``+restart=clean`` and ``+restart=archive``."""

import io
import json
import os
from collections.abc import Iterator

import optuna
import pytest
from rich.console import Console

from app.config.schema import RestartConfig
from app.core.errors import UserError
from app.runs.lock import Lock
from app.runs.manifest import KINDS
from app.sweep.restart_study import StudyRestart
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import StudyStore
from tests.helpers.sweeps import SweepStarter, make_trial_run


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[SweepStarter]:
    starter = SweepStarter(tmp_path, monkeypatch)
    yield starter
    starter.end_all()


def test_clean_restart_removes_the_study_and_the_files_of_its_trials(start):
    sweep = start()
    folder = sweep.folder
    files = make_trial_run(folder, "a") + make_trial_run(folder, "b")
    sweep.end_launch()
    assert start("+restart=clean", "restart.dry_run=true") is None
    assert all(path.exists() for path in (*files, folder.database))

    start("+restart=clean", "encoder.dropout=0.1")
    assert not any(path.exists() for path in files)
    assert (folder.trials / "a" / "metrics.jsonl").exists() and not sweep.study.trials
    (receipt,) = folder.path.glob("history/*/receipt.json")
    content = json.loads(receipt.read_text())
    assert {entry["kind"] for entry in content["files"]} == set(KINDS) and content["complete"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("device=cuda:99",), "device = cuda:99"),
        (("restart.targets=[checkpoints,replay]", "encoder.dropout=0.1"), "encoder.dropout: 0.0 → 0.1"),
    ],
)
def test_dry_run_ends_with_the_refusal_of_the_start(start, capsys, overrides, reason):
    sweep = start()
    files = make_trial_run(sweep.folder, "a")
    sweep.end_launch()
    for dry_run in ("true", "false"):
        with pytest.raises(UserError, match=reason):
            start("+restart=clean", f"restart.dry_run={dry_run}", *overrides)
        assert ("dry run: nothing was changed" in capsys.readouterr().out) == (dry_run == "true")
    assert start("+restart=clean", "restart.dry_run=true", "encoder.dropout=0.1") is None  # it goes with the study
    assert all(path.exists() for path in files)


def test_dry_run_refuses_the_folder_of_another_program(start, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds notes.txt and no"):
        start("hydra.sweeper.study_name=mine", "+restart=clean", "restart.dry_run=true")


def test_archived_study_is_whole(start):
    sweep = start()
    make_trial_run(sweep.folder, "a")
    study = sweep.study
    study.tell(study.ask(), 3.0)
    sweep.end_launch()
    start("+restart=archive")
    (archive,) = sweep.folder.path.glob("archive/*")
    assert (archive / "trials/a/checkpoints/last.pt").read_text() == "checkpoints"
    assert StudyStore(f"sqlite:///{archive}/study.db", sweep.folder.path.name).load().best_value == 3.0
    assert not sweep.study.trials


def test_restart_is_refused_while_a_trial_runs(start):
    sweep = start()
    folder = sweep.folder
    files = make_trial_run(folder, "a") + make_trial_run(folder, "b")
    sweep.end_launch()
    with Lock(folder.trials / "b", "run"), pytest.raises(UserError, match=r"trials.b: the run is in use by process"):
        start("+restart=clean")
    assert all(path.exists() for path in (*files, folder.database))


@pytest.mark.skipif(os.name == "nt", reason="needs the right to make links")
def test_link_among_the_trials_is_left_alone(start, tmp_path):
    sweep = start()
    folder, other = sweep.folder, StudyFolder(tmp_path, "other")
    files = make_trial_run(other, "a")
    folder.trials.mkdir()
    (folder.trials / "a").symlink_to(other.trials / "a")
    sweep.end_launch()
    start("+restart=clean")
    assert all(path.exists() for path in files) and not (other.trials / "a" / ".lock").exists()


def test_restart_removes_only_this_study_from_a_shared_storage(start, tmp_path):
    url = f"sqlite:///{tmp_path}/all.db"
    foreign = optuna.create_study(study_name="foreign", storage=url)
    foreign.tell(foreign.ask(), 1.0)
    sweep = start(f"hydra.sweeper.storage={url}")
    name, study = sweep.folder.path.name, sweep.study
    study.tell(study.ask(), 2.0)
    sweep.end_launch()

    start(f"hydra.sweeper.storage={url}", "+restart=archive").end_launch()
    names = optuna.get_all_study_names(url)
    kept = next(known for known in names if known.startswith(f"{name}-archived-"))
    assert optuna.load_study(study_name=kept, storage=url).best_value == 2.0
    assert set(names) == {"foreign", name, kept}
    receipts = [json.loads(path.read_text()) for path in sweep.folder.path.glob("history/*/receipt.json")]
    assert [receipt["kept_as"] for receipt in receipts] == [kept]

    start(f"hydra.sweeper.storage={url}", "+restart=clean").end_launch()
    for overrides in ([], ["+restart=clean"]):
        with pytest.raises(UserError, match="foreign .*was not made by this program"):
            start(f"hydra.sweeper.storage={url}", "hydra.sweeper.study_name=foreign", *overrides)
    assert optuna.load_study(study_name="foreign", storage=url).best_value == 1.0


def test_restart_of_the_replay_alone_is_refused(tmp_path):
    restart = RestartConfig(mode="delete", targets=["replay"], dry_run=False, tmrl_run=None)
    with pytest.raises(UserError, match=r"restart.targets = \[replay\].*Name checkpoints as well"):
        StudyRestart(StudyFolder(tmp_path, "mine"), None, restart, Console(file=io.StringIO()))
