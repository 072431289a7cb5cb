"""Training loop, evaluation, and complete runs with their folders."""

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

from app.agents.finite_check import NonFiniteError
from app.agents.update_metrics import UpdateMetrics
from app.config.load import load
from app.core.errors import UserError
from app.envs.env_factory import make_env
from app.evaluation.episodes import Start, make_starts
from app.evaluation.evaluator import LocalEvaluator, record_episode
from app.replay.storage import MemoryStorage
from app.runs.checkpoint import read_checkpoint
from app.runs.run_folder import RunFolder, load_weights
from app.training import evaluate_run
from app.training import run as run_module
from app.training import trainer as trainer_module
from app.training.loop import TrainingLoop
from app.training.rollout import LocalInterface, is_deterministic_episode, make_local_worker
from app.training.setup import resolve_device
from app.training.stop import INTERRUPTED, TERMINATED, StopKind, Stopped, StopReason, StopRequest
from tests.helpers.make import compose, make_agent
from tests.helpers.runs import SMALL_NETWORK

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("training=smoke", "env=sim_lidar", "env.max_steps=60", "logger=quiet", "threads=1")
SMALL = (*SMOKE, *SMALL_NETWORK)


def make_loop(*overrides, safe_point=lambda loop: None):
    """Make a real loop with its worker, on the simulator without images."""
    config = compose(*SMALL, *overrides)
    spec = make_env(config.env, (1,), 0).observation_spec
    torch.manual_seed(config.seed)
    loop = TrainingLoop(config, spec, "cpu", MemoryStorage(), 0, safe_point)
    worker = make_local_worker(config, spec)
    interface = LocalInterface(worker, loop.steps_to_collect, config.agent.deterministic_share)
    interface.broadcast_model(loop.agent.get_actor())
    return loop, interface


@pytest.mark.parametrize("utd", [0.5, 1, 2, 3])
def test_ratio_of_updates_to_steps_is_exact_at_every_moment(utd):
    seen = []
    loop, interface = make_loop(
        f"training.max_training_steps_per_env_step={utd}",
        "training.updates_per_epoch=12",
        safe_point=lambda loop: seen.append((loop.total_updates, loop.memory.env_steps)),
    )
    for _ in range(2):
        loop.run_epoch(interface)
    start = loop.start_training
    for updates, steps in seen[1:]:
        assert updates == 0 or updates <= utd * (steps - start)  # never too many
        assert steps - start <= math.ceil((updates + 1) / utd)  # nor a step that the next update did not ask for
    assert loop.total_updates == 24 == loop.training.updates
    assert loop.memory.env_steps == start + math.ceil(24 / utd)


def test_warm_up_is_not_followed_by_a_burst_of_updates():
    loop, interface = make_loop("training.start_training=60")
    loop.run_epoch(interface)
    assert loop.total_updates == 4
    assert loop.memory.env_steps == 60 + 3  # the third step is for the fifth update


def test_reset_rows_are_not_counted_as_steps():
    loop, interface = make_loop("training.start_training=300")
    loop.check_ratio(interface)
    assert loop.memory.env_steps == 301 == loop.total_samples
    assert len(loop.memory) > 301


def test_episode_continues_from_call_to_call():
    loop, interface = make_loop("training.start_training=10")
    loop.check_ratio(interface)
    loop.start_training = 20
    loop.check_ratio(interface)
    assert (loop.memory._age[:22] == np.arange(22)).all()


def test_evaluation_changes_nothing_of_the_training():
    loop, interface = make_loop()
    loop.run_epoch(interface)
    agent = loop.agent
    obs, episode_age = interface._obs, interface._length
    before = torch.get_rng_state(), loop.memory.rng.bit_generator.state
    actor = agent.get_actor()
    evaluator = LocalEvaluator(compose(*SMOKE).env, 0, lambda: None)
    starts = make_starts((1,), 3, 0.0)
    first = evaluator.evaluate(actor, starts, starts)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == loop.memory.rng.bit_generator.state
    assert interface._obs is obs and interface._length == episode_age
    assert all(m.training for m in agent.model.modules())
    assert first == evaluator.evaluate(actor, starts, starts)  # and it is repeatable, samples included


