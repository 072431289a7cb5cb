"""The game's environment, driven on a stand-in at the boundaries of the real one; tests bear the name of a bug."""

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

from app.config.schema import ExportConfig
from app.envs import factory
from app.envs.factory import EnvError, make_env, make_spec
from app.envs.trackmania.health import RealTimeHealth
from app.envs.trackmania.trajectory import best_return, length_of, load_trajectory
from app.errors import UserError
from app.export_bundle.export import export
from app.network.transport import free_port
from app.replay.compress import SampleCompressor
from app.replay.memory import ReplayMemory
from app.replay.storage import MemoryStorage
from app.runs.config_file import read_config
from app.runs.fingerprint import fingerprint
from app.tmrl_api import Buffer
from tests.game import PACKET, RESPAWN, Game, Window, straight
from tests.make import compose
from tests.runs import ROOT, TINY

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
    """Make environments of the game that are closed in the end."""
    made = []

    def make(*overrides):
        made.append(make_env(compose(*game.overrides, *ROLE, *overrides).env, (), 0))
        return made[-1]

    yield make
    for env in made:
        env.close()


def drive(env, action=FULL_GAS, steps=10_000):
    """Drive an episode; returns every step."""
    obs, info = env.reset()
    rows = [(obs, 0.0, False, False, info)]
    while len(rows) <= steps and not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(action))
    return rows


def test_an_observation_is_not_what_the_game_showed(game, opened):
    env = opened()
    rows = drive(env, steps=15)
    obs = rows[-1][0]
    assert env.observation_space.contains(obs) and obs.keys() == {"floats", "images", "window"}
    told = np.array([PACKET.unpack(packet) for packet in game.plugin.sent], np.float32)[:, [0, 9, 10]]
    for row in rows:
        assert (told == row[0]["floats"][:3]).all(axis=1).any()  # some packet, and all of it
    assert rows[-1][0]["floats"][0] > rows[5][0]["floats"][0] > 0
    w, h = 958, 488
    small = cv2.cvtColor(
        cv2.resize(np.ascontiguousarray(Window.pictures[-1][:, :, :3]), (64, 64), interpolation=cv2.INTER_AREA),
        cv2.COLOR_BGR2GRAY,
    )
    shown = [np.abs(small.astype(int) - image.astype(int)).max() for image in obs["images"]]
    assert shown[-1] == 0  # the newest is the last
    beams = obs["floats"][3:22]
    assert (
        beams.shape == (19,) and beams[0] == beams[18] - 1 == 150 - 3 - 20
    )  # sideways to the borders, from 20 pixels on
    assert beams[9] > 400  # straight on there is none
    assert np.array_equal(obs["window"][-1], [obs["floats"][0], *beams, *FULL_GAS, np.float32(rows[-1][1])])
    assert (h, w) == Window.pictures[-1].shape[:2]


def test_the_histories_differ_from_rtgyms_or_from_what_the_replay_rebuilds(opened):
    env = opened("env.max_steps=25")
    seen, compress, buffer = [], SampleCompressor(env.spec_), Buffer()
    original = env._clock.step

    def step(action):
        result = original(action)
        seen.append(result[0])
        return result

    env._clock.step = step
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
    for obs, theirs in zip(observations[1:], seen, strict=True):
        assert np.array_equal(obs["images"], theirs[3])
        assert np.array_equal(obs["floats"][22:], np.concatenate(theirs[5:]))  # rtgym's buffer of actions
    replay = compose("env=sim_lidar").replay
    memory = ReplayMemory(env.spec_, replay, 1, 0.9, (1,), 1, "cpu", 0, MemoryStorage(), 0)
    memory.append(buffer)
    batch = memory._gather(np.arange(5, 25))
    for place, row in enumerate(range(5, 25)):
        for name, part in observations[row].items():
            assert np.array_equal(batch.next_obs[name][place].numpy(), part), (row, name)


def test_controls_do_not_reach_the_gamepad_or_stay_pressed(game, opened):
    env = opened("env.max_steps=6")
    drive(env, np.array([0.5, -1.0, -0.75], np.float32))
    pad = game.gamepads[0]
    assert (0.5, 0.0, -0.75) in pad.states  # gas, brake, steer
    drive(env, np.array([-1.0, 3.0, 1.0], np.float32))
    assert (0.0, 1.0, 1.0) in pad.states  # clipped
    env.close()
    assert pad.states[-1] == (0.0, 0.0, 0.0)
    assert len(game.gamepads) == 1 and RESPAWN in pad.buttons


def test_an_action_acts_in_the_step_whose_observation_it_is_returned_with(game, opened):
    """It acts one step later; that is what the action history is for."""
    env = opened()
    env.reset()
    before = len(game.gamepads[0].states)
    env.step(FULL_GAS)
    time.sleep(0.02)
    assert (1.0, 0.0, 0.25) in game.gamepads[0].states[before:]
    assert game.car.speed < 3  # it has only just begun


