"""Resuming, extending, restarting and initialising runs: what may change, what is refused, and what is reported."""

import contextlib
import json
import math
import os
import shutil

import pytest

from app.core.errors import UserError
from app.runs.checkpoint import read_checkpoint
from app.runs.fingerprint import fingerprint
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.stop import INTERRUPTED, Stopped
from tests.helpers.make import compose
from tests.helpers.runs import first_difference
from tests.helpers.stopped_runs import SHORT, SHORT_PENDULUM, Killed, configure, raise_at_safe_point, use_little_slack


@pytest.fixture(autouse=True)
def _little_slack(monkeypatch):
    use_little_slack(monkeypatch)


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
def test_other_fingerprint_is_refused_with_every_difference(stopped, override, line):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        run_module.train(configure(folder.path.parent, *SHORT, *override.split()))
    text = str(caught.value)
    assert line in text and "+restart=clean" in text and "run_name" in text
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_checkpoint_of_another_run_is_refused(stopped_pendulum, tmp_path):
    _, folder = stopped_pendulum
    other = compose(*SHORT_PENDULUM, "training.epochs=1", f"runs_dir={tmp_path}", "run_name=other", "log_std_min=-2")
    run_module.train(other)
    shutil.copy(folder.checkpoints.last, tmp_path / "other" / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match=r"checkpoint in .*other.*\n.*log_std_min: -20\.0 → -2\.0"):
        run_module.train(other)


def test_other_replay_capacity_is_refused_with_a_hint(stopped):
    _, folder = stopped
    with pytest.raises(UserError, match=r"replay\.capacity: 60 → 70[^$]*restart\.targets=\[replay\]"):
        run_module.train(configure(folder.path.parent, *SHORT, "replay.capacity=70"))


def test_other_epoch_length_is_refused(stopped):
    _, folder = stopped
    with pytest.raises(UserError, match=r"training\.updates_per_epoch: 10 → 12"):
        run_module.train(configure(folder.path.parent, *SHORT, "training.updates_per_epoch=12"))


def test_changed_hyperparameters_take_effect_and_are_reported(stopped, capsys, monkeypatch):
    _, folder = stopped
    original, rates = trainer_module.Trainer.start, {}

    def start(run, *args):
        original(run, *args)
        optimizers = {"actor": run.loop.agent.actor_optimizer, "critic": run.loop.agent.critic_optimizer}
        rates.update({name: [group["lr"] for group in each.param_groups] for name, each in optimizers.items()})

    monkeypatch.setattr(trainer_module.Trainer, "start", start)
    run_module.train(configure(folder.path.parent, *SHORT, "agent.lr_actor=0.001", "agent.gamma=0.995"))
    out = capsys.readouterr().out
    gamma = "agent.gamma: 0.99 → 0.995 (the support of the value stays as it was)"
    assert "changed  agent.lr_actor: 0.0001 → 0.001" in out and f"changed  {gamma}" in out
    starts = [json.loads(line) for line in folder.starts.read_text().splitlines()]
    assert starts[1]["changed"] == [gamma, "agent.lr_actor: 0.0001 → 0.001"]
    assert rates == {"actor": [0.001], "critic": [0.0003]}


@pytest.mark.parametrize("ratio", [0.1, 2])
def test_changed_ratio_causes_no_burst_of_updates_and_no_pause(stopped_pendulum, ratio):
    _, folder = stopped_pendulum
    before = read_checkpoint(folder.checkpoints.last)["training"]
    changed = ("training.epochs=3", f"training.max_training_steps_per_env_step={ratio}")
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, *changed))
    after = read_checkpoint(folder.checkpoints.last)["training"]
    updates = after["updates"] - before["updates"]
    steps = after["replay"]["env_steps"] - before["replay"]["env_steps"]
    assert abs(steps - updates / ratio) <= 1 / ratio + 1


def test_new_run_names_the_one_of_the_same_settings_without_them_in_its_name(tmp_path, monkeypatch, capsys):
    def start(name, *overrides):
        with contextlib.suppress(Killed):
            run_module.train(
                compose(*SHORT_PENDULUM, "training.epochs=1", *overrides, f"runs_dir={tmp_path}", f"run_name={name}")
            )
        return "has the same settings; run_name=car continues it instead" in capsys.readouterr().out

    assert not start("car")
    assert start("car__training-smoke") and not start("car__training-smoke")  # only when it begins
    monkeypatch.setattr(trainer_module.Trainer, "run_epochs", lambda _: (_ for _ in ()).throw(Killed()))  # all is said
    assert not start("car__agent.gamma-0.95", "agent.gamma=0.95") and not start("car-2")
    assert not start("car__init", f"training.init_from={tmp_path / 'car'}")


