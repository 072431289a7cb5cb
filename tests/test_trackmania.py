"""Environment of the game, driven on a stand-in for the game."""

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import types

import cv2
import gymnasium
import numpy as np
import psutil
import pytest

from app.config.schema_commands import ExportConfig
from app.core.errors import UserError
from app.core.tmrl_api import Buffer
from app.distributed.transport import free_port
from app.envs import env_factory
from app.envs.env_factory import EnvError, make_env, make_spec
from app.envs.trackmania.timing import StepTiming
from app.envs.trackmania.trajectory import full_lap_return, load_trajectory, trajectory_length
from app.export_bundle.export_run import export
from app.replay.buffer import ReplayMemory
from app.replay.row_format import SampleCompressor
from app.replay.storage import MemoryStorage
from app.runs.config_file import read_config
from app.runs.fingerprint import fingerprint
from tests.helpers.game import PACKET, RESPAWN, Game, Plugin, Window, straight_trajectory
from tests.helpers.make import compose
from tests.helpers.runs import ROOT, TINY

ROLE = ("role=worker", "network.password=a-password")
FULL_GAS = np.array([1.0, -1.0, 0.25], np.float32)


@pytest.fixture
def game(tmp_path, monkeypatch):
    game = Game(tmp_path, metres=60.0)
    game.install(monkeypatch.setattr)
    yield game
    game.stop()


@pytest.fixture
def opened(game):
    """Function that makes environments of the game, which are closed after the test."""
    made = []

    def make(*overrides):
        made.append(make_env(compose(*game.overrides, *ROLE, *overrides).env, (), 0))
        return made[-1]

    yield make
    for env in made:
        env.close()


def drive(env, action=FULL_GAS, steps=10_000):
    """Drive an episode and return every step: observation, reward, terminated, truncated, info."""
    obs, info = env.reset()
    rows = [(obs, 0.0, False, False, info)]
    while len(rows) <= steps and not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(action))
    return rows


def test_observation_shows_what_the_game_showed(game, opened):
    env = opened()
    rows = drive(env, steps=15)
    obs = rows[-1][0]
    assert env.observation_space.contains(obs) and obs.keys() == {"floats", "images", "window"}
    sent = np.array([PACKET.unpack(packet) for packet in game.plugin.sent], np.float32)[:, [0, 9, 10]]
    for row in rows:
        assert (sent == row[0]["floats"][:3]).all(axis=1).any()  # all of it from one packet
    assert rows[-1][0]["floats"][0] > rows[5][0]["floats"][0] > 0
    small = cv2.cvtColor(
        cv2.resize(np.ascontiguousarray(Window.pictures[-1][:, :, :3]), (64, 64), interpolation=cv2.INTER_AREA),
        cv2.COLOR_BGR2GRAY,
    )
    assert np.array_equal(small, obs["images"][-1])  # the newest is the last
    beams = obs["floats"][3:22]
    assert beams.shape == (19,)
    assert beams[0] == beams[18] - 1 == 150 - 3 - 20  # sideways to the borders, from 20 pixels on
    assert beams[9] > 400  # there is no border straight ahead
    assert np.array_equal(obs["window"][-1], [obs["floats"][0], *beams, *FULL_GAS, np.float32(rows[-1][1])])
    assert Window.pictures[-1].shape[:2] == (488, 958)


def test_histories_equal_those_of_rtgym_and_of_the_replay(opened):
    env = opened("env.max_steps=25")
    rtgym_observations, compress, buffer = [], SampleCompressor(env.observation_spec), Buffer()
    original = env._rtgym_env.step

    def step(action):
        result = original(action)
        rtgym_observations.append(result[0])
        return result

    env._rtgym_env.step = step
    rng = np.random.default_rng(0)
    obs, info = env.reset()
    observations = [obs]
    buffer.append_sample(compress(None, obs, 0.0, False, False, info))
    ended = False
    while not ended:
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        observations.append(obs)
        buffer.append_sample(compress(action, obs, reward, terminated, truncated, info))
        ended = terminated or truncated
    for obs, rtgym_obs in zip(observations[1:], rtgym_observations, strict=True):
        assert np.array_equal(obs["images"], rtgym_obs[3])
        assert np.array_equal(obs["floats"][22:], np.concatenate(rtgym_obs[5:]))  # rtgym's buffer of actions
    replay = compose("env=sim_lidar").replay
    memory = ReplayMemory(env.observation_spec, replay, 1, 0.9, (1,), 1, "cpu", 0, MemoryStorage(), 0)
    memory.append(buffer)
    batch = memory._gather(np.arange(5, 25))
    for place, row in enumerate(range(5, 25)):
        for name, part in observations[row].items():
            assert np.array_equal(batch.next_obs[name][place].numpy(), part), (row, name)


