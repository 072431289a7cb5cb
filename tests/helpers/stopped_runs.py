"""Quick real runs that are stopped or killed between two updates."""

import shutil
from pathlib import Path

import pytest

from app.config.schema import Config
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.stop import INTERRUPTED, Stopped
from tests.helpers.make import compose
from tests.helpers.runs import TINY

# Few steps, and so little slack that the files of the replay wrap all the same; checkpoints only where they must be.
QUICK = (
    *TINY, "env.window=4", "replay.capacity=60", "training.start_training=30", "training.updates_per_epoch=10",
    "env.max_steps=25", "training.max_training_steps_per_env_step=0.2", "training.checkpoint_interval_s=1000",
    "health.measure_states=0",
)  # fmt: skip
SHORT = (*QUICK, "training.epochs=2")  # ends with the epoch in which the fixture ``stopped`` was stopped
PENDULUM = (
    "model=mlp", "env=gym", "env.id=Pendulum-v1", "env.max_steps=25", "logger=quiet", "threads=1",
    "actor.hidden_dim=16", "critic.hidden_dim=16", "replay.capacity=60", "replay.batch_size=8",
    "training.start_training=30", "training.epochs=3", "training.updates_per_epoch=10",
    "training.max_training_steps_per_env_step=0.2", "training.update_model_interval=7", "training.eval_episodes=2",
    "training.eval_episodes_stochastic=1", "training.eval_episodes_other=1", "training.checkpoint_interval_s=1000",
    "agent.deterministic_share=0.5", "health.measure_states=0",
)  # fmt: skip
SHORT_PENDULUM = (*PENDULUM, "training.epochs=2")
SLACK = 80  # rows


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing is saved after it."""


def configure(runs_dir: Path, *overrides: str) -> Config:
    """Compose the configuration of a run named "run"."""
    return compose(*overrides, f"runs_dir={runs_dir}", "run_name=run")


def use_little_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of the replay wrap after few steps."""
    monkeypatch.setattr(trainer_module, "slack_rows", lambda _: SLACK)


def raise_at_safe_point(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """Raise an error at the n-th safe point."""
    original, calls = trainer_module.Trainer._at_safe_point, 0

    def at_safe_point(self, loop):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        original(self, loop)

    monkeypatch.setattr(trainer_module.Trainer, "_at_safe_point", at_safe_point)


def stop_and_resume(monkeypatch: pytest.MonkeyPatch, config: Config, call: int, error: BaseException) -> None:
    """Stop or kill a run at the n-th safe point, and run the same command again."""
    with monkeypatch.context() as patch:
        raise_at_safe_point(patch, call, error)
        if isinstance(error, Killed):
            with pytest.raises(Killed):
                run_module.train(config)
        else:
            run_module.train(config)
    run_module.train(config)


def train_until_stopped(runs_dir: Path, *overrides: str) -> Path:
    """Train and stop in the second epoch; return the folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        use_little_slack(patch)
        raise_at_safe_point(patch, 40, Stopped(INTERRUPTED))
        run_module.train(configure(runs_dir, *overrides))
    return runs_dir / "run"


def copy_run(path: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[Config, RunFolder]:
    """Copy a run; return its configuration and the copied folder."""
    use_little_slack(monkeypatch)
    shutil.copytree(path, runs_dir / "run")
    return configure(runs_dir, *overrides), RunFolder(runs_dir / "run")