def test_finished_run_answers_for_its_own_settings_only_and_can_be_extended(tmp_path, capsys):
    first = run_module.train(configure(tmp_path, *SHORT_PENDULUM))
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert run_module.train(configure(tmp_path, *SHORT_PENDULUM)) == first
    out = capsys.readouterr().out
    assert "has finished already" in out and "summary of run" in out and "Resuming" not in out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    for asked in ("agent.lr_actor=0.001", "training.epochs=1", "training.eval_episodes=3"):
        key = asked.partition("=")[0]
        with pytest.raises(UserError, match=rf"has finished, and was made under other settings.*\n  {key}: "):
            run_module.train(configure(tmp_path, *SHORT_PENDULUM, asked))
    assert "summary" not in capsys.readouterr().out
    assert run_module.train(configure(tmp_path, *SHORT_PENDULUM, "threads=2", "health.on_collapse=stop")) == first
    assert run_module.train(configure(tmp_path, *SHORT_PENDULUM, "training.eval_episodes_other=3")) == first
    capsys.readouterr()
    run_module.train(configure(tmp_path, *SHORT_PENDULUM, "training.epochs=3"))
    assert "changed  training.epochs: 2 → 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 30


def test_init_from_loads_the_weights_and_nothing_else(stopped, tmp_path, capsys):
    _, source = stopped
    config = compose(*SHORT, f"runs_dir={tmp_path}", "run_name=new", f"training.init_from={source.path}")
    seen = {}

    def look(self):
        seen["model"] = {name: part.clone() for name, part in self.loop.agent.model.state_dict().items()}
        seen["target"] = {name: part.clone() for name, part in self.loop.agent.target.state_dict().items()}
        seen["fresh"] = not self.loop.agent.critic_optimizer.state_dict()["state"]
        seen["rows"] = len(self.loop.memory)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer_module.Trainer, "run_epochs", look)
        run_module.train(config)
    from safetensors.torch import load_file

    weights = load_file(source.best_model)
    assert first_difference(weights, seen["model"]) is None and first_difference(weights, seen["target"]) is None
    assert seen["fresh"] and seen["rows"] == 0
    assert "begins with the best policy" in capsys.readouterr().out


def test_initial_weights_of_a_new_run_are_read_once(stopped, tmp_path, monkeypatch):
    _, source = stopped
    read, best_networks = [], RunFolder.best_networks
    monkeypatch.setattr(RunFolder, "best_networks", lambda self: read.append(self.path) or best_networks(self))
    raise_at_safe_point(monkeypatch, 1, Killed())
    with pytest.raises(Killed):
        run_module.train(compose(*SHORT, f"runs_dir={tmp_path}", "run_name=new", f"training.init_from={source.path}"))
    assert read == [source.path]


def test_init_from_another_fingerprint_or_a_missing_run_is_refused(stopped, tmp_path):
    _, source = stopped
    new = (*SHORT, f"runs_dir={tmp_path}", "run_name=new")
    with pytest.raises(UserError, match=r"training\.init_from.*\n.*encoder\.dropout"):
        run_module.train(compose(*new, f"training.init_from={source.path}", "encoder.dropout=0.1"))
    with pytest.raises(UserError, match=r"training\.init_from = nowhere: there is no run"):
        run_module.train(compose(*new, "training.init_from=nowhere"))
    with pytest.raises(UserError, match="File name too long"):
        run_module.train(compose(*new, f"training.init_from={'x' * 300}"))
    with pytest.raises(UserError, match="File name too long"):
        run_module.train(compose(*new, f"runs_dir={tmp_path}/{'x' * 300}"))
    assert not (tmp_path / "new").exists()


def test_restart_clean_starts_a_new_run_and_keeps_the_records(stopped_pendulum, capsys):
    _, folder = stopped_pendulum
    expected = len(folder.metrics.read_text().splitlines())
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, "+restart=clean", "log_std_min=-2"))
    out = capsys.readouterr().out
    assert "last.pt" in out and "receipt" in out and "Resuming" not in out
    (receipt,) = folder.path.glob("history/*/receipt.json")
    assert {entry["kind"] for entry in json.loads(receipt.read_text())["files"]} == {"replay", "checkpoints", "weights"}
    (records,) = folder.path.glob("history/*/metrics.jsonl")
    assert len(records.read_text().splitlines()) == expected
    assert len(folder.metrics.read_text().splitlines()) == 2


def test_restart_dry_run_changes_nothing(stopped, capsys):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    run_module.train(configure(folder.path.parent, *SHORT, "+restart=clean", "restart.dry_run=true"))
    assert "dry run: nothing was changed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("restart.targets=[replay]", "log_std_min=-2"), "log_std_min: -20.0 → -2.0"),
        (("restart.targets=[replay]", "training.epochs=1"), "nothing would be left to train"),
        (("training.init_from=nowhere",), "training.init_from = nowhere: there is no run"),
        (("device=cuda:99",), "device = cuda:99"),
    ],
)
def test_restart_dry_run_ends_with_the_refusal_of_the_start(stopped, capsys, overrides, reason):
    _, folder = stopped
    command = configure(folder.path.parent, *SHORT, "+restart=clean", "restart.dry_run=true", *overrides)
    with pytest.raises(UserError, match=reason):
        run_module.train(command)
    assert "dry run: nothing was changed" in capsys.readouterr().out