def test_controls_reach_the_gamepad_and_are_released_at_the_end(game, opened):
    env = opened("env.max_steps=6")
    drive(env, np.array([0.5, -1.0, -0.75], np.float32))
    pad = game.gamepads[0]
    assert (0.5, 0.0, -0.75) in pad.states  # gas, brake, steer
    drive(env, np.array([-1.0, 3.0, 1.0], np.float32))
    assert (0.0, 1.0, 1.0) in pad.states  # clipped
    env.close()
    assert pad.states[-1] == (0.0, 0.0, 0.0)
    assert len(game.gamepads) == 1 and RESPAWN in pad.buttons


def test_action_acts_one_step_later(game, opened):
    """The observation that ``step`` returns was taken before its action acts, so it contains the last actions."""
    env = opened()
    env.reset()
    before = len(game.gamepads[0].states)
    env.step(FULL_GAS)
    time.sleep(0.02)
    assert (1.0, 0.0, 0.25) in game.gamepads[0].states[before:]
    assert game.car.speed < 3  # the action has only just begun to act


def test_finished_map_truncates_the_episode_and_scores_the_full_return(game, opened):
    rows = drive(opened())
    obs, reward, terminated, truncated, info = rows[-1]
    assert info["outcome"] == "lap" and truncated and not terminated
    assert info["lap_share"] == 1.0 and info["lap_time"] == pytest.approx(0.05 * (len(rows) - 1))
    assert sum(row[1] for row in rows) == pytest.approx(full_lap_return(game.points), abs=0.02)
    assert trajectory_length(game.points) == pytest.approx(60.0)


def test_bonus_and_penalty_of_tmrl_are_applied(opened):
    rows = drive(opened("env.reward.finish=7", "env.reward.per_step=-0.5"))
    assert sum(row[1] for row in rows) == pytest.approx(6.0 + 7.0 - 0.5 * (len(rows) - 1), abs=0.03)


def test_standing_car_terminates_the_episode(opened):
    env = opened("env.reward.min_steps=5", "env.reward.failure_countdown=3")
    rows = drive(env, np.array([-1.0, 1.0, 0.0], np.float32))
    assert rows[-1][2] and not rows[-1][3] and rows[-1][4]["outcome"] == "stalled"
    assert len(rows) - 1 == 5 + 3 + 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(FULL_GAS)
    assert drive(env, steps=3)[-1][4]["lap_share"] < 0.1  # the next episode begins at the start


def test_step_limit_truncates_the_episode(opened):
    rows = drive(opened("env.max_steps=7"))
    assert len(rows) - 1 == 7 and rows[-1][3] and rows[-1][4]["outcome"] == "timeout"


def test_silent_game_raises_an_error(game, opened):
    env = opened()
    env.reset()
    env.step(FULL_GAS)
    game.plugin.silent = True
    began = time.monotonic()
    with pytest.raises(EnvError, match="sent nothing usable for 1.5 s.*doctor.py"):
        for _ in range(100):
            env.step(FULL_GAS)
    assert time.monotonic() - began < 20
    game.plugin.silent = False
    assert len(drive(env, steps=3)) == 4  # a reset reconnects


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_packet_with_a_value_that_is_not_finite_counts_as_lost(game, opened, monkeypatch, wrong):
    env = opened()
    whole = game.car.packet
    packets = itertools.cycle([whole, lambda: PACKET.pack(wrong, *PACKET.unpack(whole())[1:])])
    monkeypatch.setattr(game.car, "packet", lambda: next(packets)())
    for obs, *_ in drive(env, steps=20):
        assert all(np.isfinite(part).all() for part in obs.values())


def test_client_reconnects_to_a_restarted_game_without_busy_waiting(game, opened):
    env = opened("env.openplanet.timeout_s=5")
    env.reset()
    port = game.plugin.port
    game.plugin.stop()
    process = psutil.Process()
    before = process.cpu_times()
    time.sleep(1.0)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.6
    game.plugin = Plugin(game.car, port)
    assert len(drive(env, steps=3)) == 4


def test_missing_game_is_refused_with_a_message(tmp_path, game, opened):
    with pytest.raises(EnvError, match=r"env.openplanet = 127.0.0.1:\d+: nobody answers.*OpenPlanet"):
        opened(f"env.openplanet.port={free_port()}").reset()


