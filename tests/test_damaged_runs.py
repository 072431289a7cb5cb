"""Damaged, foreign and hostile files in a run folder, and records that cannot be written."""

import errno
import json
import os
import pickle
import shutil

import pytest
import torch

from app.core.errors import UserError
from app.runs.checkpoint import Checkpoints, DamagedCheckpoint, read_checkpoint
from app.training import run as run_module
from tests.helpers.make import compose
from tests.helpers.stopped_runs import SHORT_PENDULUM, configure, use_little_slack


@pytest.fixture(autouse=True)
def _little_slack(monkeypatch):
    use_little_slack(monkeypatch)


def flip(path, position=-100):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty", "no header"])
def test_damaged_checkpoint_is_reported_and_the_previous_one_is_used(stopped_pendulum, capsys, damage):
    config, folder = stopped_pendulum
    last = folder.checkpoints.last
    if damage == "flip":
        flip(last)
    elif damage == "cut":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "gone":
        last.unlink()
    else:
        last.write_bytes(b"" if damage == "empty" else b"PK" * 1000)
    run_module.train(config)
    out = capsys.readouterr().out
    assert "Resuming" in out
    if damage != "gone":
        assert "last.pt: is" in out and "the other checkpoint is used" in out
        assert last.with_name("last.pt.damaged").exists()
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


def test_two_damaged_checkpoints_are_refused_with_a_hint(stopped_pendulum):
    config, folder = stopped_pendulum
    flip(folder.checkpoints.last)
    flip(folder.checkpoints.previous)
    with pytest.raises(UserError, match=r"(?s)no checkpoint can be used.*last\.pt.*previous\.pt.*training\.init_from"):
        run_module.train(config)
    assert folder.checkpoints.last.exists()  # nothing was thrown away


def test_damaged_replay_is_refused_and_can_be_cleared_alone(stopped_pendulum, capsys):
    config, folder = stopped_pendulum
    for position in range(0, (folder.replay / "rows.bin").stat().st_size, 64):
        flip(folder.replay / "rows.bin", position)
    with pytest.raises(UserError, match=r"(?s)rows.*restart\.targets=\[replay\]"):
        run_module.train(config)
    before = read_checkpoint(folder.checkpoints.last)
    cleared = configure(
        folder.path.parent, *SHORT_PENDULUM, "training.epochs=3", "+restart=clean", "restart.targets=[replay]"
    )
    run_module.train(cleared)
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"
    after = read_checkpoint(folder.checkpoints.last)
    assert after["training"]["updates"] == 30 > before["training"]["updates"]
    new_steps = after["training"]["replay"]["env_steps"] - before["training"]["replay"]["env_steps"]
    left = 30 - before["training"]["updates"]
    assert abs(new_steps - (left / 0.2 + 30)) <= 5  # warmed up anew, no burst of updates