def test_every_metric_of_the_agent_is_averaged_with_those_of_episodes_and_durations():
    loop, interface = make_loop()
    loop.run_epoch(interface)
    returned = loop.agent.train(loop.memory.sample())
    own = {"return_train", "episode_length_train", "sampling_duration", "training_step_duration"}
    assert loop.averager.take().keys() == returned.keys() | own


def make_late_loop(monkeypatch, *overrides):
    """Make a loop as on a GPU that is always behind: no metrics have arrived when an update has been started."""
    monkeypatch.setattr(UpdateMetrics, "arrived", property(lambda self: False))
    return make_loop(*overrides)


def poison(agent, update):
    """Make the rewards of one update NaN."""
    original = agent.critic_loss

    def critic_loss(batch):
        return original(batch._replace(reward=batch.reward * (math.nan if agent.updates == update else 1)))

    agent.critic_loss = critic_loss


def test_metrics_that_arrive_late_are_averaged_like_those_that_arrive_at_once(monkeypatch):
    loop, interface = make_loop("training.updates_per_epoch=6")
    loop.run_epoch(interface)
    late, its_interface = make_late_loop(monkeypatch, "training.updates_per_epoch=6")
    late.run_epoch(its_interface)
    means, late_means = (
        {name: value for name, value in averaged.averager.take().items() if not name.endswith("duration")}
        for averaged in (loop, late)
    )
    assert late_means == pytest.approx(means, nan_ok=True, rel=0, abs=0)


def test_checkpoint_contains_the_metrics_of_an_update_that_a_gpu_still_computes(monkeypatch):
    loop, interface = make_late_loop(monkeypatch, "training.updates_per_epoch=6")
    counts = []
    loop.safe_point = lambda loop: counts.append((loop.total_updates, loop.state_dict()["means"]["count"]))
    loop.run_epoch(interface)
    assert counts and all(updates == count for updates, count in counts)


def test_actor_with_metrics_that_are_not_finite_is_never_handed_out(monkeypatch):
    loop, interface = make_late_loop(monkeypatch, "training.updates_per_epoch=6", "training.update_model_interval=3")
    handed_out = []
    monkeypatch.setattr(interface, "broadcast_model", lambda actor: handed_out.append(loop.total_updates))
    poison(loop.agent, 6)
    with pytest.raises(NonFiniteError, match="at update 6: training stopped"):
        loop.run_epoch(interface)
    assert handed_out == [3]


@pytest.mark.parametrize("end", ["stop", "checkpoint"])
def test_nan_that_arrives_after_its_update_is_named_when_the_run_stops_or_saves(tmp_path, monkeypatch, end):
    monkeypatch.setattr(UpdateMetrics, "arrived", property(lambda self: False))
    original = trainer_module.Trainer._at_safe_point

    def at_safe_point(self, loop):
        if loop.total_updates == 0 and "critic_loss" not in vars(loop.agent):
            poison(loop.agent, 5)
        if loop.total_updates == 5:  # no actor is handed out after this update
            if end == "stop":
                raise Stopped(INTERRUPTED)
            self.save_checkpoint()
        original(self, loop)

    monkeypatch.setattr(trainer_module.Trainer, "_at_safe_point", at_safe_point)
    config = compose(*SMALL, f"runs_dir={tmp_path}", "training.updates_per_epoch=8")
    run_module.train(config)
    summary = json.loads((tmp_path / config.run_name / "summary.json").read_text())
    assert summary["stop_reason"] == "not finite: reward"


