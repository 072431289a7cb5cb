"""A whole run folder as an older version wrote it: it is continued, evaluated and taken as a start, or refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from app.config.renamed_keys import RENAMED_KEYS
from app.core.errors import UserError
from app.runs.checkpoint import read_checkpoint
from app.runs.fingerprint import flatten, unflatten
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from tests.helpers.runs import ROOT
from tests.helpers.stopped_runs import PENDULUM, configure

EPOCHS = "training.epochs=1"
OLD_NAMES = {new: old for old, new in RENAMED_KEYS.items()}
FACTORS = {"training.rounds": 2, "training.steps": 5}  # of training.updates_per_epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, in this version."""
    runs = tmp_path_factory.mktemp("finished")
    run_module.train(configure(runs, *PENDULUM, EPOCHS))
    return runs


@pytest.fixture
def older(finished, tmp_path):
    """The same run with the key names of an older version, which did not know two of the keys."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = RunFolder(tmp_path / "run")
    rewrite(folder, "logger.video_size", "agent.deterministic_share")
    return folder


def rewrite(folder: RunFolder, *missing: str) -> None:
    """Write configuration and checkpoints with old names and without some keys."""
    flat = with_old_names(flatten(yaml.safe_load(folder.config.read_text())), missing)
    folder.config.write_text(yaml.safe_dump(unflatten(flat)))
    states = [read_checkpoint(path) for path in (folder.checkpoints.previous, folder.checkpoints.last)]
    for state in states:
        state["interface"].pop("episodes")
        folder.checkpoints.save(state | {"config": with_old_names(state["config"], missing)})


def with_old_names(flat: dict, missing: tuple[str, ...]) -> dict:
    length = flat.pop("training.updates_per_epoch", None)
    assert length in (None, 10)
    renamed = {OLD_NAMES.get(key, key): value for key, value in flat.items() if key not in missing}
    return renamed | FACTORS


def resume(folder: RunFolder, *overrides: str) -> float:
    return run_module.train(configure(folder.path.parent, *PENDULUM, "training.epochs=2", *overrides))


def test_older_run_is_continued(older):
    resume(older, "agent.deterministic_share=0")
    assert json.loads(older.summary.read_text())["updates"] == 20
    start = json.loads(older.starts.read_text().splitlines()[-1])
    assert start["updates"] == 10 and start["changed"] == ["training.epochs: 1 → 2"]
    assert "training.rounds" not in older.config.read_text()


@pytest.mark.parametrize("key", ["agent.policy_ema", "training.updates_per_epoch"])
def test_older_run_without_a_key_that_can_change_learning_is_not_continued(finished, tmp_path, key):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = RunFolder(tmp_path / "run")
    states = [read_checkpoint(path) for path in (folder.checkpoints.previous, folder.checkpoints.last)]
    for state in states:
        folder.checkpoints.save(
            state | {"config": {name: state["config"][name] for name in state["config"] if name != key}}
        )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"{key}: \(absent\) → (.|\n)*another version(.|\n)*\+restart=clean"):
        resume(folder)
    assert before.items() <= {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items()


def test_best_policy_of_an_older_run_is_a_start(older, tmp_path, capsys):
    config = configure(tmp_path / "new", *PENDULUM, EPOCHS)
    run_module.train(replace(config, training=replace(config.training, init_from=str(older.path))))
    assert f"best policy of {older.path}" in capsys.readouterr().out


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.e2e
def test_older_run_is_evaluated_by_the_command(older):
    evaluate = ("app/evaluate.py", f"run={older.path}", "episodes=1", "video=false")
    done = run_command(*evaluate)
    assert done.returncode == 0, done.stderr
    assert (older.path / "evaluation.json").is_file()
    content = yaml.safe_load(Path(older.config).read_text())
    del content["agent"]["n_step"]
    older.config.write_text(yaml.safe_dump(content))
    done = run_command(*evaluate)
    assert done.returncode == 1 and "agent.n_step: is missing; the default is 1" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