def test_window_of_another_size_is_refused(game, opened, monkeypatch):
    import app.envs.trackmania.interface as interface

    monkeypatch.setattr(interface, "WindowInterface", lambda title: Window(title, game.car, size=(640, 480)))
    with pytest.raises(EnvError, match="env.game_window = 958 × 488: the window is 640 × 480"):
        opened().reset()


def test_missing_window_is_refused(opened, monkeypatch):
    import app.envs.trackmania.interface as interface

    monkeypatch.setattr(interface, "WindowInterface", lambda title: types.SimpleNamespace(window_id=None))
    with pytest.raises(EnvError, match="env.game_window.title = Trackmania: there is no window with this title"):
        opened().reset()


@pytest.mark.parametrize("error", [OSError("libevdev.so.2: no such file"), AssertionError("no window"), LookupError()])
def test_missing_gamepad_driver_is_refused_with_a_message(game, opened, monkeypatch, error):
    def fail():
        raise error

    sys.modules["vgamepad"].VX360Gamepad = fail
    with pytest.raises(EnvError, match="doctor.py env=trackmania"):
        opened().reset()


def test_trainer_needs_no_package_of_the_game():
    """A trainer knows the observation without the packages of the game; only driving needs them."""
    env = compose("env=trackmania", "role=trainer", "network.password=a-password").env
    code = (
        "import pickle, sys\n"
        "from app.envs.env_factory import make_env, make_spec, EnvError\n"
        f"cfg = pickle.loads({pickle.dumps(env)!r})\n"
        "assert make_spec(cfg).float_dim == 28\n"
        "assert not {'vgamepad', 'app.core.tmrl_game', 'app.envs.trackmania.env'} & set(sys.modules)\n"
        "sys.modules['app.core.tmrl_game'] = None  # as on a machine without a display\n"
        "try: make_env(cfg, (), 0)\n"
        "except EnvError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "cannot be imported here" in done.stdout, done.stderr


def test_hostile_reward_file_is_refused(tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    path = tmp_path / "reward.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EnvError, match="names .*open, which is no array"):
        load_trajectory(str(path))
    assert not canary.exists()
    pickle.loads(path.read_bytes()).close()
    assert canary.exists()  # the ordinary unpickler does execute it


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read"),
        (b"", "no recorded trajectory"),
        (b"junk", "no recorded trajectory"),
        (pickle.dumps("text"), "no recorded trajectory"),
        (pickle.dumps(np.zeros((200, 2))), "must hold"),
        (pickle.dumps(np.full((200, 3), np.nan)), "must hold"),
        (pickle.dumps(straight_trajectory(5.0)), "51 points, and needs 100"),
    ],
)
def test_bad_reward_file_is_refused_with_a_message(tmp_path, content, message):
    path = tmp_path / "reward.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_trajectory(str(path))
    assert "env.reward_file" in str(error.value) and "--record-reward" in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("as_list", [False, True])
def test_good_reward_file_is_read(tmp_path, protocol, as_list):
    points = straight_trajectory(30.0)
    path = tmp_path / "reward.pkl"
    path.write_bytes(pickle.dumps(points.tolist() if as_list else points, protocol))
    assert np.array_equal(load_trajectory(str(path)), points)


def test_late_and_missed_steps_are_counted():
    timing = StepTiming(0.05)
    now = 0.0
    timing.record_reset(now)
    for length, latency in [(0.05, 0.002)] * 97 + [(0.0501, 0.004), (0.09, 0.055), (0.2, 0.003)]:
        timing.record_action(now + latency)
        now += length
        timing.record_step(now)
    found = timing.summary()
    assert found["steps"] == 100 and found["late_steps"] == 2 and found["late_share"] == 0.02
    assert found["missed_steps"] == 1  # an action that came after its step was over
    assert found["step_ms_p50"] == pytest.approx(50, abs=0.3) and found["step_ms_max"] == pytest.approx(200)
    assert found["actor_ms_p50"] == pytest.approx(2, abs=0.3) and found["actor_ms_max"] == pytest.approx(55)
    lines = timing.format_histogram().splitlines()
    assert sum(int(line.split("ms")[1].replace("and up", "").split()[0]) for line in lines) == 100
    assert "2 of 100 late (2.00%)" in timing.format_summary()


def test_timing_without_steps_is_reported():
    timing = StepTiming(0.05)
    assert timing.summary()["steps"] == 0 and timing.format_summary() and timing.format_histogram()


