"""Runs that are stopped or killed at any moment and resumed end bit-equal to runs that are never stopped."""

import json
import os

import pytest
import torch

from app.evaluation.evaluator import LocalEvaluator
from app.runs.run_folder import RunFolder
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.stop import INTERRUPTED, Stopped
from tests.helpers.runs import first_difference, result
from tests.helpers.stopped_runs import (
    PENDULUM,
    QUICK,
    Killed,
    configure,
    raise_at_safe_point,
    stop_and_resume,
    use_little_slack,
)


@pytest.fixture(autouse=True)
def _little_slack(monkeypatch):
    use_little_slack(monkeypatch)


OFTEN = "training.checkpoint_interval_s=0"  # at every safe point
TASKS = {
    "lidar": QUICK,
    "pendulum": PENDULUM,
    "categorical": (*PENDULUM, "value=categorical", "value.support=null"),
}
MOMENTS = ("evaluation", "before the metrics", "best", "write", "rename")


@pytest.fixture(scope="module", params=["lidar", "pendulum"])
def whole(request, tmp_path_factory):
    """The overrides of a run and its result when nobody stops it."""
    overrides = TASKS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        use_little_slack(patch)
        runs = tmp_path_factory.mktemp("whole")
        run_module.train(configure(runs, *overrides))
    return overrides, result(runs / "run")


def kill_between_renames(patch, number):
    """Kill between the two renames of the n-th checkpoint: the old one has moved, the new one has no name yet."""
    original, seen = os.replace, 0

    def replace(source, target):
        nonlocal seen
        seen += str(target).endswith("last.pt")
        if seen == number:
            raise Killed
        original(source, target)

    patch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    "call, error", [(30, Stopped(INTERRUPTED)), (2, Killed()), (55, Killed())], ids=["stopped", "early", "late"]
)
def test_resumed_run_ends_bit_equal(whole, tmp_path, monkeypatch, call, error):
    """Also where the ring has wrapped and steps came after the checkpoint: 190 rows go through the files' 140."""
    overrides, expected = whole
    stop_and_resume(monkeypatch, configure(tmp_path, *overrides), call, error)
    assert first_difference(expected, result(tmp_path / "run")) is None


def test_checkpoints_between_all_updates_change_nothing(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    config = configure(tmp_path, *overrides, OFTEN)
    stop_and_resume(monkeypatch, config, 40, Killed())
    assert first_difference(expected, result(tmp_path / "run")) is None


@pytest.mark.parametrize(
    ("whole", "moment"),
    [("lidar", "evaluation"), *(("pendulum", moment) for moment in MOMENTS)],
    indirect=["whole"],
)
def test_run_killed_at_the_worst_moment_ends_bit_equal(whole, tmp_path, monkeypatch, moment):
    """What is lost depends on the task (its episode, its evaluator), the order of the files does not."""
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
            once(LocalEvaluator, "evaluate", 1)
        elif moment == "before the metrics":
            once(trainer_module.MetricsWriter, "write", 1)
        elif moment == "best":
            once(RunFolder, "save_best", 0)
        elif moment == "write":
            once(torch, "save", 1)
        else:
            kill_between_renames(patch, 4)
        with pytest.raises(Killed):
            run_module.train(config)
    run_module.train(config)
    assert first_difference(expected, result(tmp_path / "run")) is None


@pytest.mark.parametrize(("whole", "number"), [("lidar", 12), ("pendulum", 4), ("pendulum", 20)], indirect=["whole"])
def test_run_resumed_from_the_previous_checkpoint_ends_bit_equal(whole, tmp_path, monkeypatch, number):
    overrides, expected = whole
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_between_renames(patch, number)
        run_module.train(configure(tmp_path, *overrides, OFTEN))
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    run_module.train(configure(tmp_path, *overrides))
    assert first_difference(expected, result(tmp_path / "run")) is None


@pytest.mark.parametrize("whole", ["pendulum"], indirect=True)
def test_no_line_of_metrics_is_written_twice(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "save_best", lambda *_: (_ for _ in ()).throw(Killed()))
        run_module.train(configure(tmp_path, *overrides, OFTEN))
    run_module.train(configure(tmp_path, *overrides))
    assert first_difference(expected, result(tmp_path / "run")) is None


def test_run_stopped_during_evaluation_ends_bit_equal(whole, tmp_path, monkeypatch):
    overrides, expected = whole
    config = configure(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        steps = iter(range(30))

        def impatient(self):
            if next(steps, None) is None:
                raise Stopped(INTERRUPTED)

        patch.setattr(run_module.StopRequest, "check", impatient)
        run_module.train(config)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "interrupted"
    run_module.train(config)
    assert first_difference(expected, result(tmp_path / "run")) is None


@pytest.mark.parametrize(("whole", "call"), [("categorical", 1), ("categorical", 3)], indirect=["whole"])
def test_gym_run_with_categorical_value_killed_before_the_first_update_ends_bit_equal(
    whole, tmp_path, monkeypatch, call
):
    """The support is fitted to the rewards of the warm-up, which both starts collect in part."""
    overrides, expected = whole
    states = []
    with monkeypatch.context() as patch:
        save = trainer_module.Trainer.save_checkpoint
        patch.setattr(
            trainer_module.Trainer,
            "save_checkpoint",
            lambda self: (save(self), states.append(self.loop.total_updates)),
        )
        raise_at_safe_point(patch, call, Killed())
        with pytest.raises(Killed):
            run_module.train(configure(tmp_path, *overrides, OFTEN))
    assert states and set(states) == {0}
    run_module.train(configure(tmp_path, *overrides))
    assert first_difference(expected, result(tmp_path / "run")) is None