def test_a_finished_map_is_terminal_or_scores_something_else(game, opened):
    rows = drive(opened())
    obs, reward, terminated, truncated, info = rows[-1]
    assert info["outcome"] == "lap" and truncated and not terminated
    assert info["lap_share"] == 1.0 and info["lap_time"] == pytest.approx(0.05 * (len(rows) - 1))
    assert sum(row[1] for row in rows) == pytest.approx(best_return(game.points), abs=0.02)
    assert length_of(game.points) == pytest.approx(60.0)


def test_tmrls_bonus_and_penalty_are_dropped(opened):
    rows = drive(opened("env.reward.finish=7", "env.reward.per_step=-0.5"))
    assert sum(row[1] for row in rows) == pytest.approx(6.0 + 7.0 - 0.5 * (len(rows) - 1), abs=0.03)


def test_a_car_that_stands_still_goes_on_for_ever(opened):
    env = opened("env.reward.min_steps=5", "env.reward.failure_countdown=3")
    rows = drive(env, np.array([-1.0, 1.0, 0.0], np.float32))
    assert rows[-1][2] and not rows[-1][3] and rows[-1][4]["outcome"] == "stalled"
    assert len(rows) - 1 == 5 + 3 + 1
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(FULL_GAS)
    assert drive(env, steps=3)[-1][4]["lap_share"] < 0.1  # and drives again from the start


def test_an_episode_has_no_end(opened):
    rows = drive(opened("env.max_steps=7"))
    assert len(rows) - 1 == 7 and rows[-1][3] and rows[-1][4]["outcome"] == "timeout"


def test_a_dead_game_hangs_the_driver(game, opened):
    env = opened()
    env.reset()
    env.step(FULL_GAS)
    game.plugin.silent = True
    began = time.monotonic()
    with pytest.raises(EnvError, match="sent nothing for 1.5 s.*doctor.py"):
        for _ in range(100):
            env.step(FULL_GAS)
    assert time.monotonic() - began < 20
    game.plugin.silent = False
    assert len(drive(env, steps=3)) == 4  # it is back


def test_a_restarted_game_is_not_found_again_or_keeps_a_core_busy(game, opened):
    env = opened("env.openplanet.timeout_s=5")
    env.reset()
    port = game.plugin.port
    game.plugin.stop()
    me = psutil.Process()
    before = me.cpu_times()
    time.sleep(1.0)
    after = me.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.6  # tmrl's client would spin
    from tests.game import Plugin

    game.plugin = Plugin(game.car, port)
    assert len(drive(env, steps=3)) == 4


def test_a_missing_game_shows_a_traceback(tmp_path, game, opened):
    with pytest.raises(EnvError, match=r"env.openplanet = 127.0.0.1:\d+: nobody answers.*OpenPlanet"):
        opened(f"env.openplanet.port={free_port()}").reset()


def test_a_window_of_another_size_bends_the_lidar(game, opened, monkeypatch):
    import app.envs.trackmania.interface as interface

    monkeypatch.setattr(interface, "WindowInterface", lambda title: Window(title, game.car, size=(640, 480)))
    with pytest.raises(EnvError, match="env.game_window = 958 × 488: the window is 640 × 480"):
        opened().reset()


def test_without_the_window_the_desktop_is_driven_along(opened, monkeypatch):
    import app.envs.trackmania.interface as interface

    monkeypatch.setattr(interface, "WindowInterface", lambda title: types.SimpleNamespace(window_id=None))
    with pytest.raises(EnvError, match="env.game_window.title = Trackmania: no window is called so"):
        opened().reset()


@pytest.mark.parametrize("error", [OSError("libevdev.so.2: no such file"), AssertionError("no window"), LookupError()])
def test_a_missing_driver_shows_a_traceback_or_hangs(game, opened, monkeypatch, error):
    def fail():
        raise error

    sys.modules["vgamepad"].VX360Gamepad = fail
    with pytest.raises(EnvError, match="doctor.py env=trackmania"):
        opened().reset()


def test_the_games_half_of_tmrl_is_needed_to_train():
    """Without it there is no driving, but a trainer knows what it will see."""
    code = (
        "import sys\n"
        "from tests.make import compose; from app.envs.factory import make_env, make_spec, EnvError\n"
        "cfg = compose('env=trackmania', 'role=trainer', 'network.password=a-password').env\n"
        "assert make_spec(cfg).float_dim == 28\n"
        "assert not {'vgamepad', 'app.tmrl_game', 'app.envs.trackmania.env'} & set(sys.modules)\n"
        "sys.modules['app.tmrl_game'] = None  # as where tmrl has no window to drive\n"
        "try: make_env(cfg, (), 0)\n"
        "except EnvError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "cannot be imported here" in done.stdout, done.stderr


def test_a_hostile_reward_file_runs(tmp_path):
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
    assert canary.exists()  # it would have


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read"),
        (b"", "no recorded trajectory"),
        (b"junk", "no recorded trajectory"),
        (pickle.dumps("text"), "no recorded trajectory"),
        (pickle.dumps(np.zeros((200, 2))), "must hold"),
        (pickle.dumps(np.full((200, 3), np.nan)), "must hold"),
        (pickle.dumps(straight(5.0)), "51 points, and needs 100"),
    ],
)
def test_a_bad_reward_file_is_driven_along(tmp_path, content, words):
    path = tmp_path / "reward.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_trajectory(str(path))
    assert "env.reward_file" in str(error.value) and "--record-reward" in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_good_reward_file_is_refused(tmp_path, protocol, as_list):
    points = straight(30.0)
    path = tmp_path / "reward.pkl"
    path.write_bytes(pickle.dumps(points.tolist() if as_list else points, protocol))
    assert np.array_equal(load_trajectory(str(path)), points)