def test_epoch_before_the_first_training_episode_has_ended_has_no_return():
    loop, _ = make_loop()
    loop.memory.stat_train_return = loop.memory.stat_train_steps = 0
    assert all(map(math.isnan, loop._newest_episode().values()))
    loop.memory.stat_train_return, loop.memory.stat_train_steps = 0.0, 7
    assert loop._newest_episode() == {"return_train": 0.0, "episode_length_train": 7}


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (StopReason(StopKind.FINISHED), "finished"),
        (INTERRUPTED, "interrupted"),
        (TERMINATED, "terminated"),
        (StopReason(StopKind.PRUNED), "pruned"),
        (StopReason(StopKind.COLLAPSED, "q_mean is 9"), "collapsed: q_mean is 9"),
        (StopReason(StopKind.NOT_FINITE, "q_mean"), "not finite: q_mean"),
    ],
)
def test_stop_reason_is_written_as_kind_and_detail(reason, text):
    assert str(reason) == text


def test_stop_request_raises_once_per_signal_and_for_a_problem():
    problems = iter([None, None, "the server has ended"])
    with StopRequest(lambda: next(problems)) as stop:
        stop.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped, match="^interrupted$"):
            stop.check()
        stop.check()
        assert stop.reason == INTERRUPTED
        with pytest.raises(Stopped, match="the server has ended") as caught:
            stop.check()
    assert caught.value.reason.kind is StopKind.PROCESS_LOST


def test_lockstep_evaluation_equals_one_episode_at_a_time():
    agent = make_agent("env=sim_lidar", *SMALL_NETWORK)
    with torch.no_grad():  # drives off, so that episodes end at different times
        agent.model.policy.out.bias[:3] = torch.tensor([2.0, -2.0, 0.0])
    config, actor = compose("env=sim_lidar"), agent.get_actor()
    starts = make_starts((1, 2), 4, 0.0)
    together = LocalEvaluator(config.env, 0, lambda: None).run(actor, starts, [True] * len(starts))
    alone = [record_episode(actor, config.env, start, 0, 64)[1] for start in starts]
    assert len({episode.length for episode in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert (one.length, one.outcome, one.track) == (other.length, other.outcome, other.track)
        assert one.ret == pytest.approx(other.ret, rel=1e-3)


def test_video_names_policy_and_track(monkeypatch, tmp_path):
    texts, config = [], compose("env=sim_lidar", "env.max_steps=3")
    monkeypatch.setattr(evaluate_run, "draw_caption", lambda frame, text: texts.append(text))
    monkeypatch.setattr(evaluate_run, "write_video", lambda path, frames, fps: list(frames))
    starts, actor = make_starts((7,), 1, 0.0), make_agent("env=sim_lidar", *SMALL_NETWORK).get_actor()
    episodes = LocalEvaluator(config.env, 0, lambda: None).run(actor, starts, [True])
    evaluate_run.record_best_episode(actor, config.env, starts, episodes, 0, 64, "mine, epoch 3", tmp_path / "x.mp4")
    assert len(texts) == 4 and set(texts) == {"mine, epoch 3, track 7"}


def test_report_starts_differ_from_selection_starts():
    chosen, judged = make_starts((1,), 10, 0.0), make_starts((1,), 10, 0.5)
    assert not {s.position for s in chosen} & {s.position for s in judged}
    assert make_starts((7, 8), 3, 0.0)[1] == Start(8, 1 / 3, 1)


def test_same_seed_gives_the_same_run(tmp_path):
    lines = []
    for name in ("a", "b"):
        run_module.train(compose(*SMALL, f"runs_dir={tmp_path}", f"run_name={name}"))
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        times = ("wall_s", "updates_per_s", "sampling_duration", "training_step_duration")
        lines.append([{k: v for k, v in row.items() if k not in times} for row in rows])
    assert lines[0] == lines[1]


def test_run_folder_is_complete_and_its_config_loads_again(tmp_path):
    config = compose(*SMALL, "logger=default", "logger.progress=none", f"runs_dir={tmp_path}")
    objective = run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    for path in (
        folder.config,
        folder.metrics,
        folder.summary,
        folder.curves,
        folder.report,
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
    assert read_checkpoint(folder.checkpoints.last)["training"]["updates"] == 8


@pytest.mark.parametrize(("deployed", "other", "part"), [("averaged", "raw", "averaged"), ("raw", "averaged", "model")])
def test_deployed_policy_is_kept_and_the_other_one_is_evaluated(tmp_path, deployed, other, part):
    choice = (f"agent.deployed_policy={deployed}", "model=droq", "training.epochs=1")
    config = compose(*SMOKE, *choice, f"runs_dir={tmp_path}")
    run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    row = json.loads(folder.metrics.read_text())
    assert f"lap_share_det_{other}" in row and f"lap_share_det_{deployed}" not in row
    kept, state = load_weights(folder.best_model), read_checkpoint(folder.checkpoints.last)["training"]["agent"][part]
    assert all(torch.equal(kept[name], value) for name, value in state.items())


def test_other_policy_is_not_evaluated_with_0_episodes(tmp_path):
    config = compose(
        *SMOKE, "model=droq", "training.epochs=1", "training.eval_episodes_other=0", f"runs_dir={tmp_path}"
    )
    run_module.train(config)
    row = json.loads((tmp_path / config.run_name / "metrics.jsonl").read_text())
    assert "lap_share_det" in row and "lap_share_det_raw" not in row


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    config = compose(*SMALL, f"runs_dir={tmp_path}", "training.epochs=3")
    train = trainer_module.TrainingLoop.run_epoch

    def break_in_the_second_epoch(self, interface):
        if self.epoch == 1:
            with torch.no_grad():
                self.agent.model.q_heads.out.bias.fill_(float("nan"))
        return train(self, interface)

    monkeypatch.setattr(trainer_module.TrainingLoop, "run_epoch", break_in_the_second_epoch)
    run_module.train(config)
    folder = RunFolder(tmp_path / config.run_name)
    state = read_checkpoint(folder.checkpoints.last)
    assert state["epochs_done"] == 1
    assert all(value.isfinite().all() for value in state["training"]["agent"]["model"].values())
    assert json.loads(folder.summary.read_text())["stop_reason"] == "not finite: q_mean"
    assert "The last checkpoint, from before it, is kept." in " ".join(capsys.readouterr().out.split())
    assert issubclass(NonFiniteError, UserError)


def test_missing_gpu_is_refused_with_a_hint():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="device = cuda:0.*device=cpu"):
        resolve_device("cuda:0")
    assert resolve_device("auto") == "cpu"


def command(*overrides: str) -> list[str]:
    """The real command of the README."""
    return [
        sys.executable,
        "app/train.py",
        "model=droq_contextual",
        "training=smoke",
        "env.max_steps=120",
        "threads=1",
        *overrides,
    ]


def environment(home: Path) -> dict[str, str]:
    """A home that must stay empty."""
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home)}