def test_best_policy_without_metadata_is_refused(stopped_pendulum, tmp_path):
    from safetensors.torch import load_file, save_file

    config, folder = stopped_pendulum
    save_file(load_file(folder.best_actor), folder.best_actor)
    with pytest.raises(UserError, match=r"actor\.safetensors: has no result"):
        run_module.train(config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of one epoch that has finished; tests work on copies."""
    runs = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        use_little_slack(patch)
        run_module.train(configure(runs, *SHORT_PENDULUM, "training.epochs=1"))
    return runs / "run"


@pytest.mark.parametrize("text", ["[]", "{}", '{"stop_reason": "finished", "updates": 10, "objective": 1}'])
def test_incomplete_summary_is_made_again(finished, tmp_path, text):
    shutil.copytree(finished, tmp_path / "run")
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(text)
    run_module.train(configure(tmp_path, *SHORT_PENDULUM, "training.epochs=1"))
    assert json.loads(summary.read_text())["run_name"] == "run"


@pytest.mark.parametrize("name", ["replay", "config.yaml", "checkpoints"])
def test_foreign_file_in_the_place_of_a_folder_is_refused(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"format": 1, "files": {}}')
    if name == "config.yaml":
        (folder / name).mkdir()
        (folder / name / "x").touch()
        (folder / "history").touch()
    else:
        (folder / name).write_text("a file")
    with pytest.raises(UserError, match=name if name != "config.yaml" else "run"):
        run_module.train(configure(tmp_path, *SHORT_PENDULUM))


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.doc and no manifest\.json"):
        run_module.train(configure(tmp_path, *SHORT_PENDULUM))


@pytest.mark.parametrize("where", ["last", "best", "model", "metrics", "fingerprint", "manifest", "worker", "replay"])
def test_hostile_pickle_is_never_executed(stopped_pendulum, tmp_path, monkeypatch, where):
    config, folder = stopped_pendulum
    mark = tmp_path / "executed"
    evil = pickle.dumps(Hostile(mark))
    if where == "last":
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", lambda _, file: file.write(evil))
            for _ in range(2):
                folder.checkpoints.save({})
    else:
        path = {
            "best": folder.best_actor,
            "model": folder.best_model,
            "metrics": folder.metrics,
            "fingerprint": folder.fingerprint,
            "manifest": folder.path / "manifest.json",
            "worker": folder.path / "weights" / "worker.tmod",
            "replay": folder.replay / "rows.bin",
        }[where]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(evil)
    if where == "model":
        config = compose(*SHORT_PENDULUM, f"runs_dir={tmp_path}", "run_name=new", f"training.init_from={folder.path}")
    if where in ("metrics", "worker"):  # neither is loaded
        run_module.train(config)
    else:
        with pytest.raises((UserError, pickle.UnpicklingError)):
            run_module.train(config)
    assert not mark.exists()
    with pytest.raises(OSError):  # it would have worked
        pickle.loads(evil)
        pickle.loads(evil)
    assert mark.exists()


def test_checkpoint_with_an_object_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"config": compose()})
    with pytest.raises(DamagedCheckpoint, match="something other than data"):
        read_checkpoint(checkpoints.last)


def test_full_disk_stops_the_run_with_the_checkpoint_intact(stopped_pendulum, monkeypatch):
    config, folder = stopped_pendulum
    before = read_checkpoint(folder.checkpoints.last)["training"]["updates"]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            run_module.train(config)
    assert read_checkpoint(folder.checkpoints.last)["training"]["updates"] >= before
    run_module.train(config)
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


@pytest.mark.parametrize(("what", "name"), [("curves", "plot_curves"), ("video", "record_best_episode")])
def test_failing_curves_video_and_summary_cost_only_a_warning_each(tmp_path, monkeypatch, capsys, what, name):
    from app.training import finalize as finalize_module

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for function in (name, "write_json"):
        monkeypatch.setattr(finalize_module, function, full)
    overrides = (*SHORT_PENDULUM, "training.epochs=1", f"logger.{what}=true")
    objective = run_module.train(configure(tmp_path, *overrides))
    assert objective == objective
    assert " ".join(capsys.readouterr().out.split()).count("No space left on device") == 2  # the other is the summary


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs_done": "x"}, "its epochs_done is not what a checkpoint has"),
        ({"replay": {"appended": 1}}, "it does not say which rows of the replay it needs"),
        ({"agent": {}}, "is not a state that this version saves"),
    ],
    ids=["kind", "replay", "agent"],
)
def test_checkpoint_with_a_right_checksum_and_another_content_is_refused(stopped_pendulum, changed, sentence):
    config, folder = stopped_pendulum
    state = read_checkpoint(folder.checkpoints.last)
    inner = {name: value for name, value in changed.items() if name not in state}
    for _ in range(2):
        folder.checkpoints.save(state | {"training": state["training"] | inner} | (changed if not inner else {}))
    with pytest.raises(UserError, match=sentence):
        run_module.train(config)


@pytest.mark.parametrize("step", ["torch.load", "app.training.loop.TrainingLoop.load_state_dict"])
@pytest.mark.parametrize(
    "shortage",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
)
def test_shortage_of_memory_is_named_and_costs_no_checkpoint(stopped_pendulum, monkeypatch, step, shortage):
    config, folder = stopped_pendulum
    before = {path.name: path.read_bytes() for path in folder.checkpoints.last.parent.iterdir()}

    def fail(*_, **__):
        raise shortage

    monkeypatch.setattr(step, fail)
    with pytest.raises(UserError, match=r"last\.pt: memory ran out while it was read \(.*It is unchanged"):
        run_module.train(config)
    assert {path.name: path.read_bytes() for path in folder.checkpoints.last.parent.iterdir()} == before