def test_late_steps_are_not_seen():
    health = RealTimeHealth(0.05)
    now = 0.0
    health.began(now)
    for length, latency in [(0.05, 0.002)] * 97 + [(0.0501, 0.004), (0.09, 0.055), (0.2, 0.003)]:
        health.acted(now + latency)
        now += length
        health.handed_out(now)
    found = health.summary()
    assert found["steps"] == 100 and found["late_steps"] == 2 and found["late_share"] == 0.02
    assert found["missed_steps"] == 1  # an action that came after its step was over
    assert found["step_ms_p50"] == pytest.approx(50, abs=0.3) and found["step_ms_max"] == pytest.approx(200)
    assert found["actor_ms_p50"] == pytest.approx(2, abs=0.3) and found["actor_ms_max"] == pytest.approx(55)
    lines = health.histogram().splitlines()
    assert sum(int(line.split("ms")[1].replace("and up", "").split()[0]) for line in lines) == 100
    assert "2 of 100 late (2.00%)" in health.line()


def test_no_step_is_an_error_of_the_health():
    health = RealTimeHealth(0.05)
    assert health.summary()["steps"] == 0 and health.line() and health.histogram()


def test_the_clock_of_the_game_is_not_kept(opened):
    """Twenty steps a second, whatever the policy takes within its step."""
    env = opened()
    env.reset()
    began = time.perf_counter()
    for _ in range(20):
        time.sleep(0.01)
        env.step(np.array([0.2, -1, 0], np.float32))
    assert 0.9 < time.perf_counter() - began < 1.6
    assert env.health.summary()["actor_ms_p50"] >= 10


def test_the_rest_between_episodes_counts_as_a_late_step(opened):
    env = opened("env.max_steps=4")
    drive(env)
    drive(env)
    assert env.health.steps.count == 6 and env.health.steps.longest < 0.3


def test_another_machines_paths_are_another_fingerprint(game):
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
def test_a_wrong_key_of_the_game_is_taken(overrides, key):
    with pytest.raises(Exception, match=key.replace(".", r"\.")):
        compose(*overrides)


def test_evaluation_opens_several_games(game, monkeypatch):
    from app.models.actor import DrivingActor
    from app.training import evaluation

    config = compose(*game.overrides, *ROLE, *TINY[1:], "env.max_steps=4")
    made = []
    original = factory.make_env

    def make(*args):
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(evaluation, "make_env", make)
    spec = make_spec(config.env)
    actor = DrivingActor(spec.space(), spec.action_space(), config, spec)
    evaluator = evaluation.Evaluator(config.env, 0, lambda: None)
    found = evaluator.evaluate(actor, evaluation.make_starts((), 2, 0.0), evaluation.make_starts((), 1, 0.0))
    evaluator.close()
    assert len(made) == 1 and len(found.deterministic) == 2 and len(found.stochastic) == 1


@pytest.mark.e2e
def test_a_run_on_the_game_does_not_train_or_evaluate(tmp_path):
    """Server and trainer know no game; the worker has one, evaluates, and keeps time."""
    port, runs = free_port(), tmp_path / "runs"
    common = [
        *TINY[1:], "env=trackmania", "env.images=false", "env.sleep_at_reset=0.15", "network.password=a-password",
        f"network.port={port}", f"runs_dir={runs}", "run_name=game", "training.epochs=1", "network.patience_s=20",
        "env.max_steps=20", "training.eval_episodes_stochastic=1", "training.steps=5", "training.start_training=30",
        "training.max_training_steps_per_env_step=0.5", "env.window=4",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    outputs, processes = {}, {}
    commands = {
        "server": ["app/train.py", *common, "role=server"],
        "trainer": ["app/train.py", *common, "role=trainer"],
        "worker": ["tests/game_worker.py", str(tmp_path), *common, "role=worker"],
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
    kept = read_config(runs / "game" / "config.yaml")  # which no process could start as it is: role=local
    assert kept.env.kind == "trackmania" and kept.network.password is None
    assert export(ExportConfig(str(runs / "game"), None, False)).joinpath("driver.py").is_file()
    assert "how long the steps lasted" in texts()["worker"] and "actions missed their step" in texts()["worker"]
    assert threading.active_count() < 50