def test_step_lasts_50_ms_at_least_whatever_the_policy_takes(opened):
    env = opened()
    env.reset()
    began = time.perf_counter()
    for _ in range(20):
        time.sleep(0.01)
        env.step(np.array([0.2, -1, 0], np.float32))
    assert time.perf_counter() - began > 0.9  # longer on a busy machine
    assert env.timing.summary()["actor_ms_p50"] >= 10


def test_rest_between_episodes_does_not_count_as_a_step(opened):
    env = opened("env.max_steps=4")
    drive(env)
    drive(env)
    assert env.timing.steps.count == 6 and env.timing.steps.longest < 0.3


def test_fingerprint_does_not_depend_on_paths_of_the_machine(game):
    here, there = (fingerprint(compose(*overrides, *ROLE)) for overrides in (game.overrides, ("env=trackmania",)))
    assert {key for key in here if here[key] != there[key]} <= {"env.sleep_at_reset"}


@pytest.mark.parametrize(
    "overrides, key",
    [
        (("env=trackmania",), "role = local"),
        (("env=trackmania", "role=all"), "workers = 2"),
        (("env=trackmania", *ROLE, "env.window=1"), "env.window"),
        (("env=trackmania", *ROLE, "env.openplanet.port=0"), "env.openplanet.port"),
        (("env=trackmania", *ROLE, "env.lidar_beams=20"), "lidar_beams"),
    ],
)
def test_wrong_key_of_the_game_is_refused(overrides, key):
    with pytest.raises(Exception, match=key.replace(".", r"\.")):
        compose(*overrides)


def test_evaluation_opens_a_single_game(game, monkeypatch):
    from app.evaluation import evaluator as evaluation
    from app.evaluation.episodes import make_starts
    from app.models.actor import DrivingActor

    config = compose(*game.overrides, *ROLE, *TINY[1:], "env.max_steps=4")
    made = []
    original = env_factory.make_env

    def make(*args):
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(evaluation, "make_env", make)
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    evaluator = evaluation.LocalEvaluator(config.env, 0, lambda: None)
    found = evaluator.evaluate(actor, make_starts((), 2, 0.0), make_starts((), 1, 0.0))
    evaluator.close()
    assert len(made) == 1 and len(found.deterministic) == 2 and len(found.stochastic) == 1


@pytest.mark.e2e
def test_run_on_the_game_trains_and_evaluates(tmp_path):
    """Server and trainer run without the game; the worker drives it, evaluates, and measures its timing."""
    port, runs = free_port(), tmp_path / "runs"
    common = [
        *TINY[1:], "env=trackmania", "env.images=false", "env.sleep_at_reset=0.15", "network.password=a-password",
        f"network.port={port}", f"runs_dir={runs}", "run_name=game", "training.epochs=1", "network.timeout_s=20",
        "env.max_steps=20", "training.eval_episodes_stochastic=1", "training.updates_per_epoch=10",
        "training.start_training=30", "training.max_training_steps_per_env_step=0.5", "env.window=4",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    outputs, processes = {}, {}
    commands = {
        "server": ["app/train.py", *common, "role=server"],
        "trainer": ["app/train.py", *common, "role=trainer"],
        "worker": ["-m", "tests.helpers.game_worker", str(tmp_path), *common, "role=worker"],
    }
    try:
        for name, command in commands.items():
            log = outputs[name] = tmp_path / f"{name}.txt"
            with log.open("w") as file:
                arguments = [sys.executable, *command]
                processes[name] = subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        texts = lambda: {name: log.read_text() for name, log in outputs.items()}  # noqa: E731
        assert processes["trainer"].wait(timeout=150) == 0, texts()
        assert processes["worker"].wait(timeout=20) == 0, texts()
    finally:
        for process in processes.values():
            process.terminate()
            process.wait(timeout=20)
    summary = json.loads((runs / "game" / "summary.json").read_text())
    assert summary["stop_reason"] == "finished" and summary["updates"] == 10 and summary["return_test_det"] > -1
    assert summary["lap_share_det"] >= 0 and "video" not in summary["paths"]
    kept = read_config(runs / "game" / "config.yaml")  # no process could be started with it, because its role is local
    assert kept.env.kind == "trackmania" and kept.network.password is None
    assert export(ExportConfig(str(runs / "game"), None, None, 1000, 0.95, None)).joinpath("driver.py").is_file()
    assert "Durations of the steps" in texts()["worker"] and "actions missed their step" in texts()["worker"]
    assert threading.active_count() < 50
