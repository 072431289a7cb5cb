"""Going on with a run: exactly, from whatever is left of it, and never with data of another one."""

import errno
import json
import math
import os
import pickle
import shutil

import pytest
import torch

from app.config.schema import Config
from app.errors import UserError
from app.runs.checkpoint import Checkpoints, DamagedCheckpoint, read
from app.runs.fingerprint import fingerprint
from app.runs.folder import RunFolder
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.evaluation import Evaluator
from app.training.stop import Stopped
from tests.make import compose
from tests.runs import TINY, result, same

# Few steps, and so little slack that the files of the replay wrap all the same; checkpoints only where they must be.
QUICK = (
    *TINY, "replay.capacity=60", "training.start_training=30", "training.steps=5", "env.max_steps=25",
    "training.max_training_steps_per_env_step=0.2", "training.checkpoint_interval_s=1000",
)  # fmt: skip
PENDULUM = (
    "model=mlp", "env=gym", "env.id=Pendulum-v1", "env.max_steps=25", "logger=quiet", "threads=1", "replay.capacity=60",
    "replay.batch_size=8", "training.start_training=30", "training.epochs=3", "training.rounds=2", "training.steps=5",
    "training.max_training_steps_per_env_step=0.2", "training.update_model_interval=7", "training.eval_episodes=2",
    "training.eval_episodes_stochastic=1", "training.checkpoint_interval_s=1000",
)  # fmt: skip
SLACK = 80


class Killed(BaseException):
    """Ends a run as a SIGKILL does: nothing is saved after it."""


@pytest.fixture(autouse=True)
def _little_slack(monkeypatch):
    monkeypatch.setattr(trainer_module, "slack_of", lambda _: SLACK)


@pytest.fixture(scope="module", params=[QUICK, PENDULUM], ids=["lidar", "pendulum"])
def whole(request, tmp_path_factory):
    """The overrides of a run and its result when nobody stops it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "slack_of", lambda _: SLACK)
        runs = tmp_path_factory.mktemp("whole")
        run_module.train(configure(runs, *request.param))
    return request.param, result(runs / "run")


def configure(runs_dir, *overrides) -> Config:
    return compose(*overrides, f"runs_dir={runs_dir}", "run_name=run")


def go_wrong(monkeypatch, call: int, error: BaseException):
    """Raise between two updates, at the n-th opportunity."""
    original, calls = trainer_module.Trainer._between_updates, 0

    def between(self, training):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        original(self, training)

    monkeypatch.setattr(trainer_module.Trainer, "_between_updates", between)


def stop_and_go_on(monkeypatch, config, call, error):
    with monkeypatch.context() as patch:
        go_wrong(patch, call, error)
        if isinstance(error, Killed):
            with pytest.raises(Killed):
                run_module.train(config)
        else:
            run_module.train(config)
    run_module.train(config)


@pytest.mark.parametrize(
    "call, error", [(30, Stopped("interrupted")), (2, Killed()), (55, Killed())], ids=["stopped", "early", "late"]
)
def test_a_continued_run_ends_bit_equal(whole, tmp_path, monkeypatch, call, error):
    """Also where the ring has wrapped and steps came after the checkpoint: 190 rows go through the files' 140."""
    overrides, expected = whole
    stop_and_go_on(monkeypatch, configure(tmp_path, *overrides), call, error)
    assert same(expected, result(tmp_path / "run")) == ""