def test_restart_dry_run_refuses_the_folder_of_another_program(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds notes.txt and no"):
        run_module.train(configure(tmp_path, *SHORT, "+restart=clean", "restart.dry_run=true"))


def test_restart_archive_moves_the_same_files(stopped_pendulum):
    _, folder = stopped_pendulum
    checkpoint = folder.checkpoints.last.read_bytes()
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, "+restart=archive"))
    (moved,) = folder.path.glob("archive/*/checkpoints/last.pt")
    assert moved.read_bytes() == checkpoint


def test_run_in_use_is_refused_and_so_is_its_restart(stopped):
    config, folder = stopped
    with RunFolder.open(config):
        for overrides in ((), ("+restart=clean",)):
            with pytest.raises(UserError, match=rf"in use by process {os.getpid()}"):
                run_module.train(configure(folder.path.parent, *SHORT, *overrides))
    assert folder.checkpoints.last.exists()


def test_keys_of_parts_that_a_run_does_not_have_are_not_in_its_fingerprint():
    lidar, images = fingerprint(compose("env=sim_lidar")), fingerprint(compose())
    assert (
        fingerprint(compose("env=sim_lidar", "env.image_size=64", "norm=batch", "encoder.prediction_weight=0")) == lidar
    )
    assert fingerprint(compose("env.eval_tracks=[7]", "agent.gamma=0.9")) == images
    assert fingerprint(compose("norm=batch")) != images != fingerprint(compose("env.image_size=64"))
    assert "encoder.dropout" not in fingerprint(compose("model=droq"))


def test_run_can_be_restarted_from_its_own_best_weights(stopped_pendulum, capsys):
    """``+restart=clean`` with the best weights of the same folder: they are read before they are removed."""
    _, folder = stopped_pendulum
    own = f"training.init_from={folder.path}"
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, "+restart=clean", own))
    assert "begins with the best policy" in capsys.readouterr().out
    assert read_checkpoint(folder.checkpoints.last)["training"]["updates"] == 20


@pytest.mark.parametrize("override", ["log_std_min=-2", "training.updates_per_epoch=12", "training.init_from=nowhere"])
def test_refused_command_clears_nothing(stopped, override):
    _, folder = stopped
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    targets = "checkpoints,replay" if "nowhere" in override else "replay"
    with pytest.raises(UserError):
        run_module.train(
            configure(folder.path.parent, *SHORT, "+restart=clean", f"restart.targets=[{targets}]", override)
        )
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("targets", ["replay", "weights"])
def test_restart_that_leaves_nothing_to_train_is_refused_and_clears_nothing(stopped, targets):
    _, folder = stopped
    done = read_checkpoint(folder.checkpoints.last)["epochs_done"]
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    command = (f"training.epochs={done}", "+restart=clean", f"restart.targets=[{targets}]")
    with pytest.raises(
        UserError, match=rf"training\.epochs = {done}: .* has done {done} epochs.*Raise training.epochs"
    ):
        run_module.train(configure(folder.path.parent, *SHORT, *command))
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_capacity_may_change_with_a_cleared_replay(stopped_pendulum):
    _, folder = stopped_pendulum
    overrides = ("replay.capacity=70", "+restart=clean", "restart.targets=[replay]")
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, *overrides))
    assert json.loads(folder.summary.read_text())["stop_reason"] == "finished"


def test_other_initial_weights_are_refused_while_a_run_continues(stopped, tmp_path):
    _, folder = stopped
    with pytest.raises(UserError, match=r"training\.init_from = elsewhere: .* has a checkpoint"):
        run_module.train(configure(folder.path.parent, *SHORT, "training.init_from=elsewhere"))


def test_changed_setting_without_effect_is_reported_as_such(stopped_pendulum, capsys):
    _, folder = stopped_pendulum
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, "agent.alpha=0.5", "training.start_training=40"))
    out = capsys.readouterr().out
    assert "agent.alpha: 1.0 → 0.5 (without effect from here on)" in out
    assert "training.start_training: 30 → 40 (without effect from here on)" in out


def test_entropy_coefficient_that_is_not_learned_may_change(stopped_pendulum):
    _, folder = stopped_pendulum
    run_module.train(configure(folder.path.parent, *SHORT_PENDULUM, "agent.auto_alpha=false", "agent.alpha=0.5"))
    assert read_checkpoint(folder.checkpoints.last)["training"]["agent"]["log_alpha"].exp() == pytest.approx(0.5)


def test_interrupted_run_evaluates_its_best_policy(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        original = trainer_module.Trainer._at_safe_point

        def at_safe_point(self, loop):
            if loop.total_updates == 15:
                self.stop._remember(2, None)
            original(self, loop)

        patch.setattr(trainer_module.Trainer, "_at_safe_point", at_safe_point)
        objective = run_module.train(configure(tmp_path, *SHORT_PENDULUM))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stop_reason"] == "interrupted" and summary["objective"] == objective == objective
    assert math.isfinite(summary["return_test_det"])


def test_hint_to_resume_leaves_the_restart_out(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        raise_at_safe_point(patch, 40, Stopped(INTERRUPTED))
        run_module.train(configure(tmp_path, *SHORT_PENDULUM, "+restart=clean"))
    assert "The same command without +restart resumes the run." in capsys.readouterr().out
