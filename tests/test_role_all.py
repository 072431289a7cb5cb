"""role=all: nothing is started before it is known that the run can start."""

import multiprocessing

import pytest

from app.core.console import make_console
from app.core.errors import UserError
from app.distributed import launcher
from tests.helpers.make import compose
from tests.helpers.runs import TINY


@pytest.fixture
def started(monkeypatch):
    """Names of the child processes that were started."""
    names = []
    monkeypatch.setattr(launcher._Child, "start", lambda self: names.append(self._name))
    return names


def test_run_that_cannot_start_starts_no_process(started, tmp_path):
    config = compose(*TINY, "role=all", f"runs_dir={tmp_path}", "training.init_from=/nowhere")
    with pytest.raises(UserError, match="training.init_from"):
        launcher.run_all(config, propagate_interrupt=False)
    assert started == []


@pytest.mark.parametrize(
    "overrides", [("env.max_steps=200000",), ("model=mlp", "env=gym", "env.id=Pendulum-v1", "env.max_steps=200000")]
)
def test_episode_larger_than_a_message_is_refused_before_anything_is_started_or_written(started, tmp_path, overrides):
    config = compose(*TINY, "role=all", *overrides, f"runs_dir={tmp_path}/runs")
    with pytest.raises(UserError, match=r"env\.max_steps = 200,000: .*Set env\.max_steps to 99,999 or less"):
        launcher.run_all(config, propagate_interrupt=False)
    assert started == [] and not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match=r"env\.max_steps = 200,000"):
        launcher.make_worker(config, "cpu", make_console(), lambda: None)


def test_limit_of_a_task_counts_where_none_is_configured(monkeypatch, tmp_path):
    monkeypatch.setattr("app.distributed.messages.MAX_BYTES", 103_000)
    config = compose(*TINY, "model=mlp", "env=gym", "env.id=Pendulum-v1", "env.max_steps=null", f"runs_dir={tmp_path}")
    with pytest.raises(UserError, match=r"env\.max_steps = 200: an episode of 200 steps x 20 bytes"):
        launcher.make_worker(config, "cpu", make_console(), lambda: None)


def test_missing_game_is_found_before_anything_is_started_or_written(started, tmp_path):
    game = ("env=trackmania", "role=all", "workers=1", "env.reward_file=/nowhere/reward.pkl")
    with pytest.raises(UserError, match="trackmania|reward_file"):
        launcher.run_all(compose(*game, f"runs_dir={tmp_path}/runs"), propagate_interrupt=False)
    assert started == [] and not (tmp_path / "runs").exists()


def test_child_whose_parent_was_killed_ends_without_a_traceback(monkeypatch):
    """Its error cannot be reported any more: the other end of the pipe is closed."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    for name in ("os.setpgrp", "terminate_with_parent"):
        monkeypatch.setattr(f"app.distributed.launcher.{name}", lambda *_: None)
    monkeypatch.setattr(launcher, "run_server", lambda _: 1 / 0)
    launcher._run_child(compose(*TINY, "role=server", "network.password=a password"), 0, sender)