def test_checkpoints_at_every_opportunity_change_nothing(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    config = configure(tmp_path, *overrides, "training.checkpoint_interval_s=0")
    stop_and_go_on(monkeypatch, config, 40, Killed())
    assert same(expected, result(tmp_path / "run")) == ""


@pytest.mark.parametrize("moment", ["evaluation", "before the metrics", "best", "write", "rename"])
def test_killed_at_the_worst_moment(whole, tmp_path, monkeypatch, moment):
    overrides, expected = whole
    config = configure(tmp_path, *overrides)

    def once(target, name, after):
        original, calls = getattr(target, name), 0

        def killing(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > after:
                raise Killed
            return original(*args, **kwargs)

        patch.setattr(target, name, killing)

    with monkeypatch.context() as patch:
        if moment == "evaluation":
            once(Evaluator, "evaluate", 1)
        elif moment == "before the metrics":
            once(trainer_module.MetricsWriter, "write", 1)
        elif moment == "best":
            once(RunFolder, "save_best", 0)
        elif moment == "write":
            once(torch, "save", 1)
        else:
            before_the_last_name(patch, 4)
        with pytest.raises(Killed):
            run_module.train(config)
    run_module.train(config)
    assert same(expected, result(tmp_path / "run")) == ""


def before_the_last_name(patch, number):
    """Kill between the two renames of the n-th checkpoint: the old one has moved, the new one has no name yet."""
    original, seen = os.replace, 0

    def replace(source, target):
        nonlocal seen
        seen += str(target).endswith("last.pt")
        if seen == number:
            raise Killed
        original(source, target)

    patch.setattr(os, "replace", replace)


@pytest.mark.parametrize("number", [4, 12, 20])
def test_the_checkpoint_before_continues_exactly_too(whole, tmp_path, monkeypatch, number):
    overrides, expected = whole
    config = configure(tmp_path, *overrides, "training.checkpoint_interval_s=0")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before_the_last_name(patch, number)
        run_module.train(config)
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    run_module.train(config)
    assert same(expected, result(tmp_path / "run")) == ""


def test_no_line_of_metrics_comes_twice(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    config = configure(tmp_path, *overrides, "training.checkpoint_interval_s=0")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "save_best", lambda *_: (_ for _ in ()).throw(Killed()))
        run_module.train(config)
    run_module.train(config)
    assert same(expected, result(tmp_path / "run")) == ""


def test_a_second_signal_or_a_stop_while_evaluating_loses_nothing(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    config = configure(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        steps = iter(range(30))

        def impatient(self):
            if next(steps, None) is None:
                raise Stopped("interrupted")

        patch.setattr(run_module.StopRequest, "check", impatient)
        run_module.train(config)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "interrupted"
    run_module.train(config)
    assert same(expected, result(tmp_path / "run")) == ""


# ----------------------------------------------------------------------------- what is left is damaged


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that was stopped in its second epoch."""
    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "slack_of", lambda _: SLACK)
        go_wrong(patch, 40, Stopped("interrupted"))
        run_module.train(configure(runs, *QUICK))
    return runs / "run"


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The configuration and a folder of its own of a run that was stopped in its second epoch."""
    shutil.copytree(stopped_once, tmp_path / "run")
    return configure(tmp_path, *QUICK), RunFolder(tmp_path / "run")


def flip(path, position=-100):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty", "no header"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(stopped, capsys, damage):
    config, folder = stopped
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
    assert "goes on after" in out
    if damage != "gone":
        assert "last.pt: is" in out and "the other checkpoint is used" in out
        assert last.with_name("last.pt.damaged").exists()
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


def test_two_damaged_checkpoints_stop_in_words(stopped):
    config, folder = stopped
    flip(folder.checkpoints.last)
    flip(folder.checkpoints.previous)
    with pytest.raises(UserError, match=r"(?s)no checkpoint can be used.*last\.pt.*previous\.pt.*training\.init_from"):
        run_module.train(config)
    assert folder.checkpoints.last.exists()  # nothing was thrown away


def test_a_damaged_replay_is_found_and_can_be_cleared_alone(stopped, capsys):
    config, folder = stopped
    for position in range(0, (folder.replay / "rows.bin").stat().st_size, 64):
        flip(folder.replay / "rows.bin", position)
    with pytest.raises(UserError, match=r"(?s)rows.*restart\.targets=\[replay\]"):
        run_module.train(config)
    before = read(folder.checkpoints.last)
    cleared = configure(folder.path.parent, *QUICK, "+restart=clean", "restart.targets=[replay]")
    run_module.train(cleared)
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"
    after = read(folder.checkpoints.last)
    assert after["training"]["updates"] == 30 > before["training"]["updates"]
    new_steps = after["training"]["replay"]["env_steps"] - before["training"]["replay"]["env_steps"]
    left = 30 - before["training"]["updates"]
    assert abs(new_steps - (left / 0.2 + 30)) <= 5  # warmed up anew, no burst of updates


# ----------------------------------------------------------------------------- nothing that is loaded can execute


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("where", ["last", "best", "model", "metrics", "fingerprint", "manifest", "worker", "replay"])
def test_a_hostile_pickle_is_never_run(stopped, tmp_path, monkeypatch, where):
    config, folder = stopped
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
        config = compose(*QUICK, f"runs_dir={tmp_path}", "run_name=new", f"training.init_from={folder.path}")
    if where == "metrics":
        run_module.train(config)
    else:
        with pytest.raises((UserError, pickle.UnpicklingError)):
            run_module.train(config)
    assert not mark.exists()
    with pytest.raises(OSError):  # it would have worked
        pickle.loads(evil)
        pickle.loads(evil)
    assert mark.exists()


def test_a_checkpoint_with_a_class_of_ours_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"config": compose()})
    with pytest.raises(DamagedCheckpoint, match="something other than data"):
        read(checkpoints.last)


# ----------------------------------------------------------------------------- another run's data


@pytest.mark.parametrize(
    "override, line",
    [
        ("log_std_min=-2", "log_std_min: -20.0 → -2.0"),
        ("encoder.dropout=0.1", "encoder.dropout: 0.0 → 0.1"),
        ("actor.detach=false", "actor.detach: true → false"),
        ("env.reward_per_metre=1", "env.reward_per_metre: 0.5 → 1.0"),
        ("env.train_tracks=[5]", "env.train_tracks: [1] → [5]"),
        ("actor.hidden_dim=24 critic.hidden_dim=24", "critic.hidden_dim: 16 → 24"),
        ("model=droq", "model.name: droq_contextual → droq"),
    ],
)
def test_another_fingerprint_is_refused_with_every_difference(stopped, override, line):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        run_module.train(configure(folder.path.parent, *QUICK, *override.split()))
    text = str(caught.value)
    assert line in text and "+restart=clean" in text and "run_name" in text
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_another_run_is_refused_too(stopped, tmp_path):
    _, folder = stopped
    other = compose(*QUICK, f"runs_dir={tmp_path}", "run_name=other", "encoder.dropout=0.1")
    run_module.train(other)
    shutil.copy(folder.checkpoints.last, tmp_path / "other" / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match=r"checkpoint in .*other.*\n.*encoder\.dropout: 0\.0 → 0\.1"):
        run_module.train(other)


def test_another_capacity_is_refused_with_the_way_out(stopped):
    _, folder = stopped
    with pytest.raises(UserError, match=r"replay\.capacity: 60 → 70[^$]*restart\.targets=\[replay\]"):
        run_module.train(configure(folder.path.parent, *QUICK, "replay.capacity=70"))


def test_another_length_of_an_epoch_is_refused(stopped):
    _, folder = stopped
    with pytest.raises(UserError, match=r"training\.steps: 5 → 6"):
        run_module.train(configure(folder.path.parent, *QUICK, "training.steps=6"))


def test_hyperparameters_may_change_and_are_told(stopped, capsys, monkeypatch):
    _, folder = stopped
    begin, rates = trainer_module.Trainer.begin, {}

    def look(run, *args):
        begin(run, *args)
        optimizers = {"actor": run.training.agent.actor_optimizer, "critic": run.training.agent.critic_optimizer}
        rates.update({name: [group["lr"] for group in each.param_groups] for name, each in optimizers.items()})

    monkeypatch.setattr(trainer_module.Trainer, "begin", look)
    run_module.train(configure(folder.path.parent, *QUICK, "agent.lr_actor=0.001", "agent.gamma=0.995"))
    out = capsys.readouterr().out
    assert "changed  agent.lr_actor: 0.0001 → 0.001" in out and "changed  agent.gamma: 0.99 → 0.995" in out
    starts = [json.loads(line) for line in folder.starts.read_text().splitlines()]
    assert starts[1]["changed"] == ["agent.gamma: 0.99 → 0.995", "agent.lr_actor: 0.0001 → 0.001"]
    assert rates == {"actor": [0.001], "critic": [0.0003]}


@pytest.mark.parametrize("ratio", [0.1, 2])
def test_a_changed_ratio_owes_no_burst_and_no_pause(stopped, ratio):
    _, folder = stopped
    before = read(folder.checkpoints.last)["training"]
    run_module.train(configure(folder.path.parent, *QUICK, f"training.max_training_steps_per_env_step={ratio}"))
    after = read(folder.checkpoints.last)["training"]
    updates = after["updates"] - before["updates"]
    steps = after["replay"]["env_steps"] - before["replay"]["env_steps"]
    assert abs(steps - updates / ratio) <= 1 / ratio + 1


# ----------------------------------------------------------------------------- ends and new beginnings


def test_a_finished_run_says_so_and_can_be_made_longer(tmp_path, capsys):
    first = run_module.train(configure(tmp_path, *QUICK))
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert run_module.train(configure(tmp_path, *QUICK)) == first
    out = capsys.readouterr().out
    assert "had finished before" in out and "summary of run" in out and "goes on after" not in out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    run_module.train(configure(tmp_path, *QUICK, "training.epochs=4"))
    assert "changed  training.epochs: 3 → 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 40


def test_init_from_takes_the_weights_and_nothing_else(stopped, tmp_path, capsys):
    _, source = stopped
    config = compose(*QUICK, f"runs_dir={tmp_path}", "run_name=new", f"training.init_from={source.path}")
    seen = {}

    def look(self):
        seen["model"] = {name: part.clone() for name, part in self.training.agent.model.state_dict().items()}
        seen["target"] = {name: part.clone() for name, part in self.training.agent.target.state_dict().items()}
        seen["fresh"] = not self.training.agent.critic_optimizer.state_dict()["state"]
        seen["rows"] = len(self.training.memory)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer_module.Trainer, "to_the_end", look)
        run_module.train(config)
    from safetensors.torch import load_file

    weights = load_file(source.best_model)
    assert same(weights, seen["model"]) == "" and same(weights, seen["target"]) == ""
    assert seen["fresh"] and seen["rows"] == 0
    assert "begins with the best policy" in capsys.readouterr().out


def test_init_from_refuses_another_fingerprint_and_a_missing_run(stopped, tmp_path):
    _, source = stopped
    new = (*QUICK, f"runs_dir={tmp_path}", "run_name=new")
    with pytest.raises(UserError, match=r"training\.init_from.*\n.*encoder\.dropout"):
        run_module.train(compose(*new, f"training.init_from={source.path}", "encoder.dropout=0.1"))
    with pytest.raises(UserError, match=r"training\.init_from = nowhere: there is no run"):
        run_module.train(compose(*new, "training.init_from=nowhere"))


def test_restart_clean_begins_anew_and_keeps_the_records(stopped, capsys):
    _, folder = stopped
    expected = len(folder.metrics.read_text().splitlines())
    run_module.train(configure(folder.path.parent, *QUICK, "+restart=clean", "encoder.dropout=0.1"))
    out = capsys.readouterr().out
    assert "last.pt" in out and "receipt" in out and "goes on" not in out
    (receipt,) = folder.path.glob("history/*/receipt.json")
    assert {entry["kind"] for entry in json.loads(receipt.read_text())["files"]} == {"replay", "checkpoints", "weights"}
    (records,) = folder.path.glob("history/*/metrics.jsonl")
    assert len(records.read_text().splitlines()) == expected
    assert len(folder.metrics.read_text().splitlines()) == 3


def test_restart_dry_run_changes_nothing(stopped, capsys):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    run_module.train(configure(folder.path.parent, *QUICK, "+restart=clean", "restart.dry_run=true"))
    assert "dry run: nothing was changed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_restart_archive_moves_the_same_files(stopped):
    _, folder = stopped
    checkpoint = folder.checkpoints.last.read_bytes()
    run_module.train(configure(folder.path.parent, *QUICK, "+restart=archive"))
    (moved,) = folder.path.glob("archive/*/checkpoints/last.pt")
    assert moved.read_bytes() == checkpoint


def test_a_run_in_use_is_refused_and_so_is_its_restart(stopped):
    config, folder = stopped
    with RunFolder.open(config):
        for overrides in ((), ("+restart=clean",)):
            with pytest.raises(UserError, match=rf"in use by process {os.getpid()}"):
                run_module.train(configure(folder.path.parent, *QUICK, *overrides))
    assert folder.checkpoints.last.exists()


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.doc and no manifest\.json"):
        run_module.train(configure(tmp_path, *QUICK))


# ----------------------------------------------------------------------------- the surroundings fail


def test_a_full_disk_stops_with_one_line_and_the_checkpoint_intact(stopped, monkeypatch):
    config, folder = stopped
    before = read(folder.checkpoints.last)["training"]["updates"]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            run_module.train(config)
    assert read(folder.checkpoints.last)["training"]["updates"] >= before
    run_module.train(config)
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


@pytest.mark.parametrize("what", ["curves", "video", "summary"])
def test_a_failing_record_costs_a_warning(tmp_path, monkeypatch, capsys, what):
    from app.training import conclusion

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = {"curves": "plot_curves", "video": "film_best", "summary": "write_json"}[what]
    monkeypatch.setattr(conclusion, name, full)
    objective = run_module.train(
        configure(tmp_path, *QUICK, "logger=default", "logger.progress=none", "logger.tensorboard=false")
    )
    assert objective == objective
    assert "No space left on device" in capsys.readouterr().out


def test_keys_of_parts_that_a_run_does_not_have_are_not_in_its_fingerprint():
    lidar, images = fingerprint(compose("env=sim_lidar")), fingerprint(compose())
    assert (
        fingerprint(compose("env=sim_lidar", "env.image_size=64", "norm=batch", "encoder.prediction_weight=0")) == lidar
    )
    assert fingerprint(compose("env.eval_tracks=[7]", "agent.gamma=0.9")) == images
    assert fingerprint(compose("norm=batch")) != images != fingerprint(compose("env.image_size=64"))
    assert "encoder.dropout" not in fingerprint(compose("model=droq"))


# ----------------------------------------------------------------------------- what a review found


def test_the_way_back_from_a_collapse_in_the_same_folder(stopped, capsys):
    """``+restart=clean`` with one's own best weights: they are read before they go."""
    _, folder = stopped
    own = f"training.init_from={folder.path}"
    run_module.train(configure(folder.path.parent, *QUICK, "+restart=clean", own))
    assert "begins with the best policy" in capsys.readouterr().out
    assert read(folder.checkpoints.last)["training"]["updates"] == 30


@pytest.mark.parametrize("override", ["log_std_min=-2", "training.steps=6", "training.init_from=nowhere"])
def test_nothing_is_cleared_for_a_command_that_is_refused(stopped, override):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    targets = "checkpoints,replay" if "nowhere" in override else "replay"
    with pytest.raises(UserError):
        run_module.train(
            configure(folder.path.parent, *QUICK, "+restart=clean", f"restart.targets=[{targets}]", override)
        )
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_the_capacity_can_change_with_a_cleared_replay(stopped):
    _, folder = stopped
    way_out = ("replay.capacity=70", "+restart=clean", "restart.targets=[replay]")
    run_module.train(configure(folder.path.parent, *QUICK, *way_out))
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


def test_other_initial_weights_than_the_run_began_with_are_refused(stopped, tmp_path):
    _, folder = stopped
    with pytest.raises(UserError, match=r"training\.init_from = elsewhere: .* has a checkpoint"):
        run_module.train(configure(folder.path.parent, *QUICK, "training.init_from=elsewhere"))


def test_what_has_no_effect_any_more_is_said(stopped, capsys):
    _, folder = stopped
    run_module.train(configure(folder.path.parent, *QUICK, "agent.alpha=0.5", "training.start_training=40"))
    out = capsys.readouterr().out
    assert "agent.alpha: 0.1 → 0.5 (of no effect from here on)" in out
    assert "training.start_training: 30 → 40 (of no effect from here on)" in out


def test_an_entropy_coefficient_that_is_not_learned_may_change(stopped):
    _, folder = stopped
    run_module.train(configure(folder.path.parent, *QUICK, "agent.learn_entropy_coef=false", "agent.alpha=0.5"))
    assert read(folder.checkpoints.last)["training"]["agent"]["log_alpha"].exp() == pytest.approx(0.5)


def test_ctrl_c_judges_the_best_policy(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        original = trainer_module.Trainer._between_updates

        def between(self, training):
            if training.total_updates == 15:
                self.stop._remember(2, None)
            original(self, training)

        patch.setattr(trainer_module.Trainer, "_between_updates", between)
        objective = run_module.train(configure(tmp_path, *QUICK))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stop_reason"] == "interrupted" and summary["objective"] == objective == objective
    assert math.isfinite(summary["return_test_det"])


def test_the_words_at_the_end_do_not_send_a_restart_again(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        go_wrong(patch, 40, Stopped("interrupted"))
        run_module.train(configure(tmp_path, *QUICK, "+restart=clean"))
    assert "The same command without +restart goes on from here." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["replay", "config.yaml", "checkpoints"])
def test_something_else_in_the_place_of_ours_is_said_in_words(tmp_path, name):
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
        run_module.train(configure(tmp_path, *QUICK))


def test_a_best_policy_without_our_signature_is_refused_in_words(stopped, tmp_path):
    from safetensors.torch import load_file, save_file

    config, folder = stopped
    save_file(load_file(folder.best_actor), folder.best_actor)
    with pytest.raises(UserError, match=r"actor\.safetensors: does not say its result"):
        run_module.train(config)


@pytest.mark.parametrize("text", ["[]", "{}", '{"stop_reason": "finished", "updates": 30, "objective": 1}'])
def test_a_summary_that_is_not_ours_is_made_again(tmp_path, text):
    run_module.train(configure(tmp_path, *QUICK))
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(text)
    run_module.train(configure(tmp_path, *QUICK))
    assert json.loads(summary.read_text())["run_name"] == "run"
