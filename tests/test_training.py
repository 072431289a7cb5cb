"""The loop: the exact ratio, what evaluation may touch, and what a run leaves behind."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from app.agents.guard import NonFiniteError
from app.config.load import load
from app.envs.factory import make_env
from app.errors import UserError
from app.replay.storage import MemoryStorage
from app.runs.checkpoint import read
from app.runs.folder import RunFolder, load_weights
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.evaluation import Evaluator, Start, make_starts, record
from app.training.local import LocalInterface, make_worker
from app.training.loop import DrivingTraining
from app.training.setup import choose_device
from tests.make import compose, make_agent

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("training=smoke", "env=sim_lidar", "logger=quiet", "threads=1")


def make_loop(*overrides, on_update=lambda training: None):
    """A real loop with its worker, on the simulator without images."""
    config = compose(*SMOKE, *overrides)
    spec = make_env(config.env, (1,), 0).spec_
    torch.manual_seed(config.seed)
    training = DrivingTraining(config, spec, "cpu", MemoryStorage(), 0, on_update)
    worker = make_worker(config, spec, Path("nowhere"))
    interface = LocalInterface(worker, training.missing_env_steps)
    interface.broadcast_model(training.agent.get_actor())
    return training, interface


@pytest.mark.parametrize("utd", [0.5, 1, 2, 3])
def test_ratio_of_updates_to_steps_is_exact_at_every_moment(utd):
    seen = []
    training, interface = make_loop(
        f"training.max_training_steps_per_env_step={utd}",
        "training.steps=12",
        on_update=lambda t: seen.append((t.total_updates, t.memory.env_steps)),
    )
    for _ in range(2):
        training.run_epoch(interface)
    start = training.start_training
    for updates, steps in seen[1:]:
        assert updates == 0 or updates <= utd * (steps - start)  # never too many
        assert steps - start <= math.ceil((updates + 1) / utd)  # nor a step that the next update did not ask for
    assert training.total_updates == 24 == training.updates_wanted
    assert training.memory.env_steps == start + math.ceil(24 / utd)


def test_no_burst_of_updates_is_owed_for_the_warm_up():
    training, interface = make_loop("training.start_training=60")
    training.run_epoch(interface)
    assert training.total_updates == 4
    assert training.memory.env_steps == 60 + 3  # the third step is for the fifth update


def test_reset_rows_are_not_counted_as_steps():
    training, interface = make_loop("training.start_training=300")
    training.check_ratio(interface)
    assert training.memory.env_steps == 301 == training.total_samples
    assert len(training.memory) > 301


def test_an_episode_goes_on_from_call_to_call():
    training, interface = make_loop("training.start_training=10")
    training.check_ratio(interface)
    training.start_training = 20
    training.check_ratio(interface)
    assert (training.memory._age[:22] == np.arange(22)).all()


def test_evaluation_leaves_training_alone():
    training, interface = make_loop()
    training.run_epoch(interface)
    agent = training.agent
    obs, episode_age = interface._obs, interface._length
    before = torch.get_rng_state(), training.memory.rng.bit_generator.state
    actor = agent.get_actor()
    evaluator = Evaluator(compose(*SMOKE).env, 0, lambda: None)
    starts = make_starts((1,), 3, 0.0)
    first = evaluator.evaluate(actor, starts, starts)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == training.memory.rng.bit_generator.state
    assert interface._obs is obs and interface._length == episode_age
    assert all(m.training for m in agent.model.modules())
    assert first == evaluator.evaluate(actor, starts, starts)  # and it is repeatable, samples included


def test_lockstep_evaluation_equals_one_episode_at_a_time():
    agent = make_agent("env=sim_lidar")
    with torch.no_grad():  # drives off, so that episodes end at different times
        agent.model.policy.out.bias[:3] = torch.tensor([2.0, -2.0, 0.0])
    config, actor = compose("env=sim_lidar"), agent.get_actor()
    starts = make_starts((1, 2), 4, 0.0)
    together = Evaluator(config.env, 0, lambda: None).drive(actor, starts, [True] * len(starts))
    alone = [record(actor, config.env, start, 0, 64)[1] for start in starts]
    assert len({episode.length for episode in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert (one.length, one.outcome, one.track) == (other.length, other.outcome, other.track)
        assert one.ret == pytest.approx(other.ret, rel=1e-3)


def test_starts_that_judge_are_not_those_that_chose():
    chosen, judged = make_starts((1,), 10, 0.0), make_starts((1,), 10, 0.5)
    assert not {s.position for s in chosen} & {s.position for s in judged}
    assert make_starts((7, 8), 3, 0.0)[1] == Start(8, 1 / 3, 1)


def test_same_seed_gives_the_same_run(tmp_path):
    lines = []
    for name in ("a", "b"):
        run_module.train(compose(*SMOKE, f"runs_dir={tmp_path}", f"run_name={name}"))
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        times = ("wall_s", "updates_per_s", "sampling_duration", "training_step_duration")
        lines.append([{k: v for k, v in row.items() if k not in times} for row in rows])
    assert lines[0] == lines[1]


def test_run_folder_is_complete_and_its_config_loads_again(tmp_path):
    config = compose("training=smoke", "env=sim_lidar", "threads=1", "logger.progress=none", f"runs_dir={tmp_path}")
    objective = run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    for path in (
        folder.config,
        folder.metrics,
        folder.summary,
        folder.curves,
        folder.checkpoints.last,
        folder.best_actor,
        folder.best_video,
    ):
        assert path.stat().st_size > 0, path
    assert list((folder.path).glob("**/events.out.tfevents.*"))
    from omegaconf import OmegaConf

    assert load(OmegaConf.load(folder.config)) == config
    summary = json.loads(folder.summary.read_text())
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert summary["objective"] == objective == pytest.approx(np.mean([row["return_test_det"] for row in rows]))
    assert summary["updates"] == 8 and summary["stop_reason"] == "finished"
    assert "!!python" not in folder.config.read_text() and yaml.safe_load(folder.config.read_text())["seed"] == 0
    assert read(folder.checkpoints.last)["training"]["updates"] == 8


@pytest.mark.parametrize(("deployed", "other", "part"), [("averaged", "raw", "averaged"), ("raw", "averaged", "model")])
def test_deployed_policy_is_kept_and_the_other_one_evaluated_beside_it(tmp_path, deployed, other, part):
    choice = (f"agent.deployed_policy={deployed}", "model=droq", "training.epochs=1")
    config = compose(*SMOKE, *choice, f"runs_dir={tmp_path}")
    run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    row = json.loads(folder.metrics.read_text())
    assert f"lap_share_det_{other}" in row and f"lap_share_det_{deployed}" not in row
    kept, state = load_weights(folder.best_model), read(folder.checkpoints.last)["training"]["agent"][part]
    assert all(torch.equal(kept[name], value) for name, value in state.items())


def test_second_policy_is_left_out_where_no_episodes_are_asked_for(tmp_path):
    config = compose(
        *SMOKE, "model=droq", "training.epochs=1", "training.eval_episodes_other=0", f"runs_dir={tmp_path}"
    )
    run_module.train(config)
    row = json.loads((tmp_path / config.run_name / "metrics.jsonl").read_text())
    assert "lap_share_det" in row and "lap_share_det_raw" not in row


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    config = compose(*SMOKE, f"runs_dir={tmp_path}", "training.epochs=3")
    train = trainer_module.DrivingTraining.run_epoch

    def break_in_the_second_epoch(self, interface):
        if self.epoch == 1:
            with torch.no_grad():
                self.agent.model.q_heads.out.bias.fill_(float("nan"))
        return train(self, interface)

    monkeypatch.setattr(trainer_module.DrivingTraining, "run_epoch", break_in_the_second_epoch)
    run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    state = read(folder.checkpoints.last)
    assert state["epochs_done"] == 1
    assert all(value.isfinite().all() for value in state["training"]["agent"]["model"].values())
    assert json.loads(folder.summary.read_text())["stop_reason"] == "not finite: q_mean"
    assert issubclass(NonFiniteError, UserError)


def test_a_missing_gpu_is_said_in_words():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="device = cuda:0.*device=cpu"):
        choose_device("cuda:0")
    assert choose_device("auto") == "cpu"


def command(*overrides: str) -> list[str]:
    """The real command of the README."""
    return [
        sys.executable,
        "app/train.py",
        "model=droq_contextual",
        "training=smoke",
        "threads=1",
        *overrides,
    ]


def environment(home: Path) -> dict[str, str]:
    """A home that must stay empty."""
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home)}


def test_smoke_the_real_command_then_evaluate(tmp_path):
    home = tmp_path / "home"
    done = subprocess.run(
        command(f"runs_dir={tmp_path}", "run_name=smoke"),
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "summary of smoke" in done.stdout and "droq_contextual drives sim" in done.stdout
    evaluate = [
        sys.executable,
        "app/evaluate.py",
        f"run={tmp_path}/smoke",
        "tracks=[101,102]",
        "episodes=2",
        "threads=1",
    ]
    done = subprocess.run(evaluate, cwd=ROOT, env=environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "101" in done.stdout and "102" in done.stdout
    assert (tmp_path / "smoke" / "videos" / "evaluation.mp4").stat().st_size > 0
    assert not list(home.iterdir())


def test_ctrl_c_stops_cleanly_with_a_summary(tmp_path):
    overrides = (
        "env=sim_lidar",
        "logger=quiet",
        "training.epochs=100000",
        f"runs_dir={tmp_path}",
        "run_name=long",
    )
    process = subprocess.Popen(command(*overrides), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "long" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "interrupted" in out
    assert json.loads((tmp_path / "long" / "summary.json").read_text())["stop_reason"] == "interrupted"


def test_evaluating_no_run_is_said_in_words(tmp_path):
    evaluate = [sys.executable, "app/evaluate.py", f"run={tmp_path}/none"]
    done = subprocess.run(evaluate, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no run" in done.stderr and "Traceback" not in done.stderr