@pytest.mark.e2e
def test_readme_commands_train_and_evaluate_a_run(tmp_path):
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


@pytest.mark.e2e
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


def test_evaluation_without_a_run_is_refused(tmp_path):
    evaluate = [sys.executable, "app/evaluate.py", f"run={tmp_path}/none"]
    done = subprocess.run(evaluate, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no run" in done.stderr and "Traceback" not in done.stderr


def test_every_fourth_episode_is_driven_by_the_deterministic_action():
    """In the local rollout: the same seed of torch gives other actions only where they are sampled."""
    _, interface = make_loop("agent.deterministic_share=0.25", "env.max_steps=5", "training.start_training=100")
    modes: list[bool] = []
    act = interface.worker.actor.act
    interface.worker.actor.act = lambda obs, test=False: modes.append(test) or act(obs, test)
    interface.retrieve_buffer()  # 20 steps, four episodes of five
    interface.retrieve_buffer()
    assert modes == ([False] * 15 + [True] * 5) * 2


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, []), (0.25, [4, 8, 12]), (0.1, [10]), (0.5, [2, 4, 6, 8, 10, 12])]
)
def test_deterministic_episodes_are_spread_evenly(share, expected):
    assert [number for number in range(1, 13) if is_deterministic_episode(number, share)] == expected
